-- name: lock_budgets
-- The budgets that some runs spend: their tree's and their agent's. Index: runs_pk, budgets_pk. Locks: the budget rows, waiting,
-- the trees' before the agents' and each in the order of its key (R1); the runs are locked already.
select o.run_id, b.tenant, b.owner, b.scope, b.meter, b.window_s, b.cap, b.spent, b.reserved, b.on_limit
from (
  select d.tenant, d.run_id, u.owner
  from unnest(%(tenants)s::int[], %(runs)s::uuid[]) d(tenant, run_id)
  cross join lateral (
    select coalesce(r.root, r.id) as root, r.agent from runs r where r.tenant = d.tenant and r.id = d.run_id and r.budgeted limit 1
  ) r
  cross join lateral (values (r.root), (r.agent)) u(owner)
  where u.owner is not null
) o
join budgets b on b.tenant = o.tenant and b.owner = o.owner
where b.meter <> 'wall_clock_s'
order by b.scope desc, b.tenant, b.owner, b.meter, b.window_s, o.run_id
for no key update of b;

-- name: expire_windows
-- Takes the slices that lie outside their rolling window out of the sums of the agents of some runs, and returns what they were.
-- Index: runs_pk, budget_windows_pk. Locks: the slices, under their budget's lock.
with agents_of as (
  select distinct r.tenant, r.agent
  from unnest(%(tenants)s::int[], %(runs)s::uuid[]) d(tenant, run_id)
  join runs r on r.tenant = d.tenant and r.id = d.run_id
  where r.agent is not null
), gone as (
  delete from budget_windows w using agents_of a
  where w.tenant = a.tenant and w.owner = a.agent
    and w.slice < floor(extract(epoch from engine_now()) * 60 / w.window_s)::bigint - 60
  returning w.tenant, w.owner, w.meter, w.window_s, w.spent
)
select g.tenant, g.owner, g.meter, g.window_s, sum(g.spent)::bigint from gone g group by 1, 2, 3, 4;

-- name: put_budgets
-- Writes what is spent and reserved. Index: budgets_pk. Locks: the rows, held already.
update budgets b
set spent = d.spent, reserved = d.reserved
from unnest(%(tenants)s::int[], %(owners)s::uuid[], %(meters)s::text[], %(windows)s::int[], %(spent)s::bigint[],
            %(reserved)s::bigint[])
  d(tenant, owner, meter, window_s, spent, reserved)
where b.tenant = d.tenant and b.owner = d.owner and b.meter = d.meter and b.window_s = d.window_s;

-- name: add_slices
-- Adds to the present slices of rolling windows. Index: budget_windows_pk. Locks: the slices, under their budget's lock.
insert into budget_windows as w (tenant, owner, meter, window_s, slice, spent)
select d.tenant, d.owner, d.meter, d.window_s, d.slice, d.spent
from unnest(%(tenants)s::int[], %(owners)s::uuid[], %(meters)s::text[], %(windows)s::int[], %(slices)s::bigint[],
            %(spent)s::bigint[])
  d(tenant, owner, meter, window_s, slice, spent)
on conflict on constraint budget_windows_pk do update set spent = w.spent + excluded.spent;

-- name: charge_steps
-- Ends the reservations of steps whose lease ended while a call was under way: what they held is spent until somebody knows
-- better. Returns the sums by meter. Index: effects_pk. Locks: the effects' rows, under the run's lock.
with gone as (
  update effects e set charged = e.reserved, reserved = null
  from unnest(%(tenants)s::int[], %(runs)s::uuid[], %(nos)s::int[]) d(tenant, run_id, no)
  where e.tenant = d.tenant and e.run_id = d.run_id and e.step_no = d.no and e.reserved is not null
  returning e.tenant, e.run_id, e.charged
)
select g.tenant, g.run_id, k.key, sum(k.value::bigint)::bigint
from gone g cross join lateral json_each_text(g.charged) k where k.value is not null
group by 1, 2, 3;

