-- The schema as the migrations make it: a reading copy, written by scripts/schema.py. Weekly partitions are left out.

CREATE FUNCTION drop_ended_outside(before timestamp with time zone, most integer) RETURNS integer
    LANGUAGE plpgsql
    AS $_$
    declare
      gone uuid[];
      name text;
    begin
      perform pg_advisory_xact_lock(hashtext('durable_agent.partitions'));
      select array_agg(x.id) into gone from (
        select r.id from runs_default r
        where r.finished_at < before
          and not exists (select from runs o where o.tenant = r.tenant and o.origin = r.id)
          and not exists (select from runs o where o.tenant = r.tenant and o.root = r.id and o.id <> r.id)
        limit most
      ) x;
      if gone is null then
        return 0;
      end if;
      -- Under their locks: one may have been redriven meanwhile.
      select array_agg(x.id) into gone from (
        select r.id from runs_default r where r.id = any(gone) and r.finished_at < before order by r.tenant, r.id for update
      ) x;
      foreach name in array array['effects', 'events', 'steps', 'dead_letters', 'waits', 'signals', 'artifacts'] loop
        execute format('delete from %I d using runs_default r'
                       ' where r.id = any($1) and d.tenant = r.tenant and d.run_id = r.id', name) using gone;
      end loop;
      delete from budgets b using runs_default r
      where r.id = any(gone) and b.tenant = r.tenant and b.scope = 'run' and b.owner = r.id;
      delete from idempotency_keys k using runs_default r
      where k.created_at < before and r.id = any(gone) and r.tenant = k.tenant and r.id = k.run_id;
      delete from runs_default r where r.id = any(gone);
      return coalesce(cardinality(gone), 0);
    end
    $_$;
CREATE FUNCTION drop_ended_partitions(before timestamp with time zone) RETURNS integer
    LANGUAGE plpgsql
    AS $_$
    declare
      unfinished constant text := 'select exists (select from %I where finished_at is null or finished_at >= $1)';
      week record;
      busy boolean;
      inside text;
      dropped int := 0;
    begin
      perform pg_advisory_xact_lock(hashtext('durable_agent.partitions'));
      for week in
        select p.child, p.starts as low, p.ends as high from partition_ranges('runs') p
        where p.child ~ '^runs_w[0-9]{8}$' and p.ends <= uuid_floor(before) order by p.starts
      loop
        execute format(unfinished, week.child) into busy using before;
        continue when busy or exists (
          select from runs r where r.origin >= week.low and r.origin < week.high and (r.id < week.low or r.id >= week.high)
        ) or exists (
          select from runs r where r.root >= week.low and r.root < week.high and (r.id < week.low or r.id >= week.high)
        );
        begin
          execute format('delete from idempotency_keys k using %I r'
                         ' where k.created_at < $1 and r.tenant = k.tenant and r.id = k.run_id', week.child) using before;
          delete from budgets b where b.scope = 'run' and b.owner >= week.low and b.owner < week.high;
          delete from dead_letters d where d.run_id >= week.low and d.run_id < week.high;
          delete from waits w where w.run_id >= week.low and w.run_id < week.high;
          delete from signals s where s.run_id >= week.low and s.run_id < week.high;
          delete from artifacts a where a.run_id >= week.low and a.run_id < week.high;
          execute format('lock table %I in access exclusive mode', week.child);
          execute format(unfinished, week.child) into busy using before;
          if busy then
            raise exception using errcode = 'DA002', message = 'a run was redriven';
          end if;
          select string_agg(format('%I', p.child), ', ') into inside
          from unnest(array['effects', 'events', 'steps', 'runs']) t(parent)
          cross join lateral partition_ranges(t.parent::regclass) p
          where p.child ~ '_w[0-9]{8}$' and p.starts >= week.low and p.ends <= week.high;
          execute 'drop table ' || inside;
          -- Where another partition holds a part of the week.
          delete from effects e where e.run_id >= week.low and e.run_id < week.high;
          delete from events e where e.run_id >= week.low and e.run_id < week.high;
          delete from steps s where s.run_id >= week.low and s.run_id < week.high;
          dropped := dropped + 1;
        exception when sqlstate 'DA002' then
          null; -- all of that week is as it was
        end;
      end loop;
      return dropped;
    end
    $_$;
CREATE FUNCTION engine_now() RETURNS timestamp with time zone
    LANGUAGE sql
    AS $$ select clock_timestamp() $$;
COMMENT ON FUNCTION engine_now() IS 'The only clock of the engine (R5); tests replace it to move time.';
CREATE FUNCTION ensure_partitions(first timestamp with time zone, last timestamp with time zone) RETURNS integer
    LANGUAGE plpgsql
    SET "TimeZone" TO 'UTC'
    AS $$
    declare
      parents constant text[] := array['runs', 'steps', 'events', 'effects'];
      week timestamptz;
      suffix text;
      parent text;
      low uuid;
      high uuid;
      part record;
      crowded boolean;
      made int := 0;
    begin
      first := date_trunc('week', first);
      if not exists (
        select from generate_series(first, last, interval '7 days') w cross join unnest(parents) p(parent)
        where to_regclass(p.parent || to_char(w, '"_w"YYYYMMDD')) is null
      ) then
        return 0;
      end if;
      perform pg_advisory_xact_lock(hashtext('durable_agent.partitions'));
      for week in select generate_series(first, last, interval '7 days') loop
        suffix := to_char(week, '"_w"YYYYMMDD');
        select p.starts, p.ends into low, high from partition_ranges('runs') p where p.child = 'runs' || suffix;
        if not found then
          select f.low, f.high into low, high
          from free_range('runs', uuid_floor(week), uuid_floor(week + interval '7 days')) f;
        end if;
        crowded := false;
        foreach parent in array parents loop
          execute format('select %L or exists (select from %I d where d.%I >= %L and d.%I < %L offset 20000)', crowded,
                         parent || '_default', case parent when 'runs' then 'id' else 'run_id' end, low,
                         case parent when 'runs' then 'id' else 'run_id' end, high) into crowded;
        end loop;
        if crowded then
          raise warning 'the week % is not made: too many rows of it lie in the default partition', suffix;
          continue;
        end if;
        foreach parent in array parents loop
          continue when to_regclass(parent || suffix) is not null;
          select f.low, f.high into part from free_range(parent::regclass, low, high) f;
          continue when part.low >= part.high;
          perform make_partition(parent, parent || suffix, part.low, part.high);
          made := made + 1;
        end loop;
      end loop;
      return made;
    end
    $$;
