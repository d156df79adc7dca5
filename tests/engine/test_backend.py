"""The backend between a worker and the verbs: a value that PostgreSQL refuses, or the rows contradict, fails its own step alone."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import Any

import pytest

from durable_agent.core.outcomes import Recorded, Succeeded, Suspended, Verdict
from durable_agent.core.records import Claim, EffectState, WaitKind
from durable_agent.db.doorbell import Bell, Listener
from durable_agent.engine.backend import PostgresBackend
from durable_agent.telemetry import Counters
from tests.support.postgres import Database
from tests.support.runs import Engine, Hand, call_of, ok, run_of, step


def backend_of(engine: Engine, hand: Hand) -> PostgresBackend:
    return PostgresBackend(
        engine.pools,
        hand.room.offer,
        Bell(engine.pools, enabled=False),
        Listener(engine.pools, [], enabled=False),
        Counters(),
    )


def no_json(claim: Claim) -> Succeeded:
    return Succeeded(claim.lease, b"{no json")


def too_large_for_an_index(claim: Claim) -> Suspended:
    return Suspended(claim.lease, WaitKind.STEPS, "w", {}, "x", steps=(step("s", tool=secrets.token_hex(20_000)),))


@pytest.mark.parametrize("refused", [no_json, too_large_for_an_index])
async def test_a_value_the_database_refuses_fails_its_step_and_no_other(engine: Engine, refused: Any) -> None:
    run = await engine.submit(run_of(step("good")))
    bad_run = await engine.submit(run_of(step("bad")))
    hand = engine.hand()
    claims = {claim.name: claim for claim in await hand.claim()}
    outcomes = [ok(claims["good"], 1), refused(claims["bad"])]
    answer = await backend_of(engine, hand).exchange(outcomes, free=0, solo=True)
    assert answer.verdicts == (Verdict.OK, Verdict.OK)
    assert (await engine.run(run))["status"] == "completed"
    bad = (await engine.run(bad_run))["steps"]["bad"]
    assert (bad["status"], bad["error"]["failure"]) == ("dead_letter", "invalid_input")
    assert "cannot be stored" in bad["error"]["message"]


async def test_who_asks_for_a_call_that_cannot_be_recorded_hears_that_it_may_not_be_made(engine: Engine) -> None:
    run = await engine.submit(run_of(step("a")))
    hand = engine.hand()
    (a,) = await hand.claim()
    unstorable = replace(call_of(a.lease, 1), name="\udcff")
    answer = await backend_of(engine, hand).exchange([unstorable], free=0, solo=True)
    assert answer.verdicts == (Verdict.LOST,)
    assert (await engine.run(run))["steps"]["a"]["status"] == "dead_letter"


async def test_a_call_whose_intent_the_database_refuses_is_not_made(engine: Engine, database: Database) -> None:
    run = await engine.submit(run_of(step("a")))
    hand = engine.hand()
    (claim,) = await hand.claim()
    answer = await backend_of(engine, hand).exchange([call_of(claim.lease, 1, b"{no json")], free=0, solo=True)
    assert answer.verdicts == (Verdict.LOST,)
    assert database.execute("select no from effects") == []
    assert (await engine.run(run))["steps"]["a"]["error"]["failure"] == "invalid_input"


async def test_what_the_rows_contradict_for_ever_fails_its_step_and_keeps_nobody_else(
    engine: Engine, database: Database
) -> None:
    run = await engine.submit(run_of(step("good")))
    bad_run = await engine.submit(run_of(step("bad")))
    hand = engine.hand()
    claims = {claim.name: claim for claim in await hand.claim()}
    lease = claims["bad"].lease
    await hand.settle(call_of(lease, 1))
    await hand.settle(Recorded(lease, 1, "noop", EffectState.DONE, b"1"))
    # Another call by the number of one that is done.
    answer = await backend_of(engine, hand).exchange(
        [call_of(lease, 1, b"[2]"), ok(claims["good"], 1)], free=0, solo=True
    )
    assert answer.verdicts == (Verdict.LOST, Verdict.OK)
    assert database.execute("select no, state from effects") == [(1, "done")]
    assert (await engine.run(run))["status"] == "completed"
    assert "intend_effects changed 0 of 1 rows" in (await engine.run(bad_run))["steps"]["bad"]["error"]["message"]


async def test_the_result_of_a_call_whose_intent_the_database_forgot_is_lost_and_the_step_goes_on(
    engine: Engine,
) -> None:
    """As after a failover that lost the last commits: the intent is in nobody's history."""
    run = await engine.submit(run_of(step("a")))
    other = await engine.submit(run_of(step("b")))
    hand = engine.hand()
    claims = {claim.name: claim for claim in await hand.claim()}
    lease = claims["a"].lease
    backend = backend_of(engine, hand)
    outcomes = [Recorded(lease, 1, "noop", EffectState.DONE, b"1"), ok(claims["b"], 1)]
    answer = await backend.exchange(outcomes, free=0, solo=True)
    assert answer.verdicts == (Verdict.LOST, Verdict.OK)
    assert (await engine.run(other))["status"] == "completed"
    backend.disown(frozenset({lease.token}))
    await backend.exchange([], free=0, solo=True)
    (again,) = await hand.claim()
    assert (again.lease.claim_no, again.effects) == (2, ())
    await hand.succeed(again)
    assert (await engine.run(run))["status"] == "completed"