-- name: charge_runs
-- As `charge_steps`, for every step of some runs. Index: effects_pk. Locks: the effects' rows, under the run's lock.
with gone as (
  update effects e set charged = e.reserved, reserved = null
  from unnest(%(tenants)s::int[], %(runs)s::uuid[]) d(tenant, run_id)
  where e.tenant = d.tenant and e.run_id = d.run_id and e.reserved is not null
  returning e.tenant, e.run_id, e.charged
)
select g.tenant, g.run_id, k.key, sum(k.value::bigint)::bigint
from gone g cross join lateral json_each_text(g.charged) k where k.value is not null
group by 1, 2, 3;

-- name: book
-- What a call that was cut off had used, in place of what it holds or was charged; returns both. Not fenced by a lease, which
-- may be gone: the effect's own key is asked for, and the claim that made the call. Index: effects_pk. Locks: the effect's row.
update effects e
set usage = %(usage)s::text::json, microusd = %(microusd)s, reserved = null, charged = null
from (
  select k.reserved, k.charged from effects k
  where k.tenant = %(tenant)s and k.run_id = %(run)s and k.step_no = %(no)s and k.no = %(effect)s
) old
where e.tenant = %(tenant)s and e.run_id = %(run)s and e.step_no = %(no)s and e.no = %(effect)s and e.key = %(key)s
  and e.claim_no = %(claim_no)s and (e.reserved is not null or e.charged is not null)
returning old.reserved, old.charged;

-- name: add_budgets
-- The budgets of new runs and of agents; one that exists gets the new cap and what follows it. What was spent and is held stays.
-- Index: budgets_pk. Locks: the rows.
insert into budgets as b (tenant, owner, scope, meter, window_s, cap, spent, reserved, on_limit, due_at)
select d.tenant, d.owner, d.scope, d.meter, d.window_s, d.cap, d.spent, d.reserved, d.on_limit,
       case when d.meter = 'wall_clock_s' then d.since + make_interval(secs => d.cap) end
from unnest(%(tenants)s::int[], %(owners)s::uuid[], %(scopes)s::text[], %(meters)s::text[], %(windows)s::int[],
            %(caps)s::bigint[], %(spent)s::bigint[], %(reserved)s::bigint[], %(on_limits)s::text[], %(since)s::timestamptz[])
  d(tenant, owner, scope, meter, window_s, cap, spent, reserved, on_limit, since)
order by d.tenant, d.owner, d.meter, d.window_s
on conflict on constraint budgets_pk do update
set cap = excluded.cap, on_limit = excluded.on_limit, due_at = excluded.due_at;

-- name: copy_budgets
-- Gives a run the limits of another, of which nothing is spent. Index: budgets_pk. Locks: the new rows.
insert into budgets (tenant, owner, scope, meter, window_s, cap, on_limit, due_at)
select b.tenant, %(run)s, b.scope, b.meter, b.window_s, b.cap, b.on_limit,
       case when b.meter = 'wall_clock_s' then %(now)s + make_interval(secs => b.cap) end
from budgets b where b.tenant = %(tenant)s and b.owner = %(source)s and b.scope = 'run';

-- name: drop_budgets
-- Takes the limits of an agent away that its new configuration does not name, and what their windows spent.
-- Index: budgets_pk, budget_windows_pk. Locks: the rows.
with gone as (
  delete from budgets b
  where b.tenant = %(tenant)s and b.owner = %(owner)s
    and not exists (select from unnest(%(meters)s::text[], %(windows)s::int[]) k(meter, window_s)
                    where k.meter = b.meter and k.window_s = b.window_s)
  returning b.tenant, b.owner, b.meter, b.window_s
)
delete from budget_windows w using gone g
where w.tenant = g.tenant and w.owner = g.owner and w.meter = g.meter and w.window_s = g.window_s;

