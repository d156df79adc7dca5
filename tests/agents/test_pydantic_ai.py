"""pydantic-ai agents as steps: lost at every commit, they end the same, and nothing is sent or done twice."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, BinaryContent, RunContext, ToolReturn
from pydantic_ai.exceptions import ApprovalRequired
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, DeltaToolCalls, FunctionModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.tools import DeferredToolRequests

from durable_agent.agents.pydantic_ai import durable, idempotency_key, run_agent
from durable_agent.core.waits import Decision
from durable_agent.flow.context import Context
from durable_agent.flow.steps import Step
from durable_agent.flow.tools import Tool, step
from durable_agent.testing import FakeBackend, FakeRun, FakeWait, crash_everywhere, run_in_memory
from tests.support.losing import Losing, effects_of
from tests.support.postgres import Database
from tests.support.pydantic_agents import (
    ASKED,
    DONE,
    EFFECTS,
    SAID,
    agent,
    brain,
    returned,
    told,
)

pytestmark = pytest.mark.usefixtures("nothing_happened")


def recorded(run: FakeRun) -> list[tuple[str, str]]:
    return sorted((one.name, one.request_sha256) for one in run.steps[0].effects.values())


@step("whole")
async def whole(ctx: Context) -> str:
    return str((await run_agent(ctx, agent, "Go.", effects=EFFECTS)).output)


async def test_an_agent_runs_as_recorded_effects() -> None:
    run = await run_in_memory([Step("whole")], [whole])
    assert run.outputs == {"whole": SAID}
    assert effects_of(run) == {"model.function_brain_": 4, "charge": 3, "letter": 1, "fussy": 2}
    assert ASKED == [1, 3, 5, 7]
    assert len(set(DONE)) == len(DONE) == 6


async def lost_everywhere(tool: Tool, side: str) -> list[FakeRun]:
    """Return the run nobody disturbed, and one for each commit at which the step was taken away."""
    runs = [await run_in_memory([Step(tool.name)], [tool], answers=told)]
    for commit in range(1, 100):
        ASKED.clear()
        DONE.clear()
        engine = Losing(commit, side)
        run = await run_in_memory([Step(tool.name)], [tool], answers=told, backend=engine)
        if engine.left > 0:
            return runs
        runs.append(run)
        # What was not committed is asked once more, under the same key; what was is not asked again.
        assert all(count <= 2 for count in Counter(ASKED).values())
        assert len(ASKED) <= 5
        assert Counter(DONE)["fussy", 1] + Counter(DONE)["fussy", 2] <= 3
        assert len({key for name, key in DONE if name == "charge"}) == 3
        assert [name for name, _ in DONE].count("letter") == 1
    raise AssertionError("there is no end to it")


@pytest.mark.parametrize("side", ["before", "after"])
async def test_lost_at_any_commit_it_ends_the_same_and_does_nothing_twice(side: str) -> None:
    baseline, *runs = await lost_everywhere(whole, side)
    assert len(runs) >= 10
    for run in runs:
        assert (run.status, run.outputs) == ("completed", {"whole": SAID})
        assert recorded(run) == recorded(baseline)


async def deltas(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str | DeltaToolCalls]:
    """Answer as `brain` does, in pieces."""
    for index, part in enumerate(brain(messages, info).parts):
        if isinstance(part, ToolCallPart):
            yield {index: DeltaToolCall(part.tool_name, part.args_as_json_str(), tool_call_id=part.tool_call_id)}
        elif isinstance(part, TextPart):
            for letter_ in part.content:
                yield letter_


HEARD: list[Any] = []


@step("streamed")
async def streamed(ctx: Context) -> str:
    HEARD.clear()
    with agent.override(model=FunctionModel(stream_function=deltas)):
        async with durable(agent, ctx, effects=EFFECTS).run_stream("Go.") as result:
            async for piece in result.stream_text(delta=True, debounce_by=None):
                HEARD.append(piece)
            return str(await result.get_output())


async def test_a_stream_is_recorded_whole_and_heard_by_a_resumed_attempt_too() -> None:
    baseline, *runs = await lost_everywhere(streamed, "after")
    assert baseline.outputs == {"streamed": SAID}
    assert all(run.outputs == baseline.outputs for run in runs)
    assert "".join(HEARD) == SAID
    assert len(HEARD) > 1


class Answer(BaseModel):
    """What an agent is to answer."""

    n: int


async def test_test_models_and_agents_of_any_shape_are_recorded() -> None:
    shaped = Agent(TestModel(call_tools=["look"], custom_output_args={"n": 3}), output_type=Answer)

    @shaped.tool_plain
    def look() -> Answer:
        DONE.append("look")
        return Answer(n=1)

    @step("shape")
    async def shape(ctx: Context) -> Any:
        result = await run_agent(ctx, shaped, ["Look.", BinaryContent(b"png", media_type="image/png")])
        return [result.output, returned(result.all_messages())]

    runs = [await run_in_memory([Step("shape")], [shape], backend=Losing(n, "after")) for n in (99, 1, 3, 4)]
    assert {str(run.outputs["shape"]) for run in runs} == {"[{'n': 3}, [{'n': 1}, 'Final result processed.']]"}
    assert DONE == ["look"] * 4


async def test_what_a_tool_does_other_than_return_is_recorded_too() -> None:
    def asks(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        if len(messages) == 1:
            return ModelResponse(parts=[ToolCallPart(name) for name in ("rich", "wrong", "guarded", "odd")])
        return ModelResponse(parts=[TextPart("never")])

    def rich() -> ToolReturn:
        DONE.append("rich")
        return ToolReturn({"$outcome": 1}, content="and more", metadata=["kept"])

    def wrong() -> Any:
        DONE.append("wrong")
        return Answer.model_validate({"n": "x"})

    def guarded() -> str:
        DONE.append("guarded")
        raise ApprovalRequired({"why": "dear"})

    def odd() -> dict[str, str]:
        return {"$outcome": "retry"}

    various = Agent(FunctionModel(asks), tools=[rich, wrong, guarded, odd], output_type=[str, DeferredToolRequests])

    @step("various")
    async def play(ctx: Context) -> Any:
        safe: Any = dict.fromkeys(("rich", "wrong", "guarded", "odd"), "safe")
        result = await run_agent(ctx, various, "Go.", effects=safe)
        parts = [part for message in result.all_messages() for part in message.parts]
        found = {part.tool_name: part for part in parts if isinstance(part, ToolReturnPart)}
        assert isinstance(result.output, DeferredToolRequests)
        deferred = list(result.output.metadata.values())
        return [
            found["rich"].content,
            found["rich"].metadata,
            found["wrong"].model_response_str(),
            deferred,
            found["odd"].content,
        ]

    first = await run_in_memory([Step("various")], [play])
    rich_one, metadata, why, deferred, oddly = first.outputs["various"]
    assert (rich_one, metadata, deferred) == ({"$outcome": 1}, ["kept"], [{"why": "dear"}])
    assert oddly == {"$outcome": "retry"}
    assert "unable to parse string as an integer" in why
    for commit in range(2, 8):
        again = await run_in_memory([Step("various")], [play], backend=Losing(commit, "after"))
        assert again.outputs == first.outputs


async def test_a_tool_in_doubt_waits_for_a_person_whose_word_is_its_result() -> None:
    breaks = Agent(TestModel())

    @breaks.tool_plain
    def dispatch() -> str:
        DONE.append("dispatch")
        raise OSError("the line went dead")

    @step("doubt")
    async def doubt(ctx: Context) -> str:
        return (await run_agent(ctx, breaks, "Go.")).output

    def happened(engine: FakeBackend, wait: FakeWait) -> None:
        assert wait.asked.request["tool"] == "dispatch"
        engine.answer(wait.id, Decision.HAPPENED, "it went")

    run = await run_in_memory([Step("doubt")], [doubt], answers=happened)
    assert run.outputs == {"doubt": '{"dispatch":"it went"}'}
    assert DONE == ["dispatch"]


async def test_a_tools_arguments_may_have_any_name() -> None:
    odd = Agent(TestModel())

    @odd.tool_plain
    def look(ctx: str, approval: str) -> str:
        return f"{ctx}{approval}"

    @step("odd")
    async def runs(ctx: Context) -> str:
        return (await run_agent(ctx, odd, "Go.")).output

    run = await run_in_memory([Step("odd")], [runs])
    assert run.outputs == {"odd": '{"look":"aa"}'}


async def test_a_tool_that_works_through_the_context_is_not_recorded_itself() -> None:
    asking: Agent[Context, str] = Agent(TestModel(), deps_type=Context)

    @asking.tool
    async def ask(run: RunContext[Context]) -> str:
        return str(await run.deps.ask("Which?"))

    @step("asks")
    async def asks(ctx: Context) -> str:
        return (await run_agent(ctx, asking, "Go.", deps=ctx, effects={"ask": None})).output

    def answer(engine: FakeBackend, wait: FakeWait) -> None:
        engine.answer(wait.id, Decision.RESPONDED, "this")

    run = await run_in_memory([Step("asks")], [asks], answers=answer)
    assert run.outputs == {"asks": '{"ask":"this"}'}
    assert effects_of(run) == {"model.test": 2}


def both(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Call the tool and end with one answer."""
    return ModelResponse(parts=[ToolCallPart("row"), ToolCallPart("final_result", {"n": 1})])


@step("small")
async def small(ctx: Context) -> list[Any]:
    """Run an agent of one request and one call, which leaves a row in the database of the test each time."""
    writes = Agent(FunctionModel(both), output_type=Answer, end_strategy="exhaustive")

    @writes.tool_plain
    def row() -> str:
        with psycopg.connect(os.environ["TEST_ROWS"], autocommit=True) as conn:
            conn.execute("insert into rows values (%s, %s)", [str(ctx.run_id), idempotency_key()])
        return "written"

    result = await run_agent(ctx, writes, "Go.", effects={"row": "idempotent"})
    return [result.output.n, returned(result.all_messages())[0]]


async def test_a_killed_worker_leaves_one_result_and_one_key(database: Database) -> None:
    database.execute("create table rows (run text, key text)")

    async def observe(run_id: UUID) -> Any:
        return database.execute("select count(distinct key) from rows where run = %s", str(run_id))

    report = await crash_everywhere(
        [Step("small")], [__name__], database_url=database.url, observe=observe,
        environment={"TEST_ROWS": database.url},
    )  # fmt: skip
    assert report.different == []
    assert report.baseline.outputs == {"small": [1, "written"]}
    assert report.baseline.seen == [(1,)]
    assert len(report.points) >= 6
