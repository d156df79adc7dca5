"""What waits for a lock sees what was committed meanwhile: PostgreSQL looks again at the row, and so must we."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest
from psycopg import generators

from durable_agent.db.arrays import literals
from durable_agent.db.pool import Database
from durable_agent.engine.claim import WIDE, Picked
from durable_agent.engine.journal import JOURNAL, QUEUE
from tests.support.runs import Engine, ok, run_of, step


async def test_a_run_that_changed_while_it_was_waited_for_is_locked_as_it_is_now(engine: Engine) -> None:
    runs = sorted([await engine.submit(run_of(step("a"))) for _ in range(3)])

    async def lock() -> list[Any]:
        async with engine.pools.transaction() as conn, conn.transaction():
            cursor = await conn.execute(JOURNAL.lock_runs, literals(("tenants", "runs"), [(1, run) for run in runs]))
            return await cursor.fetchall()

    with psycopg.connect(engine.url) as other:
        other.execute("update runs set metadata = '[1]' where id = any(%s)", (runs[1:],))
        waiting = asyncio.create_task(lock())
        await engine.blocked()
        other.commit()
    rows = await waiting
    with psycopg.connect(engine.url) as other:
        places = other.execute("select id, ctid::text from runs order by id").fetchall()
    assert [(row[1], row[-1]) for row in rows] == places


async def test_whoever_is_frozen_while_it_sends_holds_its_locks_for_a_while_only(engine: Engine) -> None:
    run = await engine.submit(run_of(step("a")))
    async with Database.open(engine.url, size=1, statement_timeout_s=0.3) as db, db.transaction() as conn:
        if conn.info.server_version < 170000:
            pytest.skip("PostgreSQL has no transaction_timeout before 17")
        pg = conn.pgconn
        pg.enter_pipeline_mode()
        for text in (b"begin", b"select from runs for update"):
            pg.send_query_params(text, None)
        pg.send_flush_request()
        while pg.flush():
            pass
        for _ in range(2):  # both were carried out, and no sync says that more will not come
            await conn.wait(generators.fetch_many(pg))
        with psycopg.connect(engine.url, autocommit=True) as other:
            await asyncio.to_thread(other.execute, "select from runs where id = %s for update", (run,))
        await conn.close()


@pytest.mark.parametrize("wide", [WIDE, 0])
async def test_a_claim_of_runs_that_changed_while_they_were_looked_at_returns_what_their_parents_said(
    engine: Engine, wide: int
) -> None:
    """As `test_no_statement_that_looks_again_at_a_row_reads_a_partition_in_a_subquery`, in the flesh."""
    hand = engine.hand()
    runs = sorted([await engine.submit(run_of(step("a"), step("b", "a"))) for _ in range(20)])
    await hand.settle(*(ok(claim, {"of": str(claim.lease.run_id)}) for claim in await hand.claim(20)))
    with psycopg.connect(engine.url) as other:
        route = other.execute("select distinct route from queue").fetchall()[0][0]
    where = {"tenant": 1, "routes": [route], "limits": [20], "froms": [0], "solo": True, "wide": wide, "most": 10_000}

    async def pick() -> list[Any]:
        # A claim skips what others hold, and meets what they have just let go: one that waits meets it surely.
        async with engine.pools.transaction() as conn, conn.transaction():
            return await (await conn.execute(QUEUE.pick.replace(" skip locked", ""), where)).fetchall()

    with psycopg.connect(engine.url) as other:
        other.execute("update runs set metadata = '[1]' where id = any(%s)", (runs[::3],))
        other.execute("update queue set ord = ord where run_id = any(%s)", (runs[1::3],))
        waiting = asyncio.create_task(pick())
        await engine.blocked()
        other.commit()
    rows = await waiting
    found = sorted((row.run_id, row.outputs) for row in (Picked(1, *row) for row in rows))
    assert found == [(run, {"a": {"of": str(run)}}) for run in runs]
