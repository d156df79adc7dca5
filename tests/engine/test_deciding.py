"""Answers, approvals and timers where two meet, or one comes too late; each rule by its breach."""

from __future__ import annotations

import asyncio

import pytest

from durable_agent.core.events import dumps
from durable_agent.core.outcomes import Verdict
from durable_agent.core.records import DEFAULT_TENANT, WaitKind
from durable_agent.core.waits import Decision, approval_digest
from durable_agent.engine import control
from durable_agent.engine.answer import answer, cancel_orphans, settle_due
from durable_agent.engine.spared import Spared
from durable_agent.errors import Conflict
from tests.support.postgres import Database
from tests.support.runs import Engine, call_of, run_of, step


@pytest.mark.parametrize("decision", [Decision.APPROVED, Decision.REJECTED])
async def test_a_rejection_allows_nothing(engine: Engine, decision: Decision) -> None:
    hand, request = engine.hand(), dumps({"n": 1})
    _, wait = await engine.asked(hand, WaitKind.APPROVAL, approval_digest("noop", request))
    await answer(engine.pools, DEFAULT_TENANT, wait, decision, by="me")
    (claim,) = await hand.claim()
    verdicts = await hand.settle(call_of(claim.lease, 1, request, approval=wait))
    assert verdicts == [Verdict.OK if decision is Decision.APPROVED else Verdict.REFUSED]


async def test_an_approval_of_another_run_allows_nothing(engine: Engine) -> None:
    hand, request = engine.hand(), dumps({"n": 1})
    _, wait = await engine.asked(hand, WaitKind.APPROVAL, approval_digest("noop", request))
    await answer(engine.pools, DEFAULT_TENANT, wait, Decision.APPROVED, by="me")
    other = await engine.submit(run_of(step("a")))
    claims = {claim.lease.run_id: claim for claim in await hand.claim()}
    told = call_of(claims[other].lease, 1, request, approval=wait)
    assert await hand.settle(told) == [Verdict.REFUSED]


async def test_an_approval_is_good_for_one_of_two_calls_at_once(engine: Engine, database: Database) -> None:
    hand, request = engine.hand(), dumps({"n": 1})
    run, wait = await engine.asked(hand, WaitKind.APPROVAL, approval_digest("noop", request))
    await answer(engine.pools, DEFAULT_TENANT, wait, Decision.APPROVED, by="me")
    (claim,) = await hand.claim()
    told = [call_of(claim.lease, no, request, approval=wait) for no in (1, 2)]
    assert await hand.settle(*told) == [Verdict.OK, Verdict.REFUSED]
    assert await hand.settle(*told) == [Verdict.ALREADY, Verdict.REFUSED]
    assert database.execute("select no, approval from effects") == [(1, wait)]
    await hand.succeed(claim)
    assert (await engine.run(run))["status"] == "completed"


async def test_of_two_answers_at_once_one_is_the_decision(engine: Engine) -> None:
    hand = engine.hand()
    run, wait = await engine.asked(hand, WaitKind.APPROVAL)
    async with engine.held(run) as other:
        said = [
            asyncio.create_task(answer(engine.pools, DEFAULT_TENANT, wait, decision, by=decision.value))
            for decision in (Decision.APPROVED, Decision.REJECTED)
        ]
        await engine.blocked(2)
        other.rollback()
    won, lost = sorted(await asyncio.gather(*said, return_exceptions=True), key=lambda one: isinstance(one, Exception))
    assert won == run
    assert isinstance(lost, Conflict), lost
    assert (await engine.events(run)).count(("step.answered", "a")) == 1


async def test_an_answer_that_comes_too_late_is_refused_though_nobody_has_looked_yet(
    engine: Engine, database: Database
) -> None:
    hand = engine.hand()
    _, wait = await engine.asked(hand, WaitKind.APPROVAL, expires_s=60.0)
    database.move_clock(61)
    with pytest.raises(Conflict, match="expired"):
        await answer(engine.pools, DEFAULT_TENANT, wait, Decision.APPROVED, by="me")
    assert database.execute("select state, answer->>'decision' from waits") == [("answered", "rejected")]


async def test_a_timer_is_over_at_its_time_and_once(engine: Engine, database: Database) -> None:
    hand = engine.hand()
    run, _ = await engine.asked(hand, WaitKind.TIMER, expires_s=60.0)
    database.move_clock(59)
    assert await settle_due(engine.pools) == 0
    assert (await engine.statuses(run))["a"] == "waiting"
    database.move_clock(61)
    async with engine.held(run) as other:
        spared = Spared()
        looking = [asyncio.create_task(settle_due(engine.pools, spared)) for _ in range(2)]
        await engine.blocked(2)
        other.rollback()
    assert sorted(await asyncio.gather(*looking)) == [0, 1]
    assert spared.ids == set(), "who came second saw that it was over; the database had not to refuse anything"
    assert (await engine.events(run)).count(("step.answered", "a")) == 1
    hand.beat()
    assert [claim.name for claim in await hand.claim()] == ["a"]


async def test_what_a_cancelled_run_waited_for_is_cancelled(engine: Engine) -> None:
    hand = engine.hand()
    run, _ = await engine.asked(hand, WaitKind.RUN, run=run_of(step("c")))
    (child,) = await hand.claim()
    await control.cancel(engine.pools, DEFAULT_TENANT, run, actor="me")
    assert await cancel_orphans(engine.pools) == 1
    assert (await engine.run(child.lease.run_id))["status"] == "cancelled"
    assert await hand.succeed(child) is Verdict.LOST
