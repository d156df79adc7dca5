-- name: make_partitions
-- Makes the weeks of the next fortnight that are missing: every statement opens each of them. Locks: an advisory lock, the parents when a week is attached.
select ensure_partitions(engine_now() - interval '1 day', engine_now() + interval '14 days');

-- name: drop_partitions
-- Drops the weeks whose runs all ended before a time, with their dead letters, and forgets idempotency keys as old.
-- Locks: an advisory lock; the parents while a week is dropped, given up after a second.
select drop_ended_partitions(engine_now() - make_interval(days => %(days)s));

-- name: reset_empty
-- Lets one empty partition forget that it is empty, so that no plan counts on it; tells whether there was one.
-- Locks: that partition, given up after a second.
select reset_one_empty_partition();
