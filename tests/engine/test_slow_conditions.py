"""Conditions that take long to decide keep nobody: not the other results of a batch, and not their own run for ever."""

from __future__ import annotations

import pytest

from durable_agent.core.outcomes import Verdict
from durable_agent.engine import promote
from tests.engine.test_backend import backend_of
from tests.support.runs import Engine, ok, run_of, step

CHOICE = run_of(
    step("a"), step("b"), step("c", ("a", "output.x == 1")), step("d", ("b", "output.x == 2")), step("e", "b")
)


async def test_results_whose_conditions_take_long_together_are_settled_one_by_one(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in ("SHARED_S", "SILENT_S"):
        monkeypatch.setattr(promote, limit, -1.0)
    run = await engine.submit(CHOICE)
    hand = engine.hand()
    claims = await hand.claim()
    with pytest.raises(promote.TooSlow):
        await hand.settle(*(ok(claim, {"x": 1}) for claim in claims))
    answer = await backend_of(engine, hand).exchange([ok(claim, {"x": 1}) for claim in claims], free=0, solo=True)
    assert answer.verdicts == (Verdict.OK, Verdict.OK)
    assert await engine.statuses(run) == {
        "a": "succeeded", "b": "succeeded", "c": "ready", "d": "skipped", "e": "ready"
    }  # fmt: skip


async def test_a_result_whose_conditions_take_too_long_ends_its_run_and_says_so(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(promote, "ALONE_S", -1.0)
    run = await engine.submit(CHOICE)
    hand = engine.hand()
    claims = {claim.name: claim for claim in await hand.claim()}
    assert await hand.succeed(claims["a"], {"x": 1}) is Verdict.OK
    found = await engine.run(run)
    assert (found["status"], found["steps"]["c"]["status"]) == ("failed", "dead_letter")
    assert "take more than -1 s to decide" in found["steps"]["c"]["error"]["message"]
