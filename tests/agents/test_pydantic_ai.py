"""pydantic-ai agents as steps: lost at every commit, they end the same, and nothing is sent or done twice."""

from __future__ import annotations

import asyncio
import base64
import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

import psycopg
import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, BinaryContent, DocumentUrl, ImageUrl, ModelRetry, RunContext, ToolReturn
from pydantic_ai.capabilities import ModelFallback, ProcessHistory
from pydantic_ai.exceptions import (
    ApprovalRequired,
    ModelAPIError,
    ModelConnectionError,
    ModelHTTPError,
    ModelRateLimitError,
)
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, DeltaToolCalls, FunctionModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.tools import DeferredToolRequests
from pydantic_ai.usage import RequestUsage

from durable_agent.agents.pydantic_ai import ANSWER_TOKENS, durable, idempotency_key, run_agent
from durable_agent.core.gate import Heard, Passing
from durable_agent.core.outcomes import Booked, Exchange, Intended, Outcome, Recorded, Verdict
from durable_agent.core.records import Limit
from durable_agent.core.states import StepStatus
from durable_agent.core.waits import Decision
from durable_agent.errors import FatalError
from durable_agent.flow.context import Context
from durable_agent.flow.steps import Step
from durable_agent.flow.tools import Tool, step
from durable_agent.testing import FakeBackend, FakeRun, FakeWait, crash_everywhere, run_in_memory
from durable_agent.worker.attempt import run_attempt
from tests.agents.stage import stage_on
from tests.support.postgres import Database
from tests.support.runs import Engine

ASKED: list[Any] = []  # what models were asked
DONE: list[Any] = []  # what tools did


@pytest.fixture(autouse=True)
def _nothing_happened() -> None:
    ASKED.clear()
    DONE.clear()


class Losing(FakeBackend):
    """An engine that takes the step away at its nth commit, before or after it."""

    def __init__(self, commit: int, side: str) -> None:
        super().__init__()
        self.left = commit
        self.side = side

    async def exchange(self, outcomes: Sequence[Outcome], *, free: int, solo: bool) -> Exchange:
        if outcomes:
            self.left -= 1
        if not outcomes or self.left:
            return await super().exchange(outcomes, free=free, solo=solo)
        if self.side == "after":
            await super().exchange(outcomes, free=0, solo=solo)
        for run in self.runs.values():
            for one in run.steps:
                if one.status is StepStatus.RUNNING:
                    one.status, one.token = StepStatus.READY, None
        lost = [Verdict.LOST for _ in outcomes]
        claimed = await super().exchange((), free=free, solo=solo)
        return Exchange(tuple(lost), claimed.claims, (), more=True)


def told(engine: FakeBackend, wait: FakeWait) -> None:
    """Answer as somebody who knows what was done: the letter, or nothing."""
    sent = ("letter", wait.asked.request["key"]) in DONE
    engine.answer(wait.id, Decision.HAPPENED if sent else Decision.RESEND, "sent" if sent else None)


def recorded(run: FakeRun) -> list[tuple[str, str]]:
    return sorted((one.name, one.request_sha256) for one in run.steps[0].effects.values())


def effects_of(run: FakeRun) -> Counter[str]:
    return Counter(one.name for one in run.steps[0].effects.values())


def returned(messages: list[ModelMessage]) -> list[Any]:
    return [part.content for message in messages for part in message.parts if isinstance(part, ToolReturnPart)]


