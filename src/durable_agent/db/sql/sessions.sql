-- name: secrets
-- The tenants' secrets, from which idempotency keys are made. Index: tenants_pk.
select t.tenant, t.secret from tenants t;

-- name: beat
-- A worker session lives (R9): one row, whatever the number of its leases; also registers it, and heals a suspicion.
-- Returns the tokens it still owns. Index: workers_pk, queue_leased. Locks: the session's row.
with beaten as (
  insert into workers as w (tenant, session, worker, state, lease_until, beat_at, backend_pid, backend_start, started_at,
                            running, concurrency, loop_lag_ms, queues, offers, host, os_pid, version)
  select 0, %(session)s, %(worker)s, %(state)s, t.now + make_interval(secs => %(ttl_s)s), t.now,
         case when %(direct)s then pg_backend_pid() end,
         case when %(direct)s then (select a.backend_start from pg_stat_activity a where a.pid = pg_backend_pid()) end,
         t.now, %(running)s, %(concurrency)s, %(loop_lag_ms)s, %(queues)s, %(offers)s, %(host)s, %(os_pid)s, %(version)s
  from (select engine_now() as now) t
  on conflict (tenant, session) do update
  set state = excluded.state, lease_until = excluded.lease_until, beat_at = excluded.beat_at, suspected_at = null,
      backend_pid = excluded.backend_pid, backend_start = excluded.backend_start, running = excluded.running,
      loop_lag_ms = excluded.loop_lag_ms, offers = excluded.offers, stopped_at = null
)
select q.token from queue q where q.session = %(session)s and q.state = 'leased';

-- name: owned
-- The tokens a session still owns. Index: queue_leased.
select q.token from queue q where q.session = %(session)s and q.state = 'leased';

-- name: strays
-- The leases that a session took within a time and does not know of, and those of some tokens. Index: queue_leased. Locks
-- nothing.
select q.tenant, q.run_id, q.no, q.claim_no, q.token
from queue q where q.session = %(session)s and q.state = 'leased'
  and (q.token = any(%(disowned)s::uuid[])
       or not q.token = any(%(known)s::uuid[]) and q.claimed_at > engine_now() - make_interval(secs => %(age_s)s));

-- name: held
-- A live lease, held against everybody who would end it until this transaction ends; no row when it is gone.
-- Index: queue_pk. Locks: the queue row.
select 1 from queue q
where q.tenant = %(tenant)s and q.run_id = %(run)s and q.no = %(no)s
  and q.state || '' = 'leased' and q.claim_no = %(claim_no)s and q.token = %(token)s
for share;

-- name: stop
-- A worker session ended in order: its leases were given back. Index: workers_pk. Locks: the session's row.
update workers w set state = 'stopped', stopped_at = engine_now(), running = 0
where w.tenant = 0 and w.session = %(session)s;

