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
from durable_agent.errors import FatalError
from durable_agent.flow.effects import Order, Terms
from durable_agent.flow.link import Link
from durable_agent.flow.model import MOST_TOKENS, Message, Models, Named, Reply, Request, ToolSpec, Usage, counted
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
        """See `flow.model.Listener.usage`; what is no count is not heard."""
        if counted(usage) == usage:
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


def charged_of(models: Models, model: Named, answered: str, usage: Usage, most: Usage, *, said: bool = True) -> Used:
    """Return what a call is charged: what it used, and its bound, `most`, for what nobody counted.

    Something always goes in; what comes out is nothing only where nothing was `said`.
    """
    missing = {} if usage.input_tokens else {"input_tokens": most.input_tokens}
    missing |= {"output_tokens": most.output_tokens} if said and not usage.output_tokens else {}
    if not missing:
        return used_of(models, model, answered, usage)
    used = used_of(models, model, answered, replace(usage, **missing))
    return replace(used, facts={**used.facts, "bound": sorted(missing)})


def name_of(model: Named) -> str:
    """Return a model's name with its provider's."""
    return f"{model.provider}:{model.name}"


@dataclass(slots=True)
class Conversation:
    """A conversation that grows: what was said, and how many tokens its last answer says it has; 0 when it does not say.

    `before` is the digest of what was said up to that answer, each time of the digest before and what is new: so a long
    conversation is read once and not once a call. `counter` is the model that counted.
    """

    messages: list[Message] = field(default_factory=list)
    tokens: int = 0
    seen: int = 0
    before: str | None = None
    counter: str = ""
    _offer: tuple[Sequence[ToolSpec], bytes] = ((), b"")
    _counted_offer: bytes = b""
    _seen: list[Message] = field(default_factory=list)

    def new(self) -> Sequence[Message]:
        """Return what was said since the last answer."""
        return self.messages[self.seen :]

    def answered(self, reply: Reply, counter: str = "") -> None:
        """Take an answer in, and what its model has counted: all that was said, and the tools that were offered."""
        self.messages.append(reply.message())
        self.before = digest(dumps([self.before, *(_text_of(message) for message in self.new())]))
        self.seen, self._seen, self.counter = len(self.messages), list(self.messages), counter
        sent, written = reply.usage.input_tokens, reply.usage.output_tokens
        # Without what went in, what came out counts nothing of the conversation.
        self.tokens = sent + (written or bound_of(self.messages[-1])) if sent else 0
        self._counted_offer = self._offer[1]

    def rewrite(self, messages: Sequence[Message]) -> None:
        """Replace all that was said: nobody has counted it, and it is recorded anew."""
        self.messages[:] = messages
        self.tokens, self.seen, self.before, self._seen = 0, 0, None, []

    def check(self) -> None:
        """Take what was said up to the last answer as said anew if it was changed since: none of it was counted so."""
        if self.messages[: self.seen] != self._seen:
            self.rewrite(list(self.messages))

    def bound_tokens(self, tools: Sequence[ToolSpec], model: str = "") -> int:
        """Return how many tokens a call takes in at most: what was counted last time, and the bytes of all that was not.

        Another `model` than the one that counted may make more tokens of the same text.
        """
        offer = self.offer(tools)
        beside = len(offer) + TOOLS_TOKENS if offer else 0
        if not self.tokens or (model and self.counter and model != self.counter):
            return sum(map(bound_of, self.messages)) + beside + MESSAGE_TOKENS
        return self.tokens + sum(map(bound_of, self.new())) + (beside if offer != self._counted_offer else 0)

    @property
    def tools(self) -> Sequence[ToolSpec]:
        """The tools that were offered last."""
        return self._offer[0]

    def size_bytes(self) -> int:
        """Return the size of all that goes in, which its tokens are in proportion to."""
        return sum(bound_of(message) for message in self.messages) + len(self._offer[1])

    def offer(self, tools: Sequence[ToolSpec]) -> bytes:
        """Return tools as JSON, nothing for none; the same ones are read once."""
        if tools is not self._offer[0]:
            offered = [[one.name, one.description, dict(one.parameters)] for one in tools]
            self._offer = tools, dumps(offered) if offered else b""
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
    if type(asked.max_tokens) is not int or not 1 <= asked.max_tokens <= MOST_TOKENS:
        raise FatalError(f"max_tokens is a whole number from 1 to {MOST_TOKENS}, not {asked.max_tokens!r:.60}")
    said.check()
    models: Models = link.models()
    ears: list[Ear] = []

    def most(model: Named) -> Usage:
        return Usage(said.bound_tokens(asked.tools, name_of(model)), asked.max_tokens)

    def terms() -> Terms:
        model = models.resolve(asked.model)
        bound = most(model)
        money = models.bound_microusd(model, bound.input_tokens, bound.output_tokens)
        return Terms({"tokens": bound.tokens, "microusd": money}, f"provider:{model.provider}", bound.tokens)

    async def make(effect: int, key: str) -> Any:
        model = models.resolve(asked.model)
        ears.append(Ear(link, effect, model))
        request = Request(tuple(said.messages), asked.tools, asked.max_tokens, asked.temperature, key, asked.timeout_s)
        reply = await model.reply(request, ears[-1])
        reply = replace(reply, usage=counted(reply.usage, name_of(model)))
        cost = charged_of(models, model, reply.model, reply.usage, most(model), said=bool(reply.text or reply.calls))
        charged = {"charged": cost.facts} if "bound" in cost.facts else {}
        return {
            **reply.to_json(), "provider": model.provider, "counter": name_of(model), "microusd": cost.microusd,
            "price": cost.facts["price"], **charged,
        }  # fmt: skip

    async def ready() -> None:
        await models.resolve(asked.model).ready()

    def used(result: Any) -> Used:
        facts = {name: result[name] for name in ("model", "provider", "price")}
        facts = result.get("charged") or {**result["usage"], **facts}
        return Used(facts["input_tokens"], facts["output_tokens"], result["microusd"], facts)

    def partial() -> Used | None:
        if not ears or (heard := ears[-1].used) is None:
            return None
        if not heard.input_tokens:
            ears[-1].used = replace(heard, input_tokens=most(ears[-1].model).input_tokens)
        return ears[-1].so_far()

    order = Order(request=_recorded(said, asked), terms=terms, used=used, partial=partial, make=make, ready=ready)
    result = await call(LLM, order)
    reply = Reply.from_json(result)
    said.answered(reply, result.get("counter", ""))
    return reply


def _recorded(said: Conversation, asked: Asked) -> dict[str, Any]:
    """Return what is recorded of a request; the name of the model as it was asked for, whatever it stands for today."""
    offer = said.offer(asked.tools)
    return {
        "model": asked.model, "max_tokens": asked.max_tokens, "temperature": asked.temperature, "before": said.before,
        "messages": [dict(message) for message in said.new()], "tools": digest(offer) if offer else None,
    }  # fmt: skip


def _text_of(message: Message) -> dict[str, Any]:
    """Return a message without what only its provider reads."""
    return {key: value for key, value in message.items() if key != "raw"}


@tool("llm", effect="safe")
async def _llm(**request: Any) -> None:
    """Stand for calls of a model in the record; the order makes them."""


LLM: Final[Tool] = _llm
