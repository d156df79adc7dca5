-- name: get_run
-- One run. Index: runs_pk.
select r.id, r.status, r.goal, r.graph, r.lane, r.input, r.metadata, r.error, r.steps_total, r.steps_left, r.last_seq,
       r.created_at, r.started_at, r.finished_at, encode(r.chain, 'hex') as chain, r.waiting, r.ending, r.graph_version,
       r.started_by, r.parent_run, r.parent_step, r.origin, r.mode, r.from_step, r.root, r.agent, r.budgeted, r.calls,
       r.input_tokens, r.output_tokens, r.microusd, r.paused_for, r.paused_until
from runs r where r.tenant = %(tenant)s and r.id = %(run)s;

-- name: get_steps
-- A run's steps as they stand: the queue's word where a step is in it, else its own row. Index: steps_pk, queue_pk.
select s.no, s.name, s.kind, s.tool, s.parents, s.children, s.condition, s.edge_conditions,
       case q.state when 'leased' then 'running' when 'ready' then 'ready' when 'scheduled' then 'ready'
                    when 'held' then 'ready' when 'capped' then 'ready' when 'waiting' then 'waiting' else s.status end
         as status,
       coalesce(q.claim_no, s.claim_no) as claim_no, coalesce(q.failures, s.failures) as failures,
       coalesce(q.crashes, s.crashes) as crashes, s.max_attempts, s.max_crashes, s.timeout_s, s.deadline_s, s.retry,
       q.due_at as not_before, coalesce(q.claimed_at, s.started_at) as started_at, s.finished_at,
       coalesce(w.worker, s.worker) as worker, s.input,
       case when s.shared then (
         select o.output from steps o where o.tenant = s.tenant and o.run_id = s.origin and o.no = s.no
       ) else s.output end as output,
       s.error, s.deps_left, q.state as queue_state, t.queue, 1000 - (s.ord >> 52) as priority, s.compensate, s.compensates,
       s.spawned_by, s.origin, s.shared, s.edited, coalesce(u.calls, 0) as calls, coalesce(u.tokens, 0) as tokens,
       coalesce(u.microusd, 0) as microusd
from steps s
left join (
  select e.step_no, count(*)::int as calls, sum((e.usage->>'input_tokens')::bigint + (e.usage->>'output_tokens')::bigint)::bigint as tokens,
         sum(e.microusd)::bigint as microusd
  from effects e where e.tenant = %(tenant)s and e.run_id = %(run)s and e.usage is not null group by e.step_no
) u on u.step_no = s.no
left join queue q on q.tenant = s.tenant and q.run_id = s.run_id and q.no = s.no
left join workers w on w.tenant = 0 and w.session = q.session
left join routes t on t.tenant = s.tenant and t.route = s.route
where s.tenant = %(tenant)s and s.run_id = %(run)s order by s.no;

-- name: list_runs
-- Runs, newest first, by filters and from a cursor; no id is of a time before 1970. Index: runs_pk backwards, with a filter for a status.
select r.id, r.status, r.goal, r.graph, r.steps_total, r.steps_left, r.last_seq, r.created_at, r.started_at, r.finished_at,
       r.error, case when r.agent is not null and r.root is null then r.lane end as agent, r.calls, r.input_tokens, r.output_tokens, r.microusd
from runs r
where r.tenant = %(tenant)s
  and (%(before)s::uuid is null or r.id < %(before)s::uuid)
  and (%(status)s::text[] is null or r.status = any(%(status)s::text[]))
  and (%(graph)s::text is null or r.graph = %(graph)s::text)
  and (%(agent)s::text is null or (r.lane = %(agent)s::text and r.agent is not null and r.root is null))
  and (%(q)s::text is null or position(lower(%(q)s::text) in lower(coalesce(r.goal, ''))) > 0)
  and (%(since)s::timestamptz is null or r.id >= uuid_floor(greatest(%(since)s::timestamptz, 'epoch')))
  and (%(until)s::timestamptz is null or r.id < uuid_floor(greatest(%(until)s::timestamptz, 'epoch')))
order by r.id desc limit %(limit)s;

-- name: run_exists
-- Whether a tenant has a run, and how far its history goes. Index: runs_pk.
select r.status, r.last_seq from runs r where r.tenant = %(tenant)s and r.id = %(run)s;

-- name: events_after
-- A run's events after a number, in order. Index: events_pk, steps_pk.
select e.seq, e.type, s.name as step, e.step_no, e.at, e.data::text as data, e.detail::text as detail, e.hash
from events e
left join steps s on s.tenant = e.tenant and s.run_id = e.run_id and s.no = e.step_no
where e.tenant = %(tenant)s and e.run_id = %(run)s and e.seq > %(after)s
order by e.seq limit %(limit)s;

-- name: news
-- How far the histories of some runs go, and whether a model is speaking in them: what a hint makes the watchers look at.
-- Index: runs_pk, deltas_run.
select r.tenant, r.id, r.last_seq, r.status,
       exists (select from deltas d where d.tenant = r.tenant and d.run_id = r.id and d.at > engine_now() - interval '2 seconds')
from unnest(%(tenants)s::int[], %(runs)s::uuid[]) d(tenant, id)
join runs r on r.tenant = d.tenant and r.id = d.id;

