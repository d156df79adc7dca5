"""pydantic-ai agents as steps: lost at every commit, they end the same, and nothing is sent or done twice."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import psycopg
import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, BinaryContent, ModelRetry, RunContext, ToolReturn
from pydantic_ai.capabilities import ModelFallback
from pydantic_ai.exceptions import (
    ApprovalRequired,
    ModelAPIError,
    ModelConnectionError,
    ModelHTTPError,
    ModelRateLimitError,
)
from pydantic_ai.messages import (
    ModelMessage,
    ModelResponse,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
)
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, DeltaToolCalls, FunctionModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.tools import DeferredToolRequests

from durable_agent.agents.pydantic_ai import durable, idempotency_key, run_agent
from durable_agent.core.gate import Heard, Passing
from durable_agent.core.outcomes import Exchange, Intended, Outcome, Recorded, Verdict
from durable_agent.core.states import StepStatus
from durable_agent.core.waits import Decision
from durable_agent.errors import FatalError
from durable_agent.flow.context import Context
from durable_agent.flow.steps import Step
from durable_agent.flow.tools import Tool, step
from durable_agent.testing import FakeBackend, FakeRun, FakeWait, crash_everywhere, run_in_memory
from tests.support.postgres import Database

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
        (ModelAPIError("m", "odd"), "completed", "unknown"),
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


def test_keys_are_for_tools_that_run_durably() -> None:
    with pytest.raises(FatalError):
        idempotency_key()


def test_what_is_not_installed_is_named() -> None:
    code = "import sys; sys.modules['pydantic_ai'] = None; import durable_agent.agents.pydantic_ai"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert 'pip install "durable-agent[llm]"' in done.stderr.splitlines()[-1]
