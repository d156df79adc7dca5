"""Weeks that are the same in every time zone, that make room for what stands, and take in what came before them.

Revision ID: 0005
Revises: 0004
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

STATEMENTS = (
    # What each partition really holds: a week that was made in a local time zone begins an hour off its name, and an
    # operator's own partition may be any. The default one has no bounds and is left out.
    """
    create function partition_ranges(parent regclass) returns table (child text, starts uuid, ends uuid)
    language sql stable as $$
      select c.relname::text,
             coalesce(substring(b.bound from 'FROM [(]''([0-9a-f-]+)'), '00000000-0000-0000-0000-000000000000')::uuid,
             coalesce(substring(b.bound from 'TO [(]''([0-9a-f-]+)'), 'ffffffff-ffff-ffff-ffff-ffffffffffff')::uuid
      from pg_inherits i join pg_class c on c.oid = i.inhrelid
      cross join lateral (select pg_get_expr(c.relpartbound, c.oid) as bound) b
      where i.inhparent = parent and b.bound <> 'DEFAULT'
    $$
    """,
    # The first stretch of a range that no partition holds; empty when there is none.
    """
    create function free_range(parent regclass, inout low uuid, inout high uuid) language plpgsql stable as $$
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
    $$
    """,
    # A run that came before its week was made lies in the default partition and goes over with it. The default one is locked
    # first, as attaching locks it anyway: so nothing comes in between, and nobody sees a row in neither.
    """
    create function make_partition(parent text, child text, low uuid, high uuid) returns void language plpgsql as $$
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
    $$
    """,
    # Weeks are UTC's whatever the session says: a pooler's sessions are set by nobody. Where a week meets a partition that
    # stands it is what is left of it. One that more rows wait for than can be moved in a moment is not made: they are served
    # from the default partition, and retention takes them from there.
    """
    create or replace function ensure_partitions(first timestamptz, last timestamptz) returns int language plpgsql
    set timezone = 'UTC' as $$
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
    $$
    """,
    # A week goes by what it holds, not by its name. It stays whole for an open run, one that ended lately, and one that a run
    # outside refers to, be it as what it was forked from or as the root of its tree: what a tree may spend is kept while any
    # run of the tree is. Asked again under the lock, which is taken last: a run may have been redriven meanwhile. A key goes
    # with its run and never before: who asks again with it gets that run for as long as there is one [I10].
    """
    create or replace function drop_ended_partitions(before timestamptz) returns int language plpgsql as $$
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
    $$
    """,
    # The default partition is never dropped: what ended there goes run by run, unless a run that is kept refers to it.
    """
    create function drop_ended_outside(before timestamptz, most int) returns int language plpgsql as $$
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
    $$
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.get_bind().connection.driver_connection.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("migrations go forward only: restore a backup to go back")
