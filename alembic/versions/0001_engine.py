"""The engine's tables: runs, steps, queue, events, workers, keys.

Revision ID: 0001
Revises:
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# One statement an entry. Every primary key begins with the tenant (row-level security, Citus); run-keyed tables are
# partitioned by the run's UUIDv7, which is its creation time, so that retention drops whole partitions.
STATEMENTS = (
    """
    create function engine_now() returns timestamptz language sql volatile
      as $$ select clock_timestamp() $$
    """,
    "comment on function engine_now() is 'The only clock of the engine (R5); tests replace it to move time.'",
    # A write that must change as many rows as it was given says so in the statement, and COMMIT may follow in one breath.
    """
    create function require_rows(changed bigint, wanted int, statement text) returns void language plpgsql as $$
    begin
      if changed <> wanted then
        raise exception using errcode = 'DA001',
          message = format('%s changed %s of %s rows: another writer was first', statement, changed, wanted);
      end if;
    end
    $$
    """,
    """
    create table tenants (
      tenant     int not null,
      name       text not null,
      secret     bytea not null,
      created_at timestamptz not null default engine_now(),
      constraint tenants_pk primary key (tenant),
      constraint tenants_name_unique unique (name),
      constraint tenants_positive check (tenant > 0)
    )
    """,
    """
    insert into tenants (tenant, name, secret)
    values (1, 'default', decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex'))
    """,
    """
    create table routes (
      tenant int not null,
      route  int generated always as identity,
      queue  text not null,
      lane   text not null,
      tool   text not null,
      constraint routes_pk primary key (tenant, route),
      constraint routes_unique unique (tenant, queue, lane, tool)
    )
    """,
    """
    create table runs (
      tenant      int not null,
      id          uuid not null,
      status      text not null,
      steps_total int not null,
      steps_left  int not null,
      last_seq    int not null,
      chain       bytea not null,
      created_at  timestamptz not null,
      started_at  timestamptz,
      finished_at timestamptz,
      lane        text not null,
      graph       text,
      goal        text,
      error       json,
      input       json,
      metadata    json,
      constraint runs_pk primary key (tenant, id),
      constraint runs_status check (status in ('pending', 'running', 'waiting', 'waiting_for_approval',
        'waiting_for_input', 'paused', 'compensating', 'completed', 'failed', 'cancelled', 'budget_exceeded')),
      constraint runs_steps_left check (steps_left between 0 and steps_total),
      constraint runs_final check ((status in ('completed', 'failed', 'cancelled', 'budget_exceeded'))
        = (finished_at is not null)),
      constraint runs_completed check (status <> 'completed' or steps_left = 0)
    ) partition by range (id)
    """,
    # Not over the status: an indexed column that changes costs every update its shortcut (HOT).
    "create index runs_open on runs (tenant, id) where finished_at is null",
    """
    create table steps (
      tenant      int not null,
      run_id      uuid not null,
      no          int not null,
      status      text not null,
      deps_left   int not null,
      taken       int not null default 0,
      claim_no    int not null default 0,
      failures    int not null default 0,
      crashes     int not null default 0,
      max_attempts int not null,
      max_crashes int not null,
      route       int not null,
      ord         bigint not null,
      timeout_s   real,
      deadline_s  real not null,
      done_token  uuid,
      started_at  timestamptz,
      finished_at timestamptz,
      name        text not null,
      kind        text not null,
      tool        text not null,
      worker      text,
      condition   text,
      parents     int[] not null,
      children    int[] not null,
      edge_conditions json,
      retry       json not null,
      input       json,
      output      json,
      error       json,
      constraint steps_pk primary key (tenant, run_id, no),
      constraint steps_status check (status in ('pending', 'queued', 'waiting', 'succeeded', 'dead_letter', 'skipped',
        'cancelled', 'compensated')),
      constraint steps_deps_left check (deps_left between 0 and cardinality(parents)),
      constraint steps_taken check (taken between 0 and cardinality(parents) - deps_left),
      constraint steps_promoted check (status in ('pending', 'cancelled') or deps_left = 0),
      constraint steps_finished check ((status in ('succeeded', 'dead_letter', 'skipped', 'cancelled', 'compensated'))
        = (finished_at is not null)),
      constraint steps_winner check (status <> 'succeeded' or (done_token is not null and claim_no > 0))
    ) partition by range (run_id)
    """,
    # Only live work: what the claim scans stays as small as what is ready, due later, held or leased.
    """
    create table queue (
      tenant      int not null,
      run_id      uuid not null,
      no          int not null,
      route       int not null,
      ord         bigint not null,
      state       text not null,
      claim_no    int not null,
      failures    int not null,
      crashes     int not null,
      max_crashes int not null,
      deadline_s  real not null,
      due_at      timestamptz,
      token       uuid,
      last_token  uuid,
      session     uuid,
      claimed_at  timestamptz,
      deadline_at timestamptz,
      queued_at   timestamptz not null,
      constraint queue_pk primary key (tenant, run_id, no),
      constraint queue_state check (state in ('ready', 'scheduled', 'held', 'leased')),
      constraint queue_scheduled check (state not in ('scheduled') or due_at is not null),
      constraint queue_leased check ((state = 'leased') = (token is not null)),
      constraint queue_owner check ((state = 'leased') = (session is not null and deadline_at is not null)),
      constraint queue_claims check (state <> 'leased' or claim_no > 0)
    ) with (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 2000,
            autovacuum_analyze_scale_factor = 0.0, autovacuum_analyze_threshold = 20000)
    """,
    "create index queue_ready on queue (tenant, route, ord) where state = 'ready'",
    "create index queue_scheduled on queue (due_at) where state = 'scheduled'",
    "create index queue_leased on queue (session) where state = 'leased'",
    """
    create table events (
      tenant  int not null,
      run_id  uuid not null,
      seq     int not null,
      step_no int,
      at      timestamptz not null,
      type    text not null,
      hash    bytea not null,
      data    json not null,
      detail  json,
      constraint events_pk primary key (tenant, run_id, seq),
      constraint events_seq check (seq > 0)
    ) partition by range (run_id)
    """,
    """
    create table dead_letters (
      tenant  int not null,
      run_id  uuid not null,
      no      int not null,
      name    text not null,
      tool    text not null,
      reason  text not null,
      failure text not null,
      message text not null,
      at      timestamptz not null,
      constraint dead_letters_pk primary key (tenant, run_id, no),
      constraint dead_letters_reason check (reason in ('attempts_exhausted', 'non_retryable', 'poisoned',
        'condition_error', 'payload_rejected'))
    )
    """,
    """
    create table workers (
      tenant        int not null default 0,
      session       uuid not null,
      worker        text not null,
      state         text not null,
      lease_until   timestamptz not null,
      beat_at       timestamptz not null,
      suspected_at  timestamptz,
      backend_pid   int,
      backend_start timestamptz,
      started_at    timestamptz not null,
      stopped_at    timestamptz,
      running       int not null,
      concurrency   int not null,
      loop_lag_ms   int not null default 0,
      queues        text[] not null,
      offers        text[] not null,
      host          text not null,
      os_pid        int not null,
      version       text not null,
      constraint workers_pk primary key (tenant, session),
      constraint workers_state check (state in ('active', 'draining', 'stopped', 'lost')),
      constraint workers_load check (running >= 0 and concurrency > 0)
    ) with (fillfactor = 50)
    """,
    """
    create table idempotency_keys (
      tenant     int not null,
      key        text not null,
      digest     bytea not null,
      run_id     uuid not null,
      created_at timestamptz not null,
      constraint idempotency_keys_pk primary key (tenant, key),
      constraint idempotency_keys_length check (length(key) between 1 and 255)
    )
    """,
    "create index idempotency_keys_age on idempotency_keys (created_at)",
    """
    create table api_keys (
      tenant       int not null,
      id           text not null,
      name         text not null,
      digest       bytea not null,
      scopes       text[] not null,
      created_at   timestamptz not null,
      expires_at   timestamptz,
      revoked_at   timestamptz,
      last_used_at timestamptz,
      constraint api_keys_pk primary key (tenant, id),
      constraint api_keys_id_unique unique (id)
    )
    """,
    # Partitions are weeks of the UUIDv7 time, named by their Monday; a default partition keeps a run whose id lies
    # outside every week (a client clock far off), so that no insert ever fails for want of a partition.
    """
    create function uuid_floor(at timestamptz) returns uuid language sql immutable as $$
      select (lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
    $$
    """,
    """
    create function ensure_partitions(first timestamptz, last timestamptz) returns int language plpgsql as $$
    declare
      parent text;
      week timestamptz;
      child text;
      made int := 0;
    begin
      perform pg_advisory_xact_lock(hashtext('durable_agent.partitions'));
      week := date_trunc('week', first at time zone 'utc') at time zone 'utc';
      while week <= last loop
        foreach parent in array array['runs', 'steps', 'events'] loop
          child := parent || '_w' || to_char(week at time zone 'utc', 'YYYYMMDD');
          if to_regclass(child) is null then
            execute format('create table %I (like %I including defaults including constraints)', child, parent);
            if parent = 'steps' then
              execute format('alter table %I set (fillfactor = 55)', child);
            elsif parent = 'runs' then
              execute format('alter table %I set (fillfactor = 50)', child);
            end if;
            execute format('alter table %I attach partition %I for values from (%L) to (%L)', parent, child,
                           uuid_floor(week), uuid_floor(week + interval '7 days'));
            made := made + 1;
          end if;
        end loop;
        week := week + interval '7 days';
      end loop;
      return made;
    end
    $$
    """,
    # Retention drops whole weeks. A week with one open run stays whole; so does the default partition.
    """
    create function drop_ended_partitions(before timestamptz) returns int language plpgsql as $$
    declare
      child text;
      week timestamptz;
      busy boolean;
      dropped int := 0;
    begin
      perform pg_advisory_xact_lock(hashtext('durable_agent.partitions'));
      for child in
        select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'runs'::regclass and c.relname like 'runs\\_w%' order by c.relname
      loop
        week := to_timestamp(right(child, 8), 'YYYYMMDD')::timestamp at time zone 'utc';
        continue when week + interval '7 days' > before;
        execute format('select exists (select from %I where finished_at is null or finished_at >= %L)', child, before)
          into busy;
        continue when busy;
        delete from dead_letters d
        where d.run_id >= uuid_floor(week) and d.run_id < uuid_floor(week + interval '7 days');
        execute format('drop table %I, %I, %I', 'events_' || right(child, 9), 'steps_' || right(child, 9), child);
        dropped := dropped + 1;
      end loop;
      delete from idempotency_keys k where k.created_at < before;
      return dropped;
    end
    $$
    """,
    # An empty partition that somebody vacuumed or analyzed says so, and plans made by that word read it from end to end:
    # cheap while it is empty, ruinous when its week comes. Truncated, it says nothing, and the planner is careful.
    """
    create function reset_one_empty_partition() returns boolean language plpgsql as $$
    declare
      child text;
      used boolean;
    begin
      for child in
        select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent in ('runs'::regclass, 'steps'::regclass, 'events'::regclass)
          and c.relpages = 0 and c.reltuples = 0 and pg_relation_size(c.oid) = 0
        order by c.relname
      loop
        execute format('lock table %I in access exclusive mode', child);
        execute format('select exists (select from %I)', child) into used;
        continue when used;
        execute format('truncate %I', child);
        return true;
      end loop;
      return false;
    end
    $$
    """,
    "create table runs_default partition of runs default",
    "create table steps_default partition of steps default",
    "create table events_default partition of events default",
    "select ensure_partitions(clock_timestamp() - interval '1 day', clock_timestamp() + interval '14 days')",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.get_bind().connection.driver_connection.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("migrations go forward only: restore a backup to go back")
