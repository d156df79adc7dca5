-- name: lock_gate
-- A gate and the engine's time. Index: gates_pk. Locks: its row, waiting.
select extract(epoch from engine_now())::float8, g.requests_per_minute, g.tokens_per_minute, g.concurrency,
       extract(epoch from g.requests_at)::float8, extract(epoch from g.tokens_at)::float8,
       extract(epoch from g.held_until)::float8, g.state, g.failures, extract(epoch from g.retry_at)::float8, g.probe::text
from gates g where g.tenant = %(tenant)s and g.name = %(name)s for no key update;

-- name: ensure_gate
-- A gate that limits nothing yet. Index: gates_pk. Locks: the new row.
insert into gates (tenant, name) values (%(tenant)s, %(name)s) on conflict do nothing;

-- name: put_gate
-- Writes where a gate stands. Index: gates_pk. Locks: its row, held already.
update gates g
set requests_at = to_timestamp(%(requests_at)s::float8), tokens_at = to_timestamp(%(tokens_at)s::float8),
    held_until = to_timestamp(%(held_until)s::float8), state = %(state)s, failures = %(failures)s,
    retry_at = to_timestamp(%(retry_at)s::float8), probe = %(probe)s,
    opened_at = case when %(state)s = 'closed' then null else coalesce(g.opened_at, engine_now()) end,
    error = coalesce(%(error)s, g.error)
where g.tenant = %(tenant)s and g.name = %(name)s;

-- name: slots_taken
-- The slots of a gate that other living sessions hold. Index: gate_slots_pk.
select coalesce(sum(s.slots), 0)::int from gate_slots s
where s.tenant = %(tenant)s and s.name = %(name)s and s.session <> %(session)s and s.until > engine_now();

-- name: put_slots
-- The slots a session holds, for as long as it says so again. Index: gate_slots_pk. Locks: its row.
insert into gate_slots (tenant, name, session, slots, until)
values (%(tenant)s, %(name)s, %(session)s, %(slots)s, engine_now() + make_interval(secs => %(ttl_s)s))
on conflict on constraint gate_slots_pk do update set slots = excluded.slots, until = excluded.until;

-- name: drop_slots
-- Forgets the slots of sessions that are gone. Index: none needed, the table holds a row a session and gate.
delete from gate_slots s where s.until < engine_now() - interval '1 minute';

-- name: shut
-- Which of some gates let nothing through now. Index: gates_pk. Locks nothing.
select g.tenant, g.name, g.probe::text
from gates g
join unnest(%(tenants)s::int[], %(names)s::text[]) d(tenant, name) on d.tenant = g.tenant and d.name = g.name
where g.held_until > engine_now() or g.state <> 'closed';

-- name: set_gate
-- What an operator lets a credential or a tool take. Index: gates_pk. Locks: the row.
insert into gates (tenant, name, requests_per_minute, tokens_per_minute, concurrency)
values (%(tenant)s, %(name)s, %(requests_per_minute)s, %(tokens_per_minute)s, %(concurrency)s)
on conflict on constraint gates_pk do update
set requests_per_minute = excluded.requests_per_minute, tokens_per_minute = excluded.tokens_per_minute,
    concurrency = excluded.concurrency;

-- name: list_gates
-- Every gate, with the slots in use. Index: gates_pk.
select g.name, g.requests_per_minute, g.tokens_per_minute, g.concurrency, g.held_until, g.state, g.failures, g.opened_at,
       g.retry_at, g.error, x.in_use
from gates g
cross join lateral (
  select coalesce(sum(s.slots), 0)::int as in_use from gate_slots s
  where s.tenant = g.tenant and s.name = g.name and s.until > engine_now()
) x
where g.tenant = %(tenant)s order by g.name;

-- name: closed_to
-- The gates that let nothing through now, for `explain`. Index: gates_pk.
select g.name, g.state, g.held_until, g.retry_at, g.error from gates g
where g.tenant = %(tenant)s and (g.held_until > engine_now() or g.state <> 'closed') order by g.name;
