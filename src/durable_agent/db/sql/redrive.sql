-- name: candidates
-- Dead letters by filter, oldest first. Those of runs that cannot go on (one that has ended otherwise or has undone what it did; a
-- condition that cannot be decided would only fail again) are found for a named run only, which is told so: they would keep the
-- limit from those behind them. Index: dead_letters_pk for one run, else its age by a scan of what is dead; runs_pk.
select d.run_id, d.no from dead_letters d
where d.tenant = %(tenant)s
  and (d.run_id = %(run)s::uuid or %(run)s::uuid is null
       and exists (select from runs r
                   where r.tenant = d.tenant and r.id = d.run_id and r.status = 'failed'
                     and case when r.ending is not null then r.error->>'reason' = 'compensation_failed'
                              else not exists (select from dead_letters c where c.tenant = d.tenant and c.run_id = d.run_id
                                                 and c.reason = 'condition_error') end))
  and (%(step)s::text is null or d.name = %(step)s::text)
  and (%(reason)s::text is null or d.reason = %(reason)s::text)
  and (%(tool)s::text is null or d.tool = %(tool)s::text)
order by d.at, d.run_id, d.no limit %(limit)s;

-- name: dead_of
-- A run's dead letters, of one that undoes what it did those of its undoing: what undoes is added when all else has ended, and
-- what it adds itself comes after it. Index: dead_letters_pk, steps_pk.
select d.no, d.name, d.reason from dead_letters d
where d.tenant = %(tenant)s and d.run_id = %(run)s
  and d.no >= coalesce((select min(c.no) from steps c
                        where c.tenant = %(tenant)s and c.run_id = %(run)s and c.compensates is not null), 0)
order by d.no;

-- name: forget
-- Takes redriven steps off the list of the dead. Index: dead_letters_pk. Locks: the rows, under the run's lock.
delete from dead_letters d where d.tenant = %(tenant)s and d.run_id = %(run)s and d.no = any(%(nos)s::int[]);

-- name: revive
-- Dead steps wait again, with raised limits and their counters kept. Index: steps_pk. Locks: step rows, under the run's lock.
update steps s
set status = 'pending', finished_at = null, error = null,
    max_attempts = greatest(s.max_attempts, s.failures) + coalesce(%(extra)s::int, greatest(s.max_attempts, 1)),
    max_crashes = greatest(s.max_crashes, s.crashes) + 3
where s.tenant = %(tenant)s and s.run_id = %(run)s and s.no = any(%(nos)s::int[]) and s.status = 'dead_letter'
returning s.no, s.name;

-- name: recount
-- What the run's failure had cancelled (of a run that undoes what it did: only its undoing, as in `dead_of`) waits again: ready
-- when nothing is left to wait for, else pending. What a step waits for was counted down to the very end, so the counts stand.
-- Index: steps_pk. Locks: step rows, under the run's lock.
update steps s
set finished_at = null, status = case when s.deps_left = 0 then 'queued' else 'pending' end
where s.tenant = %(tenant)s and s.run_id = %(run)s and s.status in ('pending', 'cancelled')
  and s.no >= coalesce((select min(c.no) from steps c
                        where c.tenant = %(tenant)s and c.run_id = %(run)s and c.compensates is not null), 0)
returning s.no, s.status = 'queued';

-- name: wait_on
-- Opens the waits again that the run's failure had cancelled and that are for what goes on, or is done, and is not to be made anew:
-- steps which steps of it had added, and runs that have completed. They are the last waits of their steps, for whoever waits does
-- nothing else. Index: steps_pk, waits_step, runs_pk. Locks: the waits' rows, under the run's lock.
update waits w
set state = 'open', answered_at = null,
    steps_left = (
      select count(*)::int from steps f
      where f.tenant = w.tenant and f.run_id = w.run_id and f.spawned_by = w.step_no and f.finished_at is null
        and f.no >= (select max(l.no) from steps l where l.tenant = w.tenant and l.run_id = w.run_id
                       and l.spawned_by = w.step_no and l.spawn_index = 0)
    )
from steps s
where s.tenant = %(tenant)s and s.run_id = %(run)s and s.status = 'queued'
  and w.tenant = %(tenant)s and w.run_id = %(run)s and w.step_no = s.no and w.state = 'cancelled'
  and (w.kind = 'steps'
       or (w.kind = 'run' and (select r.status from runs r where r.tenant = w.tenant and r.id = w.child_run) = 'completed'))
  and not exists (select from waits l where l.tenant = %(tenant)s and l.run_id = %(run)s and l.step_no = w.step_no and l.no > w.no)
returning w.id, w.step_no, w.kind, w.name, w.request_sha256, w.request, w.steps_left, w.child_run, s.claim_no;

-- name: enqueue
-- Puts the run's ready steps into the queue, in the given state, which from then on keeps what is in doubt; some of them wait there.
-- Index: steps_pk, queue_pk. Locks: the step rows, the new rows.
with told as (
  update steps s set in_doubt = null
  where s.tenant = %(tenant)s and s.run_id = %(run)s and s.status = 'queued' and s.in_doubt is not null
)
insert into queue (tenant, run_id, no, route, ord, state, claim_no, failures, crashes, max_crashes, deadline_s, effect,
                   queued_at)
select s.tenant, s.run_id, s.no, s.route, s.ord, case when s.no = any(%(waiting)s::int[]) then 'waiting' else %(state)s::text end,
       s.claim_no, s.failures, s.crashes, s.max_crashes, s.deadline_s, s.in_doubt, %(now)s
from steps s where s.tenant = %(tenant)s and s.run_id = %(run)s and s.status = 'queued'
order by s.no;

-- name: steps_left
-- How many steps of a run are open. Index: steps_pk.
select count(*)::int from steps s where s.tenant = %(tenant)s and s.run_id = %(run)s and s.finished_at is null;