CREATE FUNCTION free_range(parent regclass, INOUT low uuid, INOUT high uuid) RETURNS record
    LANGUAGE plpgsql STABLE
    AS $$
    declare
      taken uuid;
    begin
      loop
        select p.ends into taken from partition_ranges(parent) p where p.starts <= low and p.ends > low;
        exit when not found;
        low := taken;
      end loop;
      select least(high, p.starts) into high from (values (1)) v
      left join lateral (select p.starts from partition_ranges(parent) p where p.starts > low order by p.starts limit 1) p on true;
    end
    $$;
CREATE FUNCTION make_partition(parent text, child text, low uuid, high uuid) RETURNS void
    LANGUAGE plpgsql
    AS $$
    declare
      key text := case parent when 'runs' then 'id' else 'run_id' end;
    begin
      execute format('create table %I (like %I including defaults including constraints)', child, parent);
      if parent in ('steps', 'effects') then
        execute format('alter table %I set (fillfactor = 55)', child);
      elsif parent = 'runs' then
        execute format('alter table %I set (fillfactor = 50)', child);
      end if;
      execute format('lock table %I in access exclusive mode', parent || '_default');
      execute format('with moved as (delete from %I d where d.%I >= %L and d.%I < %L returning *)'
                     ' insert into %I select * from moved', parent || '_default', key, low, key, high, child);
      execute format('alter table %I attach partition %I for values from (%L) to (%L)', parent, child, low, high);
    end
    $$;
CREATE FUNCTION partition_ranges(parent regclass) RETURNS TABLE(child text, starts uuid, ends uuid)
    LANGUAGE sql STABLE
    AS $$
      select c.relname::text,
             coalesce(substring(b.bound from 'FROM [(]''([0-9a-f-]+)'), '00000000-0000-0000-0000-000000000000')::uuid,
             coalesce(substring(b.bound from 'TO [(]''([0-9a-f-]+)'), 'ffffffff-ffff-ffff-ffff-ffffffffffff')::uuid
      from pg_inherits i join pg_class c on c.oid = i.inhrelid
      cross join lateral (select pg_get_expr(c.relpartbound, c.oid) as bound) b
      where i.inhparent = parent and b.bound <> 'DEFAULT'
    $$;
CREATE FUNCTION require_rows(changed bigint, wanted integer, statement text) RETURNS void
    LANGUAGE plpgsql
    AS $$
    begin
      if changed <> wanted then
        raise exception using errcode = 'DA001',
          message = format('%s changed %s of %s rows: another writer was first', statement, changed, wanted);
      end if;
    end
    $$;
CREATE FUNCTION reset_one_empty_partition() RETURNS boolean
    LANGUAGE plpgsql
    AS $$
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
    $$;
