"""pydantic-ai as a step: an author's agent, unmodified, whose model requests and tool calls are recorded effects.

An attempt after a crash runs the agent from its beginning again and gets the recorded answers and results: nothing is
sent or done twice. What the agent does between them must come out the same: an instruction with the time of day in it
asks something else each time, which is a divergence; take the time from `ctx.now()`.

A streamed request is recorded whole before its events are shown. Output functions and validators are not recorded.

How a request is bounded, reserved and charged: `agents.requests`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError, PydanticSerializationError, to_jsonable_python

from durable_agent.agents.requests import RecordedModel, plain_name, step_error  # first: it says what is not installed
from durable_agent.errors import FatalError, RetryableError
from durable_agent.flow.context import Context
from durable_agent.flow.effects import Order
from durable_agent.flow.tools import stand_in

# isort: split
from pydantic_ai import AbstractToolset, RunContext, ToolsetTool, WrapperToolset
from pydantic_ai import exceptions as known
from pydantic_ai.agent import AbstractAgent, AgentRun, AgentRunResult, WrapperAgent
from pydantic_ai.capabilities import AbstractCapability, CapabilityOrdering
from pydantic_ai.durable_exec import JSON_CODEC
from pydantic_ai.messages import ToolReturn, ToolReturnContent
from pydantic_ai.models import Model

ToolEffect = Literal["safe", "idempotent", "manual"]
Effects = Mapping[str, ToolEffect | None]

# Marks what a tool did other than return a value; a value stands for itself, as does one that a person gives.
_OUTCOME: Final = "$outcome"
_KEY: ContextVar[str] = ContextVar("idempotency_key")


def idempotency_key() -> str:
    """Return the key of the recorded call that the calling tool serves: the same at every attempt. Raises FatalError."""
    try:
        return _KEY.get()
    except LookupError:
        raise FatalError("idempotency_key() is for tools of an agent that runs durably") from None


async def run_agent(
    ctx: Context, agent: AbstractAgent[Any, Any], prompt: Any = None, *, effects: Effects | None = None, **given: Any
) -> AgentRunResult[Any]:  # fmt: skip
    """Run an agent to its end within this step and return its result; `given` is what its `run` takes. See `durable`.

    What a provider answers is raised as the step understands it: RateLimited, RetryableError, UnknownOutcome, FatalError.
    """
    try:
        return await durable(agent, ctx, effects=effects).run(prompt, **given)
    except known.ModelAPIError as error:
        raise step_error(error) from error
    except known.FallbackExceptionGroup as group:
        # What one of them can answer later is worth a try.
        errors = [step_error(one) for one in group.exceptions if isinstance(one, known.ModelAPIError)]
        passing = [one for one in errors if not isinstance(one, FatalError)]
        raise next(iter(passing or errors), RetryableError(str(group))) from group


def durable(
    agent: AbstractAgent[Any, Any], ctx: Context, *, effects: Effects | None = None
) -> DurableAgent:  # fmt: skip
    """Return the agent as one that records what it does in this attempt.

    `effects` says, by the tool's name, what a call that was begun and never heard of again allows: `safe` and
    `idempotent` are called again (with the same `idempotency_key()`), `manual`, the default, waits for a person. A tool
    named with None is not recorded itself: it works through `ctx` and is run again.
    """
    return DurableAgent(agent, Recording(ctx, effects or {}))


class DurableAgent(WrapperAgent[Any, Any]):
    """An agent of one attempt; it is run in every way the author's own is."""

    def __init__(self, wrapped: AbstractAgent[Any, Any], recording: Recording) -> None:
        super().__init__(wrapped)
        self._recording = recording

    @asynccontextmanager
    async def iter(
        self, user_prompt: Any = None, *, capabilities: Sequence[Any] | None = None, **given: Any
    ) -> AsyncIterator[AgentRun[Any, Any]]:
        """Iterate over a run whose requests and calls are recorded."""
        async with self.wrapped.iter(
            user_prompt, capabilities=[*(capabilities or ()), self._recording], **given
        ) as run:  # fmt: skip
            yield run


