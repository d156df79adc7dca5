"""Handlers that end as nobody should: each hurts its own step, and neither its worker nor its neighbour."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog

from durable_agent.core.records import RetryPolicy
from durable_agent.flow.registry import Registry
from durable_agent.settings import Settings
from durable_agent.worker import loop
from tests.support import broken
from tests.support.postgres import Database
from tests.support.runs import Engine, run_of, step
from tests.support.server import working
from tests.worker.test_worker import status, until

MODULES = ("tests.support.broken", "tests.support.tools")
ONCE = RetryPolicy(max_attempts=1)
LEASED = "select count(*)::int from queue where state = 'leased'"


@asynccontextmanager
async def beside(engine: Engine, settings: Settings, database: Database, **more: Any) -> AsyncIterator[None]:
    """Yield with a worker that has a step under way, and see that it still has at the end."""
    near = await engine.submit(run_of(step("near", tool="neighbour")))
    async with working(settings, MODULES, **more):
        await until(database, LEASED, 1)
        yield
        near_by = (await engine.run(near))["steps"]["near"]
        assert (near_by["status"], near_by["claim_no"]) == ("running", 1)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("tool", "how", "error_type", "said"),
    [
        ("break", "wordless", "Wordless", "Wordless, which has no text"),
        ("break_in_a_thread", "wordless", "Wordless", "Wordless, which has no text"),
        ("break_in_a_call", "wordless", "Wordless", "Wordless, which has no text"),
        ("break", "undecodable", "OSError", "no caf?"),
        ("break_in_a_call", "undecodable", "OSError", "no caf?"),
        ("break", "own class", "Upstream", "it is down"),
        ("break", "header", "RateLimited", "slow down"),
        ("break", "no number", "RateLimited", "slow down"),
        ("break", "cancelled", "CancelledItself", "a CancelledError of its own"),
        ("break_in_a_thread", "cancelled", "CancelledItself", "a CancelledError of its own"),
        ("break_in_a_call", "cancelled", "CancelledItself", "a CancelledError of its own"),
        ("say", "event", "", "surrogates"),
        ("say", "signal", "", "surrogates"),
        ("say", "media type", "", "surrogates"),
        ("say", "step", "InvalidRequest", "deadline_s must be above 0 and at most 604,800 s, not inf"),
        ("say", "time", "InvalidRequest", "must not be negative: nan s"),
    ],
)
async def test_what_a_handler_raises_ends_its_own_step_alone(
    engine: Engine, settings: Settings, database: Database, tool: str, how: str, error_type: str, said: str
) -> None:
    async with beside(engine, settings, database):
        run = await engine.submit(run_of(step("a", tool=tool, input={"how": how}, retry=ONCE)))
        await until(database, status(run), "failed")
    error = (await engine.run(run))["steps"]["a"]["error"]
    assert said in error["message"]
    assert error["error_type"] == error_type or not error_type


async def test_a_header_s_text_is_a_number_of_seconds(engine: Engine, settings: Settings, database: Database) -> None:
    run = await engine.submit(run_of(step("a", tool="break", input={"how": "header"})))
    async with working(settings, MODULES):
        await until(database, status(run), "failed")
    assert (await engine.run(run))["steps"]["a"]["failures"] == 3


async def test_a_wait_may_last_longer_than_anybody(engine: Engine, settings: Settings, database: Database) -> None:
    run = await engine.submit(run_of(step("a", tool="waits_long")))
    async with working(settings, MODULES):
        await until(database, "select count(*)::int from waits where state = 'open' and due_at > now()", 1)
    assert (await engine.run(run))["steps"]["a"]["status"] == "waiting"


async def test_a_drain_lets_a_handler_clean_up(engine: Engine, settings: Settings, database: Database) -> None:
    broken.CLEANED.clear()
    await engine.submit(run_of(step("a", tool="cleans_up")))
    async with working(settings, MODULES):
        await until(database, LEASED, 1)
    assert broken.CLEANED[-1:] == ["turn 49"]


async def test_a_drain_gives_back_what_does_not_end(
    engine: Engine, settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CLEAN_UP_S", 0.05)
    broken.LEAVE.clear()
    run = await engine.submit(run_of(step("a", tool="goes_on")))
    with structlog.testing.capture_logs() as logs:
        async with working(settings, MODULES):
            await until(database, LEASED, 1)
    left = [task for task in asyncio.all_tasks() if task.get_name() == f"step a of run {run}"]
    a = (await engine.run(run))["steps"]["a"]
    broken.LEAVE.set()
    await asyncio.wait(left)
    assert (a["status"], a["failures"], a["crashes"]) == ("ready", 0, 0)
    assert [line["step"] for line in logs if line["event"] == "attempt_left"] == ["a"]


async def test_what_no_net_caught_is_the_step_s_failure(
    engine: Engine, settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of the worker's own code around one step."""
    monkeypatch.setattr(Registry, "get", _faulty(Registry.get))
    async with beside(engine, settings, database):
        run = await engine.submit(run_of(step("a", retry=ONCE)))
        await until(database, status(run), "failed")
    assert (await engine.run(run))["steps"]["a"]["error"]["error_type"] == "KeyError"


def _faulty(get: Any) -> Any:
    asked: list[str] = []

    def faulty(self: Registry, name: str) -> Any:
        if name == "noop" and not asked:
            asked.append(name)
            raise KeyError("a fault")
        return get(self, name)

    return faulty
