"""What waits for a lock sees what was committed meanwhile: PostgreSQL looks again at the row, and so must we."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg

from durable_agent.db.arrays import literals
from durable_agent.engine.journal import JOURNAL
from tests.support.runs import Engine, run_of, step


async def _until_somebody_waits(engine: Engine) -> None:
    async with asyncio.timeout(20), engine.pools.reading() as conn:
        while True:
            row = await (await conn.execute("select count(*)::int from pg_locks where not granted")).fetchone()
            if row is not None and row[0]:
                return
            await asyncio.sleep(0)


async def test_a_run_that_changed_while_it_was_waited_for_is_locked_as_it_is_now(engine: Engine) -> None:
    runs = sorted([await engine.submit(run_of(step("a"))) for _ in range(3)])

    async def lock() -> list[Any]:
        async with engine.pools.transaction() as conn, conn.transaction():
            cursor = await conn.execute(JOURNAL.lock_runs, literals(("tenants", "runs"), [(1, run) for run in runs]))
            return await cursor.fetchall()

    with psycopg.connect(engine.url) as other:
        other.execute("update runs set goal = 'moved' where id = any(%s)", (runs[1:],))
        waiting = asyncio.create_task(lock())
        await _until_somebody_waits(engine)
        other.commit()
    rows = await waiting
    with psycopg.connect(engine.url) as other:
        places = other.execute("select id, ctid::text from runs order by id").fetchall()
    assert [(row[1], row[-1]) for row in rows] == places
