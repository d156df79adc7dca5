"""What the socket of all runs tells, and how sockets are refused."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import orjson
import psycopg
import pytest
from websockets.exceptions import ConnectionClosed

from durable_agent.api.stream import PAGE
from durable_agent.core.records import DEFAULT_TENANT
from durable_agent.engine import control
from durable_agent.engine import submit as submitting
from durable_agent.engine.submit import Submission, submit
from durable_agent.settings import Settings
from tests.support.postgres import Database
from tests.support.runs import Engine, run_of, step
from tests.support.server import Api, serving

NOOP = {"name": "a", "tool": "noop"}


@pytest.fixture
async def api(settings: Settings) -> Any:
    async with serving(settings) as made:
        yield made


@asynccontextmanager
async def all_runs(api: Api) -> AsyncIterator[Any]:
    """Yield a function that returns the next event of the socket of all runs."""
    async with api.socket("/ws") as ws, asyncio.timeout(60):

        async def told() -> Any:
            return orjson.loads(await ws.recv())

        yield told


async def test_a_burst_is_told_whole_and_once_and_so_is_what_follows(
    api: Api, engine: Engine, database: Database
) -> None:
    async with all_runs(api) as told:
        burst = [Submission(run_of(step("a"))) for _ in range(PAGE + 100)]  # of one moment
        begun = {str(one.run_id) for one in await submit(engine.pools, DEFAULT_TENANT, burst)}
        database.execute("select pg_notify('da_events', '')")
        heard = [await told() for _ in burst]
        assert {event["run_id"] for event in heard} == begun
        assert {event["type"] for event in heard} == {"run.created"}
        for _ in range(2):
            run = await api.start(NOOP)
            assert (await told())["run_id"] == run


async def test_a_run_that_is_open_for_months_is_told_of(
    api: Api, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ms = int((time.time() - 100 * 86_400) * 1000)
    with monkeypatch.context() as patch:
        patch.setattr(submitting, "uuid7", lambda: UUID(int=ms << 80 | 7 << 76 | 2 << 62 | uuid4().int % 2**62))
        run = await engine.submit(run_of(step("a")))
    async with all_runs(api) as told:
        for verb in ("pause", "resume", "cancel"):
            assert (await api.http.post(f"/runs/{run}/{verb}")).status_code == 202
        heard = [await told() for _ in range(3)]
    assert [(event["run_id"], event["type"]) for event in heard] == [
        (str(run), "run.paused"), (str(run), "run.resumed"), (str(run), "run.cancelled"),
    ]  # fmt: skip


async def test_from_now_on_is_by_the_engine_s_clock(api: Api, database: Database) -> None:
    database.move_clock(-3600)
    async with all_runs(api) as told:
        run = await api.start(NOOP)
        assert (await told())["run_id"] == run


async def test_what_is_stamped_long_before_its_commit_is_told_all_the_same(api: Api, database: Database) -> None:
    late = await api.start(NOOP)
    async with all_runs(api) as told, asyncio.TaskGroup() as tasks:
        with psycopg.connect(database.url) as conn:
            conn.execute("select from queue for update")  # the cancellation has stamped its events, and waits here
            tasks.create_task(api.http.post(f"/runs/{late}/cancel"))
            waits = "select 1 from pg_stat_activity where wait_event_type = 'Lock'"
            while not database.execute(waits):  # noqa: ASYNC110  # PostgreSQL tells nobody
                await asyncio.sleep(0.01)
            database.move_clock(3600)
            run = await api.start(NOOP)
            assert (await told())["run_id"] == run
        event = await told()
        assert (event["run_id"], event["type"]) == (late, "run.cancelled")


async def test_what_was_recorded_before_the_socket_opened_is_not_told(api: Api) -> None:
    await api.start(NOOP)
    async with all_runs(api) as told:
        run = await api.start(NOOP)
        assert (await told())["run_id"] == run


@pytest.mark.parametrize("place", ["%E2%82%AC" * 60, "a%E2%82%AC" * 60, "x" * 500])
async def test_a_refusal_tells_its_code_whatever_it_quotes(api: Api, place: str) -> None:
    async with api.socket(f"/ws/{place}") as ws:
        with pytest.raises(ConnectionClosed):
            await ws.recv()
        assert ws.close_code == 4404
        assert ws.close_reason.startswith("run '")


async def test_a_number_that_is_none_is_the_beginning(api: Api, engine: Engine) -> None:
    run = await engine.submit(run_of(step("a")))
    await control.cancel(engine.pools, DEFAULT_TENANT, run, actor="me")
    whole = await api.watch(str(run))
    for after in ("%C2%B2", "%D9%A3", "-1", "x", ""):
        async with api.socket(f"/ws/{run}?after={after}") as ws:
            assert [orjson.loads(text) async for text in ws] == whole


@pytest.mark.parametrize("number", [b"\xb2", b"\xb9\xb2", b"-1", b"x", b""])
async def test_an_event_s_id_that_is_none_is_the_beginning(api: Api, engine: Engine, number: bytes) -> None:
    run = await engine.submit(run_of(step("a")))
    await control.cancel(engine.pools, DEFAULT_TENANT, run, actor="me")
    headers = {"Accept": "text/event-stream", "Last-Event-ID": number}
    answer = await api.http.get(f"/runs/{run}/events", headers=headers)
    told = [orjson.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
    assert (answer.status_code, told) == (200, await api.watch(str(run)))
