"""Explain: one reason of the closed list for every unfinished step, with its facts, whatever happened before."""

from __future__ import annotations

import random
from typing import Any
from uuid import UUID, uuid4

import pytest

from durable_agent.core.events import digest
from durable_agent.core.outcomes import InDoubt, Intended, Recorded, Released, Suspended
from durable_agent.core.records import DEFAULT_TENANT, EffectClass, EffectState, FailureClass, RetryPolicy, WaitKind
from durable_agent.core.states import RunStatus, StepStatus
from durable_agent.core.waits import ALLOWED, Decision
from durable_agent.engine import answer, control
from durable_agent.engine.explain import Explanation, Reason, StepReason, explain
from durable_agent.errors import DurableAgentError, NotFound
from tests.support.postgres import Database
from tests.support.runs import Engine, Hand, ok, run_of, step

WAITING = {
    Reason.WAITS_FOR_APPROVAL, Reason.WAITS_FOR_INPUT, Reason.WAITS_FOR_SIGNAL, Reason.WAITS_FOR_TIMER,
    Reason.WAITS_FOR_SPAWNED_STEPS, Reason.WAITS_FOR_RUN, Reason.UNKNOWN_EFFECT,
}  # fmt: skip
LATER = RetryPolicy(max_attempts=3, base_s=60.0, factor=1.0)


async def why(engine: Engine, run: UUID, name: str) -> StepReason:
    """Return the one reason of a step."""
    found = await explain(engine.pools, DEFAULT_TENANT, run)
    (reason,) = [reason for reason in found.steps if reason.step == name]
    return reason


async def test_a_step_that_waits_names_the_steps_it_waits_for(engine: Engine) -> None:
    run = await engine.submit(run_of(step("a"), step("b"), step("c", "a", "b")))
    hand = engine.hand()
    a, _ = await hand.claim()
    await hand.succeed(a)
    reason = await why(engine, run, "c")
    assert (reason.reason, reason.facts) == (Reason.WAITS_FOR_STEPS, {"steps": ["b"]})


async def test_ready_tells_who_could_take_it(engine: Engine) -> None:
    run = await engine.submit(run_of(step("a")))
    engine.hand("w1")
    engine.hand("w2", tools=["other"])
    reason = await why(engine, run, "a")
    assert reason.reason is Reason.READY
    assert reason.facts["ready_s"] >= 0
    assert {name: reason.facts[name] for name in ("queue", "live_workers", "free_slots")} == {
        "queue": "default", "live_workers": 2, "free_slots": 10,
    }  # fmt: skip


async def test_no_live_worker_is_said_even_when_dead_ones_are_known(engine: Engine, database: Database) -> None:
    run = await engine.submit(run_of(step("a")))
    engine.hand()
    database.move_clock(60)
    assert (await why(engine, run, "a")).reason is Reason.NO_LIVE_WORKER


async def test_a_tool_that_nobody_offers_is_named(engine: Engine) -> None:
    run = await engine.submit(run_of(step("a", tool="charge_card")))
    engine.hand()
    reason = await why(engine, run, "a")
    assert (reason.reason, reason.facts["tool"]) == (Reason.NO_WORKER_OFFERS, "charge_card")
    assert "charge_card" in reason.text


async def test_a_queue_that_nobody_serves_is_named(engine: Engine) -> None:
    run = await engine.submit(run_of(step("a", queue="gpu")))
    engine.hand()
    reason = await why(engine, run, "a")
    assert (reason.reason, reason.facts["queue"]) == (Reason.NO_WORKER_SERVES_QUEUE, "gpu")


async def test_a_scheduled_retry_tells_when_which_and_what_failed(engine: Engine) -> None:
    run = await engine.submit(run_of(step("a", retry=LATER)))
    hand = engine.hand()
    (a,) = await hand.claim()
    await hand.fail(a)
    reason = await why(engine, run, "a")
    assert reason.reason is Reason.RETRY_SCHEDULED
    assert (reason.facts["attempt"], reason.facts["of"], reason.facts["last_error"]) == (2, 3, "it failed")
    assert 0 < reason.facts["in_s"] <= 60


async def test_a_running_step_names_its_worker_and_its_last_beat(engine: Engine) -> None:
    run = await engine.submit(run_of(step("a")))
    await engine.hand("w7").claim()
    reason = await why(engine, run, "a")
    assert reason.reason is Reason.RUNNING
    assert (reason.facts["worker"], reason.facts["claim_no"]) == ("w7", 1)
    assert reason.facts["beat_ago_s"] >= 0
    assert 3500 < reason.facts["deadline_in_s"] <= 3600


