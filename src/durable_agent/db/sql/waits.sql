-- name: open_waits
-- Opens waits, numbered within their step; one that is answered by what came before it is opened and answered at once.
-- Index: waits_pk. Locks: the new rows, under the run's lock.
insert into waits (tenant, id, run_id, step_no, no, kind, name, state, request_sha256, allow_self, steps_left, child_run,
                   due_at, opened_at, answered_at, answered_by, effect_no, request, answer)
select d.tenant, d.id, d.run_id, d.no,
       (select coalesce(max(w.no), 0) + 1 from waits w where w.tenant = d.tenant and w.run_id = d.run_id and w.step_no = d.no),
       d.kind, d.name, case when d.answer is null then 'open' else 'answered' end,
       d.request_sha256, d.allow_self, d.steps_left, d.child_run,
       case when d.expires_s is not null then %(now)s + make_interval(secs => d.expires_s) end, %(now)s,
       case when d.answer is not null then %(now)s end, d.answered_by, d.effect_no, d.request, d.answer
from unnest(%(tenants)s::int[], %(ids)s::uuid[], %(runs)s::uuid[], %(nos)s::int[], %(kinds)s::text[],
            %(names)s::text[], %(requests_sha256)s::text[], %(allow_self)s::bool[], %(steps_left)s::int[],
            %(child_runs)s::uuid[], %(expires)s::float8[], %(answered_by)s::text[], %(effect_nos)s::int[],
            %(requests)s::text[]::json[], %(answers)s::text[]::json[])
  d(tenant, id, run_id, no, kind, name, request_sha256, allow_self, steps_left, child_run, expires_s, answered_by,
    effect_no, request, answer);

-- name: wait_of
-- One wait as it stands. Index: waits_pk.
select w.id, w.run_id, w.step_no, w.no, w.kind, w.name, w.state, w.request_sha256, w.allow_self, w.due_at, w.opened_at,
       w.answered_at, w.consumed_at, w.answered_by, w.effect_no, w.child_run, w.request, w.answer
from waits w where w.tenant = %(tenant)s and w.id = %(id)s;

-- name: answer_wait
-- Ends an open wait. Index: waits_pk. Locks: its row, under the run's lock.
update waits w set state = 'answered', answered_at = %(now)s, answered_by = %(by)s, answer = %(answer)s::text::json
where w.tenant = %(tenant)s and w.id = %(id)s and w.state = 'open';

-- name: wake_step
-- Makes a waiting step ready again (held in a paused run), with its counters. Index: queue_pk. Locks: its row, under the
-- run's lock.
update queue q set state = %(state)s, due_at = null, queued_at = %(now)s
where q.tenant = %(tenant)s and q.run_id = %(run)s and q.no = %(no)s and q.state = 'waiting';

-- name: cancel_waits
-- Ends what a run waits for, with the run. Index: waits_step. Locks: the rows, under the run's lock.
update waits w set state = 'cancelled', answered_at = %(now)s
where w.tenant = %(tenant)s and w.run_id = %(run)s and w.state = 'open'
returning w.child_run;

-- name: waiting_now
-- How many of a run's steps could move, and what its open waits are for. Index: queue_pk, waits_step. Locks nothing more.
select (select count(*) from queue q where q.tenant = %(tenant)s and q.run_id = %(run)s and q.state <> 'waiting')::int,
       (select array_agg(w.kind) from waits w where w.tenant = %(tenant)s and w.run_id = %(run)s and w.state = 'open');

-- name: open_wait_of
-- The open waits of a run by kind and name. Index: waits_step.
select w.id, w.step_no, w.no, w.steps_left, w.request
from waits w
where w.tenant = %(tenant)s and w.run_id = %(run)s and w.kind = %(kind)s and w.name = %(name)s and w.state = 'open'
order by w.id limit 1;

-- name: approvals
-- Approvals that are to be consumed, under their runs' locks. Index: waits_pk.
select w.id, w.run_id, w.kind, w.state, w.request_sha256, w.consumed_at, w.answer
from waits w
where (w.tenant, w.id) in (select d.tenant, d.id from unnest(%(tenants)s::int[], %(ids)s::uuid[]) d(tenant, id));