-- name: lock_spenders
-- The open runs of a tree, or of an agent. Index: runs_tree, runs_agent_open, runs_pk. Locks: the run rows, waiting, in id order (R1).
select from (
  select %(owner)s::uuid as id
  union all select k.id from runs k where k.tenant = %(tenant)s and k.root = %(owner)s and k.finished_at is null
  union all select k.id from runs k where k.tenant + 0 = %(tenant)s and k.agent = %(owner)s and k.finished_at is null
  order by id
) d
cross join lateral (
  select from runs r where r.tenant = %(tenant)s and r.id = d.id and r.finished_at is null for no key update
) r;

-- name: under_way
-- What the live leases of these runs hold, by meter. What ended while nothing was limited holds nothing any more, and may still be
-- booked. Index: as `lock_spenders`, effects_pk, queue_pk. Locks: the effects' rows, under their runs' locks.
with held as (
  select e.*
  from (
    select %(owner)s::uuid as id
    union all select k.id from runs k where k.tenant = %(tenant)s and k.root = %(owner)s and k.finished_at is null
    union all select k.id from runs k where k.tenant + 0 = %(tenant)s and k.agent = %(owner)s and k.finished_at is null
  ) r
  cross join lateral (
    select e.ctid as at, e.run_id, e.reserved,
           (select q.claim_no from queue q where q.tenant = e.tenant and q.run_id = e.run_id and q.no = e.step_no
              and q.state || '' = 'leased') is not distinct from e.claim_no as live
    from effects e where e.tenant = %(tenant)s and e.run_id = r.id and e.reserved is not null offset 0
  ) e
), stale as (
  update effects e set reserved = null, charged = '{}'
  from held h
  where not h.live and e.ctid = h.at and e.run_id = h.run_id
)
select k.key, sum(k.value::bigint)::bigint
from held h cross join lateral json_each_text(h.reserved) k
where h.live and k.value is not null
group by 1;

-- name: lock_owner
-- The budgets of a tree, to be set anew. Index: budgets_pk. Locks: the budget rows, waiting, in the order of their key (R1).
select b.meter, b.spent, b.reserved, b.on_limit
from budgets b where b.tenant = %(tenant)s and b.owner = %(owner)s and b.window_s = 0
order by b.tenant, b.owner, b.meter, b.window_s
for no key update;

-- name: of_owner
-- The budgets of a tree or an agent, as they stand. Index: budgets_pk.
select b.meter, b.window_s, b.cap, b.spent, b.reserved, b.on_limit, b.due_at
from budgets b where b.tenant = %(tenant)s and b.owner = %(owner)s
order by b.meter, b.window_s;

-- name: of_owners
-- The budgets of some agents, as they stand. Index: budgets_pk.
select b.owner, b.meter, b.window_s, b.cap, b.spent, b.reserved, b.on_limit, b.due_at
from budgets b where b.tenant = %(tenant)s and b.owner = any(%(owners)s::uuid[])
order by b.owner, b.meter, b.window_s;

-- name: tree_of
-- The root of a run's tree, its creation, and what its whole tree used of models. Index: runs_pk, runs_tree.
select t.id as root, t.created_at, t.status, x.tokens, x.microusd
from runs r
cross join lateral (
  select t.id, t.created_at, t.status from runs t where t.tenant = r.tenant and t.id = coalesce(r.root, r.id) limit 1
) t
cross join lateral (
  select coalesce(sum(k.tokens), 0)::bigint as tokens, coalesce(sum(k.microusd), 0)::bigint as microusd
  from (select t.id union all select c.id from runs c where c.tenant = r.tenant and c.root = t.id) d
  cross join lateral (
    select k.input_tokens + k.output_tokens as tokens, k.microusd from runs k where k.tenant = r.tenant and k.id = d.id limit 1
  ) k
) x
where r.tenant = %(tenant)s and r.id = %(run)s;

