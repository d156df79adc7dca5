"""The engine in memory: an author's graph runs in a test without a database, and its clock is moved."""

from __future__ import annotations

from dataclasses import replace

import pytest

from durable_agent import Context, Graph, Step, step
from durable_agent.core.outcomes import Booked, Intended, Recorded, Released, Used
from durable_agent.core.records import Claim, EffectClass, EffectState, Limit, RunSpec
from durable_agent.core.waits import Decision
from durable_agent.flow.steps import step_specs
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


async def test_spawned_steps_keep_to_conditions_that_name_them_as_they_were_written() -> None:
    @step("adds")
    async def adds(ctx: Context) -> list[object]:
        names = {"item": 4}
        return await ctx.spawn(
            [
                Step("a", "double", names),
                Step("b", "double", names, depends_on=["a"], when="outputs['a'] > 100"),
                Step("c", "double", names, depends_on=["a"], when="outputs.a == 8 && outputs.size() == 1"),
                Step("d", "double", names, depends_on=[("a", "output > input.most")]),
                Step("e", "double", names, when="input.most > 100"),
            ],
            name="x.y",
        )

    run = await run_in_memory([Step("adds")], [adds, outside.double], input={"most": 7})
    assert run.outputs["adds"] == [8, None, 8, 8, None]


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


async def test_a_graph_brings_its_predicates_and_its_budget() -> None:
    graph = Graph("small").node("double", input={"item": 1}).node("end", tool="double", input={"item": 2})
    graph.edge("double", "end", lambda edge: edge.output == 2).budget(tools=1)
    run = await run_in_memory(graph, outside)
    assert (run.status, run.outputs) == ("budget_exceeded", {"double": 2, "when.double.end": True})
    assert set((await run_in_memory(graph, outside, budget=[])).outputs) == {"double", "when.double.end", "end"}


@pytest.mark.parametrize("below", [False, True])
async def test_a_run_that_its_budget_pauses_is_said(below: bool) -> None:
    if below:
        work, told = [Step("parent")], "a run it started is paused"
    else:
        work, told = [Step("double", input={"item": 1})], "the run is paused"
    with pytest.raises(RuntimeError, match=f"{told}.*tools 0 of 0"):
        await run_in_memory(work, outside, budget=[Limit("tools", 0, "pause")])


async def test_a_call_that_nobody_heard_the_end_of_is_charged_in_full_until_it_is_known() -> None:
    engine = FakeBackend()
    run_id = engine.submit(RunSpec(step_specs([Step("double")]), budget=(Limit("tokens", 1000),)))

    async def claim() -> Claim:
        return (await engine.exchange((), free=1, solo=True)).claims[0]

    def budget() -> tuple[int, int]:
        (found,) = engine.runs[run_id].budgets
        return found.spent, found.reserved

    claim_1 = await claim()
    intent = Intended(claim_1.lease, 1, "llm", EffectClass.SAFE, b"{}", "", "key", reserve={"tokens": 300})
    await engine.exchange([intent, Released(claim_1.lease)], free=0, solo=True)
    assert budget() == (0, 300)
    claim_2 = await claim()
    assert budget() == (300, 0)
    wrong = Booked(claim_1.lease, 1, "another", Used(1, 1))
    await engine.exchange([wrong, Booked(claim_1.lease, 1, "key", Used(50, 20))], free=0, solo=True)
    assert budget() == (70, 0)
    again = replace(intent, lease=claim_2.lease)
    done = Recorded(claim_2.lease, 1, "llm", EffectState.DONE, b"1", None, {"tokens": 300}, Used(90, 10))
    await engine.exchange([again, done], free=0, solo=True)
    assert budget() == (170, 0)
