"""Weeks: the same in every time zone, beside whatever stands, and with the runs that came before them."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from uuid import UUID

import psycopg
import pytest

from tests.support.postgres import Database
from tests.support.runs import Engine, run_of, step

DAY = 86_400
PARENTS = ("runs", "steps", "events", "effects")
NO_WEEKS = (
    "do $$ declare t text; begin for t in select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid"
    " where c.relname ~ '_w[0-9]{8}$' and c.relkind = 'r' loop execute 'drop table ' || t; end loop; end $$"
)
# A week as the functions of before made it in a local zone: from and to some hours off.
SHIFTED = (
    "create table {parent}_w{name} partition of {parent} for values from"
    " (uuid_floor('{name}+00'::timestamptz + interval '{low} hours'))"
    " to (uuid_floor('{name}+00'::timestamptz + interval '{high} hours'))"
)


def ranges(database: Database, parent: str = "runs") -> list[tuple[object, ...]]:
    """Return a table's partitions but the default one, each with its bounds, in their order."""
    return database.execute(
        "select c.relname, substring(b.bound from 'FROM [(]''([^'']+)')::uuid, substring(b.bound from 'TO [(]''([^'']+)')::uuid"
        " from pg_inherits i join pg_class c on c.oid = i.inhrelid"
        " cross join lateral (select pg_get_expr(c.relpartbound, c.oid) as bound) b"
        f" where i.inhparent = '{parent}'::regclass and b.bound <> 'DEFAULT' order by 2"
    )


def ensure(database: Database, day: str, days: int = 14) -> None:
    database.execute(
        f"select ensure_partitions('{day}+00'::timestamptz, '{day}+00'::timestamptz + interval '{days} days')"
    )


async def keep(engine: Engine) -> int:
    async with engine.pools.transaction() as conn:
        return await engine.upkeep.keep_partitions(conn)


def lie_in(database: Database, run: UUID) -> set[str]:
    """Return what holds a run's rows: the ends of the partitions' names."""
    query = " union ".join(
        f"select replace(tableoid::regclass::text, '{p}_', '') from {p} where {'id' if p == 'runs' else 'run_id'} = %(run)s"
        for p in PARENTS
    ).replace("%(run)s", f"'{run}'")
    return {str(name) for (name,) in database.execute(query)}


async def before_its_week(engine: Engine, database: Database, key: str | None = None) -> UUID:
    """Return a run whose id lies a month ahead of the engine's clock: its client's clock was ahead of it."""
    database.execute(NO_WEEKS)
    database.move_clock(-30 * DAY)
    await keep(engine)
    run = await engine.submit(run_of(step("a")), key, b"digest" if key else None)
    assert lie_in(database, run) == {"default"}
    return run


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York"])
@pytest.mark.parametrize("first", ["2026-10-12", "2027-03-01"])
def test_weeks_are_utcs_whatever_the_session_says(database: Database, zone: str, first: str) -> None:
    """Behind a pooler no session is set up, and the server's zone has weeks of 167 and 169 hours."""
    database.execute(NO_WEEKS)
    with psycopg.connect(database.url, autocommit=True) as conn:
        conn.execute(f"set timezone = '{zone}'".encode())
        for week in range(5):
            at = f"'{first} 12:00+00'::timestamptz + interval '{168 * week} hours'"
            conn.execute(f"select ensure_partitions({at}, {at} + interval '14 days')".encode())
    for parent in PARENTS:
        found = ranges(database, parent)
        assert len(found) == 7
        for child, low, high in found:
            named = f"'{str(child)[-8:]}+00'::timestamptz"
            (expected,) = database.execute(f"select uuid_floor({named}), uuid_floor({named} + interval '168 hours')")
            assert (low, high) == expected


@pytest.mark.parametrize("shapes", [
    [("20261019", 0, 169), ("20261026", 1, 169)],  # over an autumn's change
    [("20260323", 0, 167), ("20260329", 23, 191)],  # over a spring's, named by a Sunday
])  # fmt: skip
def test_a_week_is_what_those_made_in_a_local_zone_leave_of_it(
    database: Database, shapes: list[tuple[str, int, int]]
) -> None:
    database.execute(NO_WEEKS)
    for name, low, high in shapes:
        for parent in PARENTS:
            database.execute(SHIFTED.format(parent=parent, name=name, low=low, high=high))
    for _ in range(2):
        ensure(database, shapes[0][0], 28)
    for parent in PARENTS:
        found = ranges(database, parent)
        assert len(found) >= 5
        assert [high for _, _, high in found[:-1]] == [low for _, low, _ in found[1:]]  # no gap


