"""Effects, waits, signals; runs that wait, compensate, descend from others; registered graphs; artifacts.

Revision ID: 0002
Revises: 0001
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

STATEMENTS = (
    # What a run waits for is counted on its row, so that a run without waits costs nothing more.
    """
    alter table runs
      add column waiting int not null default 0,
      add column ending text,
      add column parent_run uuid,
      add column parent_step int,
      add column origin uuid,
      add column mode text,
      add column from_step int,
      add column graph_version text,
      add column started_by text,
      add constraint runs_waiting check (waiting >= 0),
      add constraint runs_ending check (ending in ('failed', 'cancelled', 'budget_exceeded')),
      add constraint runs_mode check (mode in ('recorded', 'live'))
    """,
    "create index runs_origin on runs (tenant, origin) where origin is not null",
    """
    alter table steps
      add column spawned_by int,
      add column spawn_index int,
      add column compensates int,
      add column compensate text,
      add column in_doubt text,
      add column origin uuid,
      add column shared bool not null default false,
      add column edited bool not null default false,
      drop constraint steps_winner,
      add constraint steps_winner
        check (status <> 'succeeded' or shared or edited or (done_token is not null and claim_no > 0)),
      add constraint steps_shared check (not shared or origin is not null)
    """,
    "alter table queue add column effect text, drop constraint queue_state",
    """
    alter table queue add constraint queue_state
      check (state in ('ready', 'scheduled', 'held', 'leased', 'waiting'))
    """,
    """
    create table effects (
      tenant         int not null,
      run_id         uuid not null,
      step_no        int not null,
      no             int not null,
      name           text not null,
      class          text not null,
      state          text not null,
      request_sha256 text not null,
      key            text not null,
      claim_no       int not null,
      sends          int not null,
      at             timestamptz not null,
      ended_at       timestamptz,
      compensate     text,
      approval       uuid,
      request        json,
      result         json,
      error          json,
      constraint effects_pk primary key (tenant, run_id, step_no, no),
      constraint effects_no check (no > 0),
      constraint effects_class check (class in ('safe', 'idempotent', 'verify', 'manual')),
      constraint effects_state check (state in ('intent', 'done', 'failed', 'unknown', 'resend', 'refused'))
    ) partition by range (run_id)
    """,
    "create table effects_default partition of effects default",
    """
    create table waits (
      tenant         int not null,
      id             uuid not null,
      run_id         uuid not null,
      step_no        int not null,
      no             int not null,
      kind           text not null,
      name           text not null,
      state          text not null,
      request_sha256 text not null,
      allow_self     bool not null,
      steps_left     int not null default 0,
      child_run      uuid,
      due_at         timestamptz,
      opened_at      timestamptz not null,
      answered_at    timestamptz,
      consumed_at    timestamptz,
      answered_by    text,
      effect_no      int,
      request        json,
      answer         json,
      constraint waits_pk primary key (tenant, id),
      constraint waits_step unique (tenant, run_id, step_no, no),
      constraint waits_kind check (kind in ('approval', 'input', 'signal', 'timer', 'steps', 'run', 'unknown_effect')),
      constraint waits_state check (state in ('open', 'answered', 'cancelled')),
      constraint waits_answered check ((state = 'open') = (answered_at is null)),
      constraint waits_steps_left check (steps_left >= 0)
    )
    """,
    "create index waits_due on waits (due_at) where state = 'open' and due_at is not null",
    "create index waits_child on waits (tenant, child_run) where state = 'open' and child_run is not null",
    "create index waits_cancelled on waits (answered_at) where state = 'cancelled' and child_run is not null",
    "create index waits_open on waits (tenant, id) where state = 'open'",
    """
    create table signals (
      tenant   int not null,
      run_id   uuid not null,
      no       int not null,
      name     text not null,
      key      text,
      at       timestamptz not null,
      by       text,
      taken_by uuid,
      payload  json,
      constraint signals_pk primary key (tenant, run_id, no),
      constraint signals_key unique (tenant, run_id, key)
    )
    """,
    """
    create table graphs (
      tenant        int not null,
      name          text not null,
      version       text not null,
      registered_at timestamptz not null default engine_now(),
      spec          json not null,
      input_schema  json,
      constraint graphs_pk primary key (tenant, name, version)
    )
    """,
    """
    create table artifacts (
      tenant     int not null,
      run_id     uuid not null,
      id         uuid not null,
      step_no    int,
      name       text not null,
      media_type text not null,
      sha256     text not null,
      bytes      bigint not null,
      at         timestamptz not null,
      constraint artifacts_pk primary key (tenant, run_id, id),
      constraint artifacts_id_unique unique (tenant, id)
    )
    """,
    "alter table dead_letters drop constraint dead_letters_reason",
    """
    alter table dead_letters add constraint dead_letters_reason check (reason in ('attempts_exhausted', 'non_retryable',
      'poisoned', 'condition_error', 'payload_rejected', 'rejected', 'expired', 'unknown_effect', 'diverged', 'refused',
      'invalid_input', 'compensation_failed'))
    """,
    # As before, with the effects' table among those that are partitioned.
    """
    create or replace function ensure_partitions(first timestamptz, last timestamptz) returns int language plpgsql as $$
    declare
      parent text;
      week timestamptz;
      child text;
      made int := 0;
    begin
      perform pg_advisory_xact_lock(hashtext('durable_agent.partitions'));
      week := date_trunc('week', first at time zone 'utc') at time zone 'utc';
      while week <= last loop
        foreach parent in array array['runs', 'steps', 'events', 'effects'] loop
          child := parent || '_w' || to_char(week at time zone 'utc', 'YYYYMMDD');
          if to_regclass(child) is null then
            execute format('create table %I (like %I including defaults including constraints)', child, parent);
            if parent in ('steps', 'effects') then
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
    # A week is kept as long as a run outside it that is kept itself refers to one of its runs.
    """
    create or replace function drop_ended_partitions(before timestamptz) returns int language plpgsql as $$
    declare
      child text;
      week timestamptz;
      low uuid;
      high uuid;
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
        low := uuid_floor(week);
        high := uuid_floor(week + interval '7 days');
        execute format('select exists (select from %I where finished_at is null or finished_at >= %L)', child, before)
          into busy;
        continue when busy;
        select exists (select from runs r where r.origin >= low and r.origin < high and r.id >= high) into busy;
        continue when busy;
        delete from dead_letters d where d.run_id >= low and d.run_id < high;
        delete from waits w where w.run_id >= low and w.run_id < high;
        delete from signals s where s.run_id >= low and s.run_id < high;
        delete from artifacts a where a.run_id >= low and a.run_id < high;
        execute format('drop table %I, %I, %I, %I', 'effects_' || right(child, 9), 'events_' || right(child, 9),
                       'steps_' || right(child, 9), child);
        dropped := dropped + 1;
      end loop;
      delete from idempotency_keys k where k.created_at < before;
      return dropped;
    end
    $$
    """,
    """
    create or replace function reset_one_empty_partition() returns boolean language plpgsql as $$
    declare
      child text;
      used boolean;
    begin
      for child in
        select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent in ('runs'::regclass, 'steps'::regclass, 'events'::regclass, 'effects'::regclass)
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
    # The weeks that stand already get their table of effects, with the bounds they have; then the fortnight ahead as ever.
    """
    do $$
    declare
      week record;
      made text;
    begin
      for week in
        select c.relname as child, pg_get_expr(c.relpartbound, c.oid) as bound
        from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'runs'::regclass and c.relname like 'runs\\_w%' order by c.relname
      loop
        made := 'effects_' || right(week.child, 9);
        execute format('create table %I (like effects including defaults including constraints)', made);
        execute format('alter table %I set (fillfactor = 55)', made);
        execute format('alter table effects attach partition %I %s', made, week.bound);
      end loop;
    end
    $$
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.get_bind().connection.driver_connection.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("migrations go forward only: restore a backup to go back")
