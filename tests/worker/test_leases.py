"""What a worker does with its leases: it acts on none that nobody vouches for, and what it has to tell it tells in the end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

from durable_agent import Context, step, tool
from durable_agent.agents.models import WorkerModels
from durable_agent.artifacts import Artifacts
from durable_agent.cli.processes import worker as worker_process
from durable_agent.core.effects import effect_key
from durable_agent.core.events import digest, dumps
from durable_agent.core.outcomes import Exchange, Failed, Intended, Outcome, Recorded, Released, Succeeded, Verdict
from durable_agent.core.port import Backend
from durable_agent.core.records import Claim, Effect, EffectClass, EffectState, Lease, RunId, StepKind, Tenant, Token
from durable_agent.engine.exchange import MOST_PROMOTED
from durable_agent.engine.heart import Heart
from durable_agent.errors import DatabaseUnavailable, RetryableError
from durable_agent.flow.registry import Registry
from durable_agent.settings import Settings
from durable_agent.telemetry import Counters
from durable_agent.testing import FakeBackend
from durable_agent.worker.attempt import run_attempt
from durable_agent.worker.link import AttemptLink
from durable_agent.worker.loop import Running, Worker
from tests.support.alone import Alone
from tests.support.postgres import Database
from tests.support.runs import Engine, run_of
from tests.support.runs import step as step_of
from tests.support.server import working
from tests.worker.test_worker import status, until

LEASE = Lease(Tenant(1), RunId(UUID(int=1)), 0, 1, Token(UUID(int=2)))
CLAIM = Claim(LEASE, "a", StepKind.TOOL_CALL, "noop", None, None, None, {}, 1, 0, None, 60.0, "key")
INTENT = Intended(LEASE, 1, "noop", EffectClass.SAFE, b"{}", "0", effect_key("key", 1, "0"))


def idle(place: Path) -> Worker:
    """Return a worker that nobody runs."""
    registry = Registry.from_modules(["tests.support.tools"])
    return Worker(
        FakeBackend(), registry, 4, poll_s=lambda: 1.0, grace_s=1.0, payload_limit_bytes=1000,
        artifact_limit_bytes=1000, artifacts=Artifacts(str(place)), lease_s=30.0, counters=Counters(),
        models=WorkerModels.from_env({}),
    )  # fmt: skip


async def running(worker: Worker, since_s: float) -> asyncio.Task[None]:
    """Return an attempt that is under way since then."""

    async def attempt() -> None:
        await asyncio.Event().wait()

    task = asyncio.create_task(attempt())
    await asyncio.sleep(0)
    worker.running[LEASE.token] = Running(CLAIM, task, since_s, since_s)
    return task


async def test_a_worker_hears_by_its_beat_that_a_lease_is_gone(tmp_path: Path) -> None:
    worker = idle(tmp_path)
    task = await running(worker, since_s=1.0)
    worker.beat(2.0, frozenset({LEASE.token}))
    assert not task.cancelling()
    worker.beat(3.0, frozenset())
    assert task.cancelling()
    await asyncio.wait([task])


async def test_what_was_claimed_after_the_question_is_not_judged_by_its_answer(tmp_path: Path) -> None:
    worker = idle(tmp_path)
    task = await running(worker, since_s=2.0)
    worker.beat(1.0, frozenset())
    assert not task.cancelling()
    task.cancel()
    await asyncio.wait([task])


async def test_a_call_waits_until_a_beat_vouches_for_the_lease(tmp_path: Path) -> None:
    """A process that was frozen between its commit and its call asks first."""
    worker = idle(tmp_path)
    calls: list[str] = []

    async def call() -> None:
        await AttemptLink(worker, CLAIM).tell(INTENT)
        calls.append("made")

    calling = asyncio.create_task(call())
    while not worker.has_outcomes:  # noqa: ASYNC110  # the worker has no event for it
        await asyncio.sleep(0)
    worker._answer([INTENT], [Verdict.OK])
    for _ in range(20):
        await asyncio.sleep(0)
    assert calls == []
    worker.beat(time.monotonic(), frozenset({LEASE.token}))
    await calling
    assert calls == ["made"]


async def test_a_step_given_back_before_it_looked_stays_in_doubt(tmp_path: Path) -> None:
    worker = idle(tmp_path)
    for in_doubt in (True, False):
        worker._start([replace(CLAIM, in_doubt=in_doubt)], -1e9)  # nobody vouches for its lease yet
        (attempt,) = worker.running.values()
        await asyncio.sleep(0)
        worker._give_back()
        await asyncio.wait([attempt.task])
    assert worker._outcomes == [Released(LEASE, in_doubt=True), Released(LEASE)]


async def test_who_lost_the_heart_s_connection_asks_before_it_acts(tmp_path: Path) -> None:
    worker = idle(tmp_path)
    worker.beat(time.monotonic(), frozenset({LEASE.token}))
    await worker.leases_are_good(LEASE.token)
    worker.unheard()  # the session is suspected by now, and its leases may be taken
    asking = asyncio.create_task(worker.leases_are_good(LEASE.token))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not asking.done()
    worker.beat(time.monotonic(), frozenset({LEASE.token}))
    await asking


async def test_the_heart_tells_at_once_that_its_connection_is_gone(engine: Engine, database: Database) -> None:
    told: asyncio.Queue[str] = asyncio.Queue()
    heart = Heart(
        engine.url, engine.hand().room.offer, ttl_s=30.0, beat_s=30.0, on_beat=lambda beat: told.put_nowait("beat"),
        on_loss=lambda: told.put_nowait("loss"), load=lambda: 1,
    )  # fmt: skip
    heart.start()
    assert await told.get() == "beat"
    database.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'durable-agent heart'"
    )
    assert [await told.get(), await told.get()] == ["loss", "beat"]
    await heart.stop()


async def test_the_heart_beats_though_the_loop_never_answers(engine: Engine) -> None:
    heart = Heart(
        engine.url, engine.hand().room.offer, ttl_s=30.0, beat_s=0.02, on_beat=lambda beat: None, load=lambda: 1
    )
    heart.start()
    await heart.first.wait()
    seen, until_s = heart.beats, time.monotonic() + 10.0
    while heart.beats < seen + 5 and time.monotonic() < until_s:
        time.sleep(0.001)  # noqa: ASYNC251  # the loop is held up until the beats are there
    beaten = heart.beats - seen
    await heart.stop()
    assert beaten >= 5


@tool("look", effect="safe")
async def look() -> str:
    """See whether it may be called yet."""
    assert Slow.committed, "called before its intent was committed"
    return "seen"


@step("looks")
async def looks(ctx: Context) -> Any:
    """Call."""
    return await ctx.call("look")


class Slow(Alone):
    """A link whose commits take a few turns."""

    committed = False

    async def tell(self, outcome: Outcome) -> Verdict:
        for _ in range(20):
            await asyncio.sleep(0)
        Slow.committed = Slow.committed or isinstance(outcome, Intended)
        return await super().tell(outcome)


async def test_a_call_is_made_after_its_intent_is_committed() -> None:
    registry = Registry.from_modules([__name__])
    claim = replace(CLAIM, tool="looks", input={})
    outcome = await run_attempt(claim, registry, Slow(registry), limit_bytes=1000)
    assert isinstance(outcome, Succeeded), outcome
    assert outcome.output == b'"seen"'


async def test_a_recorded_call_is_not_made_again() -> None:
    registry = Registry.from_modules([__name__])
    sha = digest(dumps({}))
    before = Effect(1, "look", EffectClass.SAFE, sha, effect_key("key", 1, sha), EffectState.DONE, "before", None)
    link = Alone(registry)
    outcome = await run_attempt(
        replace(CLAIM, tool="looks", input={}, effects=(before,)), registry, link, limit_bytes=1000
    )
    assert isinstance(outcome, Succeeded), outcome
    assert (outcome.output, link.told) == (b'"before"', [])


@tool("slow", effect="idempotent")
async def slow() -> str:
    """Take a few turns."""
    for _ in range(50):
        await asyncio.sleep(0)
    return "done"


@step("fails_beside_a_call")
async def fails_beside_a_call(ctx: Context) -> None:
    """Fail while another task calls."""

    async def fail() -> None:
        while not isinstance(ctx.link, Alone) or not ctx.link.told:  # noqa: ASYNC110  # the link has no event for it
            await asyncio.sleep(0)
        raise RetryableError("not yet")

    await asyncio.gather(ctx.call("slow"), fail())


async def test_a_call_of_another_task_is_recorded_before_its_attempt_ends() -> None:
    registry = Registry.from_modules([__name__])
    link = Alone(registry)
    claim = replace(CLAIM, tool="fails_beside_a_call", input={})
    outcome = await run_attempt(claim, registry, link, limit_bytes=1000)
    assert isinstance(outcome, Failed), outcome
    assert [type(told) for told in link.told] == [Intended, Recorded]


class Cut:
    """A way to the engine that fails at the first result."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.cut = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    async def exchange(self, outcomes: Sequence[Outcome], *, free: int, solo: bool) -> Exchange:
        if outcomes and not self.cut:
            self.cut = True
            raise DatabaseUnavailable("the connection was cut")
        return await self.backend.exchange(outcomes, free=free, solo=solo)


