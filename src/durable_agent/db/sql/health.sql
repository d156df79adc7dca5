-- name: stranded
-- Steps that wait although all they wait for is done (I6). Index: runs_open, steps_pk.
select r.tenant, r.id as run, s.name as step from runs r
join steps s on s.tenant = r.tenant and s.run_id = r.id
where r.finished_at is null and s.status = 'pending'
  and not exists (
    select from unnest(s.parents) k(no)
    join steps p on p.tenant = s.tenant and p.run_id = s.run_id and p.no = k.no
    where p.finished_at is null
  )
limit 20;

-- name: miscounted_deps
-- Waiting steps whose count of open dependencies is wrong: they would start too early or never. Index: as stranded.
select r.tenant, r.id as run, s.name as step, s.deps_left as counted from runs r
join steps s on s.tenant = r.tenant and s.run_id = r.id
where r.finished_at is null and s.status = 'pending'
  and s.deps_left <> (
    select count(*) from unnest(s.parents) k(no)
    join steps p on p.tenant = s.tenant and p.run_id = s.run_id and p.no = k.no
    where p.finished_at is null
  )
limit 20;

-- name: orphans
-- Queue rows of ended or unknown runs, and queued steps without a queue row (I5). Index: runs_pk, queue_pk.
select q.tenant, q.run_id as run, q.no as step from queue q
left join runs r on r.tenant = q.tenant and r.id = q.run_id
where r.id is null or r.status in ('completed', 'failed', 'cancelled', 'budget_exceeded')
union all
select s.tenant, s.run_id, s.no from runs r
join steps s on s.tenant = r.tenant and s.run_id = r.id
left join queue q on q.tenant = s.tenant and q.run_id = s.run_id and q.no = s.no
where r.finished_at is null and s.status = 'queued' and q.run_id is null
limit 20;

-- name: ownerless
-- Leases whose session nobody knows, or that the reaper should have taken a minute ago (R7). Index: queue_leased.
select q.tenant, q.run_id as run, q.no as step from queue q
left join workers w on w.tenant = 0 and w.session = q.session
where q.state = 'leased' and (w.session is null or w.lease_until < engine_now() - interval '60 seconds') limit 20;

-- name: miscounted
-- Open runs whose count of open steps is wrong. Index: runs_open, steps_pk.
select r.id from runs r
where r.finished_at is null
  and r.steps_left <> (select count(*) from steps s where s.tenant = r.tenant and s.run_id = r.id and s.finished_at is null)
limit 20;

-- name: miswaited
-- Waiting steps without an open wait, open waits without a waiting step, and runs that miscount theirs.
-- Index: waits_open, waits_step, queue_pk, runs_open.
select q.tenant, q.run_id as run, q.no as step from queue q
where q.state = 'waiting' and not exists (
  select from waits w where w.tenant = q.tenant and w.run_id = q.run_id and w.step_no = q.no and w.state = 'open')
union all
select w.tenant, w.run_id, w.step_no from waits w
where w.state = 'open' and not exists (
  select from queue q where q.tenant = w.tenant and q.run_id = w.run_id and q.no = w.step_no and q.state = 'waiting')
union all
select r.tenant, r.id, null from runs r
where r.finished_at is null
  and r.waiting <> (select count(*) from waits w where w.tenant = r.tenant and w.run_id = r.id and w.state = 'open')
limit 20;

-- name: sample
-- The newest runs, to have their histories checked. Index: runs_pk backwards.
select r.tenant, r.id from runs r order by r.id desc limit %(limit)s;

-- name: server
-- What matters of the server.
select current_setting('server_version_num')::int as version, current_setting('fsync') as fsync,
       current_setting('synchronous_commit') as synchronous_commit, current_setting('full_page_writes') as full_page_writes,
       current_setting('autovacuum') as autovacuum, (select rolsuper from pg_roles where rolname = current_user) as superuser,
       pg_notification_queue_usage() as notify_queue, current_setting('max_connections')::int as max_connections,
       (select count(*) from pg_stat_activity where backend_type = 'client backend')::int as connections,
       extract(epoch from engine_now() - clock_timestamp())::float8 as moved_s, extract(epoch from clock_timestamp())::float8 as now_s;

-- name: transactions
-- The oldest open transaction, and the oldest snapshot that anything holds; without pg_read_all_stats one sees only
-- the sessions of one's own role.
select coalesce(max(extract(epoch from clock_timestamp() - a.xact_start)), 0)::float8 as oldest_s,
       greatest(
         coalesce(max(age(a.backend_xmin)), 0),
         (select coalesce(max(greatest(age(s.xmin), age(s.catalog_xmin))), 0) from pg_replication_slots s),
         (select coalesce(max(age(p.transaction)), 0) from pg_prepared_xacts p)
       )::int as xmin_age,
       count(*) filter (where a.state like 'idle in transaction%%' and a.state_change < clock_timestamp() - interval '30 seconds')::int
         as idle,
       pg_has_role('pg_read_all_stats', 'usage') as sees_all
from pg_stat_activity a where a.backend_type = 'client backend';

-- name: dead_tuples
-- How much of the queue is dead rows.
select t.n_live_tup::int as live, t.n_dead_tup::int as dead, t.last_autovacuum from pg_stat_user_tables t where t.relname = 'queue';

-- name: partitions
-- How far ahead weeks are made, and whether anything lies outside of them.
select (select count(*) from pg_inherits i where i.inhparent = 'runs'::regclass)::int as count,
       to_regclass('runs_w' || to_char(date_trunc('week', clock_timestamp() at time zone 'utc') + interval '7 days', 'YYYYMMDD'))
         is not null as next_week,
       exists (select from runs_default) or exists (select from steps_default) or exists (select from events_default) as outside;

-- name: unserved
-- What has been ready for a minute with no live worker to take it, by queue and tool. Index: none needed, the queue
-- holds only live work.
select t.queue, t.tool, count(*)::int as steps
from queue q
join routes t on t.tenant = q.tenant and t.route = q.route
where q.state = 'ready' and q.queued_at < engine_now() - interval '60 seconds'
  and not exists (
    select from workers w
    where w.tenant = 0 and w.state = 'active' and w.lease_until > engine_now()
      and t.tool = any(w.offers) and t.queue = any(w.queues)
  )
group by t.queue, t.tool order by count(*) desc limit 20;

-- name: registered
-- Which of a machine's processes hold a live worker session. Index: none needed, the table holds one row a worker.
select w.os_pid from workers w
where w.tenant = 0 and w.host = %(host)s and w.os_pid = any(%(pids)s::int[]) and w.state = 'active'
  and w.lease_until > engine_now();
