-- name: register
-- Makes a version of a graph the newest. Index: graphs_pk. Locks: its row.
insert into graphs (tenant, name, version, registered_at, spec, input_schema)
values (%(tenant)s, %(name)s, %(version)s, engine_now(), %(spec)s::text::json, %(input_schema)s::text::json)
on conflict (tenant, name, version) do update set registered_at = excluded.registered_at;
