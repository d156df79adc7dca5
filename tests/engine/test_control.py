"""Control: cancel, pause and resume have one winner against every settlement."""

from __future__ import annotations

import asyncio

import pytest

from durable_agent.core.outcomes import Verdict
from durable_agent.core.records import DEFAULT_TENANT
from durable_agent.engine import control
from durable_agent.errors import Conflict, NotFound
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
