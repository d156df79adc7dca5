-- name: get_agent
-- One agent by id or name. Index: agents_pk, agents_name_unique.
select a.id, a.name, a.version, a.config, a.created_at, a.updated_at
from agents a where a.tenant = %(tenant)s and (a.id = %(id)s::uuid or a.name = %(name)s::text);

-- name: list_agents
-- The agents by name, with what is open of each and what each spent of models, the runs that its runs started included.
-- Index: agents_name_unique, runs_agent.
select a.id, a.name, a.version, a.config, a.created_at, a.updated_at, x.open_runs, x.runs, x.tokens, x.microusd
from agents a
cross join lateral (
  select count(*) filter (where r.root is null and r.finished_at is null)::int as open_runs,
         count(*) filter (where r.root is null)::int as runs,
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

-- name: lock_agents
-- Those of some agents that limit how many of their runs are under way; the caller gives them in order, and so they are locked, after
-- all that is locked of runs and budgets (R1): the next statement counts what whoever held them has begun. Index: agents_pk.
-- Locks: the agents' rows, waiting.
select from unnest(%(tenants)s::int[], %(agents)s::uuid[]) d(tenant, id)
cross join lateral (
  select from agents g where g.tenant + 0 = d.tenant and g.id = d.id and g.config->>'concurrency' is not null for no key update
) g;

-- name: release_capped
-- Lets the oldest waiting runs of some agents begin, as many as each agent may have under way; of one that is gone or has no
-- limit any more (`lifted`), all. A run that is paused waits on. Index: agents_pk, runs_agent_open, queue_capped, runs_pk. Locks:
-- queue rows of steps that have no lease, and their runs, skipping what is locked.
update queue q set state = 'ready', queued_at = engine_now()
from unnest(%(tenants)s::int[], %(agents)s::uuid[]) d(tenant, id)
cross join lateral (
  select (select (g.config->>'concurrency')::int from agents g where g.tenant + 0 = d.tenant and g.id = d.id) as cap limit 1
) g
cross join lateral (
  select case when g.cap is not null then greatest(g.cap - (
    select count(*) from runs r
    where r.tenant + 0 = d.tenant and r.agent = d.id and r.finished_at is null and r.root is null
      and (select k.no from queue k where k.tenant = r.tenant and k.run_id = r.id and k.state = 'capped' limit 1) is null
  ), 0) end as free limit 1
) f
cross join lateral (
  select k.run_id
  from queue k
  cross join lateral (
    select from runs r
    where r.tenant = k.tenant and r.id = k.run_id and r.agent is not distinct from d.id and r.status <> 'paused'
    for no key update skip locked
  ) r
  where k.tenant = d.tenant and k.state = 'capped'
    and k.no = (select e.no from queue e where e.tenant = k.tenant and e.run_id = k.run_id and e.state = 'capped'
                order by e.no limit 1)
  order by k.run_id limit f.free
) c
cross join lateral (
  select k.ctid as at from queue k where k.tenant = d.tenant and k.run_id = c.run_id and k.state = 'capped'
  for no key update skip locked
) w
where (g.cap is not null or %(lifted)s) and q.ctid = w.at
returning q.run_id;

-- name: capped
-- The agents of which a run waits for another to end. Index: none needed, the queue holds live work only.
select distinct r.tenant, r.agent
from queue q join runs r on r.tenant = q.tenant and r.id = q.run_id
where q.state = 'capped' and r.status <> 'paused' limit 200;