@dataclass
class Recording(AbstractCapability[Any]):
    """What makes an agent's run durable: next to the model and the tools, inside whatever else the agent has."""

    ctx: Context = field(repr=False)
    effects: Effects
    counted: dict[str, int] = field(default_factory=dict, repr=False)

    def get_ordering(self) -> CapabilityOrdering:
        """Stand next to the model and the tools: what others do to a request is in the record."""
        return CapabilityOrdering(position="innermost")

    def get_wrapper_model(self, model: Model) -> Model:
        """Return the model that records its requests."""
        return RecordedModel(model, self.ctx, self.counted)

    def get_wrapper_toolset(self, toolset: AbstractToolset[Any]) -> AbstractToolset[Any]:
        """Return the tools that record their calls."""
        return RecordedTools(toolset, self.ctx, self.effects)


@dataclass
class RecordedTools(WrapperToolset[Any]):
    """Tools each of whose calls is an effect of the tool's name."""

    ctx: Context = field(repr=False)
    effects: Effects

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: RunContext[Any], tool: ToolsetTool[Any]
    ) -> Any:  # fmt: skip
        """Return the recorded result, or call the tool and record it."""
        effect = self.effects.get(name, "manual")
        if effect is None:
            return await super().call_tool(name, tool_args, ctx, tool)
        return await _call(
            self.ctx, name, effect, tool_args, lambda: self.wrapped.call_tool(name, tool_args, ctx, tool)
        )


async def _call(
    outer: Context, name: str, effect: ToolEffect, arguments: dict[str, Any], call: Callable[[], Awaitable[Any]]
) -> Any:  # fmt: skip
    async def called(effect: int, key: str) -> Any:
        token = _KEY.set(key)
        try:
            return await _outcome(call)
        finally:
            _KEY.reset(token)

    request = to_jsonable_python(arguments, fallback=repr)
    return _unpacked(await outer.order(stand_in(plain_name(name), effect), {}, Order(request, called)))


async def _outcome(call: Callable[[], Awaitable[Any]]) -> Any:
    """Return what a call came to as JSON: its value, or what it asks of the agent, which is an end like any other."""
    try:
        result = await call()
    except known.ModelRetry as error:
        return {_OUTCOME: "retry", "message": error.message}
    except known.ToolFailed as error:
        return {_OUTCOME: "failed", "message": error.message}
    except known.ApprovalRequired as error:
        return {_OUTCOME: "approval", "metadata": error.metadata}
    except known.CallDeferred as error:
        return {_OUTCOME: "deferred", "metadata": error.metadata, "kind": error.kind}
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)
        return {_OUTCOME: "invalid", "title": error.title, "errors": to_jsonable_python(found, fallback=repr)}
    try:
        if isinstance(result, ToolReturn):
            return {_OUTCOME: "rich", "value": JSON_CODEC.dump(ToolReturn, result)}
        value = JSON_CODEC.dump(ToolReturnContent, result)
    except PydanticSerializationError:
        return result  # it was done: that its result cannot be kept is for the record to say
    return {_OUTCOME: "value", "value": value} if isinstance(value, dict) and _OUTCOME in value else value


def _unpacked(recorded: Any) -> Any:
    """Return what `_outcome` stands for, or raise it."""
    if not isinstance(recorded, dict) or _OUTCOME not in recorded:
        return JSON_CODEC.load(ToolReturnContent, recorded)
    match recorded[_OUTCOME]:
        case "retry":
            raise known.ModelRetry(recorded["message"])
        case "failed":
            raise known.ToolFailed(recorded["message"])
        case "approval":
            raise known.ApprovalRequired(recorded["metadata"])
        case "deferred":
            raise known.CallDeferred(recorded["metadata"], kind=recorded["kind"])
        case "invalid":
            raise ValidationError.from_exception_data(recorded["title"], [_detail(one) for one in recorded["errors"]])
        case "rich":
            return JSON_CODEC.load(ToolReturn, recorded["value"])
        case _:
            return JSON_CODEC.load(ToolReturnContent, recorded["value"])


def _detail(error: Mapping[str, Any]) -> InitErrorDetails:
    kind = PydanticCustomError(error["type"], "{message}", {"message": error["msg"]})
    return InitErrorDetails(type=kind, loc=tuple(error["loc"]), input=error.get("input"))
