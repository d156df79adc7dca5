"""pydantic-ai as a step: an author's agent, unmodified, whose model requests and tool calls are recorded effects.

An attempt after a crash runs the agent from its beginning again and gets the recorded answers and results: nothing is
sent or done twice. What the agent does between them must come out the same: an instruction with the time of day in it
asks something else each time, which is a divergence; take the time from `ctx.now()`.

A streamed request is recorded whole before its events are shown. Output functions and validators are not recorded.

A request is bounded, reserved, gated and charged as one of `ctx.llm` is. Where a run's budget is limited, an answer whose
length neither the settings nor the model limit gets `ANSWER_TOKENS`, so that the bound is true; and a request that nobody
can bound, with tools of the provider's own or a document to fetch, is refused. A request that is cut off is charged what
it had used if it was streamed, else its bound.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, NamedTuple, TypeAlias, cast

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError, PydanticSerializationError, to_jsonable_python

from durable_agent.core.events import digest, dumps
from durable_agent.core.outcomes import Used
from durable_agent.errors import FatalError, RateLimited, RetryableError, StepError, UnknownOutcome
from durable_agent.flow.context import Context
from durable_agent.flow.effects import Order, Terms
from durable_agent.flow.llm import MESSAGE_TOKENS, TOOLS_TOKENS, Ear
from durable_agent.flow.model import Usage
from durable_agent.flow.tools import tool

try:
    from pydantic_ai import AbstractToolset, RunContext, ToolsetTool, WrapperToolset
    from pydantic_ai import exceptions as known
    from pydantic_ai.agent import AbstractAgent, AgentRun, AgentRunResult, WrapperAgent
    from pydantic_ai.capabilities import AbstractCapability, CapabilityOrdering
    from pydantic_ai.durable_exec import JSON_CODEC
    from pydantic_ai.messages import (
        ModelMessage,
        ModelMessagesTypeAdapter,
        ModelResponse,
        ModelResponseStreamEvent,
        PartDeltaEvent,
        PartStartEvent,
        TextPart,
        TextPartDelta,
        ToolReturn,
        ToolReturnContent,
    )
    from pydantic_ai.models import CompletedStreamedResponse, Model, ModelRequestParameters, StreamedResponse
    from pydantic_ai.models.fallback import FallbackModel
    from pydantic_ai.models.wrapper import WrapperModel
    from pydantic_ai.settings import ModelSettings
except ImportError as missing:

    class Missing(FatalError, ImportError):
        """The extra is not installed."""

    raise Missing(f'pydantic-ai is not installed ({missing}): pip install "durable-agent[llm]"') from missing

ToolEffect = Literal["safe", "idempotent", "manual"]
Effects = Mapping[str, ToolEffect | None]
# Sends a request with these settings.
Send: TypeAlias = "Callable[[ModelSettings | None, Ear], Awaitable[ModelResponse]]"

# Marks what a tool did other than return a value; a value stands for itself, as does one that a person gives.
_OUTCOME: Final = "$outcome"
# Settings that are about the connection, or may hold a secret.
_UNRECORDED: Final = frozenset({"extra_headers", "extra_body", "timeout", "request_timeout", "first_event_timeout"})
# What an answer may have at most where a budget is limited and neither the settings nor the model say so.
ANSWER_TOKENS: Final = 16_384
# What a picture takes at most beside its bytes, however few they are.
_FILE_TOKENS: Final = 16_384
_FILE: Final = re.compile(rb'"kind":"(binary|image-url)"')
# What goes in by these, only the provider knows.
_UNSEEN: Final = re.compile(rb'"kind":"(document-url|audio-url|video-url|uploaded-file)"')
# Answers that mean "not now".
_PASSING: Final = frozenset({408, 409, 425, 429})
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
        raise _step_error(error) from error
    except known.FallbackExceptionGroup as group:
        # What one of them can answer later is worth a try.
        errors = [_step_error(one) for one in group.exceptions if isinstance(one, known.ModelAPIError)]
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


class RecordedModel(WrapperModel):
    """A model each of whose requests is an effect `model.<name>`, safe to send again, made on the terms of `ctx.llm`.

    `counted` is what providers said of the size of this run's conversations, by their digest.
    """

    def __init__(self, wrapped: Model, ctx: Context, counted: dict[str, int]) -> None:
        super().__init__(wrapped)
        self._ctx = ctx
        self._counted = counted

    async def request(
        self, messages: list[ModelMessage], model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:  # fmt: skip
        """Return the recorded response, or send the request and record it."""

        async def send(settings: ModelSettings | None, ear: Ear) -> ModelResponse:
            return await self.wrapped.request(messages, settings, model_request_parameters)

        return await self._recorded(messages, model_settings, model_request_parameters, send)

    @asynccontextmanager
    async def request_stream(
        self, messages: list[ModelMessage], model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters, run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:  # fmt: skip
        """Yield the recorded response as a stream, once it is whole; who watches the run hears it come."""
        events: list[ModelResponseStreamEvent] = []

        async def send(settings: ModelSettings | None, ear: Ear) -> ModelResponse:
            chars = 0
            async with self.wrapped.request_stream(messages, settings, model_request_parameters, run_context) as stream:
                async for event in stream:
                    events.append(event)
                    chars += _heard(event, ear)
                    ear.usage(_usage(stream.usage, chars))
                return stream.get()

        response = await self._recorded(messages, model_settings, model_request_parameters, send)
        yield CompletedStreamedResponse(
            response, model_request_parameters=model_request_parameters, replay_events=events or True
        )

    async def _recorded(
        self, messages: list[ModelMessage], settings: ModelSettings | None, parameters: ModelRequestParameters, send: Send
    ) -> ModelResponse:  # fmt: skip
        said = _said(self.model_name, messages, settings, parameters, self._counted)
        recorded = tool(_plain_name(f"model.{self.model_name}"), effect="safe")(_stands_for)
        try:
            asking = Asking(self._ctx, said, settings, _serving(self.wrapped), send)
            response = await self._ctx.order(recorded, {}, asking.order())
        except StepError as error:
            # The agent's own hooks and fallbacks are to see what the provider said.
            if isinstance(error.__cause__, known.ModelAPIError):
                raise error.__cause__ from None
            raise
        loaded: ModelResponse = JSON_CODEC.load(ModelResponse, response)
        self._counted[said.key] = _usage(loaded.usage).tokens
        return loaded


async def _stands_for(**request: Any) -> None:
    """Stand for a model's requests in the record; the orders make them."""


