"""Steps that others added: in a redriven run they are waited for and not added anew, and they keep to their conditions."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any
from uuid import UUID

import pytest

from durable_agent.core.outcomes import Failed, Succeeded, Suspended, Verdict
from durable_agent.core.records import DEFAULT_TENANT, Claim, FailureClass, RunId, StepSpec, WaitKind
from durable_agent.engine import control
from durable_agent.engine.answer import cancel_orphans
from durable_agent.engine.explain import Reason, explain
from durable_agent.errors import Conflict
from tests.support.runs import Engine, Hand, ok, run_of, step

DEAD = FailureClass.INVALID_INPUT


def adds(claim: Claim, *steps: StepSpec, name: str = "map") -> Suspended:
    """Return the wait of a step that adds others, whose names begin with its own."""
    return Suspended(claim.lease, WaitKind.STEPS, name, {"steps": len(steps)}, "digest", steps=steps)


async def claimed(hand: Hand) -> dict[str, Claim]:
    return {claim.name: claim for claim in await hand.claim()}


async def redriven(engine: Engine, run: UUID) -> list[str]:
    done = await control.redrive(engine.pools, DEFAULT_TENANT, run_id=RunId(run), actor="me")
    return [name for _, name in done]


def outputs(claim: Claim) -> list[Any]:
    """Return what a step is told of the steps that it added last."""
    return [one["output"] for one in max(claim.answers, key=lambda one: one.no).answer["value"]]


async def mapping(engine: Engine, hand: Hand, *beside: StepSpec) -> tuple[UUID, dict[str, Claim]]:
    """Return a run whose step `m` waits for three that it added, and what is claimed of it."""
    run = await engine.submit(run_of(step("m"), step("after", "m"), *beside))
    first = await claimed(hand)
    await hand.settle(adds(first.pop("m"), *(step(f"m.{n}") for n in range(3))))
    return run, first | await claimed(hand)


async def test_a_redriven_map_keeps_what_had_succeeded_and_makes_the_rest_once(engine: Engine) -> None:
    hand = engine.hand()
    run, items = await mapping(engine, hand)
    await hand.succeed(items["m.0"], 10)
    await hand.fail(items["m.1"], DEAD)
    assert await redriven(engine, run) == ["m.1"]
    why = {one.step: one for one in (await explain(engine.pools, DEFAULT_TENANT, run)).steps}
    assert (why["m"].reason, why["m"].facts["left"]) == (Reason.WAITS_FOR_SPAWNED_STEPS, 2)
    again = await claimed(hand)
    assert set(again) == {"m.1", "m.2"}
    assert again["m.1"].idempotency_key == items["m.1"].idempotency_key
    await hand.succeed(again["m.1"], 20)
    assert await hand.claim() == []
    await hand.succeed(again["m.2"], 30)
    (last,) = await hand.claim()
    assert (last.name, outputs(last), len(last.answers)) == ("m", [10, 20, 30], 1)
    await hand.succeed(last, outputs(last))
    await hand.succeed((await claimed(hand))["after"])
    ended = await engine.run(run)
    assert (ended["status"], ended["steps_total"], ended["steps"]["m"]["output"]) == ("completed", 5, [10, 20, 30])


async def test_an_item_that_was_redriven_may_fail_again_and_be_redriven_again(engine: Engine) -> None:
    hand = engine.hand()
    run, items = await mapping(engine, hand)
    for again in (1, 2, 3):
        await hand.fail(items["m.1"], DEAD)
        assert (await engine.run(run))["status"] == "failed"
        assert await redriven(engine, run) == ["m.1"]
        items = await claimed(hand)
        assert (set(items), items["m.1"].lease.claim_no) == ({"m.0", "m.1", "m.2"}, again + 1)
    for no, item in enumerate(sorted(items)):
        await hand.succeed(items[item], no)
    assert outputs((await hand.claim())[0]) == [0, 1, 2]


async def test_a_run_of_which_only_added_steps_are_left_waits_for_them_again(engine: Engine) -> None:
    """What is asked of people below an item is the run's own word, before and after."""
    hand = engine.hand()
    run, items = await mapping(engine, hand)
    await hand.settle(Suspended(items["m.0"].lease, WaitKind.INPUT, "q", {}, "q"), ok(items["m.2"], 2))
    await hand.fail(items["m.1"], DEAD)
    await redriven(engine, run)
    again = await claimed(hand)
    await hand.settle(Suspended(again["m.0"].lease, WaitKind.INPUT, "q", {}, "q"), ok(again["m.1"], 1))
    found = await engine.run(run)
    assert (found["status"], found["waiting"]) == ("waiting_for_input", 2)


