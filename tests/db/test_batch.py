"""A batch: one transaction, sent when somebody waits for an answer, and nothing of it left behind by an error."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import uuid4

import psycopg
import pytest

from durable_agent.db import batch as batch_module
from durable_agent.db.batch import alone, batch
from durable_agent.db.pool import TRANSIENT, Connection, TooLarge
from durable_agent.db.pool import Database as Pools
from durable_agent.errors import LostRace
from tests.support.postgres import Database


@pytest.fixture
async def conn(database: Database) -> AsyncIterator[Connection]:
    """An engine connection with a table to write to."""
    async with Pools.open(database.url, size=1) as pools, pools.transaction() as conn:
        await conn.execute("create temp table marks (n int primary key)")
        yield conn


async def _marks(conn: Connection) -> list[int]:
    return [row[0] for row in await (await conn.execute("select n from marks order by n")).fetchall()]


async def test_what_is_written_is_there_after_leaving(conn: Connection) -> None:
    async with batch(conn) as pipeline:
        await conn.execute("insert into marks values (1)")
        seen = await conn.execute("select count(*)::int from marks")
        await pipeline.sync()
        assert (await seen.fetchone()) == (1,)
        await conn.execute("insert into marks values (2)")
    assert await _marks(conn) == [1, 2]
    assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


async def test_a_fetch_without_a_sync_waits_for_its_answer(conn: Connection) -> None:
    async with batch(conn):
        async with asyncio.timeout(5):
            assert await _marks(conn) == []
            await conn.execute("insert into marks values (3)")
            assert await _marks(conn) == [3]


async def test_an_exception_rolls_back_what_was_sent_and_what_was_not(conn: Connection) -> None:
    async def fail() -> None:
        async with batch(conn) as pipeline:
            await conn.execute("insert into marks values (1)")
            await pipeline.sync()
            await conn.execute("insert into marks values (2)")
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await fail()
    assert await _marks(conn) == []


async def test_a_statement_that_was_queued_and_never_sent_is_prepared_when_it_is(conn: Connection) -> None:
    async def leave() -> None:
        async with batch(conn):
            await conn.execute("insert into marks values (%(n)s)", {"n": 1})
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await leave()
    async with batch(conn):
        await conn.execute("insert into marks values (%(n)s)", {"n": 2})
    assert await _marks(conn) == [2]


async def test_the_first_error_is_raised_and_the_connection_serves_on(conn: Connection) -> None:
    """Statements prepared before, in and after a batch that failed are prepared anew where they have to be."""

    async def add(n: int) -> None:
        async with batch(conn) as pipeline:
            await conn.execute("insert into marks values (%s)", (n,))
            await conn.execute("select %s::int + 1", (n,))
            await pipeline.sync()

    for n in range(3):
        await add(n)
        with pytest.raises(psycopg.errors.UniqueViolation):
            await add(n)
        async with batch(conn):
            added = await conn.execute("select %s::int + 1", (n,))
            assert (await added.fetchone()) == (n + 1,)
    assert await _marks(conn) == [0, 1, 2]


TOO_LARGE = "select repeat('x', 2000000000)"


async def test_what_is_too_large_for_postgresql_is_no_outage(conn: Connection) -> None:
    """psycopg's class for it is that of a lost connection, after which the same would be tried again for ever."""

    async def by_itself() -> None:
        await conn.execute(TOO_LARGE)

    async def by_a_cursor() -> None:
        async with conn.cursor() as cursor:
            await cursor.execute(TOO_LARGE)

    async def in_a_batch() -> None:
        async with batch(conn) as pipeline:
            await conn.execute("insert into marks values (1)")
            await conn.execute(TOO_LARGE)
            await pipeline.sync()

    for way in (by_itself, by_a_cursor, in_a_batch):
        with pytest.raises(TooLarge, match="too large") as raised:
            await way()
        assert raised.value.sqlstate == "54000"
        assert not isinstance(raised.value, TRANSIENT)
    assert await _marks(conn) == []


async def test_what_is_too_large_to_be_read_is_no_outage(database: Database) -> None:
    async with Pools.open(database.url, size=1) as pools:
        with pytest.raises(TooLarge):
            async with pools.reading() as conn:
                await conn.execute(TOO_LARGE)


async def test_an_error_that_the_last_sync_brings_is_not_swallowed(conn: Connection) -> None:
    async def fail() -> None:
        async with batch(conn):
            await conn.execute("insert into marks values (1)")
            await conn.execute("select 1 / 0")

    with pytest.raises(psycopg.errors.DivisionByZero):
        await fail()
    assert await _marks(conn) == []