@dataclass(slots=True)
class Asking:
    """A request on its way: bounded by the dearest of the models that may serve it, charged as the one that did."""

    ctx: Context
    said: Said
    settings: ModelSettings | None
    serving: Sequence[Serving]
    send: Send
    ears: list[Ear] = field(default_factory=list)

    def order(self) -> Order:
        """Return the order of the request."""
        return Order(self.said.request, self.terms, self.used, self.partial, self.make)

    def _limits(self) -> list[int | None]:
        """Return how long an answer is at most, for each model; None where nobody says so."""
        return [(self.settings or {}).get("max_tokens") or one.most_tokens for one in self.serving]

    def terms(self) -> Terms:
        """See `flow.effects.Order`."""
        most = max(one or ANSWER_TOKENS for one in self._limits())
        # A fallback over several providers is its own way round the one that is shut.
        gate = f"provider:{self.serving[0].provider}" if len({one.provider for one in self.serving}) == 1 else None
        sent = self.said.most_tokens
        if sent is None:
            return Terms({"tokens": None, "microusd": None}, gate, self.said.guess_tokens + most)
        costs = [self.ctx.link.models().bound_microusd(one, sent, most) for one in self.serving]
        return Terms({"tokens": sent + most, "microusd": None if None in costs else max(costs)}, gate, sent + most)

    async def make(self, effect: int, key: str) -> Any:
        """Send the request, with a limit that makes the bound true where it matters."""
        settings = self.settings
        if self.ctx.claim.budgeted and not all(self._limits()):
            settings = cast(ModelSettings, {**(settings or {}), "max_tokens": ANSWER_TOKENS})
        self.ears.append(Ear(self.ctx.link, effect, cast(Any, self.serving[0])))
        try:
            return JSON_CODEC.dump(ModelResponse, await self.send(settings, self.ears[-1]))
        except known.ModelAPIError as error:
            raise _step_error(error) from error

    def used(self, result: Any) -> Used:
        """See `flow.effects.Order`."""
        response: ModelResponse = JSON_CODEC.load(ModelResponse, result)
        usage, first = _usage(response.usage), self.serving[0]
        provider, name = response.provider_name or first.provider, response.model_name or first.name
        cost, source = self.ctx.link.models().cost_microusd(provider, name, usage)
        facts = {**usage.to_json(), "model": name, "provider": provider, "price": source}
        return Used(usage.input_tokens, usage.output_tokens, cost, facts)

    def partial(self) -> Used | None:
        """See `flow.effects.Order`; what went in is guessed where the provider has not said."""
        if not self.ears or (heard := self.ears[-1].used) is None:
            return None
        self.ears[-1].used = replace(heard, input_tokens=heard.input_tokens or self.said.guess_tokens)
        return self.ears[-1].so_far(self.ctx.link.models())


class Serving(NamedTuple):
    """A model that may serve a request, as prices know it, and how long its answer is at most, if that is known."""

    provider: str
    name: str
    most_tokens: int | None


def _serving(model: Model) -> list[Serving]:
    """Return the model, or the members of a fallback."""
    while isinstance(model, WrapperModel):
        model = model.wrapped
    if isinstance(model, FallbackModel):
        return [one for member in model.models for one in _serving(member)]
    limits: Mapping[str, Any] = {**model.profile, **(model.settings or {})}
    return [
        Serving(model.system, model.model_name, limits.get("max_tokens") or limits.get("anthropic_max_output_tokens"))
    ]


