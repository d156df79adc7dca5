"""Claim and settle: the lease protocol, driven by hand on a real PostgreSQL."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from uuid import uuid4

import pytest

from durable_agent.core.outcomes import Failed, Released, Verdict
from durable_agent.core.records import DEFAULT_TENANT, FailureClass, RetryPolicy, Token
from durable_agent.engine import control
from durable_agent.engine.exchange import MOST_PROMOTED
from tests.support.runs import Engine, ok, run_of, step


async def test_a_run_goes_from_submission_to_completion(engine: Engine) -> None:
    run = await engine.submit(run_of(step("a"), step("b", "a")))
    hand = engine.hand()
    (a,) = await hand.claim()
    assert (a.name, a.attempt, a.lease.claim_no) == ("a", 1, 1)
    assert await hand.succeed(a, {"x": 1}) is Verdict.OK
    (b,) = await hand.claim()
    assert b.parents == {"a": {"x": 1}}
    await hand.succeed(b, 2)
    found = await engine.run(run)
    assert (found["status"], found["steps_left"], found["steps"]["b"]["output"]) == ("completed", 0, 2)


async def test_a_step_is_claimed_by_one_worker_only(engine: Engine) -> None:
    for _ in range(20):
        await engine.submit(run_of(step("a")))
    hands = [engine.hand(f"w{n}") for n in range(4)]
    claims = [claim for found in await asyncio.gather(*(hand.claim(20) for hand in hands)) for claim in found]
    tokens = {claim.lease.run_id: claim for claim in claims}
    assert len(tokens) == len(claims)


async def test_a_claim_never_takes_more_than_the_free_slots(engine: Engine) -> None:
    for _ in range(5):
        await engine.submit(run_of(step("a"), step("b")))
    assert len(await engine.hand().claim(3)) == 3


async def test_a_join_is_promoted_once_whatever_the_order_of_its_parents(engine: Engine) -> None:
    width = 16
    names = [f"p{n}" for n in range(width)]
    run = await engine.submit(run_of(*(step(n) for n in names), step("join", *names)))
    hands = [engine.hand(f"w{n}") for n in range(4)]
    shares = [await hand.claim(width // 4) for hand in hands]
    await asyncio.gather(*(hand.settle(ok(claim)) for hand, own in zip(hands, shares, strict=True) for claim in own))
    ready = [event for event in await engine.events(run) if event == ("step.ready", "join")]
    assert len(ready) == 1
    assert (await engine.statuses(run))["join"] == "ready"


async def test_a_zombies_result_is_refused_once_its_step_was_given_to_another(engine: Engine) -> None:
    run = await engine.submit(run_of(step("a")))
    zombie, heir = engine.hand("same-name"), engine.hand("same-name")
    (old,) = await zombie.claim()
    zombie.beat(ttl_s=-1)
    await engine.reap()
    (new,) = await heir.claim()
    assert new.lease.claim_no == 2
    assert await zombie.succeed(old, "zombie") is Verdict.LOST
    assert await heir.succeed(new, "heir") is Verdict.OK
    found = await engine.run(run)
    assert found["steps"]["a"]["output"] == "heir"
    assert ("step.fenced", "a") in await engine.events(run)


@pytest.mark.parametrize("forged", ["token", "claim_no"])
async def test_a_write_needs_both_the_token_and_the_claim_number(engine: Engine, forged: str) -> None:
    run = await engine.submit(run_of(step("a")))
    hand = engine.hand()
    (claim,) = await hand.claim()
    change = {"token": Token(uuid4())} if forged == "token" else {"claim_no": 2}
    stranger = replace(claim, lease=replace(claim.lease, **change))  # type: ignore[arg-type]
    assert await hand.succeed(stranger, "forged") is Verdict.LOST
    assert await hand.fail(stranger) is Verdict.LOST
    assert await hand.settle(Released(stranger.lease)) == [Verdict.LOST]
    assert (await engine.statuses(run))["a"] == "running"


async def test_a_result_told_twice_is_accepted_once(engine: Engine) -> None:
    run = await engine.submit(run_of(step("a")))
    hand = engine.hand()
    (claim,) = await hand.claim()
    assert await hand.succeed(claim, 1) is Verdict.OK
    assert await hand.succeed(claim, 1) is Verdict.ALREADY
    assert (await engine.events(run)).count(("step.succeeded", "a")) == 1


async def test_a_worker_that_remembers_a_lease_is_told_what_became_of_it(engine: Engine) -> None:
    """The session settles from memory; when that is out of date the rows decide, and nothing of the batch is lost."""
    runs = [await engine.submit(run_of(step("a"))) for _ in range(3)]
    hand = engine.hand()
    first, second, third = await hand.claim()
    remembered = dict(hand.room.held)
    assert await hand.succeed(first) is Verdict.OK
    await control.cancel(engine.pools, DEFAULT_TENANT, second.lease.run_id, actor="somebody")
    hand.room.held.update(remembered)  # as if the commit's answer had been lost
    assert await hand.settle(ok(first), ok(second), ok(third)) == [Verdict.ALREADY, Verdict.LOST, Verdict.OK]
    events = [await engine.events(run) for run in runs]
    assert sorted(story.count(("step.succeeded", "a")) for story in events) == [0, 1, 1]
    assert hand.room.held == {}


async def test_what_a_session_remembers_is_bounded(engine: Engine) -> None:
    hand = engine.hand()
    for _ in range(3):
        for _ in range(hand.room.offer.concurrency):
            await engine.submit(run_of(step("a")))
        assert len(await hand.claim()) == hand.room.offer.concurrency
    assert len(hand.room.held) == 2 * hand.room.offer.concurrency


async def test_a_failure_told_twice_is_counted_once(engine: Engine) -> None:
    run = await engine.submit(run_of(step("a")))
    hand = engine.hand()
    (claim,) = await hand.claim()
    assert await hand.fail(claim) is Verdict.OK
    assert await hand.fail(claim) is Verdict.ALREADY
    assert (await engine.run(run))["steps"]["a"]["failures"] == 1


async def test_an_expired_lease_that_nobody_took_still_counts(engine: Engine) -> None:
    run = await engine.submit(run_of(step("a")))
    hand = engine.hand()
    (claim,) = await hand.claim()
    hand.beat(ttl_s=-100)
    assert await hand.succeed(claim, 1) is Verdict.OK
    assert (await engine.run(run))["status"] == "completed"


async def test_a_failed_step_is_retried_and_dies_after_its_last_attempt(engine: Engine) -> None:
    run = await engine.submit(run_of(step("a", retry=RetryPolicy(max_attempts=2, base_s=0.0)), step("b", "a")))
    hand = engine.hand()
    for attempt in (1, 2):
        await engine.reap()
        (claim,) = await hand.claim()
        assert claim.attempt == attempt
        await hand.fail(claim)
    found = await engine.run(run)
    assert found["status"] == "failed"
    assert found["error"] == {"step": "a", "reason": "attempts_exhausted"}
    assert await engine.statuses(run) == {"a": "dead_letter", "b": "cancelled"}


async def test_a_failure_that_cannot_be_retried_ends_at_once(engine: Engine) -> None:
    run = await engine.submit(run_of(step("a")))
    hand = engine.hand()
    (claim,) = await hand.claim()
    await hand.fail(claim, FailureClass.INVALID_INPUT)
    found = await engine.run(run)
    assert found["steps"]["a"]["error"]["reason"] == "non_retryable"


async def test_retry_after_keeps_the_step_away_until_then(engine: Engine, database: object) -> None:
    run = await engine.submit(run_of(step("a")))
    hand = engine.hand()
    (claim,) = await hand.claim()
    await hand.fail(claim, FailureClass.RATE_LIMITED, retry_after_s=100.0)
    await engine.reap()
    assert await hand.claim() == []
    database.move_clock(120)  # type: ignore[attr-defined]
    hand.beat()
    await engine.reap()
    assert [c.name for c in await hand.claim()] == ["a"]
    assert (await engine.run(run))["steps"]["a"]["failures"] == 1


async def test_a_poison_step_is_sealed_after_three_lost_leases(engine: Engine) -> None:
    run = await engine.submit(run_of(step("a")))
    for _ in range(3):
        hand = engine.hand()
        assert len(await hand.claim()) == 1
        hand.beat(ttl_s=-1)
        await engine.reap()
    found = await engine.run(run)
    assert (found["status"], found["steps"]["a"]["crashes"]) == ("failed", 3)
    assert found["steps"]["a"]["error"]["reason"] == "poisoned"


async def test_steps_on_their_last_chance_run_one_at_a_time(engine: Engine, database: object) -> None:
    for _ in range(3):
        await engine.submit(run_of(step("a")))
    database.execute("update queue set crashes = 2")  # type: ignore[attr-defined]
    database.execute("update steps set crashes = 2")  # type: ignore[attr-defined]
    await engine.submit(run_of(step("b")))
    hand = engine.hand()
    first = await hand.claim()
    assert sorted(c.name for c in first) == ["a", "b"]
    assert await hand.claim(solo=False) == []
    engine.runs.clear()  # the counters above were planted


async def test_a_drained_step_goes_back_with_no_counter_touched(engine: Engine) -> None:
    run = await engine.submit(run_of(step("a")))
    hand = engine.hand()
    (claim,) = await hand.claim()
    assert await hand.settle(Released(claim.lease)) == [Verdict.OK]
    a = (await engine.run(run))["steps"]["a"]
    assert (a["status"], a["failures"], a["crashes"], a["claim_no"]) == ("ready", 0, 0, 1)


async def test_a_suspect_whose_session_is_gone_loses_its_lease_within_the_grace(
    engine: Engine, database: object
) -> None:
    import psycopg

    run = await engine.submit(run_of(step("a")))
    hand = engine.hand()
    with psycopg.connect(engine.url, autocommit=True) as conn:
        hand.beat(conn=conn)
        assert len(await hand.claim()) == 1
        await engine.reap()
        assert (await engine.statuses(run))["a"] == "running"
    # pg_stat_activity forgets the session when its backend has ended, which is a moment after the client hung up.
    while database.execute("select from workers w join pg_stat_activity a on a.pid = w.backend_pid"):  # type: ignore[attr-defined]
        pass
    await engine.reap()
    assert (await engine.statuses(run))["a"] == "running"
    database.move_clock(0.4)  # type: ignore[attr-defined]
    await engine.reap()
    assert (await engine.statuses(run))["a"] == "ready"


async def test_a_suspect_that_beats_in_time_keeps_its_lease(engine: Engine, database: object) -> None:
    run = await engine.submit(run_of(step("a")))
    hand = engine.hand()
    await hand.claim()
    database.execute(
        "update workers set suspected_at = engine_now(), lease_until = engine_now() + interval '0.3 seconds'"
    )  # type: ignore[attr-defined]
    hand.beat()
    database.move_clock(5)  # type: ignore[attr-defined]
    await engine.reap()
    assert (await engine.statuses(run))["a"] == "running"


async def test_a_step_that_overstays_its_deadline_is_taken_from_a_live_worker(engine: Engine, database: object) -> None:
    run = await engine.submit(run_of(step("a", deadline_s=10.0)))
    hand = engine.hand()
    await hand.claim()
    database.move_clock(16)  # type: ignore[attr-defined]
    hand.beat()
    await engine.reap()
    assert ("step.lease_lost", "a") in await engine.events(run)


async def test_a_flood_of_one_lane_starves_no_other(engine: Engine) -> None:
    for _ in range(30):
        await engine.submit(run_of(step("a"), lane="flood"))
    await engine.submit(run_of(step("quiet"), lane="quiet"))
    names = [claim.name for claim in await engine.hand().claim(4)]
    assert "quiet" in names


async def test_a_higher_priority_goes_first(engine: Engine) -> None:
    await engine.submit(run_of(step("low")))
    await engine.submit(run_of(step("high", priority=5)))
    assert [claim.name for claim in await engine.hand().claim(1)] == ["high"]


async def test_a_worker_claims_only_what_it_offers_in_the_queues_it_serves(engine: Engine) -> None:
    await engine.submit(run_of(step("other", tool="unknown")))
    await engine.submit(run_of(step("gpu", queue="gpu")))
    await engine.submit(run_of(step("mine")))
    assert [claim.name for claim in await engine.hand().claim()] == ["mine"]


async def test_a_chain_is_handed_on_in_the_settling_transaction(engine: Engine) -> None:
    await engine.submit(run_of(step("a"), step("b", "a")))
    hand = engine.hand()
    (a,) = await hand.claim()
    answer = await hand.exchange([ok(a)], free=1)
    assert [claim.name for claim in answer.claims] == ["b"]


async def test_results_that_make_many_steps_ready_are_settled_in_several_commits(engine: Engine) -> None:
    for _ in range(3):
        await engine.submit(run_of(step("a"), *(step(f"leaf{n}", "a") for n in range(MOST_PROMOTED // 2))))
    hand = engine.hand()
    first, second, third = await hand.claim(3)
    answer = await hand.exchange([ok(first), ok(second), ok(third)], free=10)
    assert answer.verdicts == (Verdict.OK, Verdict.OK)
    assert answer.claims == (), "who has results left takes nothing new"
    answer = await hand.exchange([ok(third)], free=10)
    assert (answer.verdicts, len(answer.claims)) == ((Verdict.OK,), 10)


async def test_one_result_is_settled_at_once_however_many_steps_it_makes_ready(engine: Engine) -> None:
    await engine.submit(run_of(step("a"), *(step(f"leaf{n}", "a") for n in range(MOST_PROMOTED + 1))))
    hand = engine.hand()
    (a,) = await hand.claim()
    assert await hand.settle(ok(a)) == [Verdict.OK]


async def test_nothing_is_handed_on_while_another_waits_for_the_slot(engine: Engine) -> None:
    await engine.submit(run_of(step("a"), step("b", "a"), lane="one"))
    hand = engine.hand()
    (a,) = await hand.claim()
    await engine.submit(run_of(step("other"), lane="two"))
    answer = await hand.exchange([ok(a)], free=1)
    assert [claim.name for claim in answer.claims] == ["other"]


async def test_a_branch_not_taken_is_skipped_and_its_join_runs(engine: Engine) -> None:
    spec = run_of(
        step("classify"),
        step("refund", ("classify", "output.intent == 'refund'")),
        step("escalate", ("classify", "output.intent != 'refund'")),
        step("deep", "escalate"),
        step("close", "refund", "deep"),
    )
    run = await engine.submit(spec)
    hand = engine.hand()
    (claim,) = await hand.claim()
    await hand.succeed(claim, {"intent": "refund"})
    (refund,) = await hand.claim()
    await hand.succeed(refund)
    (close,) = await hand.claim()
    await hand.succeed(close)
    assert await engine.statuses(run) == {
        "classify": "succeeded", "refund": "succeeded", "escalate": "skipped", "deep": "skipped", "close": "succeeded",
    }  # fmt: skip


async def test_a_condition_that_cannot_be_decided_fails_the_run_by_name(engine: Engine) -> None:
    run = await engine.submit(run_of(step("a"), step("b", ("a", "output.missing > 1"))))
    hand = engine.hand()
    (a,) = await hand.claim()
    await hand.succeed(a, {})
    found = await engine.run(run)
    assert (found["status"], found["error"]) == ("failed", {"step": "b", "reason": "condition_error"})


async def test_a_failing_run_cancels_what_is_open_and_fences_what_runs(engine: Engine) -> None:
    run = await engine.submit(run_of(step("bad"), step("other"), step("later", "other")))
    hand = engine.hand()
    claims = {claim.name: claim for claim in await hand.claim()}
    await hand.settle(Failed(claims["bad"].lease, FailureClass.INVALID_INPUT, "Error", "no"))
    assert await engine.statuses(run) == {"bad": "dead_letter", "other": "cancelled", "later": "cancelled"}
    assert await hand.succeed(claims["other"]) is Verdict.LOST


async def test_redrive_goes_on_where_the_run_failed(engine: Engine) -> None:
    run = await engine.submit(run_of(step("first"), step("bad", "first"), step("last", "bad"), step("beside", "first")))
    hand = engine.hand()
    (first,) = await hand.claim()
    await hand.succeed(first, 1)
    claims = {claim.name: claim for claim in await hand.claim()}
    await hand.fail(claims["bad"], FailureClass.INVALID_INPUT)
    done = await control.redrive(engine.pools, DEFAULT_TENANT, run_id=run, actor="test")  # type: ignore[arg-type]
    assert [name for _, name in done] == ["bad"]
    assert await engine.statuses(run) == {"first": "succeeded", "bad": "ready", "last": "pending", "beside": "ready"}
    again = {claim.name: claim for claim in await hand.claim()}
    assert again["bad"].lease.claim_no == 2
    for claim in again.values():
        await hand.succeed(claim)
    (last,) = await hand.claim()
    await hand.succeed(last)
    assert (await engine.run(run))["status"] == "completed"
    assert (await engine.events(run)).count(("step.succeeded", "first")) == 1
