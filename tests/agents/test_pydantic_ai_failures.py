"""A provider that fails, and an answer that is refused, in an agent of pydantic-ai's."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic_ai import Agent, ModelRetry
from pydantic_ai.capabilities import ModelFallback
from pydantic_ai.exceptions import ModelAPIError, ModelConnectionError, ModelHTTPError
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.function import AgentInfo, FunctionModel

from durable_agent.agents.pydantic_ai import run_agent
from durable_agent.core.outcomes import Recorded
from durable_agent.flow.context import Context
from durable_agent.flow.steps import Step
from durable_agent.flow.tools import step
from durable_agent.testing import run_in_memory
from tests.support.losing import Hearing, Losing, effects_of
from tests.support.pydantic_agents import GONE, LIMITED, Failing, brain_second


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