async def test_what_an_outage_kept_from_being_settled_is_settled_after_it(
    engine: Engine, settings: Settings, database: Database
) -> None:
    run = await engine.submit(run_of(step_of("a")))
    stop, ways = asyncio.Event(), list[Cut]()

    def wrap(backend: Backend) -> Backend:
        ways.append(Cut(backend))
        return ways[0]  # type: ignore[return-value]

    process = asyncio.create_task(worker_process(settings, ["tests.support.tools"], stop=stop, wrap=wrap))
    try:
        async with asyncio.timeout(20):
            await until(database, status(run), "completed")
    finally:
        stop.set()
        await process
    assert ways[0].cut
    assert (await engine.events(run)).count(("step.claimed", "a")) == 1


class Truncated(Cut):
    """A way to the engine whose database forgets the first result after it has acknowledged it, as a failover can."""

    TABLES = ("runs", "steps", "queue", "events")

    def __init__(self, backend: Backend, database: Database) -> None:
        super().__init__(backend)
        self.database = database

    async def exchange(self, outcomes: Sequence[Outcome], *, free: int, solo: bool) -> Exchange:
        if not outcomes or self.cut:
            return await self.backend.exchange(outcomes, free=free, solo=solo)
        self.cut = True
        for table in self.TABLES:
            self.database.execute(f"create table kept_{table} as select * from {table}")
        answer = await self.backend.exchange(outcomes, free=free, solo=solo)
        for table in self.TABLES:
            self.database.execute(f"delete from {table}")
            self.database.execute(f"insert into {table} select * from kept_{table}")
        assert answer.verdicts == (Verdict.OK,)
        return answer


