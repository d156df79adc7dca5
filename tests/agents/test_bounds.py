"""No call of a model takes more than was held for it: whatever comes between two calls, whatever the model says it used."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from pydantic_ai import Agent
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.usage import RequestUsage

from durable_agent import Context, step
from durable_agent.agents.offline import ScriptedModel
from durable_agent.agents.pydantic_ai import run_agent
from durable_agent.agents.requests import ANSWER_TOKENS
from durable_agent.core.outcomes import Booked, Intended, Recorded, Used
from durable_agent.core.records import Limit
from durable_agent.errors import RetryableError
from durable_agent.flow.llm import Conversation
from durable_agent.flow.model import Listener, Reply, Request, ToolSpec, Usage
from durable_agent.flow.steps import Step
from durable_agent.testing import run_in_memory
from tests.agents.test_compaction import Small, work
from tests.worker.test_calls import Keeping

TOOLS = tuple(ToolSpec(f"t{number}", "x" * 500, {"type": "object", "properties": {}}) for number in range(20))


class Counting(ScriptedModel):
    """A model of bytes for tokens: it counts as high as a bound may be. Its usage is another one where `says` is given."""

    def __init__(self, answers: Sequence[str], *, says: Any = None, name: str = "counting") -> None:
        super().__init__([Reply(answer) for answer in answers], name)
        self.says = says

    async def reply(self, request: Request, listener: Listener) -> Reply:
        found = self._answer(request)
        told = [*(str(one.get("text", "")) for one in request.messages), *(one.description for one in request.tools)]
        usage = self.says or Usage(len("".join(told).encode()), len(found.text))
        return Reply(found.text, usage=usage, model=self.name)


async def talk(
    first: Counting, between: Callable[[Conversation], Any], *, budget: Sequence[Limit] = (), **second: Any
) -> tuple[Any, list[int], list[Used]]:
    """Ask twice in one conversation; return the run, what was held for each call and what each was charged."""

    @step("asks")
    async def asks(ctx: Context) -> str:
        said = Conversation([{"role": "user", "text": "x" * 3000}])
        await ctx.llm(said, model="m", max_tokens=50)
        said.messages.append({"role": "user", "text": "and?"})
        between(said)
        return (await ctx.llm(said, **{"model": "m", "max_tokens": 50, **second})).text

    engine = Keeping()
    models = {"m": first, "n": Counting(["", "b"], name="other")}
    run = await run_in_memory([Step("asks")], [asks], models=models, backend=engine, budget=budget)
    held = [one.reserve["tokens"] for one in engine.told if isinstance(one, Intended)]
    return run, [one or 0 for one in held], [
        one.used for one in engine.told if isinstance(one, Recorded) and one.used is not None
    ]  # fmt: skip


def nothing(said: Conversation) -> None:
    """Change nothing of what was said."""


def insert(said: Conversation) -> None:
    said.messages.insert(0, {"role": "system", "text": "y" * 4000})


def exchange(said: Conversation) -> None:
    said.messages[:2] = [{"role": "user", "text": "z" * 4000}]


@pytest.mark.parametrize(
    ("between", "second"),
    [(nothing, {}), (nothing, {"tools": TOOLS}), (insert, {}), (exchange, {}), (nothing, {"model": "n"})],
    ids=["nothing", "tools", "inserted", "exchanged", "another model"],
)
async def test_what_comes_between_two_calls_is_in_the_bound(between: Any, second: Any) -> None:
    model = Counting(["a", "b"])
    if second.get("model"):
        model.says = Usage(200, 1)  # a model that makes fewer tokens of the same text
    run, held, used = await talk(model, between, **second)
    assert run.status == "completed", run.step("asks").error
    assert [one.spent["tokens"] <= most for one, most in zip(used, held, strict=True)] == [True, True]


async def test_what_was_counted_is_not_bounded_by_its_bytes_again() -> None:
    _, held, used = await talk(Counting(["a", "b"], says=Usage(750, 1)), nothing)
    assert held[1] < 1000 < held[0]
    assert [one.spent["tokens"] for one in used] == [751, 751]


async def test_a_budget_refuses_a_call_whose_new_tools_it_does_not_hold() -> None:
    run, held, used = await talk(Counting(["a", "b"]), nothing, tools=TOOLS, budget=[Limit("tokens", 6000)])
    assert run.status == "budget_exceeded"
    assert len(used) == 1
    assert held[1] > 6000


@pytest.mark.parametrize(
    "told",
    [Usage(2**64, 1), Usage(-5, 1), Usage(math.nan, 1), Usage(7.5, 1), Usage(True, 1), Usage(), Usage(0, 1)],  # type: ignore[arg-type]
    ids=str,
)
async def test_what_is_no_count_is_charged_its_bound(told: Usage) -> None:
    model = Counting(["a", "b"], says=told)
    run, held, used = await talk(model, nothing)
    assert run.status == "completed", run.step("asks").error
    assert held[1] > held[0] > 3000
    written = 50 if told == Usage() else 1
    assert [one.spent["tokens"] for one in used] == [most - 50 + written for most in held]
    assert [one.facts["bound"] for one in used] == [["input_tokens", *(["output_tokens"] if written == 50 else [])]] * 2


async def test_what_is_no_count_is_not_booked_for_a_call_that_breaks_off() -> None:
    class Breaking(ScriptedModel):
        async def reply(self, request: Request, listener: Listener) -> Reply:
            listener.usage(Usage(10, 5))
            listener.usage(Usage(2**64, -1))
            raise RetryableError("the stream broke")

    @step("asks")
    async def asks(ctx: Context) -> None:
        await ctx.llm("Q?", model="m")

    engine = Keeping()
    await run_in_memory([Step("asks")], [asks], models={"m": Breaking([])}, backend=engine)
    used = [one.used for one in engine.told if isinstance(one, Recorded | Booked) and one.used is not None]
    assert {one.spent["tokens"] for one in used} == {15}


@pytest.mark.parametrize("most", [0, -5, 2**64, 1.5, True])
async def test_a_limit_that_is_none_is_refused(most: Any) -> None:
    run, held, _ = await talk(Counting(["a", "b"]), nothing, max_tokens=most)
    assert "max_tokens is a whole number" in run.step("asks").error["message"]
    assert len(held) == 1


async def test_a_conversation_that_nobody_counts_is_made_smaller_too() -> None:
    class Silent(Small):
        async def reply(self, request: Request, listener: Listener) -> Reply:
            found = self._answer(request)
            return Reply(found.text, found.calls, "tool_calls" if found.calls else "stop", model=self.name)

    model = Silent(30, says=1500)
    await work(model)
    assert model.sums


class Told(WrapperModel):
    """A provider's model that calls a tool and then answers, and says that it has used so much each time."""

    def __init__(self, *usages: RequestUsage, name: str = "told", refuses: int = 0) -> None:
        super().__init__(FunctionModel(self._said, model_name=name))
        self.usages, self.refuses = list(usages), refuses

    @staticmethod
    def _said(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        return ModelResponse([TextPart("done")] if len(messages) > 1 else [ToolCallPart("look", {}, "c1")])

    async def request(self, messages: Any, *given: Any) -> ModelResponse:
        if len(messages) > 1 and self.refuses:
            raise ModelHTTPError(503, "told")
        response = await super().request(messages, *given)
        response.usage = self.usages.pop(0)
        return response


async def agents_calls(model: Any) -> tuple[Any, list[int], list[Used]]:
    """Let an agent with one tool and 5,000 characters to read work; return as `talk`."""

    @step("works")
    async def works(ctx: Context) -> str:
        worker = Agent(model)

        @worker.tool_plain
        def look() -> str:
            return "seen"

        return str((await run_agent(ctx, worker, "x" * 5000, effects={"look": "safe"})).output)

    engine = Keeping()
    run = await run_in_memory([Step("works")], [works], backend=engine)
    held = [one for one in engine.told if isinstance(one, Intended) and one.name.startswith("model.")]
    used = [one.used for one in engine.told if isinstance(one, Recorded) and one.used is not None]
    return run, [one.reserve["tokens"] or 0 for one in held], used


@pytest.mark.parametrize(
    "told",
    [RequestUsage(), RequestUsage(output_tokens=3), RequestUsage(input_tokens=2**64, output_tokens=3),
     RequestUsage(input_tokens=-4, output_tokens=3), RequestUsage(input_tokens=4, output_tokens=3, details={"odd": 2**70})],
    ids=["nothing", "half", "too much", "too little", "odd"],
)  # fmt: skip
async def test_a_request_of_an_agent_that_nobody_counts_is_charged_its_bound(told: RequestUsage) -> None:
    run, held, used = await agents_calls(Told(told, replace(told)))
    assert run.status == "completed", run.step("works").error
    if told.input_tokens == 4:
        assert [one.spent["tokens"] for one in used] == [7, 7]
        assert held[0] > 5000 > held[1] - ANSWER_TOKENS
        return
    assert held[1] > held[0] > 5000 + ANSWER_TOKENS
    written = told.output_tokens or ANSWER_TOKENS
    assert [one.spent["tokens"] for one in used] == [most - ANSWER_TOKENS + written for most in held]


async def test_what_one_of_a_fallback_counted_does_not_bound_another() -> None:
    first = Told(RequestUsage(input_tokens=10, output_tokens=1), name="first", refuses=1)
    other = Told(RequestUsage(input_tokens=5000, output_tokens=1), name="other")
    run, held, used = await agents_calls(FallbackModel(first, other))
    assert run.status == "completed", run.step("works").error
    assert [one.spent["tokens"] for one in used] == [11, 5001]
    assert held[1] - ANSWER_TOKENS > 5000