async def test_a_suspected_worker_is_told_from_a_live_one(engine: Engine, database: Database) -> None:
    run = await engine.submit(run_of(step("a")))
    hand = engine.hand()
    await hand.claim()
    database.execute("update workers set suspected_at = engine_now()")
    assert (await why(engine, run, "a")).reason is Reason.WORKER_SUSPECTED


@pytest.mark.parametrize(
    "ended", ["update workers set lease_until = engine_now() - interval '2 s'", "delete from workers"]
)
async def test_an_expired_lease_and_one_of_an_unknown_session_say_so(
    engine: Engine, database: Database, ended: str
) -> None:
    run = await engine.submit(run_of(step("a")))
    await engine.hand().claim()
    database.execute(ended)
    assert (await why(engine, run, "a")).reason is Reason.LEASE_EXPIRED


async def test_a_paused_run_names_who_paused_it_and_when(engine: Engine) -> None:
    run = await engine.submit(run_of(step("a"), step("b", "a")))
    engine.hand()
    await control.pause(engine.pools, DEFAULT_TENANT, run, actor="ann")
    reason = await why(engine, run, "a")
    assert (reason.reason, reason.facts["by"]) == (Reason.PAUSED, "ann")
    assert reason.facts["since"]
    assert (await why(engine, run, "b")).reason is Reason.WAITS_FOR_STEPS


async def test_a_step_in_flight_when_the_run_is_paused_is_still_running(engine: Engine) -> None:
    run = await engine.submit(run_of(step("a")))
    await engine.hand().claim()
    await control.pause(engine.pools, DEFAULT_TENANT, run, actor="ann")
    assert (await why(engine, run, "a")).reason is Reason.RUNNING


@pytest.mark.parametrize("defect", ["delete from queue", "update steps set deps_left = 0, status = 'pending'"])
async def test_a_step_that_waits_for_nothing_is_called_a_defect(
    engine: Engine, database: Database, defect: str
) -> None:
    run = await engine.submit(run_of(step("a")))
    engine.runs.clear()  # its history does not fit its rows, and must not
    database.execute("delete from queue")
    database.execute(defect)
    assert (await why(engine, run, "a")).reason is Reason.STRANDED


async def test_an_ended_run_says_how_and_where_it_ended(engine: Engine) -> None:
    run = await engine.submit(run_of(step("a"), step("b", "a")))
    hand = engine.hand()
    (a,) = await hand.claim()
    await hand.fail(a, FailureClass.INVALID_INPUT)
    found = await explain(engine.pools, DEFAULT_TENANT, run)
    assert (found.status, found.steps) == (RunStatus.FAILED, ())
    assert "'a'" in found.text


async def test_an_unknown_run_is_not_found(engine: Engine) -> None:
    with pytest.raises(NotFound):
        await explain(engine.pools, DEFAULT_TENANT, uuid4())


async def test_an_unfinished_run_without_open_steps_is_called_a_defect(engine: Engine, database: Database) -> None:
    run = await engine.submit(run_of(step("a")))
    engine.runs.clear()
    database.execute("delete from queue")
    database.execute("update steps set status = 'cancelled', finished_at = engine_now()")
    (reason,) = (await explain(engine.pools, DEFAULT_TENANT, run)).steps
    assert reason.reason is Reason.STRANDED


@pytest.mark.parametrize("seed", range(8))
async def test_whatever_happens_every_unfinished_step_has_one_reason(
    engine: Engine, database: Database, seed: int
) -> None:
    walk = Walk(engine, database, random.Random(seed))
    run = await walk.begin()
    for _ in range(25):
        await walk.move(run)
        found = await explain(engine.pools, DEFAULT_TENANT, run)
        rows = await engine.run(run)
        unfinished = [name for name, s in rows["steps"].items() if not StepStatus(s["status"]).final]
        assert [reason.step for reason in found.steps] == unfinished, walk.done
        assert bool(found.steps) is not RunStatus(rows["status"]).final
        assert_fits(found, rows["steps"], walk.done)


def assert_fits(found: Explanation, steps: dict[str, Any], done: list[str]) -> None:
    """Check that no reason is a defect, and that reasons and statuses tell the same."""
    running = {Reason.RUNNING, Reason.LEASE_EXPIRED, Reason.WORKER_SUSPECTED}
    for reason in found.steps:
        status = steps[reason.step]["status"]
        assert reason.reason is not Reason.STRANDED, done
        assert (status == "running") is (reason.reason in running), (reason, done)
        assert (status == "waiting") is (reason.reason in WAITING), (reason, done)
        assert (status == "pending") is (reason.reason is Reason.WAITS_FOR_STEPS), (reason, done)