async def test_a_lease_whose_end_the_database_forgot_is_given_back(
    engine: Engine, settings: Settings, database: Database
) -> None:
    run = await engine.submit(run_of(step_of("a")))
    stop = asyncio.Event()
    given = settings.model_copy(update={"lease_ttl_s": 3600.0, "beat_s": 0.05})
    process = asyncio.create_task(
        worker_process(given, ["tests.support.tools"], stop=stop, wrap=lambda backend: Truncated(backend, database))  # type: ignore[arg-type, return-value]
    )
    claims = f"select count(*) from events e where e.run_id = '{run}' and e.type = 'step.claimed'"
    try:
        async with asyncio.timeout(20):
            await until(database, f"select status || ({claims}) from runs where id = '{run}'", "completed2")
    finally:
        stop.set()
        await process
    told = [event for event in await engine.events(run) if event[1] == "a"]
    assert told == [(f"step.{kind}", "a") for kind in ("ready", "claimed", "released", "claimed", "succeeded")]


async def test_a_lease_that_is_on_its_way_to_an_attempt_is_not_given_back(tmp_path: Path) -> None:
    worker = idle(tmp_path)
    mine = frozenset({LEASE.token})
    worker._asking = []  # an exchange is under way that took it
    worker.beat(1.0, mine)
    worker.beat(2.0, mine)
    assert not worker._disowned
    worker._asking, worker._exchanges = None, 1
    task = await running(worker, since_s=2.5)
    worker.beat(3.0, mine)
    assert not worker._disowned
    worker._outcomes.append(Released(LEASE))
    del worker.running[LEASE.token]
    worker.beat(4.0, mine)
    worker.beat(5.0, mine)
    assert not worker._disowned
    worker._outcomes.clear()
    worker.beat(6.0, mine)  # read before the exchange that settled it, perhaps
    assert not worker._disowned
    worker.beat(7.0, mine)
    assert worker._disowned
    task.cancel()
    await asyncio.wait([task])


async def test_what_an_exchange_leaves_unsettled_is_in_the_next_one(
    engine: Engine, settings: Settings, database: Database
) -> None:
    """Two results that make more steps ready than go into one commit."""
    wide = [step_of(f"leaf{n}", "a") for n in range(MOST_PROMOTED - 10)]
    runs = [await engine.submit(run_of(step_of("a"), *wide)) for _ in range(2)]
    async with working(settings):
        for run in runs:
            await until(database, status(run), "completed")
    for run in runs:
        assert (await engine.events(run)).count(("step.claimed", "a")) == 1


async def test_an_idle_worker_finds_work_that_nobody_told_it_of(
    engine: Engine, settings: Settings, database: Database
) -> None:
    async with working(settings, listen="off", poll_s=0.1, tick_s=3600.0):
        await until(database, "select count(*)::int from workers", 1)
        run = await engine.submit(run_of(step_of("a")))
        async with asyncio.timeout(20):
            await until(database, status(run), "completed")
