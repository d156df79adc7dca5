-- name: stranded
-- Steps that wait for nothing and are not in the queue (I6). Index: runs_open, steps_pk.
select r.id, s.name from runs r
join steps s on s.tenant = r.tenant and s.run_id = r.id
where r.finished_at is null and s.status = 'pending' and s.deps_left = 0 limit 20;

-- name: orphans
-- Queue rows of ended or unknown runs, and queued steps without a queue row (I5). Index: runs_pk, queue_pk.
select q.run_id, q.no from queue q
left join runs r on r.tenant = q.tenant and r.id = q.run_id
where r.id is null or r.status in ('completed', 'failed', 'cancelled', 'budget_exceeded')
union all
select s.run_id, s.no from runs r
join steps s on s.tenant = r.tenant and s.run_id = r.id
left join queue q on q.tenant = s.tenant and q.run_id = s.run_id and q.no = s.no
where r.finished_at is null and s.status = 'queued' and q.run_id is null
limit 20;

-- name: ownerless
-- Leases whose session nobody knows, or that the reaper should have taken a minute ago (R7). Index: queue_leased.
select q.run_id, q.no from queue q
left join workers w on w.tenant = 0 and w.session = q.session
where q.state = 'leased' and (w.session is null or w.lease_until < engine_now() - interval '60 seconds') limit 20;

-- name: miscounted
-- Open runs whose count of open steps is wrong. Index: runs_open, steps_pk.
select r.id from runs r
where r.finished_at is null
  and r.steps_left <> (select count(*) from steps s where s.tenant = r.tenant and s.run_id = r.id and s.finished_at is null)
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
-- The oldest open transaction and snapshot of this database's sessions.
select coalesce(max(extract(epoch from clock_timestamp() - a.xact_start)), 0)::float8 as oldest_s,
       coalesce(max(age(a.backend_xmin)), 0)::int as xmin_age,
       count(*) filter (where a.state like 'idle in transaction%%' and a.state_change < clock_timestamp() - interval '30 seconds')::int
         as idle
from pg_stat_activity a where a.backend_type = 'client backend';

-- name: dead_tuples
-- How much of the queue is dead rows.
select t.n_live_tup::int as live, t.n_dead_tup::int as dead, t.last_autovacuum from pg_stat_user_tables t where t.relname = 'queue';

-- name: partitions
-- How far ahead weeks are made, and whether anything lies outside of them.
select (select count(*) from pg_inherits i where i.inhparent = 'runs'::regclass)::int as count,
       to_regclass('runs_w' || to_char(date_trunc('week', clock_timestamp() at time zone 'utc') + interval '7 days', 'YYYYMMDD'))
         is not null as next_week,
       exists (select from runs_default) as outside;

-- name: registered
-- Which of a machine's processes hold a live worker session. Index: none needed, the table holds one row a worker.
select w.os_pid from workers w
where w.tenant = 0 and w.host = %(host)s and w.os_pid = any(%(pids)s::int[]) and w.state = 'active'
  and w.lease_until > engine_now();
