-- Plans are made once and kept, often while the tables are empty, and what they look like then is no guide. So no look-up
-- by key is left to the planner: rows that come as arrays meet the tables in a `lateral` with a `limit`, which admits no
-- other order, and rows that this transaction has locked are changed by their `ctid`, than which nothing is cheaper (beside
-- it the tenant is compared as `tenant + 0`: in the primary key's order a whole index can be read to be joined).
-- A state beside a key is compared as `state || ''`: a bare comparison would prove the predicate of a partial index, which
-- would be read from end to end.

-- name: turns
-- The engine's time, and which (tenant, route) has ready work, with the claim order at its head: the fair turns. At
-- least one row; with nothing ready, without a turn.
-- Index: queue_ready, one probe per turn (loose index scan). Locks nothing.
with recursive head as (
  (select q.tenant, q.route, q.ord from queue q where q.state = 'ready' order by q.tenant, q.route, q.ord limit 1)
  union all
  select n.tenant, n.route, n.ord
  from head h
  cross join lateral (
    select q.tenant, q.route, q.ord from queue q
    where q.state = 'ready' and (q.tenant, q.route) > (h.tenant, h.route)
    order by q.tenant, q.route, q.ord limit 1
  ) n
)
select engine_now(), h.tenant, h.route, h.ord
from (values (1)) always(one)
left join (select tenant, route, ord from head limit 1000) h on true;

-- name: pick
-- The oldest ready steps of one tenant, so many of each route, with their run (R2) and all an attempt needs: never waits.
-- Of a step with many parents the outputs are measured first, and left out where they are more together than a value may be.
-- The outputs are joined: read by a subquery of its own from a partition, they can end PostgreSQL 18.4 (decisions/0011).
-- Index: queue_ready in claim order; runs_pk, steps_pk. Locks: the queue row and its run, both skipping what is locked.
select p.run_id, p.no, p.claim_no, p.failures, p.crashes, p.max_crashes, p.at, p.status, p.last_seq, p.chain, p.steps_total,
       p.steps_left, p.waiting, p.parent_run, p.run_at, p.input, p.goal, s.name, s.kind, s.tool, s.input, s.timeout_s,
       s.deadline_s, s.children, s.max_attempts, s.retry::text, s.spawned_by, s.compensates, p.effect,
       p.origin, p.mode, p.budgeted, s.origin, o.outputs, t.bytes
from unnest(%(routes)s::int[], %(limits)s::int[], %(froms)s::bigint[]) w(route, n, ord)
cross join lateral (
  select q.run_id, q.no, q.claim_no, q.failures, q.crashes, q.max_crashes, q.effect, q.ctid as at, r.*
  from queue q
  cross join lateral (
    select r.status, r.last_seq, r.chain, r.steps_total, r.steps_left, r.waiting, r.parent_run, r.origin, r.mode,
           r.budgeted, r.ctid as run_at, r.input, r.goal
    from runs r where r.tenant = %(tenant)s and r.id = q.run_id for no key update skip locked
  ) r
  where q.tenant = %(tenant)s and q.route = w.route and q.state = 'ready' and q.ord >= w.ord
    and (%(solo)s or q.crashes = 0 or q.crashes < q.max_crashes - 1)
  order by q.ord limit w.n
  for no key update of q skip locked
) p
cross join lateral (
  select s.* from steps s where s.tenant = %(tenant)s and s.run_id = p.run_id and s.no = p.no limit 1
) s
cross join lateral (
  select coalesce(sum(octet_length(k.output::text)), 0)::bigint as bytes
  from unnest(case when cardinality(s.parents) > %(wide)s then s.parents end) u(no)
  cross join lateral (
    select k.output from steps k
    where k.tenant = %(tenant)s and k.run_id = p.run_id and k.no = u.no and k.status = 'succeeded' limit 1
  ) k
) t
cross join lateral (
  select json_object_agg(k.name, case when t.bytes <= %(most)s then k.output end) as outputs
  from unnest(s.parents) u(no)
  cross join lateral (
    select k.name, k.output from steps k
    where k.tenant = %(tenant)s and k.run_id = p.run_id and k.no = u.no and k.status = 'succeeded' limit 1
  ) k
) o;

-- name: records
-- What the steps of a batch recorded before, or the run they are replayed from did: effects, answers, outcome. What is more
-- together than a value may be is measured, and left out.
-- Index: effects_pk, waits_step, steps_pk. Locks nothing.
select d.run_id, d.no,
       (select json_agg(json_build_array(e.no, e.name, e.class, e.request_sha256, e.key, e.state, e.result, e.error))
        from effects e where b.bytes <= %(most)s and e.tenant = d.tenant and e.run_id = d.source and e.step_no = d.no),
       (select json_agg(json_build_array(w.no, w.kind, w.name, w.request_sha256, w.id, w.answer))
        from waits w where b.bytes <= %(most)s and w.tenant = d.tenant and w.run_id = d.source and w.step_no = d.no
           and w.state = 'answered' and (w.kind <> 'unknown_effect' or w.consumed_at is null)),
       (select json_build_array(o.status, o.output::text, o.error)
        from steps o where o.tenant = d.tenant and o.run_id = d.source and o.no = d.no and d.replayed),
       b.bytes
from unnest(%(tenants)s::int[], %(runs)s::uuid[], %(nos)s::int[], %(sources)s::uuid[], %(replayed)s::bool[])
  d(tenant, run_id, no, source, replayed)
cross join lateral (
  select (
    (select coalesce(sum(octet_length(e.result::text)), 0)
     from effects e where e.tenant = d.tenant and e.run_id = d.source and e.step_no = d.no)
    + (select coalesce(sum(octet_length(w.answer::text)), 0)
       from waits w where w.tenant = d.tenant and w.run_id = d.source and w.step_no = d.no and w.state = 'answered')
  )::bigint as bytes
  offset 0
) b;

-- name: lease_steps
-- Turns picked ready steps into leased ones; guarded by the claim number that was seen (R3, R12).
-- Index: none, by ctid. Locks: the queue rows, held already.
with changed as (
  update queue q
  set state = 'leased', claim_no = d.claim_no, token = d.token, session = %(session)s, claimed_at = %(now)s,
      deadline_at = %(now)s + make_interval(secs => q.deadline_s), due_at = null, effect = d.effect
  from unnest(%(ats)s::tid[], %(tenants)s::int[], %(runs)s::uuid[], %(nos)s::int[], %(claim_nos)s::int[], %(tokens)s::uuid[],
              %(effects)s::text[])
    d(at, tenant, run_id, no, claim_no, token, effect)
  where q.ctid = d.at and q.tenant + 0 = d.tenant and q.run_id = d.run_id and q.no = d.no
    and q.state || '' = 'ready' and q.claim_no = d.claim_no - 1
  returning 1
)
select require_rows((select count(*) from changed), %(rows)s, 'lease_steps');

-- name: enqueue_steps
-- Puts promoted steps into the queue: ready, held (paused run) or leased at once to the worker that made them ready.
-- Index: queue_pk. Locks: the new rows.
insert into queue (tenant, run_id, no, route, ord, state, claim_no, failures, crashes, max_crashes, deadline_s, token,
                   effect, session, claimed_at, deadline_at, queued_at)
select d.tenant, d.run_id, d.no, d.route, d.ord, d.state, d.claim_no, d.failures, d.crashes, d.max_crashes,
       d.deadline_s, d.token, d.effect, case when d.token is not null then %(session)s::uuid end,
       case when d.token is not null then %(now)s end,
       case when d.token is not null then %(now)s + make_interval(secs => d.deadline_s) end, %(now)s
from unnest(%(tenants)s::int[], %(runs)s::uuid[], %(nos)s::int[], %(routes)s::int[], %(ords)s::bigint[],
            %(states)s::text[], %(claim_nos)s::int[], %(failures)s::int[], %(crashes)s::int[], %(max_crashes)s::int[],
            %(tokens)s::uuid[], %(deadlines)s::float8[], %(effects)s::text[])
  d(tenant, run_id, no, route, ord, state, claim_no, failures, crashes, max_crashes, token, deadline_s, effect);

-- name: requeue_steps
-- Ends attempts that are to be made again: back to ready, held, scheduled or waiting; fenced by claim number and token
-- (R3). `effect` stays only where the attempt may have done what it was to do and nobody knows.
-- Index: queue_pk. Locks: the queue rows, under their run's lock.
with changed as (
  update queue q
  set state = d.state,
      due_at = case when d.delay_s is not null then %(now)s + make_interval(secs => d.delay_s) end,
      failures = d.failures, crashes = d.crashes, last_token = d.last_token, token = null, session = null,
      claimed_at = null, deadline_at = null, queued_at = %(now)s, effect = d.effect
  from unnest(%(tenants)s::int[], %(runs)s::uuid[], %(nos)s::int[], %(claim_nos)s::int[], %(tokens)s::uuid[],
              %(states)s::text[], %(delays)s::float8[], %(failures)s::int[], %(crashes)s::int[], %(last_tokens)s::uuid[],
              %(effects)s::text[])
    d(tenant, run_id, no, claim_no, token, state, delay_s, failures, crashes, last_token, effect)
  cross join lateral (
    select k.ctid as at from queue k
    where k.tenant = d.tenant and k.run_id = d.run_id and k.no = d.no
      and k.state || '' = 'leased' and k.claim_no = d.claim_no and k.token = d.token limit 1
  ) x
  where q.ctid = x.at
  returning 1
)
select require_rows((select count(*) from changed), %(rows)s, 'requeue_steps');

-- name: finish_steps
-- Ends attempts for good: takes the step out of the queue, fenced by claim number and token (R3), and only for what
-- the fence let through writes the result.
-- Index: queue_pk, steps_pk. Locks: queue rows, step rows by number, under their run's lock.
with released as (
  delete from queue q
  using unnest(%(tenants)s::int[], %(runs)s::uuid[], %(nos)s::int[], %(claim_nos)s::int[], %(tokens)s::uuid[],
               %(statuses)s::text[], %(outputs)s::text[]::json[], %(errors)s::text[]::json[], %(failures)s::int[],
               %(crashes)s::int[], %(workers)s::text[], %(done_tokens)s::uuid[], %(compensates)s::text[])
    f(tenant, run_id, no, claim_no, token, status, output, error, failures, crashes, worker, done_token, compensate)
  cross join lateral (
    select k.ctid as at from queue k
    where k.tenant = f.tenant and k.run_id = f.run_id and k.no = f.no
      and k.state || '' = 'leased' and k.claim_no = f.claim_no and k.token = f.token limit 1
  ) x
  where q.ctid = x.at
  returning q.tenant, q.run_id, q.no, q.claimed_at, f.claim_no, f.status, f.output, f.error, f.failures, f.crashes, f.worker,
            f.done_token, f.compensate
), changed as (
  update steps s
  set status = r.status, output = r.output, error = r.error, claim_no = r.claim_no, failures = r.failures,
      crashes = r.crashes, done_token = r.done_token, worker = r.worker, started_at = r.claimed_at, finished_at = %(now)s,
      compensate = coalesce(s.compensate, r.compensate)
  from released r
  cross join lateral (
    select k.ctid as at from steps k
    where k.tenant = r.tenant and k.run_id = r.run_id and k.no = r.no and k.status = 'queued' limit 1
  ) x
  where s.ctid = x.at and s.run_id = r.run_id
  returning 1
)
select require_rows((select count(*) from changed), %(rows)s, 'finish_steps');

-- name: routes_of
-- The ids of routes by what they stand for. Index: routes_unique.
select r.tenant, r.route, r.queue, r.lane, r.tool
from unnest(%(tenants)s::int[], %(queues)s::text[], %(lanes)s::text[], %(tools)s::text[]) d(tenant, queue, lane, tool)
join routes r on r.tenant = d.tenant and r.queue = d.queue and r.lane = d.lane and r.tool = d.tool;

-- name: add_routes
-- Makes the routes that are missing. Index: routes_unique. Locks: the new rows.
insert into routes (tenant, queue, lane, tool)
select distinct d.tenant, d.queue, d.lane, d.tool
from unnest(%(tenants)s::int[], %(queues)s::text[], %(lanes)s::text[], %(tools)s::text[]) d(tenant, queue, lane, tool)
order by 1, 2, 3, 4
on conflict do nothing;

-- name: describe_routes
-- What some routes stand for. Index: routes_pk.
select r.tenant, r.route, r.queue, r.lane, r.tool
from unnest(%(tenants)s::int[], %(routes)s::int[]) d(tenant, route)
join routes r on r.tenant = d.tenant and r.route = d.route;
