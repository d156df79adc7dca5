-- name: now
-- The engine's only clock (R5), read after the locks are held so that a run's events are in time order.
select engine_now();

-- name: lock_runs
-- The runs of a batch; the caller gives them in id order, and so they are locked (R1).
-- Index: runs_pk. Locks: the run rows, waiting.
select d.tenant, d.id, r.*
from unnest(%(tenants)s::int[], %(runs)s::uuid[]) d(tenant, id)
cross join lateral (
  select r.status, r.steps_total, r.steps_left, r.last_seq, r.chain, r.waiting, r.parent_run, r.origin, r.budgeted,
         case when r.root is null then r.agent end, r.ctid
  from runs r where r.tenant = d.tenant and r.id = d.id for no key update
) r;

-- name: settling
-- The steps of a batch of outcomes as they stand under their run's lock.
-- Index: steps_pk, queue_pk. Locks nothing more: the run's lock covers both.
select d.tenant, d.run_id, d.no, s.name, s.tool, s.children, s.max_attempts, s.max_crashes, s.retry::text,
       s.spawned_by, coalesce(q.failures, 0), coalesce(q.crashes, 0), q.claim_no, q.token, q.effect, q.last_token, s.done_token
from unnest(%(tenants)s::int[], %(runs)s::uuid[], %(nos)s::int[]) d(tenant, run_id, no)
cross join lateral (
  select s.* from steps s where s.tenant = d.tenant and s.run_id = d.run_id and s.no = d.no limit 1
) s
left join lateral (
  select q.* from queue q where q.tenant = d.tenant and q.run_id = d.run_id and q.no = d.no limit 1
) q on true;

-- name: pending
-- Of some steps those that still wait, with all that a claim needs. Index: steps_pk. Locks nothing more.
select d.tenant, d.run_id, d.no, c.ctid, c.name, c.kind, c.tool, c.input, c.timeout_s, c.deadline_s, c.children,
       c.max_attempts, c.max_crashes, c.retry::text, c.deps_left, c.taken, c.condition, c.edge_conditions, c.parents,
       c.route, c.ord, c.claim_no, c.failures, c.crashes, c.spawned_by, c.compensates, c.origin
from unnest(%(tenants)s::int[], %(runs)s::uuid[], %(nos)s::int[]) d(tenant, run_id, no)
cross join lateral (
  select c.ctid, c.* from steps c
  where c.tenant = d.tenant and c.run_id = d.run_id and c.no = d.no and c.status = 'pending' limit 1
) c;

-- name: metered
-- The calls of tools that some steps' claims counted: what an unknown commit has written already. Index: events_pk by the run.
-- Locks nothing more.
select d.run_id, d.no, (e.data->>'claim_no')::int, e.data->>'tool', (e.data->>'call')::int
from unnest(%(tenants)s::int[], %(runs)s::uuid[], %(nos)s::int[]) d(tenant, run_id, no)
cross join lateral (
  select e.data from events e
  where e.tenant = d.tenant and e.run_id = d.run_id and e.step_no = d.no and e.type = 'step.metered' offset 0
) e;

-- name: outputs
-- The outputs of those of some steps that succeeded. Index: steps_pk. Locks nothing.
select d.tenant, d.run_id, d.no, s.name, s.output
from unnest(%(tenants)s::int[], %(runs)s::uuid[], %(nos)s::int[]) d(tenant, run_id, no)
cross join lateral (
  select s.name, s.output from steps s
  where s.tenant = d.tenant and s.run_id = d.run_id and s.no = d.no and s.status = 'succeeded' limit 1
) s;

-- name: shared_outputs
-- As `outputs`, in runs that share results with the run they descend from. Index: steps_pk. Locks nothing.
select d.tenant, d.run_id, d.no, s.name, s.output
from unnest(%(tenants)s::int[], %(runs)s::uuid[], %(nos)s::int[]) d(tenant, run_id, no)
cross join lateral (
  select s.name, case when s.shared then (
    select o.output from steps o where o.tenant = s.tenant and o.run_id = s.origin and o.no = s.no
  ) else s.output end as output
  from steps s
  where s.tenant = d.tenant and s.run_id = d.run_id and s.no = d.no and s.status = 'succeeded' limit 1
) s;

