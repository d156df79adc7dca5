-- name: get_server
-- One tool server by id or name, with its secret as it is stored. Index: tool_servers_pk, tool_servers_name_unique.
select s.id, s.name, s.url, s.command, s.token, s.state, s.digest, s.tools, s.seen, s.seen_digest, s.error, s.created_at,
       s.checked_at
from tool_servers s
where s.tenant = %(tenant)s and (s.id = %(id)s::uuid or s.name = %(name)s::text);

-- name: reach_server
-- What a call needs of a tool server, its secret as it is stored. Index: tool_servers_name_unique.
select s.name, s.url, s.command, s.token, s.state, s.digest from tool_servers s
where s.tenant = %(tenant)s and s.name = %(name)s::text;

-- name: list_servers
-- The tool servers by name; never their secrets. Index: tool_servers_name_unique.
select s.id, s.name, s.url, s.command, s.token is not null as has_token, s.state, s.digest, s.tools, s.seen_digest, s.error,
       s.created_at, s.checked_at
from tool_servers s where s.tenant = %(tenant)s order by s.name limit 1000;

-- name: add_server
-- A new tool server. Index: tool_servers_name_unique. Locks: the new row.
insert into tool_servers (tenant, id, name, url, command, token, state, created_at)
values (%(tenant)s, %(id)s, %(name)s, %(url)s, %(command)s, %(token)s, 'new', engine_now())
on conflict on constraint tool_servers_name_unique do nothing returning id;

-- name: put_server
-- Another address or secret of a server. Another address is another server: its secret and what was known of it are gone.
-- Index: tool_servers_pk. Locks: the row.
update tool_servers s
set name = %(name)s, url = %(url)s, command = %(command)s, token = %(token)s, state = case when %(moved)s then 'new' else s.state end,
    digest = case when not %(moved)s then s.digest end, tools = case when not %(moved)s then s.tools end,
    seen = case when not %(moved)s then s.seen end, seen_digest = case when not %(moved)s then s.seen_digest end,
    error = case when not %(moved)s then s.error end
where s.tenant = %(tenant)s and s.id = %(id)s returning s.id;

-- name: drop_server
-- Forgets a server. Index: tool_servers_pk. Locks: the row.
delete from tool_servers s where s.tenant = %(tenant)s and s.id = %(id)s returning s.id;

-- name: seen
-- What a server was found to offer. The first list is taken as it is; one that differs from it is quarantined until approved.
-- No row: what was asked is not where the server is now. Index: tool_servers_pk. Locks: the row.
update tool_servers s
set seen = %(tools)s::text::json, seen_digest = %(digest)s, checked_at = engine_now(), error = null,
    state = case when s.digest is null or s.digest = %(digest)s then 'ready' else 'quarantined' end,
    tools = case when s.digest is null or s.digest = %(digest)s then %(tools)s::text::json else s.tools end,
    digest = coalesce(s.digest, %(digest)s)
where s.tenant = %(tenant)s and s.id = %(id)s and s.url is not distinct from %(url)s::text
  and s.command is not distinct from %(command)s::text[]
returning s.state;

-- name: not_seen
-- A server that could not be asked where it is. Index: tool_servers_pk. Locks: the row.
update tool_servers s
set checked_at = engine_now(), error = %(error)s, state = case when s.state = 'quarantined' then s.state else 'unreachable' end
where s.tenant = %(tenant)s and s.id = %(id)s and s.url is not distinct from %(url)s::text
  and s.command is not distinct from %(command)s::text[]
returning s.state;

-- name: approve
-- A person accepts what a server offers now, if it is what they saw. Index: tool_servers_pk. Locks: the row.
update tool_servers s set state = 'ready', digest = s.seen_digest, tools = s.seen, error = null
where s.tenant = %(tenant)s and s.id = %(id)s and s.seen_digest = %(digest)s
returning s.id;