async def test_a_run_that_came_before_its_week_lies_in_it_once_it_is_made(engine: Engine, database: Database) -> None:
    run = await before_its_week(engine, database)
    database.move_clock(0)
    await keep(engine)
    (week,) = lie_in(database, run)
    assert week.startswith("w")
    hand = engine.hand()
    (claim,) = await hand.claim()
    await hand.succeed(claim)
    await engine.assert_sound()
    database.move_clock(45 * DAY)
    assert await keep(engine) > 0
    for table in PARENTS:
        assert database.execute(f"select count(*) from {table}") == [(0,)]
    engine.runs.clear()


async def test_a_week_that_too_many_rows_wait_for_stops_no_other(engine: Engine, database: Database) -> None:
    run = await before_its_week(engine, database, "key")
    many = (
        "insert into events select tenant, run_id, seq + 1000 + n, step_no, at, type, hash, data, detail"
        " from events cross join generate_series(1, 20001) n where seq = 1"
    )
    database.execute(many)
    database.move_clock(0)
    await keep(engine)
    assert lie_in(database, run) == {"default"}
    assert len(ranges(database)) >= 5  # those of a month ago, and the coming ones
    # Retention takes it from there, row by row, and its key.
    database.execute("update runs set status = 'cancelled', finished_at = engine_now()")
    database.move_clock(45 * DAY)
    await keep(engine)
    for table in (*PARENTS, "idempotency_keys"):
        assert database.execute(f"select count(*) from {table}") == [(0,)]
    engine.runs.clear()


async def test_a_run_in_no_week_stays_while_another_refers_to_it(engine: Engine, database: Database) -> None:
    origin = await before_its_week(engine, database)
    fork = await engine.submit(run_of(step("a")))
    database.execute("update runs set status = 'cancelled', finished_at = engine_now() where id = %s", origin)
    database.execute("update runs set origin = %s where id = %s", origin, fork)
    engine.upkeep.retention_days = 1
    database.move_clock(-28 * DAY)
    await keep(engine)
    assert database.execute("select count(*) from runs_default") == [(2,)]
    database.execute("update runs set origin = null")
    await keep(engine)
    assert database.execute("select id from runs_default") == [(fork,)]
    engine.runs.clear()


async def test_an_operators_own_partition_stands_and_stops_nothing(engine: Engine, database: Database) -> None:
    database.execute(
        "create table runs_of_mine partition of runs for values from (uuid_floor(engine_now() + interval '30 days'))"
        " to (uuid_floor(engine_now() + interval '50 days'))"
    )
    database.move_clock(35 * DAY)
    engine.upkeep.retention_days = 0
    await keep(engine)
    database.move_clock(49 * DAY)
    await keep(engine)
    found = ranges(database)
    assert "runs_of_mine" in {child for child, _, _ in found}
    assert all(high <= low for (_, _, high), (_, low, _) in pairwise(found))
    database.move_clock(200 * DAY)
    engine.upkeep.retention_days = 30
    assert await keep(engine) > 0
    assert "runs_of_mine" in {child for child, _, _ in ranges(database)}


async def test_what_cannot_be_made_is_put_off_and_retention_goes_on(engine: Engine, database: Database) -> None:
    database.execute("drop function ensure_partitions")
    database.move_clock(60 * DAY)
    assert await keep(engine) > 0


async def test_a_run_that_is_redriven_as_its_week_is_dropped_is_kept(engine: Engine, database: Database) -> None:
    run = await engine.submit(run_of(step("a")))
    database.execute("update runs set status = 'cancelled', finished_at = engine_now()")
    database.move_clock(45 * DAY)
    engine.upkeep.retention_days = 0
    await keep(engine)
    engine.upkeep.retention_days = 30
    with psycopg.connect(database.url) as other:
        other.execute("update runs set status = 'pending', finished_at = null")
        dropping = asyncio.create_task(keep(engine))
        await engine.blocked()
        other.commit()
    await dropping
    assert (await engine.run(run))["status"] == "pending"
    engine.runs.clear()
