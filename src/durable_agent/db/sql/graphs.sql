-- name: register
-- Makes a version of a graph the newest. Index: graphs_pk. Locks: its row.
insert into graphs (tenant, name, version, registered_at, spec, input_schema, budget)
values (%(tenant)s, %(name)s, %(version)s, engine_now(), %(spec)s::text::json, %(input_schema)s::text::json,
        %(budget)s::text::json)
on conflict (tenant, name, version) do update set registered_at = excluded.registered_at;

-- name: open_steps
-- The unfinished steps of every open run, a page at a time, with what new code must still understand. Index: runs_open,
-- steps_pk. Over all tenants: whoever deploys serves them all.
select r.tenant, r.id, r.graph, r.graph_version, s.no, s.name, s.kind, s.tool, s.input, s.compensate
from runs r
join steps s on s.tenant = r.tenant and s.run_id = r.id
where r.finished_at is null and s.finished_at is null
  and (r.id, s.no) > (%(run)s::uuid, %(no)s::int)
order by r.id, s.no limit 1000;
