-- name: add_ticket
-- A ticket for one socket, of a key or of nobody. Index: ws_tickets_pk. Locks: the new row.
insert into ws_tickets (tenant, digest, key_id, expires_at)
values (%(tenant)s, %(digest)s, %(key)s, engine_now() + make_interval(secs => %(ttl_s)s));

-- name: take_ticket
-- Takes a ticket, once, with what its key may do now; a key that works no more takes its tickets with it, and so does the
-- first key of all those of nobody. Whoever its tenant is. Index: ws_tickets_digest_unique, api_keys_id_unique. Locks: the ticket's row.
with taken as (
  delete from ws_tickets t where t.digest = %(digest)s returning t.tenant, t.key_id, t.expires_at
)
select t.tenant, t.key_id, k.scopes
from taken t
left join api_keys k on k.id = t.key_id and k.tenant = t.tenant and k.revoked_at is null
  and (k.expires_at is null or k.expires_at > engine_now())
where t.expires_at > engine_now()
  and case when t.key_id is null then not exists (select from api_keys) else k.id is not null end;

-- name: sweep_tickets
-- Drops the tickets that nobody took. Index: ws_tickets_age. Locks: the rows.
delete from ws_tickets t where t.expires_at < engine_now();
