"""A worker on a real database: it drains, it survives outages, its heart beats whatever its handlers do."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
import structlog

from durable_agent import Context, tool
from durable_agent.core.records import StepKind, StepSpec
from durable_agent.errors import InvalidRequest
from durable_agent.flow.model import Listener, Reply, Request, Usage
from durable_agent.flow.registry import Registry
from durable_agent.settings import Settings
from tests.support.postgres import Database
from tests.support.runs import Engine, run_of, step
from tests.support.server import working


async def until(database: Database, query: str, wanted: Any) -> None:
    """Return when the query gives what is wanted; the test's time limit ends it otherwise."""
    while await asyncio.to_thread(database.execute, query) != [(wanted,)]:  # noqa: ASYNC110  # another process makes it true
        await asyncio.sleep(0.02)


def status(run: object) -> str:
    return f"select status from runs where id = '{run}'"


async def test_a_drained_worker_gives_its_steps_back_uncharged(
    engine: Engine, settings: Settings, database: Database
) -> None:
    run = await engine.submit(run_of(step("a", tool="forever")))
    async with working(settings):
        await until(database, "select count(*)::int from queue where state = 'leased'", 1)
    a = (await engine.run(run))["steps"]["a"]
    assert (a["status"], a["failures"], a["crashes"]) == ("ready", 0, 0)
    assert database.execute("select state from workers") == [("stopped",)]


async def test_a_worker_goes_on_when_every_connection_of_its_was_cut(
    engine: Engine, settings: Settings, database: Database
) -> None:
    names = [f"s{n}" for n in range(30)]
    run = await engine.submit(
        run_of(*(step(n, *([names[i - 1]] if i else []), tool="tell") for i, n in enumerate(names)))
    )
    async with working(settings):
        for done in (3, 10, 20):
            await until(
                database,
                f"select count(*)::int >= {done} from steps where run_id = '{run}' and status = 'succeeded'",
                True,
            )
            database.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where datname = current_database() and pid <> pg_backend_pid()"
            )
        await until(database, status(run), "completed")
    assert (await engine.events(run)).count(("step.succeeded", "s29")) == 1


async def test_the_heart_beats_while_a_handler_blocks_the_loop_and_names_it(
    engine: Engine, settings: Settings, database: Database
) -> None:
    run = await engine.submit(run_of(step("the blocker", tool="block", input={"for_s": 2.5})))
    with structlog.testing.capture_logs() as logs:
        async with working(settings, ["tests.worker.test_worker", "tests.support.tools"], lease_ttl_s=1.0, beat_s=0.2):
            await until(database, status(run), "completed")
    assert ("step.lease_lost", "the blocker") not in await engine.events(run)
    blocked = [line for line in logs if line["event"] == "event_loop_blocked"]
    assert blocked
    assert "the blocker" in blocked[0]["by"]


async def test_who_is_busy_with_calls_still_looks_for_work_that_nobody_told_it_of(
    engine: Engine, settings: Settings, database: Database
) -> None:
    talk = await engine.submit(run_of(step("talk", tool="talk_until_cancelled")))
    modules = ["tests.worker.test_worker", "tests.support.tools"]
    async with working(settings, modules, listen="off", poll_s=0.2, tick_s=3600.0):
        await until(database, "select count(*)::int > 20 from events where type = 'step.emitted'", True)
        other = await engine.submit(run_of(step("a", tool="noop")))
        await until(database, status(other), "completed")
        assert database.execute(status(talk)) == [("running",)]


async def test_an_agent_asks_a_model_of_the_workers_own_modules(
    engine: Engine, settings: Settings, database: Database
) -> None:
    given = {"agent": {"name": "a", "model": "house:parrot"}, "input": "hello"}
    run = await engine.submit(run_of(StepSpec("a", StepKind.AGENT, "agent", given)))
    async with working(settings, ["tests.worker.test_worker"]):
        await until(database, status(run), "completed")
    assert (await engine.run(run))["steps"]["a"]["output"]["text"] == "hello!"


def test_two_models_of_one_name_are_refused() -> None:
    registry = Registry.from_modules(["tests.worker.test_worker"])
    with pytest.raises(InvalidRequest, match="two models are named house:parrot"):
        registry.add_model(Parrot())


async def test_a_retry_waits_for_its_time_and_then_runs(engine: Engine, settings: Settings, database: Database) -> None:
    run = await engine.submit(run_of(step("a", tool="flaky", input={"how": "limited", "times": 2})))
    async with working(settings):
        await until(database, status(run), "completed")
    assert (await engine.run(run))["steps"]["a"]["output"] == 3


@pytest.mark.parametrize("name", ["add", "alone"])
async def test_threads_and_child_processes_serve_steps_too(
    engine: Engine, settings: Settings, database: Database, name: str
) -> None:
    run = await engine.submit(run_of(step("a", tool=name, input={"a": 1} if name == "add" else {})))
    async with working(settings):
        await until(database, status(run), "completed")


@tool("block")
async def block(for_s: float) -> None:
    """Hold the event loop up, as no handler should."""
    time.sleep(for_s)  # noqa: ASYNC251  # the mistake under test


@tool("talk_until_cancelled", effect="safe")
async def talk_until_cancelled(ctx: Context) -> None:
    """Say something, again and again: the worker has always something to commit."""
    while True:
        await ctx.emit("said")


class Parrot:
    """A model of one's own."""

    provider, name, window_tokens = "house", "parrot", 8_000

    async def ready(self) -> None:
        """See `flow.model.ChatModel.ready`."""

    async def reply(self, request: Request, listener: Listener) -> Reply:
        """See `flow.model.ChatModel.reply`."""
        text = f"{request.messages[-1]['text']}!"
        listener.text(text)
        return Reply(text, usage=Usage(1, 1), model=self.name)


parrot = Parrot()