-- name: consume_approvals
-- Uses approvals up, each once. Index: waits_pk. Locks: the rows, under their runs' locks.
with changed as (
  update waits w set consumed_at = %(now)s
  from unnest(%(tenants)s::int[], %(ids)s::uuid[]) d(tenant, id)
  where w.tenant = d.tenant and w.id = d.id and w.state = 'answered' and w.consumed_at is null
  returning 1
)
select require_rows((select count(*) from changed), %(rows)s, 'consume_approvals');

-- name: arrive
-- Counts spawned steps that ended at the waits of the steps that spawned them. Where an earlier wait of that kind was cancelled, the
-- steps it was for may still be ending: only the last ones added count. Index: waits_step; then steps_pk. Locks: the rows, under
-- their runs' locks.
update waits w
set steps_left = w.steps_left - case
  when w.no = 1 or (select c.no from waits c where c.tenant = w.tenant and c.run_id = w.run_id and c.step_no = w.step_no
                      and c.no < w.no and c.kind = 'steps' and c.state = 'cancelled' limit 1) is null
  then cardinality(d.ended)
  else (select count(*)::int from unnest(d.ended) e(no)
        where e.no >= (select max(f.no) from steps f where f.tenant = w.tenant and f.run_id = w.run_id
                         and f.spawned_by = w.step_no and f.spawn_index = 0))
end
from (
  select a.tenant, a.run_id, a.no, array_agg(a.ended) as ended
  from unnest(%(tenants)s::int[], %(runs)s::uuid[], %(nos)s::int[], %(ended)s::int[]) a(tenant, run_id, no, ended)
  group by a.tenant, a.run_id, a.no
) d
where w.tenant = d.tenant and w.run_id = d.run_id and w.step_no = d.no and w.kind = 'steps' and w.state = 'open'
returning w.tenant, w.id, w.run_id, w.step_no, w.steps_left;

-- name: spawned
-- What the steps came to that a step spawned for a wait, in their order: its last ones; without their outputs where these are
-- more together than a value may be. Index: steps_pk.
with spawned as materialized (
  select s.no, s.name, s.status, s.output
  from steps s
  where s.tenant = %(tenant)s and s.run_id = %(run)s and s.spawned_by = %(no)s
    and s.no >= (select max(f.no) from steps f where f.tenant = %(tenant)s and f.run_id = %(run)s and f.spawned_by = %(no)s
                   and f.spawn_index = 0)
), together as (
  select coalesce(sum(octet_length(s.output::text)), 0)::bigint as bytes from spawned s
)
select s.name, s.status, case when t.bytes <= %(most)s then s.output end, t.bytes
from spawned s cross join together t
order by s.no;

-- name: add_signal
-- Keeps a signal; one with a key that is known already is the first one again. Index: signals_pk, signals_key.
-- Locks: the new row, under the run's lock.
insert into signals (tenant, run_id, no, name, key, at, by, taken_by, payload)
select %(tenant)s, %(run)s, coalesce(max(s.no), 0) + 1, %(name)s, %(key)s, %(now)s, %(by)s, %(taken_by)s,
       %(payload)s::text::json
from signals s where s.tenant = %(tenant)s and s.run_id = %(run)s;

-- name: signal_by_key
-- The signal that was sent with a key. Index: signals_key.
select s.no, s.name, s.payload::text from signals s
where s.tenant = %(tenant)s and s.run_id = %(run)s and s.key = %(key)s;

-- name: early_signal
-- The oldest signal of a name that nobody has taken. Index: signals_pk.
select s.no, s.by, s.payload from signals s
where s.tenant = %(tenant)s and s.run_id = %(run)s and s.name = %(name)s and s.taken_by is null
order by s.no limit 1;

-- name: take_signal
-- Gives a signal to a wait. Index: signals_pk. Locks: its row, under the run's lock.
update signals s set taken_by = %(wait)s
where s.tenant = %(tenant)s and s.run_id = %(run)s and s.no = %(no)s and s.taken_by is null;

-- name: count_signals
-- How many signals a run keeps. Index: signals_pk.
select count(*)::int from signals s where s.tenant = %(tenant)s and s.run_id = %(run)s;

-- name: due
-- Open waits whose time is over, and those for runs that have ended: candidates, looked at again under the run's lock.
-- Index: waits_due, waits_child. Locks nothing. Over all tenants: the process's upkeep.
select w.tenant, w.id, w.run_id from waits w
where w.state = 'open' and w.due_at <= engine_now() and w.id <> all(%(spared)s::uuid[])
union all
select w.tenant, w.id, w.run_id from waits w
join runs r on r.tenant = w.tenant and r.id = w.child_run
where w.state = 'open' and w.child_run is not null and r.finished_at is not null and w.id <> all(%(spared)s::uuid[])
limit %(limit)s;