async def test_maps_within_maps_wait_on_at_every_depth(engine: Engine) -> None:
    hand = engine.hand()
    run, items = await mapping(engine, hand)
    await hand.succeed(items["m.0"], 0)
    await hand.settle(adds(items["m.1"], step("m.1.0"), step("m.1.1", "m.1.0")))
    await hand.fail((await claimed(hand))["m.1.0"], DEAD)
    assert await redriven(engine, run) == ["m.1.0"]
    again = await claimed(hand)
    assert set(again) == {"m.1.0", "m.2"}
    await hand.settle(ok(again["m.1.0"], "a"), ok(again["m.2"], 2))
    await hand.succeed((await claimed(hand))["m.1.1"], "b")
    (inner,) = await hand.claim()
    assert (inner.name, outputs(inner)) == ("m.1", ["a", "b"])
    await hand.succeed(inner, outputs(inner))
    (outer,) = await hand.claim()
    assert (outer.name, outputs(outer)) == ("m", [0, ["a", "b"], 2])


async def test_what_was_added_last_is_waited_for_and_what_was_answered_stays(engine: Engine) -> None:
    hand = engine.hand()
    run, items = await mapping(engine, hand)
    await hand.settle(*(ok(claim, name) for name, claim in items.items()))
    (again,) = await hand.claim()
    await hand.settle(adds(again, step("m.x"), step("m.y"), name="second"))
    second = await claimed(hand)
    await hand.succeed(second["m.y"], "y")
    await hand.fail(second["m.x"], DEAD)
    await redriven(engine, run)
    (left,) = await hand.claim()
    await hand.succeed(left, "x")
    (last,) = await hand.claim()
    assert ([one.name for one in last.answers], outputs(last)) == (["map", "second"], ["x", "y"])


@pytest.mark.parametrize("beside", ["in one batch", "alone"])
async def test_a_step_whose_added_steps_have_all_ended_goes_on_at_once(engine: Engine, beside: str) -> None:
    """The last of them may end in the very transaction that fails the run: nobody told the one who waited."""
    hand = engine.hand()
    run, items = await mapping(engine, hand, step("other"))
    other = items.pop("other")
    if beside == "in one batch":
        dead = Failed(other.lease, DEAD, "Error", "it failed")
        assert set(await hand.settle(*(ok(claim, 1) for claim in items.values()), dead)) == {Verdict.OK}
    else:
        await hand.settle(*(ok(claim, 1) for claim in items.values()))
        await hand.fail(other, DEAD)
    await redriven(engine, run)
    again = await claimed(hand)
    assert set(again) == {"m", "other"}
    assert outputs(again["m"]) == [1, 1, 1]


async def test_what_undoes_a_run_waits_on_for_the_steps_that_it_added(engine: Engine) -> None:
    hand = engine.hand()
    run = await engine.submit(run_of(step("did", compensate="noop"), step("bad", "did")))
    await hand.succeed((await claimed(hand))["did"])
    await hand.fail((await claimed(hand))["bad"], DEAD)
    (undo,) = await hand.claim()
    assert undo.compensates
    await hand.settle(adds(undo, step("u.0"), step("u.1")))
    items = await claimed(hand)
    await hand.succeed(items["u.0"], 0)
    await hand.fail(items["u.1"], DEAD)
    assert (await engine.run(run))["error"]["reason"] == "compensation_failed"
    assert await redriven(engine, run) == ["u.1"]
    (again,) = await hand.claim()
    await hand.succeed(again, 1)
    (undo,) = await hand.claim()
    assert outputs(undo) == [0, 1]
    await hand.succeed(undo)
    assert (await engine.statuses(run))["did"] == "compensated"


async def test_steps_of_an_earlier_wait_do_not_count_for_a_later_one(engine: Engine) -> None:
    """Runs that were redriven before steps waited on: they added theirs anew, while the first ones were under way again."""
    hand = engine.hand()
    run, items = await mapping(engine, hand)
    await hand.fail(items["m.1"], DEAD)

    async def call_it(kind: str) -> None:
        async with engine.pools.transaction() as conn:
            await conn.execute("update waits set kind = %s where run_id = %s", (kind, run))

    await call_it("timer")
    await redriven(engine, run)
    await call_it("steps")
    again = await claimed(hand)
    await hand.settle(adds(again.pop("m"), *(step(f"m.again.{n}") for n in range(3))))
    anew = await claimed(hand)
    assert len(again) == len(anew) == 3
    await hand.settle(*(Succeeded(claim.lease, b"1") for claim in again.values()))
    assert await hand.claim() == []
    await hand.settle(*(Succeeded(claim.lease, b"2") for claim in anew.values()))
    (last,) = await hand.claim()
    assert outputs(last) == [2, 2, 2]


