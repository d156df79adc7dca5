"""Calls of a model's choice: guarded, counted, recorded as what they came to, and told in the same words ever after."""

from __future__ import annotations

from typing import Any

import pytest

from durable_agent import tool
from durable_agent.agents.kinds import AGENT_KINDS
from durable_agent.agents.offline import ScriptedModel
from durable_agent.core.gate import Heard, Passing
from durable_agent.core.outcomes import Recorded, Succeeded
from durable_agent.core.records import FailureClass, Limit, RetryPolicy, StepKind
from durable_agent.core.waits import Decision
from durable_agent.errors import DatabaseUnavailable, FatalError, RateLimited, RetryableError
from durable_agent.flow.model import Reply, Request
from durable_agent.flow.registry import Registry
from durable_agent.flow.steps import Step
from durable_agent.testing import FakeBackend, run_in_memory
from tests.agents.stage import Stage
from tests.agents.test_loop import Counted, agent, call, said, told
from tests.support.postgres import Database
from tests.support.runs import Engine, run_of
from tests.support.runs import step as spec


def answering(decision: Decision, asked: list[Any], value: Any = None) -> Any:
    def answer(engine: FakeBackend, wait: Any) -> None:
        asked.append(wait.asked.name)
        engine.answer(wait.id, decision, value)

    return answer


@pytest.mark.parametrize("decision", [Decision.APPROVED, Decision.REJECTED])
async def test_a_file_and_a_question_are_approved_like_any_call(decision: Decision) -> None:
    asked: list[Any] = []
    script = [
        said(call("create_text_artifact", name="n.md", content="x")), said(call("request_human_input", question="Q?")),
        Reply("ok"),
    ]  # fmt: skip
    names = ("create_text_artifact", "request_human_input")
    run = await agent(Counted(), script, *names, approve=names, answers=answering(decision, asked))
    assert asked[:2] == list(names)
    assert (("artifact", "n.md") in run.events) is (decision is Decision.APPROVED)
    assert len(asked) == (3 if decision is Decision.APPROVED else 2)


@pytest.mark.parametrize(
    "made", [call("create_text_artifact", name="n.md", content="x"), call("request_human_input", question="Q?")]
)
async def test_a_file_and_a_question_are_counted_once_each(made: Any) -> None:
    asked: list[Any] = []
    answers = answering(Decision.RESPONDED, asked, "yes")
    limit = [Limit(f"tool:{made.name}", 1)]
    once = await agent(Counted(), [said(made), Reply("ok")], made.name, answers=answers, budget=limit)
    assert once.status == "completed"
    again = await agent(Counted(), [said(made), said(made), Reply("ok")], made.name, answers=answers, budget=limit)
    assert again.status == "budget_exceeded"


async def test_a_file_of_a_type_that_is_no_text_is_refused() -> None:
    made = call("create_text_artifact", name="x.svg", content="<svg/>", media_type="image/svg+xml")
    run = await agent(Counted(), [said(made), Reply("ok")], "create_text_artifact")
    assert "is no type of text" in told(run)[0]["content"]
    assert run.events == []


async def test_a_workers_own_tool_of_such_a_name_is_called_as_it_is() -> None:
    @tool("create_text_artifact", effect="safe")
    async def own(title: str) -> str:
        return f"my {title}"

    tools = Counted()
    tools.tools = (own,)
    run = await agent(tools, [said(call("create_text_artifact", title="thing")), Reply("ok")], "create_text_artifact")
    assert told(run)[0]["content"] == "my thing"


async def test_a_name_to_approve_that_is_no_tool_is_refused() -> None:
    tools = Counted()
    run = await agent(tools, [said(call("charge", amount=1)), Reply("ok")], "charge", approve=["chagre"])
    assert run.status == "failed"
    assert "'chagre'" in run.step("agent").error["message"]
    assert tools.calls == []


async def test_a_failed_payment_is_not_undone_and_an_undone_one_is_told_its_own_result(
    engine: Engine, database: Database
) -> None:
    @tool("pay", effect="idempotent", compensate="refund")
    async def pay(amount: int) -> dict[str, int]:
        """Pay."""
        if amount > 1:
            raise FatalError("declined")
        return {"paid": amount}

    @tool("refund", effect="idempotent")
    async def refund(arguments: Any, result: Any) -> None:
        """Refund."""

    script = [said(call("pay", amount=1)), said(call("pay", amount=2)), Reply("ok")]
    hand = engine.hand(tools=("agent", "later", "refund"))
    stage = Stage(engine, database, hand, Registry([pay, refund, *AGENT_KINDS]), models={"m": ScriptedModel(script)})
    given = {"agent": {"name": "a", "model": "m", "tools": ["pay"]}, "input": "go"}
    await engine.submit(run_of(spec("agent", tool="agent", input=given), spec("later", "agent", tool="later")))
    outcome = await stage.attempt(await stage.claim())
    assert isinstance(outcome, Succeeded)
    assert b'"FatalError: declined"' in outcome.output
    assert database.execute("select state from effects where name = 'pay' order by no") == [("done",), ("failed",)]
    await hand.fail(await stage.claim(), FailureClass.INVALID_INPUT)
    undo = await stage.claim()
    assert (undo.input["arguments"], undo.input["result"]) == ({"amount": 1}, {"paid": 1})
    assert isinstance(await stage.attempt(undo), Succeeded)
    assert await hand.claim() == []


