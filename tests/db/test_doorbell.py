"""Hints: carried by the commit where a process rings seldom, rung after it where it is busy."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import psycopg
import pytest

from durable_agent.core.records import DEFAULT_TENANT
from durable_agent.db.batch import batch
from durable_agent.db.doorbell import CONTROL, EVENTS, READY, Bell
from durable_agent.engine.exchange import exchange
from durable_agent.engine.submit import Submission, submit
from tests.support.runs import Engine, ok, run_of, step

Heard = Callable[[], Awaitable[list[str]]]


@pytest.fixture
async def heard(engine: Engine) -> AsyncIterator[Heard]:
    """Return what was hinted since the last time one asked."""
    async with await psycopg.AsyncConnection.connect(engine.url, autocommit=True) as conn:
        for channel in (READY, EVENTS, CONTROL, "mark"):
            await conn.execute(f"listen {channel}".encode())

        async def until_mark() -> list[str]:
            with psycopg.connect(engine.url, autocommit=True) as other:
                other.execute("notify mark")
            found: list[str] = []
            async for notify in conn.notifies(timeout=20):
                if notify.channel == "mark":
                    break
                found.append(notify.channel)
            return sorted(found)

        yield until_mark


async def carried(engine: Engine, bell: Bell) -> bool:
    async with engine.pools.transaction() as conn, batch(conn):
        return await bell.carry(conn, EVENTS, READY)


async def test_who_rings_seldom_lets_the_commit_carry_the_hint(engine: Engine, heard: Heard) -> None:
    bell = Bell(engine.pools)
    async with engine.pools.transaction() as conn, batch(conn) as opened:
        assert await bell.carry(conn, EVENTS, READY)
        await opened.sync()
        assert await heard() == []
    assert await heard() == [EVENTS, READY]


async def test_who_is_busy_rings_after_the_commit(engine: Engine, heard: Heard) -> None:
    bell = Bell(engine.pools)
    bell._sent_s = time.monotonic() + 60.0  # as many as may follow at once were sent
    assert not await carried(engine, bell)
    left = bell._left
    assert not await carried(engine, bell)
    assert bell._left >= left  # who is refused takes nothing from whoever rings
    waiting = Bell(engine.pools)
    waiting.ring(CONTROL)
    assert not await carried(engine, waiting)  # what it is about to send takes this along
    assert await heard() == []


async def test_a_bell_that_is_off_has_nothing_to_carry(engine: Engine, heard: Heard) -> None:
    assert await carried(engine, Bell(engine.pools, enabled=False))
    assert await heard() == []


async def test_a_new_run_and_its_end_are_hinted_by_their_own_commits(engine: Engine, heard: Heard) -> None:
    bell: Any = Bell(engine.pools)  # nobody sends what is rung
    (new,) = await submit(engine.pools, DEFAULT_TENANT, [Submission(run_of(step("a")))], bell=bell)
    engine.runs.append(new.run_id)
    assert await heard() == [EVENTS, READY]
    hand = engine.hand()
    (claim,) = await hand.claim()
    done = await exchange(engine.pools, hand.room, [ok(claim)], free=0, solo=True, bell=bell)
    assert (done.events, await heard()) == (False, [EVENTS])
    assert bell._rung == set()


async def test_a_busy_process_tells_that_its_hint_is_still_to_be_rung(engine: Engine, heard: Heard) -> None:
    bell = Bell(engine.pools)
    bell._sent_s = time.monotonic() + 60.0
    (new,) = await submit(engine.pools, DEFAULT_TENANT, [Submission(run_of(step("a")))], bell=bell)
    engine.runs.append(new.run_id)
    assert bell._rung == {EVENTS, READY}
    hand = engine.hand()
    (claim,) = await hand.claim()
    done = await exchange(engine.pools, hand.room, [ok(claim)], free=0, solo=True, bell=bell)
    assert (done.events, await heard()) == (True, [])