-- name: look
-- One look at all that may be due, in one statement, for every process takes it all the time:
-- `suspected` shortens the lease of sessions whose liveness connection is gone from pg_stat_activity (R10); never a verdict,
--   for a live worker reconnects and beats within that time; sessions from before a restart of PostgreSQL are left alone;
-- `promoted` makes scheduled steps whose time has come ready: no transition, only their place in the queue;
-- `expired` finds leases that nobody keeps alive: their session's lease ran out or is unknown, or the attempt's own deadline
--   passed. Candidates only: the reaper looks again under the run's lock;
-- `overdue` tells that some wait's time is over.
-- Index: queue_scheduled, queue_leased, waits_due; the workers' table holds one row a worker. Locks: what it changes, skipping what
-- is locked.
with suspected as (
  update workers w
  set suspected_at = engine_now(), lease_until = least(w.lease_until, engine_now() + make_interval(secs => %(grace_s)s))
  where (w.tenant, w.session) in (
    select c.tenant, c.session from workers c
    where %(suspect)s and c.state in ('active', 'draining') and c.suspected_at is null and c.backend_pid is not null
      and c.backend_start > pg_postmaster_start_time()
      and not exists (select from pg_stat_activity a where a.pid = c.backend_pid and a.backend_start = c.backend_start)
    for no key update skip locked
  )
  returning w.worker
), promoted as (
  update queue q set state = 'ready', due_at = null
  where (q.tenant, q.run_id, q.no) in (
    select c.tenant, c.run_id, c.no from queue c
    where c.state = 'scheduled' and c.due_at <= engine_now()
    order by c.due_at limit 1000 for no key update skip locked
  ) and q.state || '' = 'scheduled'
  returning 1
), expired as (
  select q.tenant, q.run_id, q.no, q.claim_no, q.token,
         case when q.deadline_at + interval '5 seconds' < engine_now() then 'deadline'
              when w.suspected_at is not null then 'session_lost' else 'expired' end as why,
         w.worker
  from queue q
  left join workers w on w.tenant = 0 and w.session = q.session
  where q.state = 'leased'
    and (w.session is null or w.state = 'stopped' or w.lease_until < engine_now()
         or q.deadline_at + interval '5 seconds' < engine_now())
  order by q.run_id, q.no limit 200
)
select (select array_agg(s.worker) from suspected s) as suspected,
       (select count(*) from promoted)::int as promoted,
       (select json_agg(json_build_array(e.tenant, e.run_id, e.no, e.claim_no, e.token, e.why, e.worker)) from expired e)
         as expired,
       exists (select from queue q where q.state = 'ready') as ready,
       exists (select from queue q where q.state = 'leased') as leased,
       exists (select from waits w where w.state = 'open' and w.due_at <= engine_now())
         or exists (select from budgets b where b.due_at <= engine_now())
         or exists (select from runs r
                    where r.paused_for is not null and r.paused_until <= engine_now() and r.status = 'paused') as overdue,
       least((select extract(epoch from min(w.due_at) - engine_now()) from waits w
              where w.state = 'open' and w.due_at > engine_now()),
             (select extract(epoch from min(q.due_at) - engine_now()) from queue q
              where q.state = 'scheduled' and q.due_at > engine_now()),
             (select extract(epoch from min(w.lease_until) - engine_now()) from workers w
              where w.suspected_at is not null and w.state in ('active', 'draining')))::float8 as next_due_s;

-- name: clamp
-- Pulls leases back that lie further ahead than a lease can: the clock was set back (R7).
-- Index: as suspect. Locks: the rows, skipping what is locked.
update workers w set lease_until = engine_now() + make_interval(secs => %(ttl_s)s)
where (w.tenant, w.session) in (
  select c.tenant, c.session from workers c
  where c.state in ('active', 'draining') and c.lease_until > engine_now() + make_interval(secs => 2 * %(ttl_s)s)
  for no key update skip locked
);

-- name: still_expired
-- The look at expired leases again, for some of them, under their runs' locks. Index: queue_pk, workers_pk.
select q.token
from unnest(%(tenants)s::int[], %(runs)s::uuid[], %(nos)s::int[], %(tokens)s::uuid[]) d(tenant, run_id, no, token)
join queue q on q.tenant = d.tenant and q.run_id = d.run_id and q.no = d.no and q.token = d.token
left join workers w on w.tenant = 0 and w.session = q.session
where q.state = 'leased'
  and (w.session is null or w.state = 'stopped' or w.lease_until < engine_now()
       or q.deadline_at + interval '5 seconds' < engine_now());

-- name: bury
-- Marks sessions that are gone for good, and forgets those gone for a week. Locks: the rows, skipping what is locked.
with lost as (
  update workers w set state = 'lost', stopped_at = engine_now(), running = 0
  where (w.tenant, w.session) in (
    select c.tenant, c.session from workers c
    where c.state in ('active', 'draining') and c.lease_until < engine_now()
      and not exists (select from queue q where q.session = c.session and q.state = 'leased')
    for no key update skip locked
  )
  returning w.worker
), forgotten as (
  delete from workers w where w.stopped_at < engine_now() - interval '7 days' returning w.session
)
select l.worker from lost l;

-- name: stranded
-- Runs that are under way with nothing in the queue: must not exist (I6). Index: runs_open, queue_pk.
select r.tenant, r.id from runs r
where r.finished_at is null and r.status in ('pending', 'running') and r.created_at < engine_now() - interval '5 seconds'
  and not exists (select from queue q where q.tenant = r.tenant and q.run_id = r.id)
order by r.id limit 100;
