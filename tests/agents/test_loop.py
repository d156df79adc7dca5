"""The agent's loop: the model asks, tools are called, errors go back to it, what is recorded is not asked again."""

from __future__ import annotations

from typing import Any

import pytest

from durable_agent import Context, tool
from durable_agent.agents.offline import ScriptedModel
from durable_agent.agents.tools import built_in
from durable_agent.core.records import Limit, StepKind
from durable_agent.core.waits import Decision
from durable_agent.errors import FatalError, RetryableError
from durable_agent.flow.model import Reply, Request, ToolCall, Usage
from durable_agent.flow.steps import Step
from durable_agent.testing import FakeBackend, run_in_memory


class Counted:
    """Tools that count what they are called with."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

        @tool("lookup", effect="safe")
        async def lookup(city: str) -> dict[str, Any]:
            """Look a city up.

            This is not for models.
            """
            self.calls.append(city)
            return {"city": city}

        @tool("flaky", effect="safe")
        async def flaky(times: int) -> str:
            """Fail some times, then work."""
            self.calls.append(times)
            if len(self.calls) <= times:
                raise RetryableError("not yet")
            return "worked"

        @tool("charge", effect="manual")
        async def charge(ctx: Context, amount: int) -> dict[str, Any]:
            """Charge a card."""
            self.calls.append((amount, ctx.idempotency_key))
            return {"charged": amount}

        @tool("refuses", effect="safe")
        async def refuses() -> None:
            """Refuse."""
            raise FatalError("it is closed on Sundays")

        @tool("large", effect="safe")
        async def large(size: int) -> str:
            """Return much."""
            return "x" * size

        self.tools = (lookup, flaky, charge, refuses, large, *built_in({}))


def said(*calls: ToolCall, text: str = "") -> Reply:
    return Reply(text, calls)


def call(tool: str, number: str = "1", /, **arguments: Any) -> ToolCall:
    return ToolCall(number, tool, arguments)


async def agent(
    tools: Counted, script: list[Any], *names: str, answers: Any = None, budget: Any = (), **config: Any
) -> Any:
    """Run an agent with a scripted model to its end."""
    given = {"agent": {"name": "a", "model": "m", "tools": list(names), **config}, "input": "go"}
    step = Step("agent", "agent", given, StepKind.AGENT)
    models = {"m": ScriptedModel(script)}
    return await run_in_memory([step], tools.tools, models=models, answers=answers, budget=budget)


def told(run: Any) -> list[dict[str, Any]]:
    """Return what tools told the model."""
    return [m for m in run.step("agent").output["messages"] if m["role"] == "tool"]


async def test_what_a_tool_returns_goes_back_to_the_model_and_its_answer_is_the_output() -> None:
    tools = Counted()
    run = await agent(tools, [said(call("lookup", city="Rome")), Reply("It is Rome.")], "lookup")
    assert run.step("agent").output["text"] == "It is Rome."
    assert told(run)[0]["content"] == '{"city":"Rome"}'
    assert tools.calls == ["Rome"]


async def test_a_model_is_told_of_each_tool_its_first_paragraph_and_its_arguments() -> None:
    seen: list[Request] = []

    def line(request: Request) -> Reply:
        seen.append(request)
        return Reply("done")

    await agent(Counted(), [line], "lookup", system="You look up.")
    spec = seen[0].tools[0]
    assert (spec.name, spec.description) == ("lookup", "Look a city up.")
    assert spec.parameters["properties"]["city"]["type"] == "string"
    assert spec.parameters["required"] == ["city"]
    assert seen[0].messages[0]["text"].startswith("You look up.")
    assert "data" in seen[0].messages[0]["text"]


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        (call("lookup", town="Rome"), "argument 'city'"),
        (call("lookup", city="Rome", more=1), "argument 'more'"),
        (ToolCall("1", "lookup", "{broken"), "no JSON object"),
        (call("charge", amount=1), "there is no tool 'charge' for you; there are: lookup"),
        (call("refuses"), "there is no tool"),
    ],
)
async def test_what_the_model_does_wrong_it_is_told_and_nothing_is_called(asked: ToolCall, named: str) -> None:
    tools = Counted()
    run = await agent(tools, [said(asked), Reply("sorry")], "lookup")
    assert run.status == "completed"
    assert named in told(run)[0]["content"]
    assert told(run)[0]["error"]
    assert tools.calls == []


async def test_a_tool_that_refuses_is_an_answer_and_one_that_fails_in_passing_is_called_again() -> None:
    tools = Counted()
    script = [said(call("refuses")), said(call("flaky", times=2)), Reply("done")]
    run = await agent(tools, script, "refuses", "flaky")
    assert "closed on Sundays" in told(run)[0]["content"]
    assert told(run)[1]["content"] == "worked"
    assert len(tools.calls) == 3


async def test_a_tool_that_goes_on_failing_is_an_answer_too() -> None:
    run = await agent(Counted(), [said(call("flaky", times=99)), Reply("then not")], "flaky")
    assert "RetryableError: not yet" in told(run)[0]["content"]
    assert run.status == "completed"


async def test_several_calls_of_one_answer_are_made_and_told_in_its_order() -> None:
    tools = Counted()
    calls = [call("lookup", str(i), city=f"c{i}") for i in range(5)]
    run = await agent(tools, [said(*calls), Reply("done")], "lookup")
    assert [m["id"] for m in told(run)] == ["0", "1", "2", "3", "4"]
    assert sorted(tools.calls) == [f"c{i}" for i in range(5)]


async def test_an_agent_that_never_finishes_is_stopped_by_its_steps() -> None:
    forever = lambda request: said(call("lookup", str(len(request.messages)), city="x"))  # noqa: E731
    run = await agent(Counted(), [forever] * 10, "lookup", max_steps=4)
    assert run.status == "failed"
    assert run.step("agent").error["error_type"] == "MaxSteps"
    assert "max_steps" in run.step("agent").error["message"]


async def test_a_person_is_asked_and_the_worker_is_free_meanwhile() -> None:
    def answer(engine: FakeBackend, wait: Any) -> None:
        assert wait.asked.request["prompt"] == "Which city?"
        engine.answer(wait.id, Decision.RESPONDED, "Rome")

    script = [said(call("request_human_input", question="Which city?")), Reply("Rome it is")]
    run = await agent(Counted(), script, "request_human_input", answers=answer)
    assert told(run)[0]["content"] == "Rome"


@pytest.mark.parametrize("decision", [Decision.APPROVED, Decision.REJECTED])
async def test_a_call_that_needs_approval_waits_for_it_and_a_rejection_is_an_answer(decision: Decision) -> None:
    tools = Counted()

    def answer(engine: FakeBackend, wait: Any) -> None:
        assert wait.asked.request["tool"] == "charge"
        assert wait.asked.request["arguments"] == {"amount": 5}
        engine.answer(wait.id, decision, reason="because")

    run = await agent(
        tools, [said(call("charge", amount=5)), Reply("ok")], "charge", approve=["charge"], answers=answer
    )
    assert run.status == "completed"
    if decision is Decision.APPROVED:
        assert [amount for amount, _ in tools.calls] == [5]
    else:
        assert tools.calls == []
        assert "because" in told(run)[0]["content"]


async def test_a_file_is_stored_as_the_runs_artifact() -> None:
    script = [said(call("create_text_artifact", name="notes.md", content="# Notes")), Reply("ok")]
    run = await agent(Counted(), script, "create_text_artifact")
    assert ("artifact", "notes.md") in run.events


async def test_a_large_result_is_cut_and_can_be_read_on() -> None:
    script = [
        said(call("large", "a", size=500)), said(call("recall_result", "b", id="a", offset=450)),
        said(call("recall_result", "c", id="nothing")), Reply("done"),
    ]  # fmt: skip
    run = await agent(Counted(), script, "large", result_chars=100)
    first, rest, wrong = told(run)
    assert first["content"].startswith("x" * 100 + "\n[cut: 500 characters")
    assert rest["content"] == "x" * 50
    assert wrong["error"]


async def test_a_result_of_the_conversation_before_can_be_read_on() -> None:
    before = [{"role": "user", "text": "go"}, said(call("large", "old", size=80)).message(),
              {"role": "tool", "id": "old", "name": "large", "content": "y" * 80}]  # fmt: skip
    given = {"agent": {"name": "a", "model": "m", "tools": ["large"]}, "input": "on", "history": before}
    script = [Reply("of the run before"), said(call("recall_result", "b", id="old", offset=70)), Reply("done")]
    step = Step("agent", "agent", given, StepKind.AGENT)
    run = await run_in_memory([step], Counted().tools, models={"m": ScriptedModel(script)})
    assert told(run)[-1]["content"] == "y" * 10


async def test_a_conversation_that_nears_the_window_is_made_smaller_and_the_work_goes_on() -> None:
    sizes: list[int] = []

    class Small(ScriptedModel):
        window_tokens = 6000

    def line(request: Request) -> Reply:
        size = sum(len(str(m)) for m in request.messages)
        sizes.append(size)
        if request.messages[-1].get("text", "").startswith("Sum up"):
            return Reply("so far: nothing", usage=Usage(size // 4, 10))
        number = sum(len(m.get("calls", ())) for m in request.messages)
        if len(sizes) < 14:
            return Reply("", (call("large", f"{len(sizes)}-{number}", size=2500),), usage=Usage(size // 4, 10))
        return Reply("finished", usage=Usage(size // 4, 10))

    class Any_(Small):
        def _answer(self, request: Request) -> Reply:
            return line(request)

    given = {"agent": {"name": "a", "model": "m", "tools": ["large"], "max_tokens": 500}, "input": "go"}
    step = Step("agent", "agent", given, StepKind.AGENT)
    run = await run_in_memory([step], Counted().tools, models={"m": Any_([])})
    assert run.step("agent").output["text"] == "finished"
    assert max(sizes) < 6000 * 4  # it never asked with more than the window holds
    texts = [str(m) for m in run.step("agent").output["messages"]]
    assert any("Summary of the work so far" in text or "recall_result" in text for text in texts)


async def test_the_budget_ends_the_run_in_the_middle_and_what_was_called_stays_called() -> None:
    tools = Counted()
    script = [said(call("lookup", str(i), city=f"c{i}")) for i in range(9)]
    run = await agent(tools, script, "lookup", budget=[Limit("tool:lookup", 3)])
    assert run.status == "budget_exceeded"
    assert tools.calls == ["c0", "c1", "c2"]


async def test_a_tool_the_worker_does_not_offer_is_named() -> None:
    run = await agent(Counted(), [Reply("x")], "nowhere")
    assert "'nowhere'" in run.step("agent").error["message"]


async def test_what_the_model_was_told_stays_what_it_was_when_the_step_goes_on_later() -> None:
    moods: list[int] = []

    @tool("moody", effect="safe")
    async def moody() -> str:
        """Refuse the first time, work ever after."""
        moods.append(1)
        if len(moods) == 1:
            raise FatalError("not today")
        return "fine"

    tools = Counted()
    tools.tools = (*tools.tools, moody)
    script = [said(call("moody")), said(call("request_human_input", question="Go on?")), Reply("went on")]
    answers = lambda engine, wait: engine.answer(wait.id, Decision.RESPONDED, "yes")  # noqa: E731
    run = await agent(tools, script, "moody", "request_human_input", answers=answers)
    assert run.status == "completed", run.step("agent").error
    assert len(moods) == 1
    assert "not today" in told(run)[0]["content"]