-- name: of_child
-- The open wait for a run. Index: waits_child.
select w.id, w.run_id from waits w
where w.tenant = %(tenant)s and w.child_run = %(child)s and w.state = 'open';

-- name: child
-- What a child run came to. Index: runs_pk.
select r.status, r.finished_at is not null, r.error from runs r where r.tenant = %(tenant)s and r.id = %(run)s;

-- name: child_outputs
-- The outputs of a run's last steps, those that nobody waits for, by name; null where they are more together than a value may
-- be. Index: steps_pk.
with last as materialized (
  select s.name, s.output from steps s
  where s.tenant = %(tenant)s and s.run_id = %(run)s and s.status = 'succeeded' and cardinality(s.children) = 0
), together as (
  select coalesce(sum(octet_length(l.output::text)), 0)::bigint as bytes from last l
)
select json_object_agg(l.name, case when t.bytes <= %(most)s then l.output end), coalesce(max(t.bytes), 0)
from last l cross join together t;

-- name: list_waits
-- Waits for people, the oldest open ones first. Index: waits_open, else waits_pk.
select w.id, w.run_id, s.name as step, w.kind, w.name, w.state, w.due_at as expires_at, w.opened_at, w.answered_at,
       w.consumed_at, w.answered_by, w.request, w.request_sha256, w.answer, r.goal
from waits w
join steps s on s.tenant = w.tenant and s.run_id = w.run_id and s.no = w.step_no
join runs r on r.tenant = w.tenant and r.id = w.run_id
where w.tenant = %(tenant)s
  and (not %(people)s or w.kind in ('approval', 'input', 'unknown_effect'))
  and (%(state)s::text is null or w.state = %(state)s::text)
  and (%(kind)s::text is null or w.kind = %(kind)s::text)
  and (%(run)s::uuid is null or w.run_id = %(run)s::uuid)
  and (%(after)s::uuid is null or w.id > %(after)s::uuid)
order by w.id limit %(limit)s;

-- name: past_waits
-- Waits for people that are over, the newest first. Index: waits_pk, backwards.
select w.id, w.run_id, s.name as step, w.kind, w.name, w.state, w.due_at as expires_at, w.opened_at, w.answered_at,
       w.consumed_at, w.answered_by, w.request, w.request_sha256, w.answer, r.goal
from waits w
join steps s on s.tenant = w.tenant and s.run_id = w.run_id and s.no = w.step_no
join runs r on r.tenant = w.tenant and r.id = w.run_id
where w.tenant = %(tenant)s
  and (not %(people)s or w.kind in ('approval', 'input', 'unknown_effect'))
  and w.state = %(state)s
  and (%(kind)s::text is null or w.kind = %(kind)s::text)
  and (%(run)s::uuid is null or w.run_id = %(run)s::uuid)
  and (%(after)s::uuid is null or w.id < %(after)s::uuid)
order by w.id desc limit %(limit)s;

-- name: of_run
-- A run's waits, for its export. Index: waits_step.
select w.id, w.step_no, w.no, w.kind, w.name, w.state, w.request_sha256, w.due_at, w.opened_at, w.answered_at, w.consumed_at,
       w.answered_by, w.effect_no, w.child_run, w.request, w.answer
from waits w where w.tenant = %(tenant)s and w.run_id = %(run)s order by w.step_no, w.no;

-- name: orphans
-- Open runs that a step of another run waited for until lately, and no longer does. Index: waits_cancelled. Locks nothing.
-- Over all tenants: the process's upkeep.
select r.tenant, r.id
from waits w join runs r on r.tenant = w.tenant and r.id = w.child_run
where w.state = 'cancelled' and w.child_run is not null and w.answered_at > engine_now() - interval '7 days'
  and r.finished_at is null and r.status <> 'compensating' and r.id <> all(%(spared)s::uuid[])
limit 100;

-- name: void_words
-- What a person said of a step's own call holds for that call, not for one that was cut off after it.
-- Index: waits_step. Locks: the rows, under the run's lock.
update waits w set consumed_at = %(now)s
where w.tenant = %(tenant)s and w.run_id = %(run)s and w.step_no = any(%(nos)s::int[]) and w.kind = 'unknown_effect'
  and w.effect_no = 0 and w.state = 'answered' and w.consumed_at is null;
