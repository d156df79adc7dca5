"""The engine in memory: an author's graph runs in a test without a database, and its clock is moved."""

from __future__ import annotations

import pytest

from durable_agent import Graph, Step
from durable_agent.core.waits import Decision
from durable_agent.testing import FakeBackend, FakeWait, run_in_memory
from tests.support import outside
from workers.examples import vendor_onboarding as vendor


@pytest.fixture(autouse=True)
def _nothing_happened() -> None:
    outside.forget()


async def test_the_vendor_onboarding_is_approved_and_decided() -> None:
    def approve(engine: FakeBackend, wait: FakeWait) -> None:
        engine.answer(wait.id, Decision.APPROVED, reason="fine")

    run = await run_in_memory(vendor.vendor_onboarding, vendor, goal="review", answers=approve)
    assert run.status == "completed"
    assert run.outputs["final_decision"]["decision"] == "approved_with_controls"
    assert ("artifact", "onboarding_decision.json") in run.events


async def test_timers_and_back_off_take_no_time() -> None:
    run = await run_in_memory(
        [Step("nap", input={"seconds": 86_400}), Step("buy", input={"fails": 2}, depends_on=["nap"])], outside
    )
    assert run.status == "completed"
    assert outside.called("charge") == [5]


async def test_a_failed_run_undoes_what_it_did() -> None:
    run = await run_in_memory([Step("charge", input={"amount": 3}), Step("wrong", depends_on=["charge"])], outside)
    assert (run.status, outside.called("refund")) == ("failed", [7, 3])


async def test_spawned_steps_child_runs_and_signals() -> None:
    def go(engine: FakeBackend, wait: FakeWait) -> None:
        engine.signal(wait.run_id, "go", 1)

    run = await run_in_memory(
        [Step("fan", input={"items": [1, 2, 3]}), Step("parent"), Step("hear", input={"times": 2}, depends_on=["fan"])],
        outside, answers=go,
    )  # fmt: skip
    assert (run.outputs["fan"], run.outputs["hear"]) == ([2, 4, 6], [1, 1])
    assert run.outputs["parent"]["output"] == {"child": 8}


async def test_an_unknown_effect_is_settled_by_the_test() -> None:
    def happened(engine: FakeBackend, wait: FakeWait) -> None:
        engine.answer(wait.id, Decision.HAPPENED, "it went")

    run = await run_in_memory([Step("letter", input={"how": "breaks"})], outside, answers=happened)
    assert (run.outputs, outside.called("mail")) == ({"letter": "it went"}, ["her"])


async def test_what_nobody_answers_is_said() -> None:
    with pytest.raises(RuntimeError, match="input 'input', and nobody answers"):
        await run_in_memory([Step("buy", input={"waits": True})], outside)


async def test_branches_are_taken_and_skipped() -> None:
    graph = (
        Graph("branches").node("double", input={"item": 1}).node("small", tool="double", input={"item": 2})
        .node("big", tool="double", input={"item": 3}).node("end", tool="double", input={"item": 4})
        .edge("double", "small", when="output < 5").edge("double", "big", when="output >= 5")
        .edge("small", "end").edge("big", "end")
    )  # fmt: skip
    assert set((await run_in_memory(graph, outside)).outputs) == {"double", "small", "end"}
