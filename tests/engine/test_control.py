"""Control: cancel, pause and resume have one winner against every settlement."""

from __future__ import annotations

import asyncio

import pytest

from durable_agent.core.outcomes import Booked, Used, Verdict
from durable_agent.core.records import DEFAULT_TENANT, FailureClass, RunId
from durable_agent.engine import control
from durable_agent.errors import Conflict, NotFound
from tests.engine.test_budgets import intent, result
from tests.support.postgres import Database
from tests.support.runs import Engine, ok, run_of, step


async def test_cancel_ends_every_open_step_and_fences_what_runs(engine: Engine) -> None:
    run = await engine.submit(run_of(step("a"), step("b", "a")))
    hand = engine.hand()
    (a,) = await hand.claim()
    assert await control.cancel(engine.pools, DEFAULT_TENANT, run, actor="me", reason="enough") == "cancelled"
    assert await hand.succeed(a) is Verdict.LOST
    assert await engine.statuses(run) == {"a": "cancelled", "b": "cancelled"}


async def test_cancel_and_completion_at_once_have_one_winner(engine: Engine) -> None:
    hand = engine.hand()
    for _ in range(10):
        run = await engine.submit(run_of(step("a")))
        (a,) = await hand.claim()
        results = await asyncio.gather(
            control.cancel(engine.pools, DEFAULT_TENANT, run, actor="me"), hand.settle(ok(a)), return_exceptions=True
        )
        status = (await engine.run(run))["status"]
        if status == "cancelled":
            assert results == ["cancelled", [Verdict.LOST]]
        else:
            assert status == "completed"
            assert isinstance(results[0], Conflict)
            assert results[1] == [Verdict.OK]


async def test_a_second_cancel_says_how_the_run_ended(engine: Engine) -> None:
    run = await engine.submit(run_of(step("a")))
    await control.cancel(engine.pools, DEFAULT_TENANT, run, actor="me")
    with pytest.raises(Conflict, match="cancelled"):
        await control.cancel(engine.pools, DEFAULT_TENANT, run, actor="me")


async def test_a_paused_run_is_not_claimed_and_goes_on_when_resumed(engine: Engine) -> None:
    run = await engine.submit(run_of(step("a"), step("b"), step("c", "a")))
    hand = engine.hand()
    (first,) = await hand.claim(1)
    await control.pause(engine.pools, DEFAULT_TENANT, run, actor="me")
    assert await hand.claim() == []
    assert await hand.succeed(first) is Verdict.OK
    assert await hand.claim() == []
    await control.resume(engine.pools, DEFAULT_TENANT, run, actor="me")
    assert len(await hand.claim()) == 2


async def test_what_does_not_exist_is_named(engine: Engine) -> None:
    nowhere = "01890000-0000-7000-8000-000000000000"
    with pytest.raises(NotFound, match=nowhere):
        await control.pause(engine.pools, DEFAULT_TENANT, nowhere, actor="me")  # type: ignore[arg-type]


async def test_the_end_of_a_run_is_moved_by_no_late_word_and_by_each_end_anew(
    engine: Engine, database: Database
) -> None:
    run = RunId(await engine.submit(run_of(step("a"), step("b"))))
    hand = engine.hand()
    claims = {claim.name: claim for claim in await hand.claim()}
    asked = intent(claims["b"], 1, 0)
    await hand.settle(asked)
    await hand.fail(claims["a"], FailureClass.INVALID_INPUT)
    ended = (await engine.run(run))["finished_at"]
    database.move_clock(60)
    used = Used(40, 2, 7, {"input_tokens": 40, "output_tokens": 2})
    late = [result(asked, 10), Booked(asked.lease, 1, asked.key, used)]
    assert await hand.settle(*late) == [Verdict.LOST, Verdict.OK]
    row = await engine.run(run)
    assert (row["finished_at"], row["microusd"]) == (ended, 7)
    await control.redrive(engine.pools, DEFAULT_TENANT, run_id=run, actor="me")
    assert (await engine.run(run))["finished_at"] is None
    hand.beat()
    for claim in await hand.claim():
        await hand.succeed(claim)
    again = await engine.run(run)
    assert (again["status"], (again["finished_at"] - ended).total_seconds() >= 60) == ("completed", True)


async def test_what_a_person_paused_does_not_go_on_for_a_budget(engine: Engine) -> None:
    """A budget's run was found due, and was resumed and paused by hand before its lock was had."""
    run = await engine.submit(run_of(step("a")))
    await control.pause(engine.pools, DEFAULT_TENANT, run, actor="me")
    with pytest.raises(Conflict, match="not paused for a budget"):
        await control.resume(engine.pools, DEFAULT_TENANT, run, actor="engine", broke=True)
    assert (await engine.run(run))["status"] == "paused"
