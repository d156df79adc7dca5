-- name: add
-- Pieces of answers that are being written. Index: deltas_pk. Locks: the new rows.
insert into deltas (tenant, run_id, step_no, effect, claim_no, piece, at, text)
select d.tenant, d.run_id, d.no, d.effect, d.claim_no, d.piece, engine_now(), d.text
from unnest(%(tenants)s::int[], %(runs)s::uuid[], %(nos)s::int[], %(effects)s::int[], %(claim_nos)s::int[],
            %(pieces)s::int[], %(texts)s::text[])
  d(tenant, run_id, no, effect, claim_no, piece, text)
on conflict do nothing;

-- name: of_run
-- What is being said in a run, in order: of the last quarter of a minute, or since a time and a second before, for a commit
-- may be seen later than it is stamped. Of more than 5000 pieces the newest. Index: deltas_run, steps_pk.
select d.step_no, s.name as step, d.effect, d.claim_no, d.piece, d.at, d.text
from (
  select d.* from deltas d
  where d.tenant = %(tenant)s and d.run_id = %(run)s
    and d.at > coalesce(%(since)s::timestamptz - interval '1 second', engine_now() - interval '15 seconds')
  order by d.at desc, d.piece desc limit 5000
) d join steps s on s.tenant = d.tenant and s.run_id = d.run_id and s.no = d.step_no
order by d.at, d.step_no, d.effect, d.claim_no, d.piece;

-- name: forget
-- Drops what was said a minute ago. Index: deltas_at. Locks: the rows.
delete from deltas d where d.at < engine_now() - interval '1 minute';
