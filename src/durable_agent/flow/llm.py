"""A call of a model as a recorded effect: bounded and reserved before, charged after, heard by who watches.

What is recorded of a request is what is new in it and the digest of what came before, so that a long conversation is kept
once and not once a call. A resumed attempt gets the recorded answer, and nothing is sent or paid twice.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from durable_agent.core.events import digest, dumps
from durable_agent.core.outcomes import Used
from durable_agent.flow.effects import Order, Terms
from durable_agent.flow.link import Link
from durable_agent.flow.model import Message, Models, Named, Reply, Request, ToolSpec, Usage
from durable_agent.flow.tools import Tool, tool

# No tokeniser makes more tokens of a text than it has bytes; this is what messages and tools cost beside their text.
MESSAGE_TOKENS: Final = 16
TOOLS_TOKENS: Final = 1024


Caller = Callable[[Tool, Order], Awaitable[Any]]


@dataclass(slots=True)
class Ear:
    """Hears one answer come: hands its text on and remembers what it used by then."""

    link: Link
    effect: int
    model: Named
    used: Usage | None = None

    def text(self, delta: str) -> None:
        """See `flow.model.Listener.text`."""
        self.link.say(self.effect, delta)

    def usage(self, usage: Usage) -> None:
        """See `flow.model.Listener.usage`."""
        self.used = usage

    def so_far(self) -> Used | None:
        """Return what a call that is cut off had used, as far as it is known."""
        if self.used is None:
            return None
        used = used_of(self.link.models(), self.model, "", self.used)
        return replace(used, facts={**used.facts, "partial": True})


def used_of(models: Models, asked: Named, answered: str, usage: Usage) -> Used:
    """Return what a call of a model used and cost, by what it was asked as and what the provider calls it.

    The price is that of the name it was asked by, which bounded it; a provider may answer with one that only the table of
    prices knows, or nobody.
    """
    cost, source = models.cost_microusd(asked.provider, asked.name, usage)
    if source == "none" and answered:
        cost, source = models.cost_microusd(asked.provider, answered, usage)
    facts = {**usage.to_json(), "model": answered or asked.name, "provider": asked.provider, "price": source}
    return Used(usage.input_tokens, usage.output_tokens, cost, facts)


@dataclass(slots=True)
class Conversation:
    """A conversation that grows: what was said, and how many tokens its last answer says it has.

    `before` is the digest of what was said up to that answer, each time of the digest before and what is new: so a long
    conversation is read once and not once a call.
    """

    messages: list[Message] = field(default_factory=list)
    tokens: int = 0
    seen: int = 0
    before: str | None = None
    _offer: tuple[Sequence[ToolSpec], bytes] = ((), b"")

    def new(self) -> Sequence[Message]:
        """Return what was said since the last answer."""
        return self.messages[self.seen :]

    def answered(self, reply: Reply) -> None:
        """Take an answer in."""
        self.messages.append(reply.message())
        self.before = digest(dumps([self.before, *(_text_of(message) for message in self.new())]))
        self.seen, self.tokens = len(self.messages), reply.usage.tokens

    def rewrite(self, messages: Sequence[Message]) -> None:
        """Replace all that was said: nobody has counted it, and it is recorded anew."""
        self.messages[:] = messages
        self.tokens, self.seen, self.before = 0, 0, None

    def bound_tokens(self, tools: Sequence[ToolSpec]) -> int:
        """Return how many tokens a call takes in at most: what the provider counted last time, and the bytes since."""
        new = sum(bound_of(message) for message in self.new())
        if self.tokens:
            return self.tokens + new
        return new + (len(self.offer(tools)) + TOOLS_TOKENS if tools else 0) + MESSAGE_TOKENS

    @property
    def tools(self) -> Sequence[ToolSpec]:
        """The tools that were offered last."""
        return self._offer[0]

    def size_bytes(self) -> int:
        """Return the size of all that goes in, which its tokens are in proportion to."""
        return sum(bound_of(message) for message in self.messages) + len(self._offer[1])

    def offer(self, tools: Sequence[ToolSpec]) -> bytes:
        """Return tools as JSON; the same ones are read once."""
        if tools is not self._offer[0]:
            self._offer = tools, dumps([[one.name, one.description, dict(one.parameters)] for one in tools])
        return self._offer[1]


def bound_of(message: Message) -> int:
    """Return how many tokens a message has at most, with all of it that may be sent."""
    return len(dumps(message)) + MESSAGE_TOKENS


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of a model beside the conversation."""

    model: str = "default"
    tools: tuple[ToolSpec, ...] = ()
    max_tokens: int = 4096
    temperature: float | None = None
    timeout_s: float = 600.0


async def converse(call: Caller, link: Link, said: Conversation, asked: Asked) -> Reply:
    """Return the model's next answer, taken into the conversation.

    Raises what `ChatModel.reply` raises; BudgetExceeded when nobody can bound what it costs and money is limited.
    """
    models: Models = link.models()
    input_tokens = said.bound_tokens(asked.tools)
    most = input_tokens + asked.max_tokens
    ears: list[Ear] = []

    def terms() -> Terms:
        model = models.resolve(asked.model)
        money = models.bound_microusd(model, input_tokens, asked.max_tokens)
        return Terms({"tokens": most, "microusd": money}, f"provider:{model.provider}", most)

    async def make(effect: int, key: str) -> Any:
        model = models.resolve(asked.model)
        ears.append(Ear(link, effect, model))
        request = Request(tuple(said.messages), asked.tools, asked.max_tokens, asked.temperature, key, asked.timeout_s)
        reply = await model.reply(request, ears[-1])
        cost = used_of(models, model, reply.model, reply.usage)
        return {
            **reply.to_json(), "provider": model.provider, "microusd": cost.microusd, "price": cost.facts["price"]
        }  # fmt: skip

    async def ready() -> None:
        await models.resolve(asked.model).ready()

    def used(result: Any) -> Used:
        usage = Usage(**result["usage"])
        facts = {name: result[name] for name in ("model", "provider", "price")}
        return Used(usage.input_tokens, usage.output_tokens, result["microusd"], {**result["usage"], **facts})

    def partial() -> Used | None:
        return ears[-1].so_far() if ears else None

    order = Order(request=_recorded(said, asked), terms=terms, used=used, partial=partial, make=make, ready=ready)
    reply = Reply.from_json(await call(LLM, order))
    said.answered(reply)
    return reply


def _recorded(said: Conversation, asked: Asked) -> dict[str, Any]:
    """Return what is recorded of a request; the name of the model as it was asked for, whatever it stands for today."""
    return {
        "model": asked.model, "max_tokens": asked.max_tokens, "temperature": asked.temperature, "before": said.before,
        "messages": [dict(message) for message in said.new()],
        "tools": digest(said.offer(asked.tools)) if asked.tools else None,
    }  # fmt: skip


def _text_of(message: Message) -> dict[str, Any]:
    """Return a message without what only its provider reads."""
    return {key: value for key, value in message.items() if key != "raw"}


@tool("llm", effect="safe")
async def _llm(**request: Any) -> None:
    """Stand for calls of a model in the record; the order makes them."""


LLM: Final[Tool] = _llm