def brain(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Charge twice and write a letter at once, then be fussy, then tell."""
    ASKED.append(len(messages))
    match len(messages):
        case 1:
            calls = [("charge", {"amount": 1}), ("charge", {"amount": 2}), ("charge", {"amount": 2}), ("letter", {})]
        case 3:
            calls = [("fussy", {"n": 1})]
        case 5:
            calls = [("fussy", {"n": 2})]
        case _:
            return ModelResponse(parts=[TextPart(f"{returned(messages)}")])
    named = enumerate(calls, 10 * len(messages))
    return ModelResponse(parts=[ToolCallPart(name, given, tool_call_id=f"call {no}") for no, (name, given) in named])


agent = Agent(FunctionModel(brain), instructions="Be brief.")


@agent.tool_plain
def charge(amount: int) -> dict[str, int]:
    DONE.append(("charge", idempotency_key()))
    return {"charged": amount}


@agent.tool_plain
async def letter() -> str:
    DONE.append(("letter", idempotency_key()))
    return "sent"


@agent.tool_plain
def fussy(n: int) -> int:
    DONE.append(("fussy", n))
    if n == 1:
        raise ModelRetry("two at least")
    return n


EFFECTS: Any = {"charge": "idempotent", "fussy": "safe"}


@step("whole")
async def whole(ctx: Context) -> str:
    return str((await run_agent(ctx, agent, "Go.", effects=EFFECTS)).output)


SAID = "[{'charged': 1}, {'charged': 2}, {'charged': 2}, 'sent', 'two at least', 2]"


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

    runs = [await run_in_memory([Step("shape")], [shape], backend=Losing(n, "after")) for n in (99, 2, 4, 5)]
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


@dataclass
class Failing:
    """A model that fails in one way, then answers."""

    error: Exception
    asked: int = 0

    def __call__(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        self.asked += 1
        if self.asked == 1:
            raise self.error
        return ModelResponse(parts=[TextPart("late")])


LIMITED = ModelHTTPError.for_category(ModelRateLimitError, status_code=429, model_name="m", retry_after=7.0)

GONE = ModelHTTPError(404, "m")


class Hearing(FakeBackend):
    """An engine that keeps what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Outcome] = []
        self.gates: list[tuple[str, int]] = []

    async def passing(self, name: str, tokens: list[int], in_use: int) -> Passing:
        self.gates += [(name, one) for one in tokens]
        return replace(await super().passing(name, tokens, in_use), limits=True)

    async def heard(self, name: str, what: Heard, wait_s: float | None, error: str | None) -> None:
        self.gates.append((f"{name} {what} {wait_s}", 0))

    async def exchange(self, outcomes: Sequence[Outcome], *, free: int, solo: bool) -> Exchange:
        self.told.extend(outcomes)
        return await super().exchange(outcomes, free=free, solo=solo)


@pytest.mark.parametrize(
    ("error", "ending", "state"),
    [
        (LIMITED, "completed", "failed"),
        (ModelHTTPError(529, "m"), "completed", "failed"),
        (ModelHTTPError(409, "m"), "completed", "failed"),
        (ModelAPIError("m", "odd"), "completed", "failed"),
        (ModelConnectionError("m", "cut off"), "completed", "unknown"),
        (GONE, "failed", "failed"),
    ],
)
async def test_a_providers_error_is_tried_again_when_that_can_help(error: Exception, ending: str, state: str) -> None:
    failing = Failing(error)

    @step("fails")
    async def fails(ctx: Context) -> str:
        return (await run_agent(ctx, Agent(FunctionModel(failing)), "Go.")).output

    run = await run_in_memory([Step("fails")], [fails], backend=(engine := Hearing()))
    assert (run.status, failing.asked) == (ending, 2 if ending == "completed" else 1)
    assert run.steps[0].failures == 1
    assert next(one.state.value for one in engine.told if isinstance(one, Recorded)) == state


@pytest.mark.parametrize("as_capability", [False, True])
async def test_an_agents_own_fallback_sees_the_providers_error(as_capability: bool) -> None:
    first, second = FunctionModel(Failing(LIMITED)), FunctionModel(brain_second)
    falling: Agent[None, str] = (
        Agent(first, capabilities=[ModelFallback(second)]) if as_capability else Agent(FallbackModel(first, second))
    )

    @step("falls")
    async def falls(ctx: Context) -> str:
        return (await run_agent(ctx, falling, "Go.")).output

    run = await run_in_memory([Step("falls")], [falls])
    assert (run.outputs, run.steps[0].failures) == ({"falls": "second"}, 0)


@pytest.mark.parametrize(("errors", "ending"), [((LIMITED, GONE), "completed"), ((GONE, GONE), "failed")])
async def test_when_every_fallback_fails_it_is_tried_again_if_one_may_answer(errors: Any, ending: str) -> None:
    falling = Agent(FallbackModel(*(FunctionModel(Failing(error)) for error in errors)))

    @step("falls")
    async def falls(ctx: Context) -> str:
        return (await run_agent(ctx, falling, "Go.")).output

    run = await run_in_memory([Step("falls")], [falls])
    assert (run.status, run.steps[0].failures) == (ending, 1)


