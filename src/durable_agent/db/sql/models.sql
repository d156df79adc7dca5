-- name: list_models
-- The models that an operator set something of. Index: models_pk.
select m.provider, m.name, m.price, m.window_tokens, m.updated_at from models m
where m.tenant = %(tenant)s order by m.provider, m.name limit 1000;

-- name: set_model
-- What an operator says of a model. Index: models_pk. Locks: the row.
insert into models (tenant, provider, name, window_tokens, price, updated_at)
values (%(tenant)s, %(provider)s, %(name)s, %(window_tokens)s, %(price)s::text::json, engine_now())
on conflict on constraint models_pk do update
set window_tokens = excluded.window_tokens, price = excluded.price, updated_at = excluded.updated_at;

-- name: drop_model
-- Forgets it. Index: models_pk. Locks: the row.
delete from models m where m.tenant = %(tenant)s and m.provider = %(provider)s and m.name = %(name)s;
