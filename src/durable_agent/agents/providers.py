"""The models of Anthropic, OpenAI (and whoever speaks its protocol), Google and Amazon Bedrock.

The wire formats are pydantic-ai's, which is imported with the provider's own library when a model is first asked: both
take seconds and neither is needed where no key is. Nothing here tries again: a provider's failure is classified and the
engine decides.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import replace
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import httpx2
import orjson

from durable_agent.agents import prices
from durable_agent.agents.failures import failure_of, usage_of
from durable_agent.agents.offline import tokens_of
from durable_agent.core.text import storable, whole
from durable_agent.errors import FatalError, RetryableError, StepError, UnknownOutcome
from durable_agent.flow.http import HEADER
from durable_agent.flow.model import Finish, Listener, Message, Reply, Request, ToolCall, ToolSpec, Usage
from durable_agent.tls import trusted

if TYPE_CHECKING:
    from pydantic_ai.messages import ModelMessage, ModelResponse, ModelResponseStreamEvent
    from pydantic_ai.models import Model, StreamedResponse

INSTALL = 'pip install "durable-agent[llm]"'
CONNECT_S = 5.0
READ_S = 600.0
BEDROCK_CONNECTIONS = 50

_FINISH: Mapping[str, Finish] = dict(stop="stop", length="length", tool_call="tool_calls", content_filter="refused")  # fmt: skip
_KEPT = ("kind", "parts", "model_name", "provider_name", "canonical_system", "timestamp")
_WIRE_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_OPENED: ContextVar[list[httpx2.Response]] = ContextVar("opened")


class PydanticAIModel:
    """A provider's model. `make` builds it, in a thread and once, when it is first asked; `secrets` are kept out of errors.

    `window` tells the size of its context window, which may read the table of prices.

    A prompt with tools is cached at the provider where it takes that: an agent sends it again with every turn.
    """

    def __init__(
        self, provider: str, name: str, window: Callable[[], int], *, make: Callable[[], Model],
        secrets: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.provider = provider
        self.name = name
        self._window = window
        self._make = make
        self._secrets = tuple(secret for secret in secrets if secret)
        self._made: Model | None = None
        self._making = asyncio.Lock()

    def __repr__(self) -> str:
        return f"PydanticAIModel({self.provider!r}, {self.name!r})"

    @cached_property
    def window_tokens(self) -> int:
        """The size of its context window."""
        return self._window()

    async def ready(self) -> None:
        """Return when the client is made and the table of prices is read. Raises FatalError when its library is missing."""
        await self._model()

    async def reply(self, request: Request, listener: Listener) -> Reply:
        """Return the model's answer; see `ChatModel.reply`. What is cut off is guessed where the provider told nothing."""
        heard = _Heard(request, listener)
        try:
            model = await self._model()
            async with asyncio.timeout(request.timeout_s):
                return await self._ask(model, request, heard)
        except StepError:
            raise
        except asyncio.CancelledError:
            heard.cut_off()
            raise
        except Exception as error:
            found = failure_of(error)
            if found is None:
                raise
            heard.cut_off()
            message = found.message
            for secret in self._secrets:
                message = message.replace(secret, "…")
            # A provider may have quoted the key in its answer, which the cause would show.
            raise replace(found, message=message).error(f"{self.provider}:{self.name}") from None

    async def _model(self) -> Model:
        async with self._making:
            if self._made is None:
                self._made = await asyncio.to_thread(self._build)
        return self._made

    def _build(self) -> Model:
        prices.price_of(self.provider, self.name)
        try:
            return self._make()
        except ImportError as error:
            raise FatalError(f"model {self.provider}:{self.name} needs a package that is missing: {INSTALL}") from error

    async def _ask(self, model: Model, request: Request, heard: _Heard) -> Reply:
        from pydantic_ai.direct import model_request_stream

        said, settings = list(_conversation(request.messages, self.provider)), self._settings(request)
        opened: list[httpx2.Response] = []
        _OPENED.set(opened)
        try:
            async with model_request_stream(
                model, said, model_settings=settings, model_request_parameters=_offered(request.tools), instrument=False
            ) as stream:
                async for event in stream:
                    heard.event(event, stream)
                heard.used(usage_of(stream.usage))
                return self._reply(stream.get(), request)
        finally:
            # Google's library leaves a response that is not read to its end to the garbage collector.
            for response in opened:
                await response.aclose()

    def _settings(self, request: Request) -> Any:
        settings: dict[str, Any] = {"max_tokens": request.max_tokens}
        if request.tools:
            settings["cache"] = True
        if request.temperature is not None:
            settings["temperature"] = request.temperature
        if request.key:
            settings["extra_headers"] = {HEADER: request.key}
        if self.provider != "bedrock":  # which has a deadline for its client only
            settings["timeout"] = request.timeout_s
        return settings

    def _reply(self, response: ModelResponse, request: Request) -> Reply:
        from pydantic_ai.messages import TextPart, ToolCallPart

        details, reason = response.provider_details or {}, response.finish_reason
        names = {_wire_name(tool.name): tool.name for tool in request.tools}
        text = "".join(part.content for part in response.parts if isinstance(part, TextPart))
        calls = tuple(
            ToolCall(whole(part.tool_call_id), whole(names.get(part.tool_name, part.tool_name)), _arguments(part.args))
            for part in response.parts
            if isinstance(part, ToolCallPart)
        )
        if reason == "error":
            raise RetryableError(f"{self.provider}:{self.name} broke off its answer: {details.get('finish_reason')}")
        if reason is None and not details.get("finish_reason"):
            raise UnknownOutcome(f"{self.provider}:{self.name} ended its answer without saying why")
        finish = _FINISH.get(reason or "stop", "stop")
        return Reply(
            whole(text or str(details.get("refusal", ""))), calls, "tool_calls" if calls and finish == "stop" else finish,
            usage_of(response.usage, who=f"{self.provider}:{self.name}"), whole(response.model_name or self.name), _raw(response, self.provider),
        )  # fmt: skip