def brain_second(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    return ModelResponse(parts=[TextPart("second")])


async def test_an_answer_that_is_refused_is_asked_for_again_in_the_same_words() -> None:
    def longer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        return ModelResponse(parts=[TextPart("long" * len(messages))])

    picky = Agent(FunctionModel(longer), retries=2)

    @picky.output_validator
    def check(output: str) -> str:
        if len(output) < 20:
            raise ModelRetry("longer")
        return output

    @step("picky")
    async def play(ctx: Context) -> str:
        return (await run_agent(ctx, picky, "Go.")).output

    for commit in range(1, 9):
        run = await run_in_memory([Step("picky")], [play], backend=Losing(commit, "after"))
        assert run.outputs == {"picky": "long" * 5}
        assert effects_of(run) == {"model.function_longer_": 3}


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


async def test_another_prompt_than_the_recorded_one_diverges() -> None:
    prompts = iter(["one", "two"])

    @step("drifts")
    async def drifts(ctx: Context) -> str:
        return (await run_agent(ctx, Agent(TestModel(call_tools=[])), next(prompts))).output

    run = await run_in_memory([Step("drifts")], [drifts], backend=Losing(2, "after"))
    assert run.status == "failed"
    assert run.steps[0].error is not None
    assert run.steps[0].error["failure"] == "diverged"


async def test_a_requests_record_is_what_was_said_since_the_last_answer_and_holds_no_secret_and_no_file() -> None:
    @step("says")
    async def says(ctx: Context) -> str:
        settings: Any = {"extra_headers": {"Authorization": "secret"}, "temperature": 0.5}
        prompt = ["Go.", BinaryContent(b"a picture", media_type="image/png")]
        return str((await run_agent(ctx, agent, prompt, effects=EFFECTS, model_settings=settings)).output)

    await run_in_memory([Step("says")], [says], backend=(engine := Hearing()), answers=told)
    intents = [one for one in engine.told if isinstance(one, Intended)]
    requests = [one.request.decode() for one in intents if one.name.startswith("model.")]
    assert len(requests) == 4
    assert all("timestamp" not in one and '"temperature":0.5' in one for one in requests)
    secrets = ("secret", base64.b64encode(b"a picture").decode())
    assert not [one for one in requests for secret in secrets if secret in one]
    assert ["Go." in one for one in requests] == [True, False, False, False]


LIMITS: list[Any] = []  # what answers were limited to


def counting(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Answer as `brain` does; its provider counts 1,000 tokens with each message, some from its cache."""
    LIMITS.append((info.model_settings or {}).get("max_tokens"))
    answer = brain(messages, info)
    answer.usage = RequestUsage(input_tokens=1000 * len(messages), output_tokens=100, cache_read_tokens=400)
    return answer


COUNTED = 16_400  # of the four requests of a conversation


@step("counted")
async def counted(ctx: Context) -> str:
    LIMITS.clear()
    with agent.override(model=FunctionModel(counting)):
        return str((await run_agent(ctx, agent, "Go. " + "x" * 3000, effects=EFFECTS)).output)


def intents(engine: Hearing) -> list[Intended]:
    return [one for one in engine.told if isinstance(one, Intended) and one.name.startswith("model.")]


def charged(engine: Hearing) -> list[Recorded]:
    return [one for one in engine.told if isinstance(one, Recorded) and one.used is not None]


async def test_what_a_request_takes_at_most_is_reserved_and_what_it_took_is_charged() -> None:
    engine = Hearing()
    run = await run_in_memory(
        [Step("counted")], [counted], answers=told, backend=engine, budget=[Limit("tokens", 100_000), Limit("tools", 6)]
    )
    assert run.outputs == {"counted": SAID}
    assert {one.meter: (one.spent, one.reserved) for one in run.budgets} == {"tokens": (COUNTED, 0), "tools": (6, 0)}
    bounds = [(one.reserve["tokens"] or 0) - ANSWER_TOKENS for one in intents(engine)]
    facts = [one.used.facts for one in charged(engine) if one.used is not None]
    assert [one["input_tokens"] for one in facts] == [1000, 3000, 5000, 7000]
    assert {one["cache_read_tokens"] for one in facts} == {400}
    assert bounds[0] > 3000
    # What the provider counted is not bounded again: the rest is what was said since.
    since = [bound - 1000 * said - 100 for bound, said in zip(bounds[1:], (1, 3, 5), strict=True)]
    assert all(0 < one < 3000 for one in since)
    assert [one for one in engine.gates if one[1]] == [
        ("provider:function", one.reserve["tokens"]) for one in intents(engine)
    ]


async def test_a_run_whose_budget_does_not_hold_the_next_request_ends() -> None:
    run = await run_in_memory([Step("counted")], [counted], answers=told, budget=[Limit("tokens", 22_000)])
    assert (run.status, ASKED) == ("budget_exceeded", [1, 3])
    assert [(one.spent, one.reserved) for one in run.budgets] == [(4200, 0)]


@pytest.mark.parametrize("side", ["before", "after"])
async def test_a_resumed_attempt_is_charged_for_what_it_asks_and_not_for_what_was_recorded(side: str) -> None:
    for commit in range(1, 100):
        engine = Losing(commit, side)
        limit = [Limit("tokens", 1_000_000)]
        run = await run_in_memory([Step("counted")], [counted], answers=told, backend=engine, budget=limit)
        assert [one.spent for one in run.budgets] == [COUNTED]
        if engine.left > 0:
            assert commit > 10
            return


@pytest.mark.parametrize(
    ("limited", "settings", "asked", "most"),
    [
        (True, {}, ANSWER_TOKENS, ANSWER_TOKENS),
        (True, {"max_tokens": 50}, 50, 50),
        (False, {}, None, ANSWER_TOKENS),
    ],
)
async def test_an_answer_has_a_limit_where_the_run_has_one(
    limited: bool, settings: Any, asked: int | None, most: int
) -> None:  # fmt: skip
    def answers(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        LIMITS.append((info.model_settings or {}).get("max_tokens"))
        return ModelResponse(parts=[TextPart("so")])

    @step("once")
    async def once(ctx: Context) -> str:
        return (await run_agent(ctx, Agent(FunctionModel(answers)), "Go.", model_settings=settings)).output

    LIMITS.clear()
    budget = [Limit("tokens", 100_000)] if limited else []
    await run_in_memory([Step("once")], [once], backend=(engine := Hearing()), budget=budget)
    assert asked == LIMITS[0]
    (intent,) = intents(engine)
    assert 0 < (intent.reserve["tokens"] or 0) - most < 2000
    assert b"max_tokens" not in intent.request or settings


async def test_a_rewritten_conversation_is_bounded_anew() -> None:
    def longer(messages: list[ModelMessage]) -> list[ModelMessage]:
        first = messages[0]
        assert isinstance(first, ModelRequest)
        padded = [UserPromptPart("y" * 20_000)] if len(messages) > 1 else list(first.parts)
        return [replace(first, parts=padded), *messages[1:]]

    @step("rewritten")
    async def rewritten(ctx: Context) -> str:
        rewriting = Agent(TestModel(), capabilities=[ProcessHistory(longer)])

        @rewriting.tool_plain
        def look() -> str:
            return "done"

        return (await run_agent(ctx, rewriting, "Go.", effects={"look": "safe"})).output

    await run_in_memory([Step("rewritten")], [rewritten], backend=(engine := Hearing()))
    first, second = [one.reserve["tokens"] or 0 for one in intents(engine)]
    assert second > 20_000 + ANSWER_TOKENS > first


@pytest.mark.parametrize(("file", "ending"), [("picture", "completed"), ("document", "failed")])
async def test_a_picture_has_a_bound_and_what_only_the_provider_can_size_is_refused(file: str, ending: str) -> None:
    given = ImageUrl("https://host/a.png") if file == "picture" else DocumentUrl("https://host/a.pdf")

    @step("reads")
    async def reads(ctx: Context) -> str:
        return (await run_agent(ctx, Agent(FunctionModel(brain_second)), ["Read.", given])).output

    run = await run_in_memory(
        [Step("reads")], [reads], backend=(engine := Hearing()), budget=[Limit("tokens", 100_000)]
    )
    assert run.status == ending
    (intent,) = intents(engine)
    tokens = intent.reserve["tokens"]
    assert tokens is None if file == "document" else tokens is not None and tokens > 2 * ANSWER_TOKENS
    unlimited = await run_in_memory([Step("reads")], [reads])
    assert unlimited.status == "completed"


async def test_a_model_without_a_price_is_not_asked_where_money_is_limited() -> None:
    run = await run_in_memory([Step("counted")], [counted], budget=[Limit("microusd", 1_000_000)])
    assert (run.status, ASKED) == ("failed", [])
    assert run.steps[0].error is not None
    assert "price" in run.steps[0].error["message"]
    assert [(one.spent, one.reserved) for one in run.budgets] == [(0, 0)]


async def test_a_provider_that_says_not_now_shuts_its_gate() -> None:
    failing = Failing(LIMITED)

    @step("shut")
    async def shut(ctx: Context) -> str:
        return (await run_agent(ctx, Agent(FunctionModel(failing)), "Go.")).output

    run = await run_in_memory([Step("shut")], [shut], backend=(engine := Hearing()), budget=[Limit("tokens", 100_000)])
    assert ("provider:function held 7.0", 0) in engine.gates
    assert (run.status, run.budgets[0].reserved) == ("completed", 0)


PRICES = [
    {"provider": "function", "name": "function:counting:", "window_tokens": None,
     "price": {"input_usd": "3", "output_usd": "15", "cache_read_usd": "0.3", "cache_write_usd": None}},
]  # fmt: skip


async def test_what_requests_cost_is_the_runs(engine: Engine, database: Database) -> None:
    stage = await stage_on(engine, database, budget=(Limit("microusd", 2_000_000),))
    stage.prices = PRICES

    @step("play")
    async def play(ctx: Context) -> str:
        asking = Agent(FunctionModel(counting))
        return str((await run_agent(ctx, asking, "Go.", message_history=BEFORE)).output)

    stage.registry.add(play)
    await stage.attempt(await stage.claim())
    run = await engine.run(engine.runs[0])
    assert (run["calls"], run["input_tokens"], run["output_tokens"]) == (1, 7000, 100)
    assert run["microusd"] == 6600 * 3 + 400 * 0.3 + 100 * 15
    spent = "select spent, reserved from budgets where meter = 'microusd'"
    assert database.execute(spent) == [(run["microusd"], 0)]


BEFORE: list[ModelMessage] = [
    ModelRequest(parts=[UserPromptPart("Go.")]) if no % 2 == 0 else ModelResponse(parts=[TextPart("Yes.")])
    for no in range(6)
]


@dataclass
class Quiet:
    """A stream whose provider says what it used at its end only."""

    stream: Any
    usage: RequestUsage = field(default_factory=RequestUsage)

    def __aiter__(self) -> Any:
        return aiter(self.stream)


class Quietly(WrapperModel):
    """A model of such streams."""

    @asynccontextmanager
    async def request_stream(self, *given: Any, **more: Any) -> AsyncIterator[Any]:  # type: ignore[override]
        async with self.wrapped.request_stream(*given, **more) as stream:
            yield Quiet(stream)


async def test_a_stream_that_is_cut_off_books_what_it_had_used(engine: Engine, database: Database) -> None:
    stage = await stage_on(engine, database, budget=(Limit("tokens", 100_000),))
    begun, never = asyncio.Event(), asyncio.Event()

    async def slowly(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
        yield "y" * 400
        begun.set()
        await never.wait()
        yield "never"

    @step("play")
    async def play(ctx: Context) -> str:
        streaming = durable(Agent(Quietly(FunctionModel(stream_function=slowly))), ctx)
        async with streaming.run_stream("Go. " + "x" * 4000) as result:
            return await result.get_output()

    stage.registry.add(play)
    claim = await stage.claim()
    way = stage.way(claim)
    attempt = asyncio.create_task(run_attempt(claim, stage.registry, way, limit_bytes=262_144))
    await begun.wait()
    attempt.cancel()
    await asyncio.wait([attempt])
    assert way.heard == ["y" * 400]
    (booked,) = [one for one in way.told if isinstance(one, Booked)]
    assert booked.used.output_tokens == 100
    assert 1000 <= booked.used.input_tokens < 2000
    spent = "select spent, reserved from budgets where meter = 'tokens'"
    await stage.claim_again()
    ((bound, held),) = database.execute(spent)
    assert (held, int(str(bound)) > ANSWER_TOKENS + 4000) == (0, True)
    await stage.hand.settle(booked)
    assert database.execute(spent) == [(booked.used.input_tokens + 100, 0)]


def test_keys_are_for_tools_that_run_durably() -> None:
    with pytest.raises(FatalError):
        idempotency_key()


def test_what_is_not_installed_is_named() -> None:
    code = "import sys; sys.modules['pydantic_ai'] = None; import durable_agent.agents.pydantic_ai"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert 'pip install "durable-agent[llm]"' in done.stderr.splitlines()[-1]