-- name: set_budgeted
-- Lets a tree's calls be metered. Index: runs_tree, runs_pk, then by ctid. Locks: the run rows.
update runs r set budgeted = true
from (
  select %(root)s::uuid as id union all select k.id from runs k where k.tenant = %(tenant)s and k.root = %(root)s
) d
cross join lateral (
  select k.ctid as at from runs k
  where k.tenant = %(tenant)s and k.id = d.id and not k.budgeted and k.finished_at is null limit 1
) x
where r.ctid = x.at and r.id = d.id;

-- name: mark_paused
-- A run that is paused by a budget, and from when on it may try again by itself. Index: runs_pk. Locks: its row, held already.
update runs r
set paused_for = 'budget', paused_until = case when %(wait_s)s::float8 is not null then %(now)s + make_interval(secs => %(wait_s)s) end
where r.tenant = %(tenant)s and r.id = %(run)s;

-- name: mark_resumed
-- A run that is not paused by a budget any more. Index: runs_pk. Locks: its row, held already.
update runs r set paused_for = null, paused_until = null
where r.tenant = %(tenant)s and r.id = %(run)s and r.paused_for is not null;

-- name: paused_for
-- What paused a run, if it was not a person. Index: runs_pk.
select r.paused_for from runs r where r.tenant = %(tenant)s and r.id = %(run)s;

-- name: broke
-- The runs of a tree, or of an agent, that a budget paused. Index: runs_tree, runs_agent.
select r.id from runs r
where r.tenant = %(tenant)s and (r.id = %(owner)s or r.root = %(owner)s or r.agent = %(owner)s)
  and r.paused_for is not null and r.status = 'paused'
order by r.id;

-- name: due
-- Trees whose time is over, and runs that a rolling window paused and that may try again. Index: budgets_due, runs_broke.
(select b.tenant, b.owner as run_id, 'over' as what from budgets b where b.due_at <= engine_now() and b.owner <> all(%(spared)s::uuid[]) order by b.due_at limit 200)
union all
(select r.tenant, r.id, 'again' from runs r
 where r.paused_for is not null and r.paused_until <= engine_now() and r.status = 'paused'
   and r.id <> all(%(spared)s::uuid[])
 order by r.paused_until limit 200);

-- name: rearm_clock
-- Lets the wall clock of a run's tree be due again, if it was over and no time was added: something of the tree goes on, or begins.
-- Index: runs_pk, budgets_pk. Locks: the row.
update budgets b set due_at = t.created_at + make_interval(secs => b.cap)
from runs r
cross join lateral (select t.id, t.created_at from runs t where t.tenant = r.tenant and t.id = coalesce(r.root, r.id) limit 1) t
where r.tenant = %(tenant)s and r.id = %(run)s
  and b.tenant = r.tenant and b.owner = t.id and b.meter = 'wall_clock_s' and b.due_at is null;

-- name: restart_clock
-- Gives a tree that is redriven after its time was over its time again, from now on. Index: budgets_pk. Locks: the row.
update budgets b set due_at = %(now)s + make_interval(secs => b.cap)
where b.tenant = %(tenant)s and b.owner = %(run)s and b.meter = 'wall_clock_s' and coalesce(b.due_at <= %(now)s, true);

-- name: clock_of
-- The wall clock of a tree. Index: budgets_pk.
select b.cap, b.on_limit, b.due_at from budgets b
where b.tenant = %(tenant)s and b.owner = %(owner)s and b.meter = 'wall_clock_s' and b.window_s = 0;

-- name: open_tree
-- The open runs of a tree, in id order (R1), of which the caller holds the locks. Index: runs_tree, runs_pk.
select d.id from (
  select %(owner)s::uuid as id
  union all select k.id from runs k where k.tenant = %(tenant)s and k.root = %(owner)s and k.finished_at is null
) d
order by d.id;

-- name: stop_clock
-- Stops the wall clock of a tree that has ended, or that waits for more time. Index: budgets_pk. Locks: the row.
update budgets b set due_at = null
where b.tenant = %(tenant)s and b.owner = %(owner)s and b.meter = 'wall_clock_s';
