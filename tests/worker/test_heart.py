"""The heart of a worker in trouble: it goes on, it holds nobody up, and its worker takes nothing that nobody vouches for."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from typing import Any, LiteralString

import psycopg
import pytest
import structlog

from durable_agent.engine.heart import Heart
from durable_agent.settings import Settings
from tests.support.postgres import Database
from tests.support.runs import Engine, run_of, step
from tests.support.server import working

HEARTS = "pg_stat_activity where datname = %s and application_name = 'durable-agent heart'"


@pytest.fixture
def many_open_files() -> Iterator[None]:
    """So many that the next one has a number above a thousand."""
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
    yield
    for fd in held:
        os.close(fd)


@pytest.mark.usefixtures("many_open_files")
async def test_a_heart_beats_on_a_descriptor_above_a_thousand(engine: Engine) -> None:
    beats: asyncio.Queue[object] = asyncio.Queue()
    heart = Heart(
        engine.url, engine.hand().room.offer, ttl_s=30.0, beat_s=0.05, on_beat=beats.put_nowait, load=lambda: 1
    )  # fmt: skip
    heart.start()
    for _ in range(3):
        await beats.get()
    await heart.stop()


async def test_a_call_for_a_beat_never_waits(engine: Engine) -> None:
    heart = Heart(
        engine.url, engine.hand().room.offer, ttl_s=30.0, beat_s=6.0, on_beat=lambda beat: None, load=lambda: 1
    )
    ringing = threading.Thread(target=lambda: [heart.now() for _ in range(5000)], daemon=True)  # nobody listens
    ringing.start()
    await asyncio.to_thread(ringing.join, 10.0)
    assert not ringing.is_alive()


async def test_a_worker_whose_heart_finds_no_way_takes_nothing_until_it_does(
    engine: Engine, settings: Settings, database: Database, admin_url: str
) -> None:
    ((name,),) = database.execute("select current_database()")
    # As where connections are short: the heart's was cut and it gets no other, while those of the pools live on.
    with (
        structlog.testing.capture_logs() as logs,
        psycopg.connect(admin_url, autocommit=True) as admin,
        psycopg.connect(database.url, autocommit=True) as own,
    ):
        async with working(settings, lease_ttl_s=1.0, beat_s=0.2, poll_s=0.02):
            first = await engine.submit(run_of(step("first")))
            await sees(own, "select bool_and(status = 'completed') from runs")
            await engine.run(first)  # both pools have a connection now
            admin.execute(f"alter database {name} with connection limit 1".encode())
            admin.execute(f"select pg_terminate_backend(pid) from {HEARTS}".encode(), (name,))
            await sees(own, "select lease_until < now() from workers")
            run, tries = await engine.submit(run_of(step("a"))), len(logs)
            while [line["event"] for line in logs[tries:]].count("heart_disconnected") < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.02)  # the worker has looked many times by then
            assert (await engine.run(run))["steps"]["a"]["claim_no"] == 0
            admin.execute(f"alter database {name} with connection limit -1".encode())
            await sees(own, "select bool_and(status = 'completed') from runs")
    a = (await engine.run(run))["steps"]["a"]
    assert (a["claim_no"], a["crashes"]) == (1, 0)


async def sees(conn: psycopg.Connection[Any], query: LiteralString) -> None:
    """Return when a query on a connection of one's own gives true."""
    while not (conn.execute(query).fetchone() or (False,))[0]:  # noqa: ASYNC110  # another process makes it true
        await asyncio.sleep(0.02)