CREATE FUNCTION uuid_floor(at timestamp with time zone) RETURNS uuid
    LANGUAGE sql IMMUTABLE
    AS $$
      select (lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
    $$;
CREATE TABLE agents (
    tenant integer NOT NULL,
    id uuid NOT NULL,
    name text NOT NULL,
    version integer NOT NULL,
    config json NOT NULL,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    CONSTRAINT agents_version CHECK ((version > 0))
);
CREATE TABLE api_keys (
    tenant integer NOT NULL,
    id text NOT NULL,
    name text NOT NULL,
    digest bytea NOT NULL,
    scopes text[] NOT NULL,
    created_at timestamp with time zone NOT NULL,
    expires_at timestamp with time zone,
    revoked_at timestamp with time zone,
    last_used_at timestamp with time zone
);
CREATE TABLE artifacts (
    tenant integer NOT NULL,
    run_id uuid NOT NULL,
    id uuid NOT NULL,
    step_no integer,
    name text NOT NULL,
    media_type text NOT NULL,
    sha256 text NOT NULL,
    bytes bigint NOT NULL,
    at timestamp with time zone NOT NULL
);
CREATE TABLE budget_windows (
    tenant integer NOT NULL,
    owner uuid NOT NULL,
    meter text NOT NULL,
    window_s integer NOT NULL,
    slice bigint NOT NULL,
    spent bigint NOT NULL
)
WITH (fillfactor='50');
CREATE TABLE budgets (
    tenant integer NOT NULL,
    owner uuid NOT NULL,
    scope text NOT NULL,
    meter text NOT NULL,
    window_s integer DEFAULT 0 NOT NULL,
    cap bigint NOT NULL,
    spent bigint DEFAULT 0 NOT NULL,
    reserved bigint DEFAULT 0 NOT NULL,
    on_limit text NOT NULL,
    due_at timestamp with time zone,
    CONSTRAINT budgets_amounts CHECK (((cap >= 0) AND (spent >= 0) AND (reserved >= 0))),
    CONSTRAINT budgets_clock CHECK (((due_at IS NULL) OR (meter = 'wall_clock_s'::text))),
    CONSTRAINT budgets_on_limit CHECK ((on_limit = ANY (ARRAY['fail'::text, 'pause'::text]))),
    CONSTRAINT budgets_scope CHECK ((scope = ANY (ARRAY['run'::text, 'agent'::text])))
)
WITH (fillfactor='50');
CREATE TABLE dead_letters (
    tenant integer NOT NULL,
    run_id uuid NOT NULL,
    no integer NOT NULL,
    name text NOT NULL,
    tool text NOT NULL,
    reason text NOT NULL,
    failure text NOT NULL,
    message text NOT NULL,
    at timestamp with time zone NOT NULL,
    CONSTRAINT dead_letters_reason CHECK ((reason = ANY (ARRAY['attempts_exhausted'::text, 'non_retryable'::text, 'poisoned'::text, 'condition_error'::text, 'payload_rejected'::text, 'rejected'::text, 'expired'::text, 'unknown_effect'::text, 'diverged'::text, 'refused'::text, 'invalid_input'::text, 'compensation_failed'::text, 'budget'::text, 'max_steps'::text])))
);
CREATE UNLOGGED TABLE deltas (
    tenant integer NOT NULL,
    run_id uuid NOT NULL,
    step_no integer NOT NULL,
    effect integer NOT NULL,
    claim_no integer NOT NULL,
    piece integer NOT NULL,
    at timestamp with time zone NOT NULL,
    text text NOT NULL
);
CREATE TABLE effects (
    tenant integer NOT NULL,
    run_id uuid NOT NULL,
    step_no integer NOT NULL,
    no integer NOT NULL,
    name text NOT NULL,
    class text NOT NULL,
    state text NOT NULL,
    request_sha256 text NOT NULL,
    key text NOT NULL,
    claim_no integer NOT NULL,
    sends integer NOT NULL,
    at timestamp with time zone NOT NULL,
    ended_at timestamp with time zone,
    compensate text,
    approval uuid,
    request json,
    result json,
    error json,
    reserved json,
    charged json,
    usage json,
    microusd bigint,
    CONSTRAINT effects_class CHECK ((class = ANY (ARRAY['safe'::text, 'idempotent'::text, 'verify'::text, 'manual'::text]))),
    CONSTRAINT effects_no CHECK ((no > 0)),
    CONSTRAINT effects_state CHECK ((state = ANY (ARRAY['intent'::text, 'done'::text, 'failed'::text, 'unknown'::text, 'resend'::text, 'refused'::text])))
)
PARTITION BY RANGE (run_id);
CREATE TABLE effects_default (
    tenant integer CONSTRAINT effects_tenant_not_null NOT NULL,
    run_id uuid CONSTRAINT effects_run_id_not_null NOT NULL,
    step_no integer CONSTRAINT effects_step_no_not_null NOT NULL,
    no integer CONSTRAINT effects_no_not_null NOT NULL,
    name text CONSTRAINT effects_name_not_null NOT NULL,
    class text CONSTRAINT effects_class_not_null NOT NULL,
    state text CONSTRAINT effects_state_not_null NOT NULL,
    request_sha256 text CONSTRAINT effects_request_sha256_not_null NOT NULL,
    key text CONSTRAINT effects_key_not_null NOT NULL,
    claim_no integer CONSTRAINT effects_claim_no_not_null NOT NULL,
    sends integer CONSTRAINT effects_sends_not_null NOT NULL,
    at timestamp with time zone CONSTRAINT effects_at_not_null NOT NULL,
    ended_at timestamp with time zone,
    compensate text,
    approval uuid,
    request json,
    result json,
    error json,
    reserved json,
    charged json,
    usage json,
    microusd bigint,
    CONSTRAINT effects_class CHECK ((class = ANY (ARRAY['safe'::text, 'idempotent'::text, 'verify'::text, 'manual'::text]))),
    CONSTRAINT effects_no CHECK ((no > 0)),
    CONSTRAINT effects_state CHECK ((state = ANY (ARRAY['intent'::text, 'done'::text, 'failed'::text, 'unknown'::text, 'resend'::text, 'refused'::text])))
);
CREATE TABLE events (
    tenant integer NOT NULL,
    run_id uuid NOT NULL,
    seq integer NOT NULL,
    step_no integer,
    at timestamp with time zone NOT NULL,
    type text NOT NULL,
    hash bytea NOT NULL,
    data json NOT NULL,
    detail json,
    CONSTRAINT events_seq CHECK ((seq > 0))
)
PARTITION BY RANGE (run_id);
CREATE TABLE events_default (
    tenant integer CONSTRAINT events_tenant_not_null NOT NULL,
    run_id uuid CONSTRAINT events_run_id_not_null NOT NULL,
    seq integer CONSTRAINT events_seq_not_null NOT NULL,
    step_no integer,
    at timestamp with time zone CONSTRAINT events_at_not_null NOT NULL,
    type text CONSTRAINT events_type_not_null NOT NULL,
    hash bytea CONSTRAINT events_hash_not_null NOT NULL,
    data json CONSTRAINT events_data_not_null NOT NULL,
    detail json,
    CONSTRAINT events_seq CHECK ((seq > 0))
);
CREATE TABLE gate_slots (
    tenant integer NOT NULL,
    name text NOT NULL,
    session uuid NOT NULL,
    slots integer NOT NULL,
    until timestamp with time zone NOT NULL
)
WITH (fillfactor='50');
CREATE TABLE gates (
    tenant integer NOT NULL,
    name text NOT NULL,
    requests_per_minute integer,
    tokens_per_minute bigint,
    concurrency integer,
    requests_at timestamp with time zone,
    tokens_at timestamp with time zone,
    held_until timestamp with time zone,
    state text DEFAULT 'closed'::text NOT NULL,
    failures integer DEFAULT 0 NOT NULL,
    opened_at timestamp with time zone,
    retry_at timestamp with time zone,
    probe uuid,
    error text,
    CONSTRAINT gates_limits CHECK (((COALESCE(requests_per_minute, 1) > 0) AND (COALESCE(tokens_per_minute, (1)::bigint) > 0) AND (COALESCE(concurrency, 1) > 0))),
    CONSTRAINT gates_state CHECK ((state = ANY (ARRAY['closed'::text, 'open'::text, 'half_open'::text])))
)
WITH (fillfactor='50');
CREATE TABLE graphs (
    tenant integer NOT NULL,
    name text NOT NULL,
    version text NOT NULL,
    registered_at timestamp with time zone DEFAULT engine_now() NOT NULL,
    spec json NOT NULL,
    input_schema json,
    budget json
);
CREATE TABLE idempotency_keys (
    tenant integer NOT NULL,
    key text NOT NULL,
    digest bytea NOT NULL,
    run_id uuid NOT NULL,
    created_at timestamp with time zone NOT NULL,
    CONSTRAINT idempotency_keys_length CHECK (((length(key) >= 1) AND (length(key) <= 255)))
);
CREATE TABLE models (
    tenant integer NOT NULL,
    provider text NOT NULL,
    name text NOT NULL,
    window_tokens integer,
    price json,
    updated_at timestamp with time zone NOT NULL
);
CREATE TABLE queue (
    tenant integer NOT NULL,
    run_id uuid NOT NULL,
    no integer NOT NULL,
    route integer NOT NULL,
    ord bigint NOT NULL,
    state text NOT NULL,
    claim_no integer NOT NULL,
    failures integer NOT NULL,
    crashes integer NOT NULL,
    max_crashes integer NOT NULL,
    deadline_s real NOT NULL,
    due_at timestamp with time zone,
    token uuid,
    last_token uuid,
    session uuid,
    claimed_at timestamp with time zone,
    deadline_at timestamp with time zone,
    queued_at timestamp with time zone NOT NULL,
    effect text,
    CONSTRAINT queue_claims CHECK (((state <> 'leased'::text) OR (claim_no > 0))),
    CONSTRAINT queue_leased CHECK (((state = 'leased'::text) = (token IS NOT NULL))),
    CONSTRAINT queue_owner CHECK (((state = 'leased'::text) = ((session IS NOT NULL) AND (deadline_at IS NOT NULL)))),
    CONSTRAINT queue_scheduled CHECK (((state <> 'scheduled'::text) OR (due_at IS NOT NULL))),
    CONSTRAINT queue_state CHECK ((state = ANY (ARRAY['ready'::text, 'scheduled'::text, 'held'::text, 'leased'::text, 'waiting'::text, 'capped'::text])))
)
WITH (fillfactor='60', autovacuum_vacuum_scale_factor='0.0', autovacuum_vacuum_threshold='2000', autovacuum_analyze_scale_factor='0.0', autovacuum_analyze_threshold='20000');
CREATE TABLE routes (
    tenant integer NOT NULL,
    route integer NOT NULL,
    queue text NOT NULL,
    lane text NOT NULL,
    tool text NOT NULL
);
ALTER TABLE routes ALTER COLUMN route ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME routes_route_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE runs (
    tenant integer NOT NULL,
    id uuid NOT NULL,
    status text NOT NULL,
    steps_total integer NOT NULL,
    steps_left integer NOT NULL,
    last_seq integer NOT NULL,
    chain bytea NOT NULL,
    created_at timestamp with time zone NOT NULL,
    started_at timestamp with time zone,
    finished_at timestamp with time zone,
    lane text NOT NULL,
    graph text,
    goal text,
    error json,
    input json,
    metadata json,
    waiting integer DEFAULT 0 NOT NULL,
    ending text,
    parent_run uuid,
    parent_step integer,
    origin uuid,
    mode text,
    from_step integer,
    graph_version text,
    started_by text,
    root uuid,
    agent uuid,
    budgeted boolean DEFAULT false NOT NULL,
    paused_for text,
    paused_until timestamp with time zone,
    calls integer DEFAULT 0 NOT NULL,
    input_tokens bigint DEFAULT 0 NOT NULL,
    output_tokens bigint DEFAULT 0 NOT NULL,
    microusd bigint DEFAULT 0 NOT NULL,
    CONSTRAINT runs_completed CHECK (((status <> 'completed'::text) OR (steps_left = 0))),
    CONSTRAINT runs_ending CHECK ((ending = ANY (ARRAY['failed'::text, 'cancelled'::text, 'budget_exceeded'::text]))),
    CONSTRAINT runs_final CHECK (((status = ANY (ARRAY['completed'::text, 'failed'::text, 'cancelled'::text, 'budget_exceeded'::text])) = (finished_at IS NOT NULL))),
    CONSTRAINT runs_mode CHECK ((mode = ANY (ARRAY['recorded'::text, 'live'::text]))),
    CONSTRAINT runs_paused_for CHECK ((paused_for = 'budget'::text)),
    CONSTRAINT runs_spent CHECK (((calls >= 0) AND (input_tokens >= 0) AND (output_tokens >= 0) AND (microusd >= 0))),
    CONSTRAINT runs_status CHECK ((status = ANY (ARRAY['pending'::text, 'running'::text, 'waiting'::text, 'waiting_for_approval'::text, 'waiting_for_input'::text, 'paused'::text, 'compensating'::text, 'completed'::text, 'failed'::text, 'cancelled'::text, 'budget_exceeded'::text]))),
    CONSTRAINT runs_steps_left CHECK (((steps_left >= 0) AND (steps_left <= steps_total))),
    CONSTRAINT runs_waiting CHECK ((waiting >= 0))
)
PARTITION BY RANGE (id);
CREATE TABLE runs_default (
    tenant integer CONSTRAINT runs_tenant_not_null NOT NULL,
    id uuid CONSTRAINT runs_id_not_null NOT NULL,
    status text CONSTRAINT runs_status_not_null NOT NULL,
    steps_total integer CONSTRAINT runs_steps_total_not_null NOT NULL,
    steps_left integer CONSTRAINT runs_steps_left_not_null NOT NULL,
    last_seq integer CONSTRAINT runs_last_seq_not_null NOT NULL,
    chain bytea CONSTRAINT runs_chain_not_null NOT NULL,
    created_at timestamp with time zone CONSTRAINT runs_created_at_not_null NOT NULL,
    started_at timestamp with time zone,
    finished_at timestamp with time zone,
    lane text CONSTRAINT runs_lane_not_null NOT NULL,
    graph text,
    goal text,
    error json,
    input json,
    metadata json,
    waiting integer DEFAULT 0 CONSTRAINT runs_waiting_not_null NOT NULL,
    ending text,
    parent_run uuid,
    parent_step integer,
    origin uuid,
    mode text,
    from_step integer,
    graph_version text,
    started_by text,
    root uuid,
    agent uuid,
    budgeted boolean DEFAULT false CONSTRAINT runs_budgeted_not_null NOT NULL,
    paused_for text,
    paused_until timestamp with time zone,
    calls integer DEFAULT 0 CONSTRAINT runs_calls_not_null NOT NULL,
    input_tokens bigint DEFAULT 0 CONSTRAINT runs_input_tokens_not_null NOT NULL,
    output_tokens bigint DEFAULT 0 CONSTRAINT runs_output_tokens_not_null NOT NULL,
    microusd bigint DEFAULT 0 CONSTRAINT runs_microusd_not_null NOT NULL,
    CONSTRAINT runs_completed CHECK (((status <> 'completed'::text) OR (steps_left = 0))),
    CONSTRAINT runs_ending CHECK ((ending = ANY (ARRAY['failed'::text, 'cancelled'::text, 'budget_exceeded'::text]))),
    CONSTRAINT runs_final CHECK (((status = ANY (ARRAY['completed'::text, 'failed'::text, 'cancelled'::text, 'budget_exceeded'::text])) = (finished_at IS NOT NULL))),
    CONSTRAINT runs_mode CHECK ((mode = ANY (ARRAY['recorded'::text, 'live'::text]))),
    CONSTRAINT runs_paused_for CHECK ((paused_for = 'budget'::text)),
    CONSTRAINT runs_spent CHECK (((calls >= 0) AND (input_tokens >= 0) AND (output_tokens >= 0) AND (microusd >= 0))),
    CONSTRAINT runs_status CHECK ((status = ANY (ARRAY['pending'::text, 'running'::text, 'waiting'::text, 'waiting_for_approval'::text, 'waiting_for_input'::text, 'paused'::text, 'compensating'::text, 'completed'::text, 'failed'::text, 'cancelled'::text, 'budget_exceeded'::text]))),
    CONSTRAINT runs_steps_left CHECK (((steps_left >= 0) AND (steps_left <= steps_total))),
    CONSTRAINT runs_waiting CHECK ((waiting >= 0))
);
CREATE TABLE signals (
    tenant integer NOT NULL,
    run_id uuid NOT NULL,
    no integer NOT NULL,
    name text NOT NULL,
    key text,
    at timestamp with time zone NOT NULL,
    by text,
    taken_by uuid,
    payload json
);
CREATE TABLE steps (
    tenant integer NOT NULL,
    run_id uuid NOT NULL,
    no integer NOT NULL,
    status text NOT NULL,
    deps_left integer NOT NULL,
    taken integer DEFAULT 0 NOT NULL,
    claim_no integer DEFAULT 0 NOT NULL,
    failures integer DEFAULT 0 NOT NULL,
    crashes integer DEFAULT 0 NOT NULL,
    max_attempts integer NOT NULL,
    max_crashes integer NOT NULL,
    route integer NOT NULL,
    ord bigint NOT NULL,
    timeout_s real,
    deadline_s real NOT NULL,
    done_token uuid,
    started_at timestamp with time zone,
    finished_at timestamp with time zone,
    name text NOT NULL,
    kind text NOT NULL,
    tool text NOT NULL,
    worker text,
    condition text,
    parents integer[] NOT NULL,
    children integer[] NOT NULL,
    edge_conditions json,
    retry json NOT NULL,
    input json,
    output json,
    error json,
    spawned_by integer,
    spawn_index integer,
    compensates integer,
    compensate text,
    in_doubt text,
    origin uuid,
    shared boolean DEFAULT false NOT NULL,
    edited boolean DEFAULT false NOT NULL,
    CONSTRAINT steps_deps_left CHECK (((deps_left >= 0) AND (deps_left <= cardinality(parents)))),
    CONSTRAINT steps_finished CHECK (((status = ANY (ARRAY['succeeded'::text, 'dead_letter'::text, 'skipped'::text, 'cancelled'::text, 'compensated'::text])) = (finished_at IS NOT NULL))),
    CONSTRAINT steps_promoted CHECK (((status = ANY (ARRAY['pending'::text, 'cancelled'::text])) OR (deps_left = 0))),
    CONSTRAINT steps_shared CHECK (((NOT shared) OR (origin IS NOT NULL))),
    CONSTRAINT steps_status CHECK ((status = ANY (ARRAY['pending'::text, 'queued'::text, 'waiting'::text, 'succeeded'::text, 'dead_letter'::text, 'skipped'::text, 'cancelled'::text, 'compensated'::text]))),
    CONSTRAINT steps_taken CHECK (((taken >= 0) AND (taken <= (cardinality(parents) - deps_left)))),
    CONSTRAINT steps_winner CHECK (((status <> 'succeeded'::text) OR shared OR edited OR ((done_token IS NOT NULL) AND (claim_no > 0))))
)
PARTITION BY RANGE (run_id);
CREATE TABLE steps_default (
    tenant integer CONSTRAINT steps_tenant_not_null NOT NULL,
    run_id uuid CONSTRAINT steps_run_id_not_null NOT NULL,
    no integer CONSTRAINT steps_no_not_null NOT NULL,
    status text CONSTRAINT steps_status_not_null NOT NULL,
    deps_left integer CONSTRAINT steps_deps_left_not_null NOT NULL,
    taken integer DEFAULT 0 CONSTRAINT steps_taken_not_null NOT NULL,
    claim_no integer DEFAULT 0 CONSTRAINT steps_claim_no_not_null NOT NULL,
    failures integer DEFAULT 0 CONSTRAINT steps_failures_not_null NOT NULL,
    crashes integer DEFAULT 0 CONSTRAINT steps_crashes_not_null NOT NULL,
    max_attempts integer CONSTRAINT steps_max_attempts_not_null NOT NULL,
    max_crashes integer CONSTRAINT steps_max_crashes_not_null NOT NULL,
    route integer CONSTRAINT steps_route_not_null NOT NULL,
    ord bigint CONSTRAINT steps_ord_not_null NOT NULL,
    timeout_s real,
    deadline_s real CONSTRAINT steps_deadline_s_not_null NOT NULL,
    done_token uuid,
    started_at timestamp with time zone,
    finished_at timestamp with time zone,
    name text CONSTRAINT steps_name_not_null NOT NULL,
    kind text CONSTRAINT steps_kind_not_null NOT NULL,
    tool text CONSTRAINT steps_tool_not_null NOT NULL,
    worker text,
    condition text,
    parents integer[] CONSTRAINT steps_parents_not_null NOT NULL,
    children integer[] CONSTRAINT steps_children_not_null NOT NULL,
    edge_conditions json,
    retry json CONSTRAINT steps_retry_not_null NOT NULL,
    input json,
    output json,
    error json,
    spawned_by integer,
    spawn_index integer,
    compensates integer,
    compensate text,
    in_doubt text,
    origin uuid,
    shared boolean DEFAULT false CONSTRAINT steps_shared_not_null NOT NULL,
    edited boolean DEFAULT false CONSTRAINT steps_edited_not_null NOT NULL,
    CONSTRAINT steps_deps_left CHECK (((deps_left >= 0) AND (deps_left <= cardinality(parents)))),
    CONSTRAINT steps_finished CHECK (((status = ANY (ARRAY['succeeded'::text, 'dead_letter'::text, 'skipped'::text, 'cancelled'::text, 'compensated'::text])) = (finished_at IS NOT NULL))),
    CONSTRAINT steps_promoted CHECK (((status = ANY (ARRAY['pending'::text, 'cancelled'::text])) OR (deps_left = 0))),
    CONSTRAINT steps_shared CHECK (((NOT shared) OR (origin IS NOT NULL))),
    CONSTRAINT steps_status CHECK ((status = ANY (ARRAY['pending'::text, 'queued'::text, 'waiting'::text, 'succeeded'::text, 'dead_letter'::text, 'skipped'::text, 'cancelled'::text, 'compensated'::text]))),
    CONSTRAINT steps_taken CHECK (((taken >= 0) AND (taken <= (cardinality(parents) - deps_left)))),
    CONSTRAINT steps_winner CHECK (((status <> 'succeeded'::text) OR shared OR edited OR ((done_token IS NOT NULL) AND (claim_no > 0))))
);
CREATE TABLE tenants (
    tenant integer NOT NULL,
    name text NOT NULL,
    secret bytea NOT NULL,
    created_at timestamp with time zone DEFAULT engine_now() NOT NULL,
    CONSTRAINT tenants_positive CHECK ((tenant > 0))
);
CREATE TABLE tool_servers (
    tenant integer NOT NULL,
    id uuid NOT NULL,
    name text NOT NULL,
    url text,
    command text[],
    token bytea,
    state text NOT NULL,
    digest text,
    tools json,
    seen json,
    seen_digest text,
    error text,
    created_at timestamp with time zone NOT NULL,
    checked_at timestamp with time zone,
    CONSTRAINT tool_servers_place CHECK (((url IS NULL) <> (command IS NULL))),
    CONSTRAINT tool_servers_state CHECK ((state = ANY (ARRAY['new'::text, 'ready'::text, 'quarantined'::text, 'unreachable'::text])))
);
CREATE TABLE waits (
    tenant integer NOT NULL,
    id uuid NOT NULL,
    run_id uuid NOT NULL,
    step_no integer NOT NULL,
    no integer NOT NULL,
    kind text NOT NULL,
    name text NOT NULL,
    state text NOT NULL,
    request_sha256 text NOT NULL,
    allow_self boolean NOT NULL,
    steps_left integer DEFAULT 0 NOT NULL,
    child_run uuid,
    due_at timestamp with time zone,
    opened_at timestamp with time zone NOT NULL,
    answered_at timestamp with time zone,
    consumed_at timestamp with time zone,
    answered_by text,
    effect_no integer,
    request json,
    answer json,
    CONSTRAINT waits_answered CHECK (((state = 'open'::text) = (answered_at IS NULL))),
    CONSTRAINT waits_kind CHECK ((kind = ANY (ARRAY['approval'::text, 'input'::text, 'signal'::text, 'timer'::text, 'steps'::text, 'run'::text, 'unknown_effect'::text]))),
    CONSTRAINT waits_state CHECK ((state = ANY (ARRAY['open'::text, 'answered'::text, 'cancelled'::text]))),
    CONSTRAINT waits_steps_left CHECK ((steps_left >= 0))
);
CREATE TABLE workers (
    tenant integer DEFAULT 0 NOT NULL,
    session uuid NOT NULL,
    worker text NOT NULL,
    state text NOT NULL,
    lease_until timestamp with time zone NOT NULL,
    beat_at timestamp with time zone NOT NULL,
    suspected_at timestamp with time zone,
    backend_pid integer,
    backend_start timestamp with time zone,
    started_at timestamp with time zone NOT NULL,
    stopped_at timestamp with time zone,
    running integer NOT NULL,
    concurrency integer NOT NULL,
    loop_lag_ms integer DEFAULT 0 NOT NULL,
    queues text[] NOT NULL,
    offers text[] NOT NULL,
    host text NOT NULL,
    os_pid integer NOT NULL,
    version text NOT NULL,
    CONSTRAINT workers_load CHECK (((running >= 0) AND (concurrency > 0))),
    CONSTRAINT workers_state CHECK ((state = ANY (ARRAY['active'::text, 'draining'::text, 'stopped'::text, 'lost'::text])))
)
WITH (fillfactor='50');
CREATE UNLOGGED TABLE ws_tickets (
    tenant integer NOT NULL,
    digest bytea NOT NULL,
    key_id text,
    expires_at timestamp with time zone NOT NULL
);
ALTER TABLE ONLY effects ATTACH PARTITION effects_default DEFAULT;
ALTER TABLE ONLY events ATTACH PARTITION events_default DEFAULT;
ALTER TABLE ONLY runs ATTACH PARTITION runs_default DEFAULT;
ALTER TABLE ONLY steps ATTACH PARTITION steps_default DEFAULT;
ALTER TABLE ONLY agents
    ADD CONSTRAINT agents_name_unique UNIQUE (tenant, name);
ALTER TABLE ONLY agents
    ADD CONSTRAINT agents_pk PRIMARY KEY (tenant, id);
ALTER TABLE ONLY api_keys
    ADD CONSTRAINT api_keys_id_unique UNIQUE (id);
ALTER TABLE ONLY api_keys
    ADD CONSTRAINT api_keys_pk PRIMARY KEY (tenant, id);
ALTER TABLE ONLY artifacts
    ADD CONSTRAINT artifacts_id_unique UNIQUE (tenant, id);
ALTER TABLE ONLY artifacts
    ADD CONSTRAINT artifacts_pk PRIMARY KEY (tenant, run_id, id);
ALTER TABLE ONLY budget_windows
    ADD CONSTRAINT budget_windows_pk PRIMARY KEY (tenant, owner, meter, window_s, slice);
ALTER TABLE ONLY budgets
    ADD CONSTRAINT budgets_pk PRIMARY KEY (tenant, owner, meter, window_s);
ALTER TABLE ONLY dead_letters
    ADD CONSTRAINT dead_letters_pk PRIMARY KEY (tenant, run_id, no);
ALTER TABLE ONLY deltas
    ADD CONSTRAINT deltas_pk PRIMARY KEY (tenant, run_id, step_no, effect, claim_no, piece);
ALTER TABLE ONLY effects
    ADD CONSTRAINT effects_pk PRIMARY KEY (tenant, run_id, step_no, no);
ALTER TABLE ONLY effects_default
    ADD CONSTRAINT effects_default_pkey PRIMARY KEY (tenant, run_id, step_no, no);
ALTER TABLE ONLY events
    ADD CONSTRAINT events_pk PRIMARY KEY (tenant, run_id, seq);
ALTER TABLE ONLY events_default
    ADD CONSTRAINT events_default_pkey PRIMARY KEY (tenant, run_id, seq);
ALTER TABLE ONLY gate_slots
    ADD CONSTRAINT gate_slots_pk PRIMARY KEY (tenant, name, session);
ALTER TABLE ONLY gates
    ADD CONSTRAINT gates_pk PRIMARY KEY (tenant, name);
ALTER TABLE ONLY graphs
    ADD CONSTRAINT graphs_pk PRIMARY KEY (tenant, name, version);
ALTER TABLE ONLY idempotency_keys
    ADD CONSTRAINT idempotency_keys_pk PRIMARY KEY (tenant, key);
ALTER TABLE ONLY models
    ADD CONSTRAINT models_pk PRIMARY KEY (tenant, provider, name);
ALTER TABLE ONLY queue
    ADD CONSTRAINT queue_pk PRIMARY KEY (tenant, run_id, no);
ALTER TABLE ONLY routes
    ADD CONSTRAINT routes_pk PRIMARY KEY (tenant, route);
ALTER TABLE ONLY routes
    ADD CONSTRAINT routes_unique UNIQUE (tenant, queue, lane, tool);
ALTER TABLE ONLY runs
    ADD CONSTRAINT runs_pk PRIMARY KEY (tenant, id);
ALTER TABLE ONLY runs_default
    ADD CONSTRAINT runs_default_pkey PRIMARY KEY (tenant, id);
ALTER TABLE ONLY signals
    ADD CONSTRAINT signals_key UNIQUE (tenant, run_id, key);
ALTER TABLE ONLY signals
    ADD CONSTRAINT signals_pk PRIMARY KEY (tenant, run_id, no);
ALTER TABLE ONLY steps
    ADD CONSTRAINT steps_pk PRIMARY KEY (tenant, run_id, no);
ALTER TABLE ONLY steps_default
    ADD CONSTRAINT steps_default_pkey PRIMARY KEY (tenant, run_id, no);
ALTER TABLE ONLY tenants
    ADD CONSTRAINT tenants_name_unique UNIQUE (name);
ALTER TABLE ONLY tenants
    ADD CONSTRAINT tenants_pk PRIMARY KEY (tenant);
ALTER TABLE ONLY tool_servers
    ADD CONSTRAINT tool_servers_name_unique UNIQUE (tenant, name);
ALTER TABLE ONLY tool_servers
    ADD CONSTRAINT tool_servers_pk PRIMARY KEY (tenant, id);
ALTER TABLE ONLY waits
    ADD CONSTRAINT waits_pk PRIMARY KEY (tenant, id);
ALTER TABLE ONLY waits
    ADD CONSTRAINT waits_step UNIQUE (tenant, run_id, step_no, no);
ALTER TABLE ONLY workers
    ADD CONSTRAINT workers_pk PRIMARY KEY (tenant, session);
ALTER TABLE ONLY ws_tickets
    ADD CONSTRAINT ws_tickets_digest_unique UNIQUE (digest);
ALTER TABLE ONLY ws_tickets
    ADD CONSTRAINT ws_tickets_pk PRIMARY KEY (tenant, digest);
CREATE INDEX budgets_due ON budgets USING btree (due_at) WHERE (due_at IS NOT NULL);
CREATE INDEX deltas_at ON deltas USING btree (at);
CREATE INDEX deltas_run ON deltas USING btree (tenant, run_id, at);
CREATE INDEX idempotency_keys_age ON idempotency_keys USING btree (created_at);
CREATE INDEX queue_capped ON queue USING btree (tenant, run_id) WHERE (state = 'capped'::text);
CREATE INDEX queue_leased ON queue USING btree (session) WHERE (state = 'leased'::text);
CREATE INDEX queue_ready ON queue USING btree (tenant, route, ord) WHERE (state = 'ready'::text);
CREATE INDEX queue_scheduled ON queue USING btree (due_at) WHERE (state = 'scheduled'::text);
CREATE INDEX runs_agent ON ONLY runs USING btree (tenant, agent) WHERE (agent IS NOT NULL);
CREATE INDEX runs_agent_open ON ONLY runs USING btree (agent) WHERE ((agent IS NOT NULL) AND (finished_at IS NULL));
CREATE INDEX runs_broke ON ONLY runs USING btree (paused_until) WHERE (paused_for IS NOT NULL);
CREATE INDEX runs_default_agent_idx ON runs_default USING btree (agent) WHERE ((agent IS NOT NULL) AND (finished_at IS NULL));
CREATE INDEX runs_default_paused_until_idx ON runs_default USING btree (paused_until) WHERE (paused_for IS NOT NULL);
CREATE INDEX runs_default_tenant_agent_idx ON runs_default USING btree (tenant, agent) WHERE (agent IS NOT NULL);
CREATE INDEX runs_ended ON ONLY runs USING btree (tenant, finished_at) WHERE (finished_at IS NOT NULL);
CREATE INDEX runs_default_tenant_finished_at_idx ON runs_default USING btree (tenant, finished_at) WHERE (finished_at IS NOT NULL);
CREATE INDEX runs_open ON ONLY runs USING btree (tenant, id) WHERE (finished_at IS NULL);
CREATE INDEX runs_default_tenant_id_idx ON runs_default USING btree (tenant, id) WHERE (finished_at IS NULL);
CREATE INDEX runs_origin ON ONLY runs USING btree (tenant, origin) WHERE (origin IS NOT NULL);
CREATE INDEX runs_default_tenant_origin_idx ON runs_default USING btree (tenant, origin) WHERE (origin IS NOT NULL);
CREATE INDEX runs_tree ON ONLY runs USING btree (tenant, root) WHERE (root IS NOT NULL);
CREATE INDEX runs_default_tenant_root_idx ON runs_default USING btree (tenant, root) WHERE (root IS NOT NULL);
CREATE INDEX waits_cancelled ON waits USING btree (answered_at) WHERE ((state = 'cancelled'::text) AND (child_run IS NOT NULL));
CREATE INDEX waits_child ON waits USING btree (tenant, child_run) WHERE ((state = 'open'::text) AND (child_run IS NOT NULL));
CREATE INDEX waits_due ON waits USING btree (due_at) WHERE ((state = 'open'::text) AND (due_at IS NOT NULL));
CREATE INDEX waits_open ON waits USING btree (tenant, id) WHERE (state = 'open'::text);
CREATE INDEX ws_tickets_age ON ws_tickets USING btree (expires_at);
ALTER INDEX effects_pk ATTACH PARTITION effects_default_pkey;
ALTER INDEX events_pk ATTACH PARTITION events_default_pkey;
ALTER INDEX runs_agent_open ATTACH PARTITION runs_default_agent_idx;
ALTER INDEX runs_broke ATTACH PARTITION runs_default_paused_until_idx;
ALTER INDEX runs_pk ATTACH PARTITION runs_default_pkey;
ALTER INDEX runs_agent ATTACH PARTITION runs_default_tenant_agent_idx;
ALTER INDEX runs_ended ATTACH PARTITION runs_default_tenant_finished_at_idx;
ALTER INDEX runs_open ATTACH PARTITION runs_default_tenant_id_idx;
ALTER INDEX runs_origin ATTACH PARTITION runs_default_tenant_origin_idx;
ALTER INDEX runs_tree ATTACH PARTITION runs_default_tenant_root_idx;
ALTER INDEX steps_pk ATTACH PARTITION steps_default_pkey;
