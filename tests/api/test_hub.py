"""What watchers hear of models that speak: every piece once, across an outage, and of too much the newest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from durable_agent.api.hub import DELTAS, PAGE, Hub, follow
from durable_agent.core.records import DEFAULT_TENANT
from durable_agent.db import reads
from durable_agent.db.doorbell import Listener
from durable_agent.engine import control
from durable_agent.errors import NotFound
from durable_agent.tasks import ended
from tests.support.postgres import Database
from tests.support.runs import Engine, run_of, step


@pytest.fixture(autouse=True)
def stopped(database: Database) -> None:
    """Stop the engine's clock: what is said stays new however long a test takes."""
    database.execute(
        "create or replace function engine_now() returns timestamptz language sql volatile"
        " as $$ select timestamptz '2026-01-01' $$"
    )


def said(database: Database, run: UUID, first: int, last: int) -> None:
    """Let the run's step say pieces, a millisecond after one another, until the clock's time."""
    database.execute(
        "insert into deltas (tenant, run_id, step_no, effect, claim_no, piece, at, text)"
        " select 1, %s, s.no, 1, 1, n, engine_now() - make_interval(secs => (%s - n) / 1000.0), 'w' || n"
        " from steps s, generate_series(%s::int, %s::int) n where s.run_id = %s",
        run, last, first, last, run,
    )  # fmt: skip


@asynccontextmanager
async def watching(engine: Engine, run: UUID) -> AsyncIterator[Any]:
    """Yield the pages of a run, whose hub looks by its poll."""
    hub = Hub(engine.pools, Listener(engine.pools, [], enabled=False))
    looking = asyncio.create_task(hub.run())
    pages = follow(hub, engine.pools, DEFAULT_TENANT, run, 0)
    try:
        yield pages
    finally:
        await pages.aclose()
        await ended([looking])


async def spoken(pages: Any, last: int) -> list[str]:
    """Return what is said until this piece."""
    found: list[str] = []
    async for page in pages:
        found += [frame["data"]["text"] for frame in page if frame["seq"] is None]
        if found and found[-1] == f"w{last}":
            break
    return found


async def test_each_piece_is_heard_once(engine: Engine, database: Database) -> None:
    run = await engine.submit(run_of(step("a")))
    async with watching(engine, run) as pages:
        said(database, run, 0, 2)
        first = await spoken(pages, 2)
        said(database, run, 3, 5)
        assert first + await spoken(pages, 5) == [f"w{n}" for n in range(6)]


async def test_of_more_than_a_watcher_can_hear_it_hears_the_newest(engine: Engine, database: Database) -> None:
    run = await engine.submit(run_of(step("a")))
    said(database, run, 0, 5999)
    async with watching(engine, run) as pages:
        assert await spoken(pages, 5999) == [f"w{n}" for n in range(1000, 6000)]


async def test_who_has_heard_asks_for_what_came_since(engine: Engine, database: Database) -> None:
    run = await engine.submit(run_of(step("a")))
    said(database, run, 0, 4999)
    async with engine.pools.reading() as conn:
        key = {"tenant": DEFAULT_TENANT, "run": run}
        every = await reads.rows(conn, DELTAS.of_run, {**key, "since": None})
        again = await reads.rows(conn, DELTAS.of_run, {**key, "since": every[-1]["at"]})
    assert (len(every), [row["piece"] for row in again]) == (5000, list(range(4000, 5000)))


async def test_words_that_were_read_as_the_database_went_away_are_heard(engine: Engine, database: Database) -> None:
    run = await engine.submit(run_of(step("a")))
    async with watching(engine, run) as pages:
        assert (await anext(pages))[0]["type"] == "run.created"
        with psycopg.connect(database.url) as locking:
            locking.execute(
                "lock table events in access exclusive mode"
            )  # the words are read, the events are waited for
            said(database, run, 0, 2)
            hearing = asyncio.create_task(spoken(pages, 2))
            waits = "select pid from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
            while not (found := database.execute(waits)):  # noqa: ASYNC110  # the server has no event to wait for
                await asyncio.sleep(0.01)
            database.execute("select pg_terminate_backend(%s)", found[0][0])
        assert await hearing == ["w0", "w1", "w2"]


async def test_a_run_that_is_not_there_is_not_found(engine: Engine) -> None:
    async with watching(engine, uuid4()) as pages:
        with pytest.raises(NotFound):
            await anext(pages)


async def test_a_long_history_is_followed_page_by_page(engine: Engine) -> None:
    run = await engine.submit(run_of(*(step(f"s{n}") for n in range(PAGE))))
    await control.cancel(engine.pools, DEFAULT_TENANT, run, actor="me")
    async with watching(engine, run) as pages:
        seqs = [frame["seq"] async for page in pages for frame in page]
    assert len(seqs) > 2 * PAGE
    assert seqs == list(range(1, len(seqs) + 1))