def _usage(told: Any, chars: int = 0) -> Usage:
    """Return what was used, at least what so many characters of an answer are."""
    return Usage(
        told.input_tokens, max(told.output_tokens, -(-chars // 4)), told.cache_read_tokens, told.cache_write_tokens
    )


def _heard(event: ModelResponseStreamEvent, ear: Ear) -> int:
    """Hand the text that came on; return how many characters came."""
    match event:
        case PartStartEvent(part=TextPart(content=text)) | PartDeltaEvent(delta=TextPartDelta(content_delta=text)):
            ear.text(text)
            return len(text)
        case PartDeltaEvent(delta=delta):
            return len(str(getattr(delta, "args_delta", "") or getattr(delta, "content_delta", "") or ""))
        case _:
            return 0


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
    if "ctx" in arguments:
        raise FatalError(f"tool {name!r} has an argument named 'ctx', which cannot be recorded; rename it")

    async def called(ctx: Context, **recorded: Any) -> Any:
        token = _KEY.set(ctx.idempotency_key)
        try:
            return await _outcome(call)
        finally:
            _KEY.reset(token)

    request = to_jsonable_python(arguments, fallback=repr)
    return _unpacked(await outer.call(tool(_plain_name(name), effect=effect)(called), **request))


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


@dataclass(frozen=True, slots=True)
class Said:
    """What is said in a request: its record, the digest of all that goes in, and how many tokens that is.

    `most_tokens` is None where only the provider knows.
    """

    request: dict[str, Any]
    key: str
    most_tokens: int | None
    guess_tokens: int


def _said(
    model: str, messages: list[ModelMessage], settings: ModelSettings | None, parameters: ModelRequestParameters,
    counted: Mapping[str, int],
) -> Said:  # fmt: skip
    """Return what is said. It is recorded from the model's last answer on, after the digest of the rest.

    The rest was recorded by the requests before; nothing in it is the clock's or random. How many tokens the rest is, the
    provider has counted, if it had these tools and instructions with it; no text since has more tokens than bytes.
    """
    dumped = ModelMessagesTypeAdapter.dump_python(messages, mode="json")
    plain = [_plain(one) for one in dumped]
    last = max((index for index, one in enumerate(plain, 1) if one["kind"] == "response"), default=0)
    offered = dumps([model, *_offered(parameters)])
    before = counted.get(digest(offered + dumps(plain[: last - 1]))) if last else None
    new = dumps(dumped[last:]) if before is not None else dumps(dumped) + offered
    beside = MESSAGE_TOKENS * len(new.split(b"part_kind")) + (TOOLS_TOKENS if before is None else 0)
    most = (before or 0) + len(new) + beside + _FILE_TOKENS * len(_FILE.findall(new))
    kept = {name: value for name, value in (settings or {}).items() if name not in _UNRECORDED}
    request = {
        "model": model,
        "before": digest(dumps(plain[:last])) if last else None,
        "messages": plain[last:],
        "settings": to_jsonable_python(kept, fallback=lambda value: type(value).__name__),
    }
    unseen = bool(parameters.native_tools or _UNSEEN.search(new))
    return Said(request, digest(offered + dumps(plain)), None if unseen else most, (before or 0) + len(new) // 4)


def _offered(parameters: ModelRequestParameters) -> list[Any]:
    """Return what goes in beside the messages: tools, the form of the output, instructions."""
    tools = (*parameters.function_tools, *parameters.output_tools)
    return [
        [[one.name, one.description, one.parameters_json_schema, one.return_schema] for one in tools],
        parameters.output_object.json_schema if parameters.output_object else None,
        [part.content for part in parameters.instruction_parts or ()],
    ]


def _plain(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message without what differs when the same is said again: times, ids of runs, prices."""
    parts = [{name: _short(value) for name, value in part.items() if name != "timestamp"} for part in message["parts"]]
    return {"kind": message["kind"], "parts": parts, "instructions": message.get("instructions")}


def _short(value: Any) -> Any:
    """Return a value with its files by their digest."""
    match value:
        case {"kind": "binary", "data": str() as data, **rest}:
            return {**rest, "kind": "binary", "sha256": digest(data.encode())}
        case dict():
            return {name: _short(one) for name, one in value.items()}
        case list():
            return [_short(one) for one in value]
        case _:
            return value


def _step_error(error: known.ModelAPIError) -> StepError:
    """Return a provider's error as the step understands it."""
    match error:
        case known.ModelRateLimitError():
            return RateLimited(str(error), retry_after_s=error.retry_after)
        case known.ModelConnectionError() | known.ModelRequestTimeout():
            return UnknownOutcome(str(error))
        case known.ModelQuotaExceededError() | known.ModelRequestRejectedError():
            return FatalError(str(error))
        case known.ModelHTTPError() if error.status_code < 500 and error.status_code not in _PASSING:
            return FatalError(str(error))
        case _:
            return RetryableError(str(error), retry_after_s=error.retry_after)


def _plain_name(name: str) -> str:
    """Return a name that an effect may have."""
    return re.sub(r"[^\w.\-]", "_", name)[:200]
