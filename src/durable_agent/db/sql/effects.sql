-- name: intend_effects
-- Writes down effects before they are called (or values as they are), fenced by claim number and token (R3). An effect
-- that is sent again keeps its number and key. Index: queue_pk, effects_pk. Locks: the effects' rows, under the run's lock.
with live as (
  select d.*
  from unnest(%(tenants)s::int[], %(runs)s::uuid[], %(nos)s::int[], %(claim_nos)s::int[], %(tokens)s::uuid[],
              %(effects)s::int[], %(names)s::text[], %(classes)s::text[], %(states)s::text[], %(requests_sha256)s::text[],
              %(keys)s::text[], %(compensates)s::text[], %(approvals)s::uuid[], %(requests)s::text[]::json[],
              %(results)s::text[]::json[], %(reserved)s::text[]::json[])
    d(tenant, run_id, no, claim_no, token, effect, name, class, state, request_sha256, key, compensate, approval, request,
      result, reserved)
  cross join lateral (
    select from queue k
    where k.tenant = d.tenant and k.run_id = d.run_id and k.no = d.no
      and k.state || '' = 'leased' and k.claim_no = d.claim_no and k.token = d.token limit 1
  ) x
), changed as (
  insert into effects as e (tenant, run_id, step_no, no, name, class, state, request_sha256, key, claim_no, sends, at,
                            ended_at, compensate, approval, request, result, reserved)
  select d.tenant, d.run_id, d.no, d.effect, d.name, d.class, d.state, d.request_sha256, d.key, d.claim_no, 1, %(now)s,
         case when d.state = 'done' then %(now)s end, d.compensate, d.approval, d.request, d.result,
         d.reserved
  from live d
  on conflict (tenant, run_id, step_no, no) do update
  set state = excluded.state, claim_no = excluded.claim_no, sends = e.sends + 1, ended_at = null, error = null,
      reserved = excluded.reserved, charged = null
  where e.request_sha256 = excluded.request_sha256 and e.state <> 'done'
  returning 1
)
select require_rows((select count(*) from changed), %(rows)s, 'intend_effects');

-- name: record_effects
-- Writes down what became of effects, fenced as their intents; what is not known holds what it reserved. Index: queue_pk, effects_pk. Locks: the effects' rows.
with changed as (
  update effects e
  set state = d.state, claim_no = d.claim_no, result = d.result, error = d.error, ended_at = %(now)s, usage = d.usage, microusd = d.microusd,
      reserved = case when d.state = 'unknown' then e.reserved end
  from unnest(%(tenants)s::int[], %(runs)s::uuid[], %(nos)s::int[], %(claim_nos)s::int[], %(tokens)s::uuid[],
              %(effects)s::int[], %(states)s::text[], %(results)s::text[]::json[], %(errors)s::text[]::json[],
              %(usages)s::text[]::json[], %(microusd)s::bigint[])
    d(tenant, run_id, no, claim_no, token, effect, state, result, error, usage, microusd)
  cross join lateral (
    select from queue k
    where k.tenant = d.tenant and k.run_id = d.run_id and k.no = d.no
      and k.state || '' = 'leased' and k.claim_no = d.claim_no and k.token = d.token limit 1
  ) x
  cross join lateral (
    select k.ctid as at from effects k
    where k.tenant = d.tenant and k.run_id = d.run_id and k.step_no = d.no and k.no = d.effect limit 1
  ) y
  where e.ctid = y.at and e.run_id = d.run_id
  returning 1
)
select require_rows((select count(*) from changed), %(rows)s, 'record_effects');

-- name: effects_now
-- The state of some effects, under their runs' locks: what an unknown commit has written already. Index: effects_pk.
select d.tenant, d.run_id, d.no, d.effect, e.state, e.claim_no
from unnest(%(tenants)s::int[], %(runs)s::uuid[], %(nos)s::int[], %(effects)s::int[]) d(tenant, run_id, no, effect)
cross join lateral (
  select e.state, e.claim_no from effects e
  where e.tenant = d.tenant and e.run_id = d.run_id and e.step_no = d.no and e.no = d.effect limit 1
) e;

-- name: progressed
-- Which of some leases recorded the end of an effect: a step that gets on is no poison pill. Index: effects_pk.
select distinct e.run_id, e.step_no, e.claim_no
from unnest(%(tenants)s::int[], %(runs)s::uuid[], %(nos)s::int[], %(claim_nos)s::int[]) d(tenant, run_id, no, claim_no)
join effects e on e.tenant = d.tenant and e.run_id = d.run_id and e.step_no = d.no and e.claim_no = d.claim_no
where e.state in ('done', 'failed');

-- name: open_effects
-- The effects of a run that were begun and not ended. Index: effects_pk by the run.
select e.step_no, e.no, e.name
from effects e where e.tenant = %(tenant)s and e.run_id = %(run)s and e.state = 'intent'
order by e.step_no, e.no;

-- name: doubt_effects
-- What was begun in a run that ends here and now: nobody will hear what became of it. Index: effects_pk. Locks: the
-- effects' rows, under the run's lock, which no worker's write passes any more.
update effects e set state = 'unknown', ended_at = %(now)s
where e.tenant = %(tenant)s and e.run_id = %(run)s and e.state = 'intent';

-- name: settle_effect
-- A person's word about an unknown effect. Index: effects_pk. Locks: its row, under the run's lock.
update effects e set state = %(state)s, result = %(result)s::text::json, error = %(error)s::text::json, ended_at = %(now)s
where e.tenant = %(tenant)s and e.run_id = %(run)s and e.step_no = %(no)s and e.no = %(effect)s and e.state = 'unknown';

