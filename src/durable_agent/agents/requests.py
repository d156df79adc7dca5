"""A pydantic-ai agent's model requests as recorded effects: bounded and reserved before, charged after, heard as they come.

A request is bounded, reserved, gated and charged as one of `ctx.llm` is. Where a run's budget is limited, an answer that
the settings do not limit gets `ANSWER_TOKENS` at most, so that the bound is true and a small budget holds it; and a
request that nobody can bound, with tools of the provider's own or a document to fetch, is refused. A request that is cut
off is charged what it had used if it was streamed, else its bound.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple, TypeAlias, cast

from pydantic_core import to_jsonable_python

from durable_agent.agents.failures import failure_of, usage_of
from durable_agent.core.events import digest, dumps
from durable_agent.core.outcomes import Used
from durable_agent.core.text import storable
from durable_agent.errors import FatalError, RetryableError, StepError
from durable_agent.flow.context import Context
from durable_agent.flow.effects import Order, Terms
from durable_agent.flow.llm import MESSAGE_TOKENS, TOOLS_TOKENS, Ear, charged_of
from durable_agent.flow.model import MOST_TOKENS, Usage
from durable_agent.flow.tools import stand_in

try:
    from pydantic_ai import RunContext
    from pydantic_ai import exceptions as known
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
    )
    from pydantic_ai.models import CompletedStreamedResponse, Model, ModelRequestParameters, StreamedResponse
    from pydantic_ai.models.fallback import FallbackModel
    from pydantic_ai.models.wrapper import WrapperModel
    from pydantic_ai.profiles.anthropic import ANTHROPIC_THINKING_BUDGET_MAP
    from pydantic_ai.settings import ModelSettings
    from pydantic_ai.usage import RequestUsage
except ImportError as missing:

    class Missing(FatalError, ImportError):
        """The extra is not installed."""

    raise Missing(f'pydantic-ai is not installed ({missing}): pip install "durable-agent[llm]"') from missing

# Sends a request with these settings.
Send: TypeAlias = "Callable[[ModelSettings | None, Ear], Awaitable[ModelResponse]]"

# Settings that are about the connection, or may hold a secret.
_UNRECORDED: Final = frozenset({"extra_headers", "extra_body", "timeout", "request_timeout", "first_event_timeout"})
# What an answer may have at most, beside a budget of thinking that the settings name, where a run's budget is limited and
# the settings do not say so. What a model can say at most may be several times that, held for every request.
ANSWER_TOKENS: Final = 16_384
# What a picture takes at most beside its bytes, however few they are.
_FILE_TOKENS: Final = 16_384
_FILE: Final = re.compile(rb'"kind":"(binary|image-url)"')
# What goes in by these, only the provider knows.
_UNSEEN: Final = re.compile(rb'"kind":"(document-url|audio-url|video-url|uploaded-file)"')


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
                    ear.usage(usage_of(stream.usage, chars))
                return stream.get()

        response = await self._recorded(messages, model_settings, model_request_parameters, send)
        yield CompletedStreamedResponse(
            response, model_request_parameters=model_request_parameters, replay_events=events or True
        )

    async def _recorded(
        self, messages: list[ModelMessage], settings: ModelSettings | None, parameters: ModelRequestParameters, send: Send
    ) -> ModelResponse:  # fmt: skip
        serving = _serving(self.wrapped, settings)
        # What one of several counted bounds no other's count: nobody knows which will serve.
        counted = self._counted if len({(one.provider, one.name) for one in serving}) == 1 else {}
        said = _said(self.model_name, messages, settings, parameters, counted)
        recorded = stand_in(plain_name(f"model.{self.model_name}"))
        try:
            asking = Asking(self._ctx, said, settings, serving, send)
            response = await self._ctx.order(recorded, {}, asking.order())
        except StepError as error:
            # The agent's own hooks and fallbacks are to see what the provider said.
            if isinstance(error.__cause__, known.ModelAPIError):
                raise error.__cause__ from None
            raise
        loaded: ModelResponse = JSON_CODEC.load(ModelResponse, response)
        usage = usage_of(loaded.usage)
        if usage.input_tokens:
            written = usage.output_tokens or len(dumps(response))
            self._counted[said.key] = usage.input_tokens + written
        return loaded


@dataclass(slots=True)
class Asking:
    """A request on its way: bounded by the dearest of the models that may serve it, charged as the one that did."""

    ctx: Context
    said: Said
    settings: ModelSettings | None
    serving: Sequence[Serving]
    send: Send
    ears: list[Ear] = field(default_factory=list)
    response: ModelResponse | None = None

    def order(self) -> Order:
        """Return the order of the request."""
        return Order(
            request=self.said.request, terms=self.terms, used=self.used, partial=self.partial, make=self.make
        )  # fmt: skip

    def terms(self) -> Terms:
        """See `flow.effects.Order`."""
        most = self._most()
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
        if limit := self._limit():
            settings = cast(ModelSettings, {**(settings or {}), "max_tokens": limit})
        self.ears.append(Ear(self.ctx.link, effect, self.serving[0]))
        try:
            self.response = _storable(await self.send(settings, self.ears[-1]))
        except known.ModelAPIError as error:
            raise step_error(error) from error
        return storable(JSON_CODEC.dump(ModelResponse, self.response))

    def used(self, result: Any) -> Used:
        """See `flow.effects.Order`."""
        response = self.response or JSON_CODEC.load(ModelResponse, result)
        one = served(self.serving, response.provider_name, response.model_name or "")
        most = Usage(self._sent(), self._most())
        return charged_of(
            self.ctx.link.models(), one, response.model_name or "", usage_of(response.usage), most,
            said=bool(response.parts),
        )  # fmt: skip

    def partial(self) -> Used | None:
        """See `flow.effects.Order`; what went in is guessed where the provider has not said."""
        if not self.ears or (heard := self.ears[-1].used) is None:
            return None
        self.ears[-1].used = replace(heard, input_tokens=heard.input_tokens or self.said.guess_tokens)
        return self.ears[-1].so_far()

    def _sent(self) -> int:
        """Return how many tokens go in at most, or are guessed to where only the provider knows."""
        return self.said.guess_tokens if self.said.most_tokens is None else self.said.most_tokens

    def _most(self) -> int:
        """Return how many tokens the answer has at most."""
        return self._limit() or max(one.asked_tokens or one.most_tokens or ANSWER_TOKENS for one in self.serving)

    def _limit(self) -> int | None:
        """Return the limit to send, which makes the bound true and small; None to leave the settings as they are."""
        unasked = [one for one in self.serving if not one.asked_tokens]
        known = [one.most_tokens for one in unasked if one.most_tokens]
        if not self.ctx.claim.budgeted or not unasked:
            return None
        # One limit is sent to all of a fallback: over what an author set for one of them only if another has no bound.
        if len(known) == len(unasked) and (len(unasked) < len(self.serving) or max(known) <= ANSWER_TOKENS):
            return None
        # A provider refuses a limit that thinking alone would reach, and one above what its model can say.
        room = ANSWER_TOKENS + max(one.thinking_tokens for one in self.serving)
        return min([room, *(one.most_tokens for one in self.serving if one.most_tokens)])


class Serving(NamedTuple):
    """A model that may serve a request, as prices know it.

    Its answer has at most `asked_tokens` by its settings and `most_tokens` by what it can say; None where nobody says so.
    `thinking_tokens` is the part of such an answer that it is asked to think at most.
    """

    provider: str
    name: str
    asked_tokens: int | None
    most_tokens: int | None
    thinking_tokens: int


@dataclass(frozen=True, slots=True)
class Said:
    """What is said in a request: its record, the digest of all that goes in, and how many tokens that is.

    `most_tokens` is None where only the provider knows.
    """

    request: dict[str, Any]
    key: str
    most_tokens: int | None
    guess_tokens: int


def step_error(error: known.ModelAPIError) -> StepError:
    """Return a provider's error as the step understands it."""
    found = failure_of(error)
    return found.error(error.model_name) if found is not None else RetryableError(str(error))