async def test_what_failed_is_told_in_the_same_words_by_a_resumed_attempt() -> None:
    tried: list[str] = []

    @tool("pass", effect="safe", retry=RetryPolicy(max_attempts=1))
    async def passing() -> None:
        """Fail by a word of its own."""
        tried.append("pass")
        raise RetryableError("busy")

    @tool("break", effect="safe")
    async def breaks() -> None:
        """Fail by accident."""
        tried.append("break")
        raise ValueError("odd")

    tools = Counted()
    tools.tools = (*tools.tools, passing, breaks)
    script = [
        said(call("pass", "a"), call("break", "b")),
        said(call("request_human_input", question="Q?")),
        Reply("ok"),
    ]
    answers = answering(Decision.RESPONDED, [], "yes")
    run = await agent(tools, script, "pass", "break", "request_human_input", answers=answers)
    assert run.status == "completed", run.step("agent").error
    assert [m["content"] for m in told(run)] == ["RetryableError: busy", "ValueError: odd", "yes"]
    assert tried == ["pass", "break"]


class Hearing(FakeBackend):
    """An engine that keeps what it heard of gates and effects; it cannot be reached so many times."""

    def __init__(self, lost: int = 0) -> None:
        super().__init__()
        self.lost = lost
        self.heard_of: list[tuple[str, Heard, float | None]] = []
        self.states: list[tuple[str, str]] = []

    async def passing(self, name: str, tokens: list[int], in_use: int) -> Passing:
        if name.startswith("tool:") and self.lost > 0:
            self.lost -= 1
            raise DatabaseUnavailable("the database is gone")
        return await super().passing(name, tokens, in_use)

    async def heard(self, name: str, what: Heard, wait_s: float | None, error: str | None) -> None:
        self.heard_of.append((name, what, wait_s))

    async def exchange(self, outcomes: Any, *, free: int, solo: bool) -> Any:
        self.states += [(one.name, one.state.value) for one in outcomes if isinstance(one, Recorded)]
        return await super().exchange(outcomes, free=free, solo=solo)


async def shaky(error: Exception | None, engine: Hearing) -> Any:
    @tool("shaky", effect="idempotent", breaker=True, retry=RetryPolicy(max_attempts=1))
    async def shaky() -> str:
        """Fail, or not."""
        if error is not None:
            raise error
        return "fine"

    step = Step("agent", "agent", {"agent": {"model": "m", "tools": ["shaky"]}, "input": "go"}, StepKind.AGENT)
    script = [said(call("shaky")), Reply("ok")]
    return await run_in_memory([step], [shaky], models={"m": ScriptedModel(script)}, backend=engine)


@pytest.mark.parametrize(
    ("error", "heard", "state"),
    [
        (RetryableError("down"), ("tool:shaky", Heard.FAILED, None), "failed"),
        (RateLimited("slow", retry_after_s=500.0), ("tool:shaky", Heard.HELD, 500.0), "failed"),
        (ConnectionError("cut"), ("tool:shaky", Heard.FAILED, None), "unknown"),
    ],
)
async def test_the_whole_fleet_hears_of_a_tool_that_fails_in_an_agents_hands(
    error: Any, heard: Any, state: str
) -> None:
    engine = Hearing()
    run = await shaky(error, engine)
    assert told(run)[0]["content"] == f"{type(error).__name__}: {error}"
    assert heard in engine.heard_of
    assert ("shaky", state) in engine.states


async def test_a_gate_that_cannot_be_asked_is_no_answer_of_the_tool() -> None:
    run = await shaky(None, Hearing(lost=1))
    assert run.step("agent").failures == 1
    assert [m["content"] for m in told(run)] == ["fine"]


async def test_a_tool_keeps_its_own_name_with_and_without_a_model() -> None:
    @tool("docs.find", effect="safe")
    async def find(query: str = "all") -> str:
        """Find."""
        return f"found {query}"

    node = Step("agent", "agent", {"pattern": "pipeline", "tools": ["docs.find"]}, StepKind.AGENT)
    run = await run_in_memory([node], [find])
    assert run.step("agent").output == {"results": {"docs.find": "found all"}}
    seen: list[Request] = []

    def ask(request: Request) -> Reply:
        seen.append(request)
        return said(call("docs.find", query="x"))

    tools = Counted()
    tools.tools = (find,)
    run = await agent(tools, [ask, Reply("ok")], "docs.find")
    assert [one.name for one in seen[0].tools] == ["docs.find", "recall_result"]
    assert told(run)[0]["content"] == "found x"


async def test_calls_that_share_an_id_have_each_their_own_result() -> None:
    asked: list[Any] = []
    same = [call("large", size=150), call("large", size=200), call("request_human_input", question="Q?")]
    script = [said(*same), said(call("recall_result", "2", id="1#2", offset=190)), Reply("ok")]
    answers = answering(Decision.RESPONDED, asked, "yes")
    run = await agent(Counted(), script, "large", "request_human_input", answers=answers, result_chars=100)
    first, second, third, recalled = told(run)
    assert "cut: 150 characters; recall_result(id='1', offset=100)" in first["content"]
    assert "cut: 200 characters; recall_result(id='1#2', offset=100)" in second["content"]
    assert third["content"] == "yes"
    assert recalled["content"] == "x" * 10


async def test_a_result_of_the_same_answer_can_be_recalled_whoever_is_quicker() -> None:
    script = [said(call("recall_result", "r", id="l"), call("large", "l", size=50)), Reply("ok")]
    run = await agent(Counted(), script, "large")
    assert [m["content"] for m in told(run)] == ["x" * 50, "x" * 50]