-- name: of_run
-- A run's effects, for its export. Index: effects_pk.
select e.step_no, e.no, e.name, e.class, e.state, e.request_sha256, e.key, e.claim_no, e.sends, e.at, e.ended_at,
       e.compensate, e.approval, e.request, e.result, e.error, e.usage, e.microusd
from effects e where e.tenant = %(tenant)s and e.run_id = %(run)s
order by e.step_no, e.no;

-- name: to_undo
-- What a run did that can be undone: its effects and its steps that name a tool for it, the last first.
-- Index: effects_pk, steps_pk. Locks nothing more.
select e.step_no, s.name as step, e.no as effect_no, e.compensate, e.state, e.key, t.queue, e.ended_at as at,
       e.request::text, e.result::text
from effects e
join steps s on s.tenant = e.tenant and s.run_id = e.run_id and s.no = e.step_no
join routes t on t.tenant = s.tenant and t.route = s.route
where e.tenant = %(tenant)s and e.run_id = %(run)s and e.compensate is not null and e.state in ('done', 'unknown')
  and s.compensates is null
union all
select s.no, s.name, 0, s.compensate, 'done', '', t.queue, s.finished_at, s.input::text, s.output::text
from steps s
join routes t on t.tenant = s.tenant and t.route = s.route
where s.tenant = %(tenant)s and s.run_id = %(run)s and s.compensate is not null and s.status = 'succeeded'
  and s.compensates is null
order by at desc, step_no desc, effect_no desc;

-- name: undone
-- The steps all of whose compensations succeeded. Index: steps_pk.
select s.no from steps s
where s.tenant = %(tenant)s and s.run_id = %(run)s and s.status = 'succeeded' and s.compensates is null
  and exists (select from steps c where c.tenant = s.tenant and c.run_id = s.run_id and c.compensates = s.no)
  and not exists (select from steps c where c.tenant = s.tenant and c.run_id = s.run_id and c.compensates = s.no
                    and c.status <> 'succeeded');

-- name: mark_undone
-- Marks steps as compensated. Index: steps_pk. Locks: step rows, under the run's lock (not a worker's write).
update steps s set status = 'compensated'
where s.tenant = %(tenant)s and s.run_id = %(run)s and s.no = any(%(nos)s::int[]) and s.status = 'succeeded';

-- name: store_artifacts
-- Lists files of steps, fenced by claim number and token (R3); the same name of a step again replaces the one before.
-- Index: queue_pk, artifacts_pk. Locks: the artifacts' rows, under the run's lock.
with changed as (
  insert into artifacts (tenant, run_id, id, step_no, name, media_type, sha256, bytes, at)
  select d.tenant, d.run_id, d.id, d.no, d.name, d.media_type, d.sha256, d.bytes, %(now)s
  from unnest(%(tenants)s::int[], %(runs)s::uuid[], %(nos)s::int[], %(claim_nos)s::int[], %(tokens)s::uuid[],
              %(ids)s::uuid[], %(names)s::text[], %(media_types)s::text[], %(digests)s::text[], %(sizes)s::bigint[])
    d(tenant, run_id, no, claim_no, token, id, name, media_type, sha256, bytes)
  cross join lateral (
    select from queue k
    where k.tenant = d.tenant and k.run_id = d.run_id and k.no = d.no
      and k.state || '' = 'leased' and k.claim_no = d.claim_no and k.token = d.token limit 1
  ) x
  on conflict on constraint artifacts_pk do update
  set sha256 = excluded.sha256, bytes = excluded.bytes, media_type = excluded.media_type, at = excluded.at
  returning 1
)
select require_rows((select count(*) from changed), %(rows)s, 'store_artifacts');

-- name: numbered
-- A run, with the number of its step of a name. Index: runs_pk, steps_pk.
select s.no from runs r
left join steps s on s.tenant = r.tenant and s.run_id = r.id and s.name = %(step)s::text
where r.tenant = %(tenant)s and r.id = %(run)s;

-- name: shown
-- Effects of a run from one to another step, in order, after one: as many as fit a page, with how many are `left`, those known of
-- the next page; who worked is told by the claim. Of a large request there is its size. Index: effects_pk, steps_pk, events_pk by the run.
with page as materialized (
  select e.*, octet_length(e.request::text) as bytes, row_number() over w as place,
         sum(least(octet_length(e.request::text), %(most_bytes)s) + coalesce(octet_length(e.result::text), 0)) over w as total
  from effects e
  where e.tenant = %(tenant)s and e.run_id = %(run)s and e.step_no between %(first)s and %(last)s
    and (e.step_no, e.no) > (%(after_step)s::int, %(after_no)s::int)
  window w as (order by e.step_no, e.no rows unbounded preceding)
  order by e.step_no, e.no limit %(limit)s + 1
), claims as materialized (
  select v.step_no, (v.data->>'claim_no')::int as claim_no, min(v.data->>'worker') as worker
  from events v
  where v.tenant = %(tenant)s and v.run_id = %(run)s and v.type = 'step.claimed' and v.step_no between %(first)s and %(last)s
  group by 1, 2
)
select p.step_no, s.name as step, p.no, p.name, p.class, p.state, nullif(p.key, '') as key, p.sends,
       case when p.bytes <= %(most_bytes)s then p.request end as request, p.bytes, p.request_sha256, p.result, p.error, p.usage,
       p.microusd, p.at, p.ended_at, p.claim_no, c.worker, (select count(*) from page) - p.place as left
from page p
join steps s on s.tenant = p.tenant and s.run_id = p.run_id and s.no = p.step_no
left join claims c on c.step_no = p.step_no and c.claim_no = p.claim_no
where p.place <= %(limit)s and (p.place = 1 or p.total <= %(page_bytes)s)
order by p.step_no, p.no;
