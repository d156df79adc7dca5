"""A redrive: dead steps go on where they were, and what was in doubt stays so until somebody has looked."""

from __future__ import annotations

from dataclasses import replace

import pytest

from durable_agent.core.outcomes import Failed, InDoubt, Released, Verdict
from durable_agent.core.records import DEFAULT_TENANT, FailureClass, RetryPolicy, RunId
from durable_agent.engine import control
from durable_agent.engine.exchange import Room
from durable_agent.errors import Conflict
from tests.support.runs import Engine, Hand, ok, run_of, step

ONCE = RetryPolicy(max_attempts=1, base_s=0.0)


def offering(engine: Engine, effect: str) -> Hand:
    """Return a hand whose tools have an effect class."""
    hand = engine.hand()
    hand.room = Room(replace(hand.room.offer, effects={"noop": effect}))
    return hand


def failed(claim, *, in_doubt: bool) -> Failed:  # type: ignore[no-untyped-def]
    return Failed(claim.lease, FailureClass.TRANSIENT, "UnknownOutcome", "not answered", None, in_doubt)


async def test_a_step_that_died_in_doubt_is_looked_up_after_a_redrive_and_only_then(engine: Engine) -> None:
    run = RunId(await engine.submit(run_of(step("a", retry=ONCE))))
    hand = offering(engine, "verify")
    (claim,) = await hand.claim()
    await hand.settle(failed(claim, in_doubt=True))
    await control.redrive(engine.pools, DEFAULT_TENANT, run_id=run, actor="me")
    (again,) = await hand.claim()
    assert again.in_doubt
    # It was looked up, did not happen, and the call failed for certain: nothing is in doubt any more.
    await hand.settle(failed(again, in_doubt=False))
    await control.redrive(engine.pools, DEFAULT_TENANT, run_id=run, actor="me")
    (last,) = await hand.claim()
    assert not last.in_doubt
    await hand.succeed(last)


async def test_a_step_that_lost_too_many_leases_is_looked_up_after_a_redrive(engine: Engine) -> None:
    run = RunId(await engine.submit(run_of(step("a", max_crashes=1))))
    hand = offering(engine, "verify")
    assert len(await hand.claim()) == 1
    hand.beat(ttl_s=-1)
    await engine.reap()
    assert (await engine.statuses(run))["a"] == "dead_letter"
    await control.redrive(engine.pools, DEFAULT_TENANT, run_id=run, actor="me")
    hand = offering(engine, "verify")
    (again,) = await hand.claim()
    assert again.in_doubt
    await hand.succeed(again)


async def cut_off(engine: Engine) -> Hand:
    """Return a session after a redrive of a run whose failure cut a manual step off in its middle."""
    run = RunId(await engine.submit(run_of(step("cut off"), step("bad"))))
    hand = offering(engine, "manual")
    claims = {claim.name: claim for claim in await hand.claim()}
    await hand.fail(claims["bad"], FailureClass.INVALID_INPUT)
    await control.redrive(engine.pools, DEFAULT_TENANT, run_id=run, actor="me")
    return hand


async def test_a_manual_step_in_doubt_that_is_given_back_stays_in_doubt(engine: Engine) -> None:
    hand = await cut_off(engine)
    again = {claim.name: claim for claim in await hand.claim()}
    await hand.settle(*(Released(claim.lease, in_doubt=claim.in_doubt) for claim in again.values()))
    last = {claim.name: claim for claim in await hand.claim()}
    assert (last["cut off"].in_doubt, last["bad"].in_doubt) == (True, False)
    doubt = InDoubt(last["cut off"].lease, 0, "noop", "it may have happened", "key")
    assert await hand.settle(doubt, ok(last["bad"])) == [Verdict.OK, Verdict.OK]


async def test_a_claim_that_nobody_heard_of_keeps_what_was_in_doubt_before_it(engine: Engine) -> None:
    hand = await cut_off(engine)
    hand = offering(engine, "manual")
    assert len(await hand.claim()) == 2
    unheard = Room(hand.room.offer, unsure_until_s=1e12)
    hand.room = unheard
    await hand.exchange()
    again = {claim.name: claim for claim in await hand.claim()}
    assert again["cut off"].in_doubt


async def test_a_run_whose_condition_cannot_be_decided_is_not_redriven_and_says_why(engine: Engine) -> None:
    run = RunId(
        await engine.submit(
            run_of(step("a", retry=ONCE), step("b"), step("c", ("b", "output.missing > 1")), step("d", "c"))
        )
    )
    hand = engine.hand()
    claims = {claim.name: claim for claim in await hand.claim()}
    await hand.settle(ok(claims["b"], {}), failed(claims["a"], in_doubt=False))
    assert (await engine.statuses(run)) == {"a": "dead_letter", "b": "succeeded", "c": "dead_letter", "d": "cancelled"}
    with pytest.raises(Conflict, match="the condition of step 'c' would fail again"):
        await control.redrive(engine.pools, DEFAULT_TENANT, run_id=run, actor="me")
    assert await control.redrive(engine.pools, DEFAULT_TENANT, actor="me") == []
    assert (await engine.run(run))["status"] == "failed"


async def test_a_run_goes_on_with_all_its_dead_steps_whichever_was_asked_for(engine: Engine) -> None:
    run = RunId(await engine.submit(run_of(step("a", retry=ONCE), step("b", retry=ONCE), step("c", "a", "b"))))
    hand = engine.hand()
    await hand.settle(*(failed(claim, in_doubt=False) for claim in await hand.claim()))
    done = await control.redrive(engine.pools, DEFAULT_TENANT, run_id=run, step="a", actor="me")
    assert sorted(name for _, name in done) == ["a", "b"]
    for _ in range(2):
        for claim in await hand.claim():
            await hand.succeed(claim)
    assert (await engine.run(run))["status"] == "completed"


async def test_a_call_that_failed_for_certain_is_not_told_as_unknown_when_its_run_ends(engine: Engine) -> None:
    run = await engine.submit(run_of(step("a"), step("b", retry=ONCE)))
    hand = offering(engine, "manual")
    claims = {claim.name: claim for claim in await hand.claim()}
    await hand.settle(failed(claims["a"], in_doubt=False), failed(claims["b"], in_doubt=False))
    events = await engine.events(run)
    assert ("step.failed", "a") in events
    assert ("step.cancelled", "a") in events
    assert ("effect.unknown", "a") not in events


async def test_a_manual_step_that_was_cut_off_is_in_doubt_after_a_redrive(engine: Engine) -> None:
    hand = await cut_off(engine)
    again = {claim.name: claim for claim in await hand.claim()}
    assert (again["cut off"].in_doubt, again["bad"].in_doubt) == (True, False)


async def test_runs_that_cannot_go_on_keep_no_others_from_being_redriven(engine: Engine) -> None:
    hand = engine.hand()
    undecided = run_of(step("a", retry=ONCE), step("b"), step("c", ("b", "output.missing > 1")))
    undone = run_of(step("b", compensate="noop"), step("a", "b", retry=ONCE))
    for spec in (undecided, undone, run_of(step("a", retry=ONCE))):
        last = await engine.submit(spec)
        while claims := {claim.name: claim for claim in await hand.claim()}:
            await hand.settle(*(failed(c, in_doubt=False) if n == "a" else ok(c, {}) for n, c in claims.items()))
        assert (await engine.run(last))["status"] == "failed"
    assert await control.redrive(engine.pools, DEFAULT_TENANT, limit=1, actor="me") == [(last, "a")]