async def test_a_skipped_step_is_not_waited_for_again(engine: Engine) -> None:
    hand = engine.hand()
    run = await engine.submit(run_of(step("m"), step("other")))
    first = await claimed(hand)
    steps = (step("m.a"), step("m.b", ("m.a", "output.ok")), step("m.c", "m.b"), step("m.d", when="false"), step("m.e"))
    await hand.settle(adds(first["m"], *steps))
    items = await claimed(hand)
    await hand.succeed(items["m.a"], {"ok": False})
    await hand.fail(first["other"], DEAD)
    await redriven(engine, run)
    again = await claimed(hand)
    assert set(again) == {"m.e", "other"}
    await hand.succeed(again["m.e"], 1)
    assert outputs((await hand.claim())[0]) == [{"ok": False}, None, None, None, 1]


async def test_a_step_that_is_skipped_as_its_run_fails_is_counted(engine: Engine) -> None:
    hand = engine.hand()
    run = await engine.submit(run_of(step("m"), step("other")))
    first = await claimed(hand)
    await hand.settle(adds(first["m"], step("m.a"), step("m.b", ("m.a", "output.ok"))))
    (item,) = await hand.claim()
    dead = Failed(first["other"].lease, DEAD, "Error", "it failed")
    assert await hand.settle(ok(item, {"ok": False}), dead) == [Verdict.OK] * 2
    await redriven(engine, run)
    again = await claimed(hand)
    assert set(again) == {"m", "other"}
    assert outputs(again["m"]) == [{"ok": False}, None]


@pytest.mark.parametrize("undo", [None, "noop"])
async def test_a_run_whose_added_step_cannot_be_decided_fails_by_it(engine: Engine, undo: str | None) -> None:
    hand = engine.hand()
    run = await engine.submit(run_of(step("did", compensate=undo), step("m", "did"), input={}))
    await hand.succeed((await claimed(hand))["did"])
    (claim,) = await hand.claim()
    await hand.settle(adds(claim, step("m.a", when="input.missing > 1"), step("m.b")))
    found = await engine.run(run)
    assert (found["status"], found["error"]["step"]) == ("compensating" if undo else "failed", "m.a")
    statuses = await engine.statuses(run)
    assert (statuses["m"], statuses["m.a"], statuses["m.b"]) == ("cancelled", "dead_letter", "cancelled")
    with pytest.raises(Conflict) if undo is None else nullcontext():
        await redriven(engine, run)
    for again in await hand.claim():
        await hand.succeed(again)
    assert (await engine.run(run))["status"] == "failed"


async def test_steps_that_are_added_to_a_paused_run_are_held_or_skipped(engine: Engine) -> None:
    hand = engine.hand()
    run = await engine.submit(run_of(step("m")))
    (claim,) = await hand.claim()
    await control.pause(engine.pools, DEFAULT_TENANT, run, actor="me")
    await hand.settle(adds(claim, step("m.a"), step("m.b", when="false")))
    assert await hand.claim() == []
    await control.resume(engine.pools, DEFAULT_TENANT, run, actor="me")
    await hand.succeed((await claimed(hand))["m.a"], 1)
    assert outputs((await hand.claim())[0]) == [1, None]


async def test_a_run_that_completed_before_anybody_cancelled_it_is_not_started_again(engine: Engine) -> None:
    hand = engine.hand()
    run = await engine.submit(run_of(step("r"), step("other")))
    first = await claimed(hand)
    below = run_of(step("below", queue="default"))
    await hand.settle(Suspended(first["r"].lease, WaitKind.RUN, "run", {}, "digest", run=below))
    (child,) = await hand.claim()
    await hand.fail(first["other"], DEAD)
    await hand.succeed(child, 7)
    await redriven(engine, run)
    again = await claimed(hand)
    assert set(again) == {"r", "other"}
    value = again["r"].answers[0].answer["value"]
    assert (value["run_id"], value["status"]) == (str(child.lease.run_id), "completed")
    assert value["output"] == {"below": 7}
    assert await cancel_orphans(engine.pools) == 0


async def test_a_run_that_was_cancelled_with_the_one_above_it_is_started_again(engine: Engine) -> None:
    hand = engine.hand()
    run = await engine.submit(run_of(step("r"), step("other")))
    first = await claimed(hand)
    below = run_of(step("below", queue="default"))
    await hand.settle(Suspended(first["r"].lease, WaitKind.RUN, "run", {}, "digest", run=below))
    await hand.claim()
    await hand.fail(first["other"], DEAD)
    assert await cancel_orphans(engine.pools) == 1
    await redriven(engine, run)
    again = await claimed(hand)
    assert (set(again), again["r"].answers) == ({"r", "other"}, ())
