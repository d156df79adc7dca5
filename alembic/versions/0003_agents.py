"""Agents: what they are, what they may spend and what they spent; tool servers, models, limits, breakers, token deltas.

Revision ID: 0003
Revises: 0002
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

STATEMENTS = (
    # `root` is the run at the top of its tree, whose budget the whole tree spends; null: the run itself.
    """
    alter table runs
      add column root uuid,
      add column agent uuid,
      add column budgeted bool not null default false,
      add column paused_for text,
      add column paused_until timestamptz,
      add column calls int not null default 0,
      add column input_tokens bigint not null default 0,
      add column output_tokens bigint not null default 0,
      add column microusd bigint not null default 0,
      add constraint runs_paused_for check (paused_for = 'budget'),
      add constraint runs_spent check (calls >= 0 and input_tokens >= 0 and output_tokens >= 0 and microusd >= 0)
    """,
    "create index runs_agent on runs (tenant, agent) where agent is not null",
    "create index runs_agent_open on runs (agent) where agent is not null and finished_at is null",
    "create index runs_tree on runs (tenant, root) where root is not null",
    "create index runs_broke on runs (paused_until) where paused_for is not null",
    # A reservation is held while its call is under way, and charged when nobody hears the end of it.
    """
    alter table effects
      add column reserved json,
      add column charged json,
      add column usage json,
      add column microusd bigint
    """,
    """
    create table budgets (
      tenant   int not null,
      owner    uuid not null,
      scope    text not null,
      meter    text not null,
      window_s int not null default 0,
      cap      bigint not null,
      spent    bigint not null default 0,
      reserved bigint not null default 0,
      on_limit text not null,
      due_at   timestamptz,
      constraint budgets_pk primary key (tenant, owner, meter, window_s),
      constraint budgets_scope check (scope in ('run', 'agent')),
      constraint budgets_on_limit check (on_limit in ('fail', 'pause')),
      constraint budgets_amounts check (cap >= 0 and spent >= 0 and reserved >= 0),
      constraint budgets_clock check (due_at is null or meter = 'wall_clock_s')
    ) with (fillfactor = 50)
    """,
    "create index budgets_due on budgets (due_at) where due_at is not null",
    # What a rolling window spent, by sixtieths of it: the oldest leave the sum as time goes by.
    """
    create table budget_windows (
      tenant   int not null,
      owner    uuid not null,
      meter    text not null,
      window_s int not null,
      slice    bigint not null,
      spent    bigint not null,
      constraint budget_windows_pk primary key (tenant, owner, meter, window_s, slice)
    ) with (fillfactor = 50)
    """,
    """
    create table agents (
      tenant     int not null,
      id         uuid not null,
      name       text not null,
      version    int not null,
      config     json not null,
      created_at timestamptz not null,
      updated_at timestamptz not null,
      constraint agents_pk primary key (tenant, id),
      constraint agents_name_unique unique (tenant, name),
      constraint agents_version check (version > 0)
    )
    """,
    """
    create table tool_servers (
      tenant     int not null,
      id         uuid not null,
      name       text not null,
      url        text,
      command    text[],
      token      bytea,
      state      text not null,
      digest     text,
      tools      json,
      seen       json,
      seen_digest text,
      error      text,
      created_at timestamptz not null,
      checked_at timestamptz,
      constraint tool_servers_pk primary key (tenant, id),
      constraint tool_servers_name_unique unique (tenant, name),
      constraint tool_servers_place check ((url is null) <> (command is null)),
      constraint tool_servers_state check (state in ('new', 'ready', 'quarantined', 'unreachable'))
    )
    """,
    # What an operator says of a model; what is not here comes from the price table that is built in.
    """
    create table models (
      tenant        int not null,
      provider      text not null,
      name          text not null,
      window_tokens int,
      price         json,
      updated_at    timestamptz not null,
      constraint models_pk primary key (tenant, provider, name)
    )
    """,
    # One row a credential or tool: what it allows, when it allows the next, until when it is held, whether it works.
    """
    create table gates (
      tenant              int not null,
      name                text not null,
      requests_per_minute int,
      tokens_per_minute   bigint,
      concurrency         int,
      requests_at         timestamptz,
      tokens_at           timestamptz,
      held_until          timestamptz,
      state               text not null default 'closed',
      failures            int not null default 0,
      opened_at           timestamptz,
      retry_at            timestamptz,
      probe               uuid,
      error               text,
      constraint gates_pk primary key (tenant, name),
      constraint gates_state check (state in ('closed', 'open', 'half_open')),
      constraint gates_limits check (coalesce(requests_per_minute, 1) > 0 and coalesce(tokens_per_minute, 1) > 0
        and coalesce(concurrency, 1) > 0)
    ) with (fillfactor = 50)
    """,
    """
    create table gate_slots (
      tenant  int not null,
      name    text not null,
      session uuid not null,
      slots   int not null,
      until   timestamptz not null,
      constraint gate_slots_pk primary key (tenant, name, session)
    ) with (fillfactor = 50)
    """,
    # Pieces of answers that are being written, for who watches: gone after a minute, and after a crash of the server.
    """
    create unlogged table deltas (
      tenant   int not null,
      run_id   uuid not null,
      step_no  int not null,
      effect   int not null,
      claim_no int not null,
      piece    int not null,
      at       timestamptz not null,
      text     text not null,
      constraint deltas_pk primary key (tenant, run_id, step_no, effect, claim_no, piece)
    )
    """,
    "create index deltas_at on deltas (at)",
    "create index deltas_run on deltas (tenant, run_id, at)",
    "alter table graphs add column budget json",
    # A step of an agent that has as many runs under way as it may.
    "alter table queue drop constraint queue_state",
    """
    alter table queue add constraint queue_state
      check (state in ('ready', 'scheduled', 'held', 'leased', 'waiting', 'capped'))
    """,
    "create index queue_capped on queue (tenant, run_id) where state = 'capped'",
    # As before; a week is also kept as long as a run outside it belongs to a tree whose root lies in it.
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
        -- What a tree may spend is kept while any run of the tree is.
        select exists (select from runs r where r.root >= low and r.root < high and r.id >= high) into busy;
        continue when busy;
        delete from budgets b where b.scope = 'run' and b.owner >= low and b.owner < high;
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
    "alter table dead_letters drop constraint dead_letters_reason",
    """
    alter table dead_letters add constraint dead_letters_reason check (reason in ('attempts_exhausted', 'non_retryable',
      'poisoned', 'condition_error', 'payload_rejected', 'rejected', 'expired', 'unknown_effect', 'diverged', 'refused',
      'invalid_input', 'compensation_failed', 'budget', 'max_steps'))
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.get_bind().connection.driver_connection.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("migrations go forward only: restore a backup to go back")
