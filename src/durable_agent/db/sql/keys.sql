-- name: any_key
-- Whether a key was ever made: until then the API is open, on loopback only. One that expired still closes it.
select exists (select from api_keys);

-- name: find_key
-- A key that works, by its public part, whoever its tenant is. Index: api_keys_id_unique.
select k.tenant, k.digest, k.scopes, k.name from api_keys k
where k.id = %(id)s and k.revoked_at is null and (k.expires_at is null or k.expires_at > engine_now());

-- name: add_key
-- A new key. Index: api_keys_pk. Locks: the new row.
insert into api_keys (tenant, id, name, digest, scopes, created_at, expires_at)
values (%(tenant)s, %(id)s, %(name)s, %(digest)s, %(scopes)s, engine_now(), %(expires_at)s);

-- name: list_keys
-- A tenant's keys, newest first. Index: api_keys_pk.
select k.id, k.name, k.scopes, k.created_at, k.expires_at, k.revoked_at from api_keys k
where k.tenant = %(tenant)s order by k.created_at desc;

-- name: revoke_key
-- Ends a key. Index: api_keys_pk. Locks: the row.
update api_keys k set revoked_at = coalesce(k.revoked_at, engine_now())
where k.tenant = %(tenant)s and k.id = %(id)s returning k.id;