-- name: run_events_since
-- Run-level events of a tenant's runs that are open or have ended since a time, in order of time, after one of that time or later.
-- A run's events are in order of time too: its last one tells whether it has new ones, and of these one before them is read.
-- Index: runs_open, runs_ended, events_pk, events_pk backwards.
with live as materialized (
  select r.id, r.last_seq from runs r where r.tenant = %(tenant)s::int and r.finished_at is null
  union all
  select r.id, r.last_seq from runs r where r.tenant = %(tenant)s::int and r.finished_at >= %(since)s::timestamptz
), told as materialized (
  select l.id from live l
  cross join lateral (
    select e.at from events e where e.tenant = %(tenant)s::int and e.run_id = l.id and e.seq = l.last_seq limit 1
  ) e
  where e.at >= %(since)s::timestamptz
)
select e.run_id, e.seq, e.type, e.at, e.data::text as data, e.detail::text as detail
from told t
cross join lateral (
  select coalesce((
    select o.seq from events o
    where o.tenant = %(tenant)s::int and o.run_id = t.id and o.at < %(since)s::timestamptz order by o.seq desc limit 1
  ), 0) as seq offset 0
) old
cross join lateral (
  select e.* from events e
  where e.tenant = %(tenant)s::int and e.run_id = t.id and e.seq > old.seq and e.step_no is null offset 0
) e
where (e.at, e.run_id, e.seq) > (%(since)s::timestamptz, %(run)s::uuid, %(seq)s::int)
order by e.at, e.run_id, e.seq limit %(limit)s::int;

-- name: writing
-- The engine's time, and its transactions that have written and not ended, in this database.
select engine_now() as at, array(
  select a.backend_xid::text from pg_stat_activity a
  where a.datname = current_database() and a.backend_xid is not null and a.application_name like 'durable-agent%%'
) as under_way;

-- name: list_workers
-- The registry: sessions, the living first. Index: none needed, the table holds one row a worker.
select w.session, w.worker, w.state, w.running, w.concurrency, w.beat_at, w.lease_until, w.started_at, w.stopped_at,
       w.suspected_at, w.loop_lag_ms, w.queues, w.offers, w.host, w.os_pid, w.version,
       extract(epoch from engine_now() - w.beat_at)::float8 as beat_age_s
from workers w where w.tenant = 0 order by w.state in ('stopped', 'lost'), w.started_at desc limit 500;

-- name: list_dead_letters
-- Dead letters, newest first, by filters and from a cursor. Index: dead_letters_pk.
select d.run_id, d.no, d.name, d.tool, d.reason, d.failure, d.message, d.at, s.failures, s.crashes, s.claim_no
from dead_letters d
join steps s on s.tenant = d.tenant and s.run_id = d.run_id and s.no = d.no
where d.tenant = %(tenant)s
  and (%(reason)s::text is null or d.reason = %(reason)s::text)
  and (%(tool)s::text is null or d.tool = %(tool)s::text)
  and (%(run)s::uuid is null or d.run_id = %(run)s::uuid)
  and (%(before_run)s::uuid is null or (d.run_id, d.no) < (%(before_run)s::uuid, %(before_no)s::int))
order by d.run_id desc, d.no desc limit %(limit)s;

-- name: count_dead_letters
-- How many dead letters there are, by reason. Index: dead_letters_pk.
select d.reason, count(*)::int from dead_letters d where d.tenant = %(tenant)s group by d.reason order by d.reason;

-- name: stats
-- What `/metrics` and `/healthz` show of the queue and the workers, over all tenants. The queue holds only live work.
select
  (select count(*) from queue q where q.state = 'ready')::int as ready,
  (select count(*) from queue q where q.state = 'scheduled')::int as scheduled,
  (select count(*) from queue q where q.state = 'held')::int as held,
  (select count(*) from queue q where q.state = 'leased')::int as leased,
  (select extract(epoch from engine_now() - min(q.queued_at))::float8 from queue q where q.state = 'ready') as oldest_ready_s,
  (select count(*) from workers w where w.state = 'active' and w.lease_until > engine_now())::int as active,
  (select count(*) from workers w where w.state = 'draining')::int as draining,
  (select count(*) from workers w where w.state = 'lost')::int as lost,
  (select count(*) from dead_letters)::int as dead_letters,
  (select count(*) from queue q where q.state = 'waiting')::int as waiting,
  (select count(*) from waits w where w.state = 'open' and w.kind in ('approval', 'input', 'unknown_effect'))::int
    as waits_for_people;

-- name: schema_revision
-- The schema's revision.
select version_num from alembic_version;

-- name: open_questions
-- The questions that a run waits with. Index: waits_step.
select w.id from waits w
where w.tenant = %(tenant)s and w.run_id = %(run)s and w.state = 'open' and w.kind = 'input' order by w.opened_at;

-- name: list_artifacts
-- A run's files. Index: artifacts_pk.
select a.id, a.name, s.name as step, a.media_type, a.sha256, a.bytes, a.at
from artifacts a left join steps s on s.tenant = a.tenant and s.run_id = a.run_id and s.no = a.step_no
where a.tenant = %(tenant)s and a.run_id = %(run)s order by a.at, a.name limit 1000;

-- name: get_artifact
-- One file. Index: artifacts_id_unique.
select a.id, a.run_id, a.name, a.media_type, a.sha256, a.bytes from artifacts a
where a.tenant = %(tenant)s and a.id = %(id)s;

-- name: list_graphs
-- The registered graphs, each in its newest version. Index: graphs_pk.
select distinct on (g.name) g.name, g.version, g.registered_at, json_array_length(g.spec) as steps, g.input_schema
from graphs g where g.tenant = %(tenant)s order by g.name, g.registered_at desc limit 1000;

-- name: get_graph
-- One graph, in its newest version or the one named. Index: graphs_pk.
select g.name, g.version, g.registered_at, g.spec as steps, g.input_schema, g.budget
from graphs g
where g.tenant = %(tenant)s and g.name = %(name)s and (%(version)s::text is null or g.version = %(version)s::text)
order by g.registered_at desc limit 1;
