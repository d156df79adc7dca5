"""Language models: the one protocol every provider is reached by, and what goes to and fro as plain JSON.

A conversation is a list of messages, each a JSON object:

    {"role": "system" | "user", "text": "…"}
    {"role": "assistant", "text": "…", "calls": [{"id", "name", "arguments"}], "raw": …}    `raw` and `calls` may be absent
    {"role": "tool", "id": "…", "name": "…", "content": "…", "error": true}                  `error` may be absent

`raw` is the provider's own form of its answer (signatures of its reasoning, say), given back to the same provider only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, Literal, Protocol, runtime_checkable

Message = Mapping[str, Any]
Finish = Literal["stop", "length", "tool_calls", "refused"]
# More than any call takes in or gives out: what is said to be more is no count.
MOST_TOKENS: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool as a model is told of it; `parameters` is the JSON Schema of its arguments, an object."""

    name: str
    description: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call a model asks for; `arguments` are what it wrote, not yet validated."""

    id: str
    name: str
    arguments: Any


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call. `input_tokens` counts all that went in, the cached ones included. 0: nobody told."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0

    @property
    def tokens(self) -> int:
        """What a budget of tokens is charged."""
        return self.input_tokens + self.output_tokens

    def to_json(self) -> dict[str, int]:
        """Return it as JSON."""
        return asdict(self)


def counted(told: Any, who: str = "") -> Usage:
    """Return a usage as it was told, but for what is no count: below 0, above all sense, no whole number. That is taken as
    not told, and logged with `who` told it."""
    said = {one.name: getattr(told, one.name, 0) for one in fields(Usage)}
    wrong = {name: found for name, found in said.items() if type(found) is not int or not 0 <= found <= MOST_TOKENS}
    if wrong and who:
        from durable_agent.telemetry import logger  # a child process, which asks no model, goes without it

        log = logger("llm")
        log.warning("usage_is_no_count", model=who, told={name: repr(found)[:60] for name, found in wrong.items()})
    return Usage(**{**said, **dict.fromkeys(wrong, 0)})


@dataclass(frozen=True, slots=True)
class Request:
    """One call of a model. `max_tokens` bounds what it may answer; `key` is shown as its Idempotency-Key."""

    messages: Sequence[Message]
    tools: Sequence[ToolSpec] = ()
    max_tokens: int = 4096
    temperature: float | None = None
    key: str = ""
    timeout_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model answered; `model` is what the provider calls the model that did."""

    text: str
    calls: tuple[ToolCall, ...] = ()
    finish: Finish = "stop"
    usage: Usage = field(default_factory=Usage)
    model: str = ""
    raw: Any = None

    def message(self) -> dict[str, Any]:
        """Return the reply as the message of a conversation."""
        message: dict[str, Any] = {"role": "assistant", "text": self.text}
        if self.calls:
            message["calls"] = [asdict(call) for call in self.calls]
        if self.raw is not None:
            message["raw"] = self.raw
        return message

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON, as an effect records it."""
        return {**self.message(), "finish": self.finish, "usage": self.usage.to_json(), "model": self.model}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Reply:
        """Return what `to_json` gave."""
        calls = tuple(ToolCall(c["id"], c["name"], c["arguments"]) for c in value.get("calls", ()))
        usage = Usage(**value.get("usage", {}))
        return cls(value["text"], calls, value.get("finish", "stop"), usage, value.get("model", ""), value.get("raw"))


class Listener(Protocol):
    """Who hears a model while it answers. Both are called from the event loop and return at once."""

    def text(self, delta: str) -> None:
        """Take a piece of the answer's text, in order."""
        ...

    def usage(self, usage: Usage) -> None:
        """Take the tokens used so far, as far as they are known: what is booked if the call is cut off."""
        ...


class Named(Protocol):
    """A model as prices know it."""

    @property
    def provider(self) -> str:
        """The provider's name: anthropic, openai, google, bedrock, offline, or an operator's own."""
        ...

    @property
    def name(self) -> str:
        """The model's name at its provider."""
        ...


@runtime_checkable
class ChatModel(Named, Protocol):
    """A model of a provider. `window_tokens` is how much it takes in and gives out at once.

    One of an author's own is an instance in a worker's module; agents ask for it as `provider:name`.
    """

    @property
    def window_tokens(self) -> int:
        """The size of its context window."""
        ...

    async def ready(self) -> None:
        """Return when a call has nothing to wait for but the provider: libraries are loaded, clients are made, prices read."""
        ...

    async def reply(self, request: Request, listener: Listener) -> Reply:
        """Return the model's answer; `listener` hears it come.

        Raises RateLimited (429, 503, 529; with Retry-After), RetryableError (it was not sent, or the provider failed),
        UnknownOutcome (it was sent and the answer was cut off), FatalError (the provider refuses it). Cancelled, the
        connection is closed at once and the listener has heard the tokens used so far.
        """
        ...


class Models(Protocol):
    """The models of a worker and what they cost."""

    def resolve(self, name: str) -> ChatModel:
        """Return the model of a name. Raises FatalError for one that is not known or has no key."""
        ...

    def window_tokens(self, model: ChatModel) -> int:
        """Return the size of a model's context window."""
        ...

    def bound_microusd(self, model: Named, input_tokens: int, max_tokens: int) -> int | None:
        """Return what a call may cost at most; None when no price is known."""
        ...

    def cost_microusd(self, provider: str, model: str, usage: Usage) -> tuple[int, str]:
        """Return what a call cost and where its price is from."""
        ...