def plain_name(name: str) -> str:
    """Return a name that an effect may have."""
    return re.sub(r"[^\w.\-]", "_", name)[:200]


def _serving(model: Model, given: ModelSettings | None) -> list[Serving]:
    """Return the model, or the members of a fallback, with the request's settings over their own."""
    while isinstance(model, WrapperModel):
        model = model.wrapped
    if isinstance(model, FallbackModel):
        return [one for member in model.models for one in _serving(member, given)]
    settings: Mapping[str, Any] = {**(model.settings or {}), **(given or {})}
    profile: Mapping[str, Any] = {**model.profile}
    most = profile.get("anthropic_max_output_tokens")
    thinking = _thinking_tokens(settings) if most else 0
    return [Serving(model.system, model.model_name, settings.get("max_tokens"), most, thinking)]


def served(serving: Sequence[Serving], provider: str | None, answered: str) -> Serving:
    """Return which of the models served a request: that of the provider whose name the answer's begins with."""
    of_provider = [one for one in serving if one.provider == provider] or serving
    named = [one for one in of_provider if answered.startswith(one.name)]
    return max(named, key=lambda one: len(one.name)) if named else of_provider[0]


def _storable(response: ModelResponse) -> ModelResponse:
    """Return a response without what is no count in its usage, which would not be stored."""
    usage = usage_of(response.usage, who=f"{response.provider_name}:{response.model_name}")
    same = all(getattr(response.usage, name) == count for name, count in usage.to_json().items())
    if same and all(type(count) is int and abs(count) <= MOST_TOKENS for count in response.usage.details.values()):
        return response
    kept = RequestUsage(
        input_tokens=usage.input_tokens, output_tokens=usage.output_tokens, cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
    )  # fmt: skip
    return replace(response, usage=kept)


def _thinking_tokens(settings: Mapping[str, Any]) -> int:
    """Return how many tokens one of Anthropic's models is asked to think at most."""
    match settings:
        case {"anthropic_thinking": {"budget_tokens": int(tokens)}}:
            return tokens
        case {"bedrock_additional_model_requests_fields": {"thinking": {"budget_tokens": int(tokens)}}}:
            return tokens
        case {"thinking": level}:
            return ANTHROPIC_THINKING_BUDGET_MAP.get(level, 0)
        case _:
            return 0


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
    tools, form = (*parameters.function_tools, *parameters.output_tools), parameters.output_object
    return [
        [[one.name, one.description, one.parameters_json_schema, one.return_schema] for one in tools],
        [form.json_schema, form.name, form.description] if form else None,
        parameters.prompted_output_template or None,
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
