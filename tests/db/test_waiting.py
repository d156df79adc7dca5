"""What waits for a lock sees what was committed meanwhile: PostgreSQL looks again at the row, and so must we."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg

from durable_agent.db.arrays import literals
from durable_agent.engine.journal import JOURNAL
from tests.support.runs import Engine, run_of, step


async def test_a_run_that_changed_while_it_was_waited_for_is_locked_as_it_is_now(engine: Engine) -> None:
    runs = sorted([await engine.submit(run_of(step("a"))) for _ in range(3)])

    async def lock() -> list[Any]:
        async with engine.pools.transaction() as conn, conn.transaction():
            cursor = await conn.execute(JOURNAL.lock_runs, literals(("tenants", "runs"), [(1, run) for run in runs]))
            return await cursor.fetchall()

    with psycopg.connect(engine.url) as other:
        other.execute("update runs set goal = 'moved' where id = any(%s)", (runs[1:],))
        waiting = asyncio.create_task(lock())
        await engine.blocked()
        other.commit()
    rows = await waiting
    with psycopg.connect(engine.url) as other:
        places = other.execute("select id, ctid::text from runs order by id").fetchall()
    assert [(row[1], row[-1]) for row in rows] == places
