"""Retention: whole weeks of ended runs go, a week with an open run stays."""

from __future__ import annotations

from tests.support.postgres import Database
from tests.support.runs import Engine, run_of, step

DAY = 86_400


def weeks(database: Database) -> int:
    (count,) = database.execute("select count(*) from pg_inherits where inhparent = 'runs'::regclass")[0]
    return int(str(count))


async def keep(engine: Engine) -> int:
    async with engine.pools.transaction() as conn:
        return await engine.upkeep.keep_partitions(conn)


async def test_a_week_of_ended_runs_is_dropped_after_the_retention(engine: Engine, database: Database) -> None:
    await engine.submit(run_of(step("a")), "key", b"digest")
    hand = engine.hand()
    (claim,) = await hand.claim()
    await hand.succeed(claim)
    database.move_clock(29 * DAY)  # whatever day it is: whole weeks go, and none before its last day is old enough
    await keep(engine)
    assert database.execute("select count(*) from runs") == [(1,)]
    database.move_clock(45 * DAY)
    assert await keep(engine) > 0
    for table in ("runs", "steps", "events", "idempotency_keys"):
        assert database.execute(f"select count(*) from {table}") == [(0,)]
    engine.runs.clear()


async def test_a_week_with_an_open_run_stays(engine: Engine, database: Database) -> None:
    run = await engine.submit(run_of(step("a")))
    database.move_clock(100 * DAY)
    await keep(engine)
    assert (await engine.run(run))["status"] == "pending"


async def test_a_key_is_its_runs_for_as_long_as_there_is_one(engine: Engine, database: Database) -> None:
    run = await engine.submit(run_of(step("a")), "key", b"digest")
    database.move_clock(45 * DAY)
    await keep(engine)
    assert await engine.submit(run_of(step("a")), "key", b"digest") == run
    hand = engine.hand()
    (claim,) = await hand.claim()
    await hand.succeed(claim)
    database.move_clock(90 * DAY)
    await keep(engine)
    assert await engine.submit(run_of(step("a")), "key", b"digest") != run
    engine.runs[:] = engine.runs[-1:]


async def test_coming_weeks_are_made_ahead(engine: Engine, database: Database) -> None:
    await keep(engine)  # the template may be of last week
    before = weeks(database)
    database.move_clock(14 * DAY)
    engine.upkeep.retention_days = 0
    await keep(engine)
    assert weeks(database) == before + 2
