"""A call of a model as a recorded effect: bounded and reserved before, charged after, heard by who watches.

What is recorded of a request is what is new in it and the digest of what came before, so that a long conversation is kept
once and not once a call. A resumed attempt gets the recorded answer, and nothing is sent or paid twice.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from durable_agent.core.events import digest, dumps
from durable_agent.core.outcomes import Used
from durable_agent.flow.effects import Order, Terms
from durable_agent.flow.model import ChatModel, Message, Reply, Request, ToolSpec, Usage
from durable_agent.flow.tools import Tool, tool

# No tokeniser makes more tokens of a text than it has bytes; this is what messages and tools cost beside their text.
MESSAGE_TOKENS: Final = 16
TOOLS_TOKENS: Final = 1024


class Models(Protocol):
    """The models of a worker and what they cost."""

    def resolve(self, name: str) -> ChatModel:
        """Return the model of a name. Raises FatalError for one that is not known or has no key."""
        ...

    def window_tokens(self, model: ChatModel) -> int:
        """Return the size of a model's context window."""
        ...

    def bound_microusd(self, model: ChatModel, input_tokens: int, max_tokens: int) -> int | None:
        """Return what a call may cost at most; None when no price is known."""
        ...

    def cost_microusd(self, provider: str, model: str, usage: Usage) -> tuple[int, str]:
        """Return what a call cost and where its price is from."""
        ...


class Way(Protocol):
    """What a call needs of the attempt it is part of (see `flow.link.Link`)."""

    def models(self) -> Models: ...

    def say(self, effect: int, text: str) -> None: ...


Caller = Callable[[Tool, Order], Awaitable[Any]]


@dataclass(slots=True)
class Ear:
    """Hears one answer come: hands its text on and remembers what it used by then."""

    way: Way
    effect: int
    model: ChatModel
    used: Usage | None = None

    def text(self, delta: str) -> None:
        """See `flow.model.Listener.text`."""
        if self.model.provider != "offline":  # its answer is there at once
            self.way.say(self.effect, delta)

    def usage(self, usage: Usage) -> None:
        """See `flow.model.Listener.usage`."""
        self.used = usage

    def so_far(self, models: Models) -> Used | None:
        """Return what a call that is cut off had used, as far as it is known."""
        if self.used is None:
            return None
        provider, name = self.model.provider, self.model.name
        cost, source = models.cost_microusd(provider, name, self.used)
        facts = {**self.used.to_json(), "model": name, "provider": provider, "price": source, "partial": True}
        return Used(self.used.input_tokens, self.used.output_tokens, cost, facts)


@dataclass(slots=True)
class Conversation:
    """A conversation that grows: what was said, and how many tokens its last answer says it has."""

    messages: list[Message] = field(default_factory=list)
    tokens: int = 0
    seen: int = 0

    def new(self) -> Sequence[Message]:
        """Return what was said since the last answer."""
        return self.messages[self.seen :]

    def answered(self, reply: Reply) -> None:
        """Take an answer in."""
        self.messages.append(reply.message())
        self.seen, self.tokens = len(self.messages), reply.usage.tokens

    def bound_tokens(self, tools: Sequence[ToolSpec]) -> int:
        """Return how many tokens a call takes in at most: what the provider counted last time, and the bytes since."""
        new = sum(len(dumps(_text_of(message))) + MESSAGE_TOKENS for message in self.new())
        if self.tokens:
            return self.tokens + new
        offered = len(dumps([_offer(one) for one in tools])) + TOOLS_TOKENS if tools else 0
        return new + offered + MESSAGE_TOKENS


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of a model beside the conversation."""

    model: str = "default"
    tools: tuple[ToolSpec, ...] = ()
    max_tokens: int = 4096
    temperature: float | None = None
    timeout_s: float = 600.0


async def converse(call: Caller, way: Way, said: Conversation, asked: Asked) -> Reply:
    """Return the model's next answer, taken into the conversation.

    Raises what `ChatModel.reply` raises; BudgetExceeded when nobody can bound what it costs and money is limited.
    """
    models = way.models()
    input_tokens = said.bound_tokens(asked.tools)
    most = input_tokens + asked.max_tokens
    ears: list[Ear] = []

    def terms() -> Terms:
        model = models.resolve(asked.model)
        money = models.bound_microusd(model, input_tokens, asked.max_tokens)
        return Terms({"tokens": most, "microusd": money}, f"provider:{model.provider}", most)

    async def make(effect: int, key: str) -> Any:
        model = models.resolve(asked.model)
        ears.append(Ear(way, effect, model))
        request = Request(tuple(said.messages), asked.tools, asked.max_tokens, asked.temperature, key, asked.timeout_s)
        reply = await model.reply(request, ears[-1])
        # By the name that was asked for, as it was bounded; a provider may answer with one that nobody has a price for.
        cost, source = models.cost_microusd(model.provider, model.name, reply.usage)
        if source == "none" and reply.model:
            cost, source = models.cost_microusd(model.provider, reply.model, reply.usage)
        return {**reply.to_json(), "provider": model.provider, "microusd": cost, "price": source}

    async def ready() -> None:
        await models.resolve(asked.model).ready()

    def used(result: Any) -> Used:
        usage = Usage(**result["usage"])
        facts = {name: result[name] for name in ("model", "provider", "price")}
        return Used(usage.input_tokens, usage.output_tokens, result["microusd"], {**result["usage"], **facts})

    def partial() -> Used | None:
        return ears[-1].so_far(models) if ears else None

    reply = Reply.from_json(await call(LLM, Order(_recorded(said, asked), terms, used, partial, make, ready)))
    said.answered(reply)
    return reply


def _recorded(said: Conversation, asked: Asked) -> dict[str, Any]:
    """Return what is recorded of a request; the name of the model as it was asked for, whatever it stands for today."""
    before = said.messages[: said.seen]
    return {
        "model": asked.model, "max_tokens": asked.max_tokens, "temperature": asked.temperature,
        "before": digest(dumps([_text_of(message) for message in before])) if before else None,
        "messages": [dict(message) for message in said.new()],
        "tools": digest(dumps([_offer(one) for one in asked.tools])) if asked.tools else None,
    }  # fmt: skip


def _text_of(message: Message) -> dict[str, Any]:
    """Return a message without what only its provider reads."""
    return {key: value for key, value in message.items() if key != "raw"}


def _offer(one: ToolSpec) -> list[Any]:
    return [one.name, one.description, dict(one.parameters)]


@tool("llm", effect="safe")
async def _llm(**request: Any) -> None:
    """Stand for calls of a model in the record; the order makes them."""


LLM: Final[Tool] = _llm