class _Heard:
    """What came of an answer so far, and what the listener was told of it."""

    def __init__(self, request: Request, listener: Listener) -> None:
        self._request = request
        self._listener = listener
        self._chars = 0
        self._begun = False
        self._told = Usage()

    def event(self, event: ModelResponseStreamEvent, stream: StreamedResponse) -> None:
        """Tell the listener what is new."""
        self._begun = True
        match event:
            case (
                object(part=object(part_kind="text", content=str(text)), event_kind="part_start")
                | object(delta=object(part_delta_kind="text", content_delta=str(text)))
            ):
                self._chars += len(text)
                if text:
                    self._listener.text(text)
            case object(delta=object(content_delta=str(hidden)) | object(args_delta=str(hidden))):
                self._chars += len(hidden)
        self.used(usage_of(stream.usage))

    def cut_off(self) -> None:
        """Tell the listener what a begun answer has used at least by now, guessed where the provider did not say."""
        if self._begun:
            told = self._told
            sent = told.input_tokens or tokens_of(orjson.dumps([dict(m) for m in self._request.messages]).decode())
            written = max(told.output_tokens, -(-self._chars // 4))
            self.used(Usage(sent, written, told.cache_read_tokens, told.cache_write_tokens))

    def used(self, usage: Usage) -> None:
        """Tell the listener the tokens, if they have changed."""
        if usage != self._told:
            self._told = usage
            self._listener.usage(usage)


def anthropic(name: str, *, key: str, base_url: str | None = None) -> Model:
    """Return a model of Anthropic's. Raises ImportError without its library, as all of these."""
    from anthropic import AsyncAnthropic
    from pydantic_ai.models.anthropic import AnthropicModel
    from pydantic_ai.providers.anthropic import AnthropicProvider

    url = base_url or "https://api.anthropic.com"
    client = AsyncAnthropic(api_key=key, base_url=url, http_client=_http(), max_retries=0)
    return AnthropicModel(name, provider=AnthropicProvider(anthropic_client=client))


def openai(name: str, *, key: str, base_url: str | None = None) -> Model:
    """Return a model of OpenAI's, or of any server that speaks its chat completions at `base_url`."""
    from openai import AsyncOpenAI
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.profiles.openai import OpenAIModelProfile
    from pydantic_ai.providers.openai import OpenAIProvider

    url = base_url or "https://api.openai.com/v1"
    client = AsyncOpenAI(api_key=key, base_url=url, http_client=_http(), max_retries=0)
    vars(client.chat)["completions"] = _as_given(client)  # a property that is kept once it was asked for
    # A stream that stops without a reason was cut, however politely the connection was closed.
    profile = OpenAIModelProfile(openai_chat_streaming_requires_finish_reason=True)
    return OpenAIChatModel(name, provider=OpenAIProvider(openai_client=client), profile=profile)


def _as_given(client: Any) -> Any:
    """Return a client's completions, which send messages and tools as they are given.

    The library walks through all of them by their types, for files and renamed fields that ours have not; it took a
    third of what a call costs here.
    """
    from openai.resources.chat.completions import AsyncCompletions

    class AsGiven(AsyncCompletions):
        async def create(self, *, extra_body: Any = None, **given: Any) -> Any:
            body = {name: given.pop(name) for name in ("messages", "tools") if given.get(name)}
            return await super().create(messages=[], extra_body={**(extra_body or {}), **body}, **given)

    return AsGiven(client)


def google(name: str, *, key: str, base_url: str | None = None) -> Model:
    """Return a model of Google's."""
    from google.genai.types import HttpRetryOptions
    from pydantic_ai.models.google import GoogleModel
    from pydantic_ai.providers.google import GoogleProvider

    once = HttpRetryOptions(attempts=1)
    provider = GoogleProvider(api_key=key, base_url=base_url, http_client=_http(), retry_options=once)
    return GoogleModel(name, provider=provider)


def bedrock(
    name: str, *, region: str, endpoint_url: str | None = None, token: str | None = None,
    credentials: Mapping[str, str] | None = None,
) -> Model:  # fmt: skip
    """Return a model of Amazon Bedrock's. `credentials` are boto3's session arguments; without, AWS's own chain finds them.

    Its client blocks a thread for each call: a call cancelled before its answer begins is ended at once for us, and for
    its thread when the answer begins.
    """
    import boto3  # type: ignore[import-untyped]
    from botocore.config import Config  # type: ignore[import-untyped]
    from botocore.session import Session  # type: ignore[import-untyped]
    from botocore.tokens import FrozenAuthToken  # type: ignore[import-untyped]
    from pydantic_ai.models.bedrock import BedrockConverseModel
    from pydantic_ai.providers.bedrock import BedrockProvider

    once = {"total_max_attempts": 1, "mode": "standard"}
    config = Config(
        retries=once, proxies={}, connect_timeout=CONNECT_S, read_timeout=READ_S, tcp_keepalive=True,
        max_pool_connections=BEDROCK_CONNECTIONS, **({"signature_version": "bearer"} if token else {}),
    )  # fmt: skip
    core = Session()
    if token:
        core.get_auth_token = lambda **_: FrozenAuthToken(token)
        core.get_credentials = lambda: None  # or AWS's chain would look for some
    session = boto3.Session(botocore_session=core, region_name=region, **(credentials or {}))
    client = session.client("bedrock-runtime", config=config, endpoint_url=endpoint_url)
    return BedrockConverseModel(name, provider=BedrockProvider(bedrock_client=client))


def _http() -> httpx2.AsyncClient:
    from pydantic_ai.models import get_user_agent

    return httpx2.AsyncClient(
        timeout=httpx2.Timeout(READ_S, connect=CONNECT_S), trust_env=False, verify=trusted(),
        limits=httpx2.Limits(max_connections=1000, max_keepalive_connections=100),
        headers={"User-Agent": get_user_agent()}, event_hooks={"response": [_remember]},
    )  # fmt: skip


async def _remember(response: httpx2.Response) -> None:
    _OPENED.get([]).append(response)


def _conversation(messages: Sequence[Message], provider: str) -> Iterator[ModelMessage]:
    """Yield a conversation as pydantic-ai has it: what is said between two answers is one message."""
    from pydantic_ai.messages import ModelRequest, SystemPromptPart, ToolReturnPart, UserPromptPart

    said: list[Any] = []
    for message in messages:
        match message["role"]:
            case "system" | "user" as role:
                said.append((SystemPromptPart if role == "system" else UserPromptPart)(message["text"]))
            case "tool":
                part = ToolReturnPart(_wire_name(message["name"]), message["content"], message["id"])
                said.append(replace(part, outcome="failed") if message.get("error") else part)
            case "assistant":
                answer = _answered(message, provider)
                if answer.parts:
                    if said:
                        yield ModelRequest(said)
                    yield answer
                    said = []
            case role:
                raise FatalError(f"a message's role is system, user, assistant or tool, not {role!r}")
    if said:
        yield ModelRequest(said)


def _answered(message: Message, provider: str) -> ModelResponse:
    """Return an answer in the provider's own form if it is this provider's, else by its text and calls."""
    from pydantic import ValidationError
    from pydantic_ai.messages import ModelMessagesTypeAdapter, ModelResponse, TextPart, ToolCallPart

    raw = message.get("raw")
    if isinstance(raw, Mapping) and raw.get("provider") == provider:
        try:
            found = ModelMessagesTypeAdapter.validate_python([raw["response"]])[0]
        except (ValidationError, LookupError):
            found = None  # another version wrote it
        if isinstance(found, ModelResponse):
            return found
    parts: list[Any] = [TextPart(message["text"])] if message["text"] else []
    calls = [ToolCallPart(_wire_name(call["name"]), call["arguments"], call["id"]) for call in message.get("calls", ())]
    return ModelResponse([*parts, *calls])


def _raw(response: ModelResponse, provider: str) -> Any:
    """Return the provider's own form of an answer if it says more than a text and calls do."""
    from pydantic_ai.messages import ModelMessagesTypeAdapter, TextPart, ToolCallPart

    if all(isinstance(p, TextPart | ToolCallPart) and not p.provider_details and not p.id for p in response.parts):
        return None
    dumped = storable(ModelMessagesTypeAdapter.dump_python([response], mode="json", exclude_none=True)[0])
    return {"provider": provider, "response": {name: dumped[name] for name in _KEPT if name in dumped}}


def _offered(tools: Sequence[ToolSpec]) -> Any:
    from pydantic_ai.models import ModelRequestParameters
    from pydantic_ai.tools import ToolDefinition

    offered = [
        ToolDefinition(name=_wire_name(t.name), parameters_json_schema=dict(t.parameters), description=t.description)
        for t in tools
    ]
    return ModelRequestParameters(function_tools=offered)


def _wire_name(name: str) -> str:
    """Return a tool's name as every provider takes it: itself, or one that stands for it and no other."""
    if _WIRE_NAME.fullmatch(name):
        return name
    return f"{re.sub(r'[^A-Za-z0-9_-]', '_', name)[:55]}_{sha256(name.encode()).hexdigest()[:8]}"


def _arguments(written: Any) -> Any:
    """Return a call's arguments as an object, or what the model wrote when that is none."""
    if not isinstance(written, str):
        return storable(written or {})
    written = whole(written)
    try:
        read = orjson.loads(written or "{}")
    except orjson.JSONDecodeError:
        return written
    return read if isinstance(read, dict) else written