-- name: run_input
-- A run's input, for conditions. Index: runs_pk.
select r.input from runs r where r.tenant = %(tenant)s and r.id = %(run)s;

-- name: spawner
-- The name of a step and that under which it last added others, for their conditions. Index: steps_pk, waits_step.
select s.name, w.name
from steps s
cross join lateral (
  select w.name from waits w
  where w.tenant = s.tenant and w.run_id = s.run_id and w.step_no = s.no and w.kind = 'steps' order by w.no desc limit 1
) w
where s.tenant = %(tenant)s and s.run_id = %(run)s and s.no = %(no)s;

-- name: resolve_steps
-- Counts down what pending steps wait for, and moves those that are decided (queued, skipped, dead letter).
-- Index: none, by ctid. Locks: step rows, under their run's lock.
with changed as (
  update steps s
  set deps_left = d.deps_left, taken = d.taken, status = d.status, error = d.error,
      finished_at = case when d.status in ('skipped', 'dead_letter') then %(now)s end
  from unnest(%(ats)s::tid[], %(tenants)s::int[], %(runs)s::uuid[], %(nos)s::int[], %(deps_left)s::int[], %(taken)s::int[],
              %(statuses)s::text[], %(errors)s::text[]::json[])
    d(at, tenant, run_id, no, deps_left, taken, status, error)
  where s.ctid = d.at and s.tenant + 0 = d.tenant and s.run_id = d.run_id and s.no = d.no and s.status = 'pending'
  returning 1
)
select require_rows((select count(*) from changed), %(rows)s, 'resolve_steps');

-- name: put_runs
-- Writes the heads of locked runs: status, counters, last event and its hash, and adds what calls of models used (arrays that are
-- empty when none did); guarded by the event last seen. What is written to the history of a run that has ended leaves its end.
-- Index: none, by ctid. Locks: the run rows, held already.
with changed as (
  update runs r
  set status = d.status, steps_left = d.steps_left, last_seq = d.last_seq, chain = d.chain, error = coalesce(d.error, r.error),
      waiting = d.waiting, steps_total = d.steps_total, ending = coalesce(d.ending, r.ending),
      calls = r.calls + coalesce(d.calls, 0), input_tokens = r.input_tokens + coalesce(d.input_tokens, 0),
      output_tokens = r.output_tokens + coalesce(d.output_tokens, 0), microusd = r.microusd + coalesce(d.microusd, 0),
      started_at = case when d.started then coalesce(r.started_at, %(now)s) else r.started_at end,
      finished_at = case when d.finished then coalesce(r.finished_at, %(now)s) end
  from unnest(%(ats)s::tid[], %(tenants)s::int[], %(runs)s::uuid[], %(seen)s::int[], %(statuses)s::text[],
              %(steps_left)s::int[], %(last_seqs)s::int[], %(chains)s::bytea[], %(errors)s::text[]::json[],
              %(started)s::bool[], %(finished)s::bool[], %(waiting)s::int[], %(steps_total)s::int[], %(endings)s::text[],
              %(calls)s::int[], %(input_tokens)s::bigint[], %(output_tokens)s::bigint[], %(microusd)s::bigint[])
    d(at, tenant, id, seen, status, steps_left, last_seq, chain, error, started, finished, waiting, steps_total, ending,
      calls, input_tokens, output_tokens, microusd)
  where r.ctid = d.at and r.tenant + 0 = d.tenant and r.id = d.id and r.last_seq = d.seen
  returning 1
)
select require_rows((select count(*) from changed), %(rows)s, 'put_runs');

-- name: add_events
-- Appends events; a number used twice is an error. Index: events_pk. Locks: the new rows.
insert into events (tenant, run_id, seq, step_no, at, type, hash, data, detail)
select d.tenant, d.run_id, d.seq, d.step_no, %(now)s, d.type, d.hash, d.data, d.detail
from unnest(%(tenants)s::int[], %(runs)s::uuid[], %(seqs)s::int[], %(step_nos)s::int[], %(types)s::text[],
            %(hashes)s::bytea[], %(data)s::text[]::json[], %(details)s::text[]::json[])
  d(tenant, run_id, seq, step_no, type, hash, data, detail);

