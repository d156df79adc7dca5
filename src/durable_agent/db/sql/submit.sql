-- name: claim_keys
-- Takes idempotency keys that are free; a key in the hands of an uncommitted request waits for it. Returns those taken.
-- Index: idempotency_keys_pk. Locks: the new rows.
insert into idempotency_keys (tenant, key, digest, run_id, created_at)
select d.tenant, d.key, d.digest, d.run_id, engine_now()
from unnest(%(tenants)s::int[], %(keys)s::text[], %(digests)s::bytea[], %(runs)s::uuid[]) d(tenant, key, digest, run_id)
order by d.tenant, d.key
on conflict do nothing
returning run_id;

-- name: known_keys
-- The runs behind idempotency keys. Index: idempotency_keys_pk, runs_pk.
select k.tenant, k.key, k.digest, k.run_id, r.status
from unnest(%(tenants)s::int[], %(keys)s::text[]) d(tenant, key)
join idempotency_keys k on k.tenant = d.tenant and k.key = d.key
left join runs r on r.tenant = k.tenant and r.id = k.run_id;

-- name: add_runs
-- New runs. Index: runs_pk. Locks: the new rows.
insert into runs (tenant, id, status, steps_total, steps_left, last_seq, chain, created_at, finished_at, lane, graph, goal,
                  error, input, metadata, graph_version, started_by, parent_run, parent_step, origin, mode, from_step,
                  root, agent, budgeted)
select d.tenant, d.id, d.status, d.steps_total, d.steps_left, d.last_seq, d.chain, %(now)s,
       case when d.status in ('completed', 'failed') then %(now)s end, d.lane, d.graph, d.goal, d.error, d.input, d.metadata,
       d.graph_version, d.started_by, d.parent_run, d.parent_step, d.origin, d.mode, d.from_step, d.root, d.agent, d.budgeted
from unnest(%(tenants)s::int[], %(runs)s::uuid[], %(statuses)s::text[], %(steps_total)s::int[], %(steps_left)s::int[],
            %(last_seqs)s::int[], %(chains)s::bytea[], %(lanes)s::text[], %(graphs)s::text[], %(goals)s::text[],
            %(errors)s::text[]::json[], %(inputs)s::text[]::json[], %(metadata)s::text[]::json[], %(graph_versions)s::text[],
            %(started_by)s::text[], %(parent_runs)s::uuid[], %(parent_steps)s::int[], %(origins)s::uuid[], %(modes)s::text[],
            %(from_steps)s::int[], %(roots)s::uuid[], %(agents)s::uuid[], %(budgeted)s::bool[])
  d(tenant, id, status, steps_total, steps_left, last_seq, chain, lane, graph, goal, error, input, metadata, graph_version,
    started_by, parent_run, parent_step, origin, mode, from_step, root, agent, budgeted);

-- name: add_steps
-- New steps; their neighbours come as array literals. Index: steps_pk. Locks: the new rows.
insert into steps (tenant, run_id, no, status, deps_left, max_attempts, max_crashes, route, ord, timeout_s, deadline_s,
                   finished_at, name, kind, tool, condition, parents, children, edge_conditions, retry, input, error,
                   compensate, spawned_by, spawn_index, compensates, origin, shared, edited, output, taken)
select d.tenant, d.run_id, d.no, d.status, d.deps_left, d.max_attempts, d.max_crashes, d.route, d.ord, d.timeout_s,
       d.deadline_s, case when d.status not in ('pending', 'queued') then %(now)s end, d.name, d.kind, d.tool,
       d.condition, d.parents::int[], d.children::int[], d.edge_conditions, d.retry, d.input, d.error, d.compensate,
       d.spawned_by, d.spawn_index, d.compensates, d.origin, d.shared, d.edited, d.output, d.taken
from unnest(%(tenants)s::int[], %(runs)s::uuid[], %(nos)s::int[], %(statuses)s::text[], %(deps_left)s::int[],
            %(max_attempts)s::int[], %(max_crashes)s::int[], %(routes)s::int[], %(ords)s::bigint[], %(timeouts)s::float8[],
            %(deadlines)s::float8[], %(names)s::text[], %(kinds)s::text[], %(tools)s::text[], %(conditions)s::text[],
            %(parents)s::text[], %(children)s::text[], %(edge_conditions)s::text[]::json[], %(retries)s::text[]::json[],
            %(inputs)s::text[]::json[], %(errors)s::text[]::json[], %(compensate)s::text[], %(spawned_by)s::int[],
            %(spawn_indexes)s::int[], %(compensates)s::int[], %(origins)s::uuid[], %(shared)s::bool[], %(edited)s::bool[],
            %(outputs)s::text[]::json[], %(taken)s::int[])
  d(tenant, run_id, no, status, deps_left, max_attempts, max_crashes, route, ord, timeout_s, deadline_s, name, kind, tool,
    condition, parents, children, edge_conditions, retry, input, error, compensate, spawned_by, spawn_index, compensates,
    origin, shared, edited, output, taken);

-- name: offered
-- Which tools any worker session has ever offered, of some. Index: none needed, the table holds one row a worker.
select distinct o.tool from workers w cross join lateral unnest(w.offers) o(tool) where o.tool = any(%(tools)s::text[]);
