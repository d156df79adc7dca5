-- name: within
-- What a tenant's runs did within a window, by sixtieths of it, and how they stand: rows of a series, a slice (of a status: none)
-- and an amount; the row `span` has the window's end and what it is counted from. Reads the open runs; of those that ended in
-- the window the newest `most`; and of these and the newest `most` that were begun and are open the steps and calls: what is older than
-- the oldest of more is not counted. Index: runs_open, runs_ended backwards, steps_pk, effects_pk.
with span as materialized (
  select engine_now() as until, engine_now() - make_interval(secs => %(window_s)s::int) as since
), open as materialized (
  select r.id, r.status, r.created_at, r.calls from runs r where r.tenant = %(tenant)s and r.finished_at is null
), ended as materialized (
  select r.id, r.status, r.created_at, r.finished_at, r.calls from runs r
  where r.tenant = %(tenant)s and r.finished_at > (select since from span)
  order by r.finished_at desc limit %(most)s
), worked as materialized (
  select e.id, e.calls from ended e
  union all
  (select o.id, o.calls from open o where o.status <> 'pending' order by o.id desc limit %(most)s)
), facts(series, at, amount) as (
  select 'started', o.created_at, 1 from open o
  union all
  select 'started', e.created_at, 1 from ended e
  union all
  select case e.status when 'completed' then 'completed' else 'failed' end, e.finished_at, 1 from ended e where e.status <> 'cancelled'
  union all
  select 'steps', x.finished_at, 1 from worked w
  cross join lateral (
    select s.finished_at from steps s
    where s.tenant = %(tenant)s and s.run_id = w.id and s.finished_at > (select since from span)
      and s.status in ('succeeded', 'compensated', 'dead_letter') offset 0
  ) x
  union all
  select y.series, x.ended_at, y.amount from worked w
  cross join lateral (
    select e.ended_at, e.microusd, (e.usage->>'input_tokens')::bigint + (e.usage->>'output_tokens')::bigint as tokens from effects e
    where e.tenant = %(tenant)s and e.run_id = w.id and e.usage is not null and e.ended_at > (select since from span) offset 0
  ) x
  cross join lateral (values ('microusd', x.microusd), ('tokens', x.tokens)) y(series, amount)
  where w.calls > 0 and y.amount is not null
)
select f.series, least(59, floor(extract(epoch from f.at - p.since) * 60 / %(window_s)s::int))::int as slice,
       sum(f.amount)::bigint as amount, null::timestamptz as until, null::timestamptz as since
from facts f cross join span p where f.at > p.since and f.at <= p.until group by 1, 2
union all
select s.status, null, count(*), null, null from (select status from open union all select status from ended) s group by s.status
union all
select 'span', null, null, p.until,
       case when (select count(*) from ended) = %(most)s then (select min(e.finished_at) from ended e) else p.since end
from span p;
