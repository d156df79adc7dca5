-- name: get_agent
-- One agent by id or name. Index: agents_pk, agents_name_unique.
select a.id, a.name, a.version, a.config, a.created_at, a.updated_at
from agents a where a.tenant = %(tenant)s and (a.id = %(id)s::uuid or a.name = %(name)s::text);

-- name: list_agents
-- The agents by name, with what is open of each and what each spent of models. Index: agents_name_unique, runs_agent.
select a.id, a.name, a.version, a.config, a.created_at, a.updated_at, x.open_runs, x.runs, x.tokens, x.microusd
from agents a
cross join lateral (
  select count(*) filter (where r.finished_at is null)::int as open_runs, count(*)::int as runs,
         coalesce(sum(r.input_tokens + r.output_tokens), 0)::bigint as tokens, coalesce(sum(r.microusd), 0)::bigint as microusd
  from runs r where r.tenant = a.tenant and r.agent = a.id
) x
where a.tenant = %(tenant)s order by a.name limit 1000;

-- name: add_agent
-- A new agent. Index: agents_name_unique. Locks: the new row.
insert into agents (tenant, id, name, version, config, created_at, updated_at)
values (%(tenant)s, %(id)s, %(name)s, 1, %(config)s::text::json, engine_now(), engine_now())
on conflict on constraint agents_name_unique do nothing returning id;

-- name: put_agent
-- Another configuration of an agent; runs that were started keep the one they have. Index: agents_pk. Locks: the row.
update agents a set name = %(name)s, config = %(config)s::text::json, version = a.version + 1, updated_at = engine_now()
where a.tenant = %(tenant)s and a.id = %(id)s returning a.version;

-- name: drop_agent
-- Forgets an agent; its runs stay. Index: agents_pk. Locks: the row.
delete from agents a where a.tenant = %(tenant)s and a.id = %(id)s returning a.id;

-- name: release_capped
-- Lets the oldest waiting runs of some agents begin, as many as each agent may have under way. Index: agents_pk, runs_agent,
-- queue_pk. Locks: the agents' rows in order, then queue rows of steps that have no lease, skipping what is locked.
with a as (
  select g.tenant, g.id, (g.config->>'concurrency')::int as cap
  from agents g
  where (g.tenant, g.id) in (select * from unnest(%(tenants)s::int[], %(agents)s::uuid[])) and g.config->>'concurrency' is not null
  order by g.tenant, g.id for no key update
), waiting as (
  select q.tenant, q.run_id, q.no, r.agent, row_number() over (partition by r.agent order by q.run_id) as place
  from a
  join runs r on r.tenant = a.tenant and r.agent = a.id and r.finished_at is null
  join queue q on q.tenant = r.tenant and q.run_id = r.id and q.state || '' = 'capped'
), busy as (
  select a.tenant, a.id, count(r.id)::int as runs
  from a
  left join runs r on r.tenant = a.tenant and r.agent = a.id and r.finished_at is null and r.root is null
    and not exists (select from waiting w where w.tenant = r.tenant and w.run_id = r.id)
  group by a.tenant, a.id
), chosen as (
  select q.tenant, q.run_id, q.no
  from waiting w
  join a on a.tenant = w.tenant and a.id = w.agent
  join busy b on b.tenant = a.tenant and b.id = a.id
  join queue q on q.tenant = w.tenant and q.run_id = w.run_id and q.no = w.no
  where w.place <= a.cap - b.runs
  for no key update of q skip locked
)
update queue q set state = 'ready', queued_at = engine_now()
from chosen c
where q.tenant = c.tenant and q.run_id = c.run_id and q.no = c.no and q.state || '' = 'capped';

-- name: capped_of
-- The agents of some runs that limit how many are under way. Index: runs_pk, agents_pk.
select distinct g.tenant, g.id
from unnest(%(tenants)s::int[], %(runs)s::uuid[]) d(tenant, run_id)
join runs r on r.tenant = d.tenant and r.id = d.run_id
join agents g on g.tenant = r.tenant and g.id = r.agent and g.config->>'concurrency' is not null;

-- name: capped
-- The agents of which a run waits for another to end. Index: none needed, the queue holds live work only.
select distinct r.tenant, r.agent
from queue q join runs r on r.tenant = q.tenant and r.id = q.run_id
where q.state = 'capped' limit 200;
