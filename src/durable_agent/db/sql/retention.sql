-- name: make_partitions
-- Makes the weeks of the next fortnight that are missing: every statement opens each of them. Runs that came before their week go
-- into it. Locks: none while no week is missing; else an advisory lock, the parents, the default partitions, given up after a second.
select ensure_partitions(engine_now() - interval '1 day', engine_now() + interval '14 days');

-- name: drop_partitions
-- Drops the weeks whose runs all ended before a time, with their dead letters and the idempotency keys that made them.
-- Locks: an advisory lock; the parents while a week is dropped, given up after a second.
select drop_ended_partitions(engine_now() - make_interval(days => %(days)s));

-- name: drop_outside
-- Deletes runs that ended before a time and lie in no week, at most so many; returns how many.
-- Index: runs_ended, runs_origin, runs_tree. Locks: an advisory lock, the runs.
select drop_ended_outside(engine_now() - make_interval(days => %(days)s), %(most)s::int);

-- name: reset_empty
-- Lets one empty partition forget that it is empty, so that no plan counts on it; tells whether there was one.
-- Locks: that partition, given up after a second.
select reset_one_empty_partition();

-- name: forget_threads
-- Drops what LangGraph keeps of some threads, from one on, whose run is no more (a thread is RUN/STEP/…; names of an author's own are
-- left alone). Returns the last thread looked at, null at the end, and how many went. One process at a time.
-- Index: the primary keys of LangGraph's tables, by the thread. Locks: an advisory lock, the rows.
with recursive turn as materialized (
  select pg_try_advisory_xact_lock(hashtext('durable_agent.langgraph')) as mine
), threads as (
  (select c.thread_id, 1 as n from turn t, langgraph.checkpoints c
   where t.mine and c.thread_id > %(after)s::text order by c.thread_id limit 1)
  union all
  select x.thread_id, t.n + 1 from threads t cross join lateral (
    select c.thread_id from langgraph.checkpoints c where c.thread_id > t.thread_id order by c.thread_id limit 1
  ) x where t.n < %(threads)s::int
), runs_of as (
  select t.thread_id, case when t.thread_id ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/' then left(t.thread_id, 36)::uuid end as run
  from threads t
), gone as materialized (
  select x.thread_id from runs_of x
  where x.run is not null and not exists (
    select from tenants n cross join lateral (select from runs r where r.tenant = n.tenant and r.id = x.run limit 1) y
  )
), effects_gone as (delete from langgraph.step_effects d using gone g where d.thread_id = g.thread_id),
writes_gone as (delete from langgraph.checkpoint_writes d using gone g where d.thread_id = g.thread_id),
blobs_gone as (delete from langgraph.checkpoint_blobs d using gone g where d.thread_id = g.thread_id),
checkpoints_gone as (delete from langgraph.checkpoints d using gone g where d.thread_id = g.thread_id)
select (select t.thread_id from threads t where t.n = %(threads)s::int), (select count(*)::int from gone);