class Walk:
    """A random life of a run: what workers, people and the clock do to it."""

    def __init__(self, engine: Engine, database: Database, chance: random.Random) -> None:
        self.engine, self.database, self.chance = engine, database, chance
        self.hand: Hand = engine.hand()
        self.claims: list[Any] = []
        self.done: list[str] = []
        self.clock_s = 0.0

    async def begin(self) -> UUID:
        """Start a run of a random graph."""
        names = [f"s{n}" for n in range(self.chance.randint(1, 7))]
        steps = []
        for no, name in enumerate(names):
            parents = self.chance.sample(names[:no], k=self.chance.randint(0, min(2, no)))
            steps.append(step(name, *parents, tool=self.chance.choice(["noop", "noop", "other"]), retry=LATER))
        return await self.engine.submit(run_of(*steps))

    async def move(self, run: UUID) -> None:
        """Do one thing at random; what the state refuses changes nothing."""
        verb = self.chance.choice(
            [
                self._claim, self._claim, self._settle, self._settle, self._pause, self._resume, self._wait, self._lose,
                self._suspend, self._suspend, self._effect, self._answer, self._answer, self._signal,
            ]
        )  # fmt: skip
        self.done.append(verb.__name__)
        try:
            await verb(run)
        except DurableAgentError:
            self.done.append("refused")

    async def _claim(self, _: UUID) -> None:
        if self.chance.random() < 0.4:
            self.hand = self.engine.hand(tools=["noop", "other"])
        self.claims += await self.hand.claim(self.chance.randint(1, 3))

    async def _settle(self, _: UUID) -> None:
        if not self.claims:
            return
        claim = self.claims.pop(self.chance.randrange(len(self.claims)))
        match self.chance.randrange(5):
            case 0:
                await self.hand.fail(claim)
            case 1:
                await self.hand.settle(Released(claim.lease))
            case _:
                await self.hand.settle(ok(claim))

    async def _suspend(self, _: UUID) -> None:
        if not self.claims:
            return
        claim = self.claims.pop(self.chance.randrange(len(self.claims)))
        kind = self.chance.choice(list(WaitKind))
        self.done.append(kind.value)
        expires_s = self.chance.choice([None, 30.0])
        match kind:
            case WaitKind.UNKNOWN_EFFECT:
                await self.hand.settle(InDoubt(claim.lease, 0, claim.tool, "nobody heard"))
            case WaitKind.STEPS:
                added = tuple(step(f"{claim.name}.{n}.{claim.lease.claim_no}", retry=LATER) for n in range(2))
                await self.hand.settle(Suspended(claim.lease, kind, "spawn", {}, "x", steps=added))
            case WaitKind.RUN:
                child = run_of(step("child"))
                await self.hand.settle(Suspended(claim.lease, kind, "run", {}, "x", expires_s, run=child))
            case _:
                await self.hand.settle(Suspended(claim.lease, kind, "go", {}, "x", expires_s))

    async def _effect(self, _: UUID) -> None:
        if not self.claims:
            return
        claim = self.chance.choice(self.claims)
        no = len(claim.effects) + 1
        tell = Intended(claim.lease, no, "call", EffectClass.IDEMPOTENT, b"{}", digest(b"{}"), f"k{no}", None)
        done = Recorded(claim.lease, no, "call", EffectState.DONE, b"1")
        await self.hand.settle(*([tell, done] if self.chance.random() < 0.5 else [tell]))

    async def _answer(self, run: UUID) -> None:
        rows = self.database.execute("select id, kind from waits where state = 'open' and run_id = %s", run)
        if not rows:
            return
        wait, kind = self.chance.choice(rows)
        decision = self.chance.choice(ALLOWED.get(WaitKind(str(kind)), (Decision.APPROVED,)))
        await answer.answer(self.engine.pools, DEFAULT_TENANT, UUID(str(wait)), decision, by="me", value=1)

    async def _signal(self, run: UUID) -> None:
        await answer.signal(self.engine.pools, DEFAULT_TENANT, run, "go", 1, key=None, by="me")

    async def _pause(self, run: UUID) -> None:
        await control.pause(self.engine.pools, DEFAULT_TENANT, run, actor="me")

    async def _resume(self, run: UUID) -> None:
        await control.resume(self.engine.pools, DEFAULT_TENANT, run, actor="me")

    async def _wait(self, _: UUID) -> None:
        self.clock_s += self.chance.choice([1.0, 40.0, 90.0])
        self.database.move_clock(self.clock_s)
        await self.engine.reap()
        await answer.settle_due(self.engine.pools)

    async def _lose(self, _: UUID) -> None:
        self.database.execute("update workers set lease_until = engine_now() - interval '1 s'")
        if self.chance.random() < 0.5:
            await self.engine.reap()
