"""Graphs of agents: what is wrong is named when they are made; patterns, predicates and joins run."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from durable_agent import Graph, tool
from durable_agent.agents.config import Config
from durable_agent.agents.offline import ScriptedModel
from durable_agent.agents.patterns import Node, branch_of, joined
from durable_agent.agents.tools import built_in
from durable_agent.core.waits import Decision
from durable_agent.errors import DurableAgentError
from durable_agent.flow.model import Reply, Request, ToolCall
from durable_agent.testing import run_in_memory
from workers.examples.research_swarm import research
from workers.examples.triage import stripe_refund, triage


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Graph("g").specs(), "at least one step"),
        (lambda: Graph("g").node("a").edge("a", "b").specs(), "'b', which is no node"),
        (lambda: Graph("g").node("a").edge("b", "a").specs(), "'b', which is no step"),
        (lambda: Graph("g").node("a").node("b").edge("a", "b").edge("b", "a").specs(), "circle: a → b → a"),
        (
            lambda: Graph("g").node("s").node("a").node("b").edge("s", "a").edge("a", "b").edge("b", "a").specs(),
            "circle: a → b → a",
        ),
        (lambda: Graph("g").node("a").node("a"), "'a' is given twice"),
        (lambda: Graph("g").node("a", agent="king"), "'king' is not known"),
        (lambda: Graph("g").node("a", agent="pipeline", input={"x": 1}), "an agent takes no tool, kind or input"),
        (lambda: Graph("g").node("a", agent="pipeline", tool="charge"), "an agent takes no tool, kind or input"),
        (lambda: Graph("g").node("a", agent="pipeline", kind="llm_call"), "an agent takes no tool, kind or input"),
        (lambda: Graph("g").node("a", kind="magic"), "'magic' is no kind"),
        (lambda: Graph("g").node("a", llm="default"), "belong to an agent"),
        (lambda: Graph("g").node("a", agent="pipeline", patience=3), "'patience' is no option"),
        (lambda: Graph("g").node("a", agent="swarm", concurrency=0), "at least 1"),
        (lambda: Graph("g").budget(tokens=-1), "must not be negative"),
        (lambda: Graph("g").budget(tokens=1, on_limit="cry"), "fail or pause"),
        (lambda: Graph("g").node("a").node("b").edge("a", "b", "output ==").specs(), "does not compile"),
        (
            lambda: Graph("g").node("a").node("b").node("c")
            .edge("a", "c", lambda e: True).edge("b", "c", "output").specs(),
            "use one of them",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_graph_is_named(make: Any, named: str) -> None:
    with pytest.raises(DurableAgentError, match=named):
        make()


def test_another_budget_is_another_version() -> None:
    one, other = (Graph("g").node("a").budget(tokens=n) for n in (1, 2))
    assert one.version != other.version
    assert one.version == Graph("g").node("a").budget(tokens=1).version


async def run(graph: Graph, *tools: Any, **given: Any) -> Any:
    return await run_in_memory(graph, [*tools, *built_in({})], **given)


async def test_the_research_swarm_plans_searches_analyses_in_parallel_and_sums_up() -> None:
    done = await run(research, input={"topic": "mediasoup vs LiveKit in 2026"})
    assert done.status == "completed"
    assert len(done.outputs["plan"]["plan"]) == 3
    assert done.outputs["search"]["results"]["web_search"][0]["offline"]
    branches = done.outputs["analyse"]["branches"]
    assert len(branches) == 5
    assert {f"analyse.swarm.branch.{i}" for i in range(5)} <= set(done.outputs)
    assert done.outputs["summarise"]["text"]


@pytest.mark.parametrize(
    ("intent", "taken", "left"), [("refund", "refund", "escalate"), ("talk", "escalate", "refund")]
)
async def test_triage_goes_where_its_predicate_leads_and_the_other_branch_is_skipped(
    intent: str, taken: str, left: str
) -> None:
    done = await run(triage, stripe_refund, input={"intent": intent, "charge": "ch_1", "amount": 5})
    assert done.status == "completed"
    assert taken in done.outputs
    assert done.step(left).status == "skipped"
    assert done.outputs[f"when.classify.{taken}"] is True
    if taken == "refund":
        assert done.outputs["refund"]["results"]["stripe_refund"]["amount"] == 5


async def test_a_join_behind_a_branch_that_is_not_taken_runs_with_the_others() -> None:
    @tool("name", effect="safe")
    async def name(ctx: Any) -> Any:
        return [ctx.step, sorted(ctx.parents)]

    graph = (
        Graph("join").node("a", tool=name).node("b", tool=name).node("c", tool=name).node("d", tool=name)
        .edge("a", "b", lambda edge: False).edge("a", "c", lambda edge: edge.output[0] == "a").edge("b", "d").edge("c", "d")
    )  # fmt: skip
    done = await run(graph, name)
    assert done.step("b").status == "skipped"
    assert done.outputs["c"][1] == ["a", "when.a.c"]
    assert done.outputs["d"] == ["d", ["c"]]


async def test_a_predicate_that_fails_fails_the_run_and_names_its_step() -> None:
    @tool("nothing", effect="safe")
    async def nothing() -> None: ...

    graph = Graph("g").node("a", tool=nothing).node("b", tool=nothing)
    graph.edge("a", "b", lambda edge: edge.input["missing"])
    done = await run(graph, nothing, input={})
    assert done.status == "failed"
    assert "missing" in done.step("when.a.b").error["message"]


async def test_plan_act_observe_asks_three_times_and_only_acting_has_tools() -> None:
    seen: list[Request] = []

    def line(text: str) -> Any:
        def reply(request: Request) -> Reply:
            seen.append(request)
            return Reply(text)

        return reply

    class Told(ScriptedModel):
        def _answer(self, request: Request) -> Reply:
            seen.append(request)
            if request.tools and len(request.messages) == 2:
                return Reply("", (ToolCall("1", "calculator", {"expression": "6*7"}),))
            return Reply("1. Calculate" if "plan" in request.messages[0]["text"] and not request.tools else "42")

    graph = Graph("g").node("solve", agent="plan_act_observe", llm="m", tools=["calculator"])
    done = await run(graph, models={"m": Told([])}, input={"question": "6*7?"})
    assert done.outputs["solve"]["text"]
    assert [bool(request.tools) for request in seen] == [False, True, True, False]


async def test_a_pipeline_of_tools_takes_its_arguments_from_the_runs_input() -> None:
    @tool("send", effect="safe")
    async def send(to: str, subject: str = "none", body: str = "") -> dict[str, str]:
        return {"to": to, "subject": subject}

    graph = Graph("g").node("mail", agent="pipeline", tools=[send])
    done = await run(graph, send, input={"subject": "hello", "other": 1}, goal="ann@example.org")
    assert done.outputs["mail"]["results"]["send"] == {"to": "ann@example.org", "subject": "hello"}


def test_a_branch_of_a_swarm_is_all_that_its_agent_is() -> None:
    config = Config(
        "name", "m", "Be brief.", ("charge",), ({"name": "s", "tools": []},), ("charge",), 7, 99, 0.5, 1000, 0.5
    )
    assert all(getattr(config, one.name) != one.default for one in fields(Config))
    branch = Node.from_json(branch_of(Node("swarm", "m", config))).config
    assert replace(branch, system="") == replace(config, system="")
    assert branch.system.endswith("Be brief.")


async def test_a_branch_of_a_swarm_asks_before_it_calls_what_needs_approval() -> None:
    charged: list[int] = []
    asked: list[str] = []

    @tool("charge")
    async def charge(amount: int) -> int:
        charged.append(amount)
        return amount

    def line(request: Request) -> Reply:
        done = any(m["role"] == "tool" for m in request.messages)
        return Reply("done") if done else Reply("", (ToolCall("1", "charge", {"amount": 5}),))

    def reject(engine: Any, wait: Any) -> None:
        asked.append(wait.asked.name)
        engine.answer(wait.id, Decision.REJECTED)

    graph = Graph("g").node("n", agent="swarm", llm="m", tools=[charge], approve=["charge"], concurrency=2)
    done = await run(graph, charge, models={"m": ScriptedModel([line, line])}, answers=reject)
    assert (done.status, asked, charged) == ("completed", ["charge", "charge"], [])


def test_a_part_of_a_swarm_has_the_text_of_its_own_branch() -> None:
    found = joined(["a", "b", "c"], [{"text": "A"}, None, {"text": "C"}])
    assert found == {"text": "A\n\nC", "branches": [{"part": "a", "text": "A"}, {"part": "c", "text": "C"}]}


async def test_an_agent_hears_of_a_node_named_like_a_predicate_and_not_of_predicates() -> None:
    @tool("known", effect="safe")
    async def known() -> str:
        return "the ship is blue"

    tasks: list[str] = []

    def line(request: Request) -> Reply:
        tasks.append(request.messages[-1]["text"])
        return Reply("done")

    graph = Graph("g").node("when.known", tool=known).node("tell", agent="pipeline", llm="m", prompt="Tell.")
    graph.edge("when.known", "tell", lambda edge: True)
    await run(graph, known, models={"m": ScriptedModel([line])})
    assert "the ship is blue" in tasks[0]
    assert "true" not in tasks[0]


def test_a_graph_that_is_added_to_is_another() -> None:
    graph = Graph("g").node("a")
    first, _ = graph.version, graph.specs()
    graph.node("b")
    assert [len(graph.specs()), len(graph.to_json())] == [2, 2]
    graph.edge("a", "b")
    assert graph.specs()[1].depends_on
    assert graph.version != first