-- name: add_dead_letters
-- Lists dead steps. Index: dead_letters_pk. Locks: the new rows.
insert into dead_letters (tenant, run_id, no, name, tool, reason, failure, message, at)
select d.tenant, d.run_id, d.no, d.name, d.tool, d.reason, d.failure, d.message, %(now)s
from unnest(%(tenants)s::int[], %(runs)s::uuid[], %(nos)s::int[], %(names)s::text[], %(tools)s::text[],
            %(reasons)s::text[], %(failures)s::text[], %(messages)s::text[])
  d(tenant, run_id, no, name, tool, reason, failure, message);

-- name: leave_doubt
-- Steps that died in the middle of what they themselves were to do remember that it may have happened, for a redrive.
-- Index: steps_pk. Locks: step rows, under their runs' locks.
update steps s set in_doubt = d.effect
from unnest(%(tenants)s::int[], %(runs)s::uuid[], %(nos)s::int[], %(effects)s::text[]) d(tenant, run_id, no, effect)
where s.tenant = d.tenant and s.run_id = d.run_id and s.no = d.no and s.status = 'dead_letter';

-- name: open_steps
-- The steps of a run that are not final, with their place in the queue. Index: steps_pk. Locks nothing more.
select s.no, s.tool, q.state, q.claim_no, q.effect
from steps s
left join queue q on q.tenant = s.tenant and q.run_id = s.run_id and q.no = s.no
where s.tenant = %(tenant)s and s.run_id = %(run)s and s.finished_at is null
order by s.no;

-- name: cancel_steps
-- Ends every open step of a run and takes them out of the queue: no lease outlives it (not a worker's write). A step that
-- was itself a call not to be made twice remembers that it may have been made, for a redrive.
-- Index: steps_pk, queue_pk. Locks: step and queue rows, under their run's lock.
with released as (
  delete from queue q where q.tenant = %(tenant)s and q.run_id = %(run)s
  returning q.no, q.claim_no, q.failures, q.crashes, q.claimed_at, q.effect as in_doubt
), opened as (
  select s.no from steps s where s.tenant = %(tenant)s and s.run_id = %(run)s and s.finished_at is null order by s.no
)
update steps s
set status = 'cancelled', finished_at = %(now)s, claim_no = coalesce(x.claim_no, s.claim_no),
    failures = coalesce(x.failures, s.failures), crashes = coalesce(x.crashes, s.crashes),
    started_at = coalesce(x.claimed_at, s.started_at), in_doubt = x.in_doubt
from opened o left join released x on x.no = o.no
where s.tenant = %(tenant)s and s.run_id = %(run)s and s.no = o.no;

-- name: hold_steps
-- Takes a paused run's ready and scheduled steps off the claim. Index: queue_pk. Locks: queue rows, under the run's lock.
update queue q set state = 'held' where q.tenant = %(tenant)s and q.run_id = %(run)s and q.state in ('ready', 'scheduled');

-- name: unhold_steps
-- Gives a resumed run's held steps back; one whose retry is not due yet waits on. Index: queue_pk. Locks: queue rows.
update queue q
set state = case when q.due_at > %(now)s then 'scheduled' else 'ready' end,
    due_at = case when q.due_at > %(now)s then q.due_at end
where q.tenant = %(tenant)s and q.run_id = %(run)s and q.state = 'held';

-- name: lane
-- A run's fairness key, who started it, and what its tree spends. Index: runs_pk.
select r.lane, r.started_by, coalesce(r.root, r.id), r.agent, r.budgeted from runs r where r.tenant = %(tenant)s and r.id = %(run)s;

-- name: ending
-- How a run ends when it is compensated, and why. Index: runs_pk.
select r.ending, r.error from runs r where r.tenant = %(tenant)s and r.id = %(run)s;

-- name: parents_of
-- The parents of some steps. Index: steps_pk.
select d.tenant, d.run_id, s.parents
from unnest(%(tenants)s::int[], %(runs)s::uuid[], %(nos)s::int[]) d(tenant, run_id, no)
cross join lateral (
  select s.parents from steps s where s.tenant = d.tenant and s.run_id = d.run_id and s.no = d.no limit 1
) s;

-- name: queue_of
-- The queue of a step. Index: steps_pk, routes_pk.
select t.queue from steps s join routes t on t.tenant = s.tenant and t.route = s.route
where s.tenant = %(tenant)s and s.run_id = %(run)s and s.no = %(no)s;
