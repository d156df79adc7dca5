"""Who claims what: locks, slots, turns, tokens, and what is handed on; each rule by its breach."""

from __future__ import annotations

import asyncio

import psycopg

from durable_agent.core.outcomes import Failed, Released, Verdict
from durable_agent.core.records import DEFAULT_TENANT, Claim, FailureClass
from durable_agent.engine import control
from durable_agent.engine.exchange import exchange
from tests.support.runs import Engine, ok, run_of, step


async def test_a_claim_waits_for_nobody(engine: Engine) -> None:
    busy, free = [await engine.submit(run_of(step("a"))) for _ in range(2)]
    hand = engine.hand()
    async with engine.held(busy) as other:
        found = asyncio.create_task(hand.claim())
        waits = asyncio.create_task(engine.blocked())
        await asyncio.wait([found, waits], return_when=asyncio.FIRST_COMPLETED)
        did_wait = waits.done()
        other.rollback()
        waits.cancel()
        claimed = [claim.lease.run_id for claim in await found]
    assert not did_wait
    assert claimed == [free]


async def test_what_is_handed_on_and_what_is_claimed_share_the_slots(engine: Engine) -> None:
    await engine.submit(run_of(step("a"), step("b", "a")))
    hand = engine.hand()
    (a,) = await hand.claim()
    await engine.submit(run_of(step("other")))
    answered = await hand.exchange([ok(a)], free=1)
    assert len(answered.claims) == 1


async def test_nothing_is_handed_on_past_a_turn_that_is_seen_only_now(engine: Engine) -> None:
    await engine.submit(run_of(step("a"), step("b", "a"), lane="one"))
    hand = engine.hand()
    (a,) = await hand.claim()
    await engine.submit(run_of(step("other"), lane="two"))
    done = await exchange(hand.pools, hand.room, [ok(a)], free=1, solo=True)  # without a look before
    assert (done.answer.claims, done.answer.more) == ((), True)


async def test_no_two_leases_have_one_token(engine: Engine) -> None:
    for _ in range(2):
        await engine.submit(run_of(step("a"), step("b")))
    tokens = []
    for _ in range(2):
        hand = engine.hand()
        claims = await hand.claim()
        tokens += [claim.lease.token for claim in claims]
        await hand.settle(*(Released(claim.lease) for claim in claims))
    assert len(set(tokens)) == 8


async def test_a_paused_runs_next_step_is_not_handed_on(engine: Engine) -> None:
    run = await engine.submit(run_of(step("a"), step("b", "a")))
    hand = engine.hand()
    (a,) = await hand.claim()
    await control.pause(engine.pools, DEFAULT_TENANT, run, actor="me")
    answered = await hand.exchange([ok(a)], free=1)
    assert (answered.verdicts, answered.claims) == ((Verdict.OK,), ())
    assert (await engine.run(run))["steps"]["b"]["queue_state"] == "held"


async def test_the_runs_of_a_batch_are_locked_in_the_order_of_their_ids(engine: Engine) -> None:
    low, high = sorted([await engine.submit(run_of(step("a"))) for _ in range(2)])
    hand = engine.hand()
    claims = {claim.lease.run_id: claim for claim in await hand.claim()}
    async with engine.held(low) as other:
        settling = asyncio.create_task(hand.settle(ok(claims[high]), ok(claims[low])))
        await engine.blocked()
        with psycopg.connect(engine.url) as third:
            third.execute("select from runs where id = %s for no key update nowait", (high,))
        other.rollback()
    assert await settling == [Verdict.OK, Verdict.OK]


async def test_a_join_is_ready_with_its_last_parent_and_not_before(engine: Engine) -> None:
    run = await engine.submit(run_of(step("a"), step("b"), step("join", "a", "b")))
    hand = engine.hand()
    for claim, then in zip(await hand.claim(), ("pending", "ready"), strict=True):
        await hand.succeed(claim)
        assert (await engine.statuses(run))["join"] == then


async def test_a_steps_key_is_the_same_at_every_attempt(engine: Engine) -> None:
    await engine.submit(run_of(step("a"), step("b")))
    await engine.submit(run_of(step("a")))
    hand = engine.hand()
    claims = await hand.claim()
    keys = {(claim.lease.run_id, claim.lease.step_no): claim.idempotency_key for claim in claims}
    assert len(set(keys.values())) == 3
    for claim in claims:
        await hand.fail(claim)
    await engine.reap()
    again: list[Claim] = await engine.hand().claim()
    assert {(claim.lease.run_id, claim.lease.step_no): claim.idempotency_key for claim in again} == keys
    assert {claim.attempt for claim in again} == {2}


async def test_what_a_run_took_out_of_the_queue_by_turning_back_is_not_leased(engine: Engine) -> None:
    """The pick comes first, and one of the outcomes it is committed with fails the run."""
    hand = engine.hand(tools=("noop", "undo"))
    run = await engine.submit(run_of(step("a", compensate="undo"), step("b", "a"), step("c", "a")))
    (a,) = await hand.claim(free=1)
    await hand.succeed(a)
    (b,) = await hand.claim(free=1)
    answer = await hand.exchange([Failed(b.lease, FailureClass.INVALID_INPUT, "Error", "it failed")], free=5)
    assert (answer.verdicts, answer.claims) == ((Verdict.OK,), ())
    (undo,) = await hand.claim()
    await hand.succeed(undo)
    assert (await engine.run(run))["status"] == "failed"
