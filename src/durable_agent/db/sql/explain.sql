-- name: unfinished
-- The unfinished steps of a run with all that may hold them up. Index: steps_pk, queue_pk, routes_pk.
select s.no, s.name, s.tool, s.status, s.parents, s.failures as step_failures, s.max_attempts,
       q.state, q.claim_no, q.failures, q.crashes, t.queue,
       extract(epoch from engine_now() - q.queued_at)::float8 as ready_s,
       extract(epoch from q.due_at - engine_now())::float8 as due_in_s,
       extract(epoch from engine_now() - q.claimed_at)::float8 as running_s,
       extract(epoch from q.deadline_at - engine_now())::float8 as deadline_in_s,
       w.worker, w.state as worker_state, w.suspected_at is not null as suspected,
       extract(epoch from engine_now() - w.beat_at)::float8 as beat_ago_s,
       extract(epoch from engine_now() - w.lease_until)::float8 as expired_s,
       a.id as wait, a.kind as wait_kind, a.name as wait_name, a.allow_self, a.child_run, a.steps_left as spawned_left,
       a.request as wait_request, extract(epoch from engine_now() - a.opened_at)::float8 as waiting_s,
       extract(epoch from a.due_at - engine_now())::float8 as wait_due_in_s
from steps s
left join queue q on q.tenant = s.tenant and q.run_id = s.run_id and q.no = s.no
left join routes t on t.tenant = s.tenant and t.route = s.route
left join workers w on w.tenant = 0 and w.session = q.session
left join waits a on a.tenant = s.tenant and a.run_id = s.run_id and a.step_no = s.no and a.state = 'open'
where s.tenant = %(tenant)s and s.run_id = %(run)s and s.finished_at is null
order by s.no limit 1000;

-- name: open_parents
-- Which parents of some steps are not resolved. Index: steps_pk.
select c.no, p.name
from steps c
cross join lateral unnest(c.parents) k(no)
join steps p on p.tenant = c.tenant and p.run_id = c.run_id and p.no = k.no
where c.tenant = %(tenant)s and c.run_id = %(run)s and c.no = any(%(nos)s::int[])
  and p.status not in ('succeeded', 'skipped', 'compensated')
order by c.no, p.no;

-- name: living
-- The workers that claim. Index: none needed, the table holds one row a worker.
select w.worker, w.queues, w.offers, w.concurrency - w.running as free
from workers w where w.tenant = 0 and w.state = 'active' and w.lease_until > engine_now();

-- name: last_word
-- The last event of some kind: who paused the run, how a step failed. Index: events_pk backwards.
select e.type, e.step_no, e.at, e.data, e.detail
from events e
where e.tenant = %(tenant)s and e.run_id = %(run)s and e.type = %(type)s
  and (%(no)s::int is null or e.step_no = %(no)s::int)
order by e.seq desc limit 1;