async def test_of_many_answers_that_come_in_pieces_the_first_error_is_raised(conn: Connection) -> None:
    async def fail() -> None:
        async with batch(conn):
            await conn.execute("select 1 / 0")
            for _ in range(50):
                await conn.execute("select length(%s)", ("x" * 400_000,))

    with pytest.raises(psycopg.errors.DivisionByZero):
        await fail()
    assert await _marks(conn) == []


async def test_a_guard_that_does_not_hold_is_a_lost_race_and_nothing_is_written(conn: Connection) -> None:
    async def fail() -> None:
        async with batch(conn):
            await conn.execute("insert into marks values (1)")
            await conn.execute("select require_rows(1, 2, 'a_statement')")

    with pytest.raises(LostRace, match="a_statement changed 1 of 2 rows"):
        await fail()
    assert await _marks(conn) == []


async def test_a_statement_alone_is_committed_or_leaves_nothing(conn: Connection, database: Database) -> None:
    await conn.execute("drop table marks")
    await conn.execute("create table marks (n int primary key)")
    for n in (1, 2):  # prepared, then by its name
        rows = await alone(conn, "insert into marks values (%(n)s) returning n", {"n": n})
        assert await rows.fetchall() == [(n,)]
        assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    guarded = "with put as (insert into marks values (3) returning 1) select require_rows((select count(*) from put), 2, 'put')"
    with pytest.raises(LostRace, match="put changed 1 of 2 rows"):
        await alone(conn, guarded)
    with pytest.raises(psycopg.errors.UniqueViolation):
        await alone(conn, "insert into marks values (4), (1)")
    assert database.execute("select n from marks order by n") == [(1,), (2,)]
    assert await _marks(conn) == [1, 2]


async def test_what_cannot_be_prepared_is_sent_as_it_is(conn: Connection) -> None:
    conn.prepare_threshold = None  # behind a pooler
    async with batch(conn):
        await conn.execute("insert into marks values (%(n)s)", {"n": 1})
        found = await conn.execute("select n, %(word)s::text, '%%' from marks where n = %(n)s", {"n": 1, "word": "ü"})
        assert await found.fetchall() == [(1, "ü", "%")]
    assert await _marks(conn) == [1]
    async with conn.cursor() as cursor:
        await cursor.execute("select count(*)::int from pg_prepared_statements where name like 'da%'")
        assert await cursor.fetchone() == (0,)


async def test_of_many_statements_the_oldest_is_not_kept_prepared(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_module, "MOST_PREPARED", 5)
    for _ in range(2):
        async with batch(conn):
            answers = [await conn.execute(f"select {n} + %s", (1,)) for n in range(8)]
            assert [await answer.fetchone() for answer in answers] == [(n + 1,) for n in range(8)]
    async with conn.cursor() as cursor:
        await cursor.execute("select count(*)::int from pg_prepared_statements where name like 'da%'")
        assert await cursor.fetchone() == (5,)


async def test_what_the_driver_deallocated_is_prepared_anew(conn: Connection) -> None:
    async def add(n: int) -> None:
        async with batch(conn):
            await conn.execute("insert into marks values (%s)", (n,))

    async def fail() -> None:
        async with conn.transaction():
            await conn.execute("select 1 + %s", (1,))
            raise ZeroDivisionError

    await add(1)
    with pytest.raises(ZeroDivisionError):
        await fail()
    await add(2)
    assert await _marks(conn) == [1, 2]


async def test_whoever_is_cancelled_in_the_middle_leaves_nothing_behind(conn: Connection, database: Database) -> None:
    async def slow() -> None:
        async with batch(conn):
            await conn.execute("insert into marks values (1)")
            await conn.execute("select pg_advisory_xact_lock(7)")
            await (await conn.execute("select 1")).fetchone()

    with psycopg.connect(database.url) as other:
        other.execute("select pg_advisory_xact_lock(7)")
        task = asyncio.create_task(slow())
        waits = "select count(*)::int from pg_locks where locktype = 'advisory' and not granted"
        while database.execute(waits) == [(0,)]:  # noqa: ASYNC110  # the server makes it true
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await _marks(conn) == []
    assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


async def test_values_of_every_kind_come_back_as_they_went_in(conn: Connection) -> None:
    given = {
        "whole": 7, "large": 2**40, "broken": 0.5, "yes": True, "text": "it's", "none": None, "id": uuid4(), "bytes": b"\x00\xff",
        "now": datetime.now(UTC), "words": ["a", "b"],
    }  # fmt: skip
    async with batch(conn):
        answer = await conn.execute(
            "select %(whole)s, %(large)s, %(broken)s, %(yes)s, %(text)s::text, %(none)s::text, %(id)s, %(bytes)s, %(now)s, %(words)s::text[]",
            given,
        )
        assert await answer.fetchone() == tuple(given.values())
