"""Calls of the outside world, recorded: intent, call, result; and what a resumed attempt makes of them."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

import orjson

from durable_agent import errors
from durable_agent.core.effects import Diverged, Fresh, Ledger, Recovery, effect_key, recovery
from durable_agent.core.events import digest, dumps
from durable_agent.core.outcomes import (
    Booked,
    InDoubt,
    Intended,
    Metered,
    Noted,
    Outcome,
    Recorded,
    Released,
    Used,
    Verdict,
)
from durable_agent.core.records import Claim, Effect, EffectClass, EffectState
from durable_agent.errors import (
    BudgetExceeded,
    Divergence,
    EffectRefused,
    FatalError,
    RateLimited,
    Refused,
    StepError,
    Suspend,
    UnknownOutcome,
)
from durable_agent.flow.link import Link, Passage
from durable_agent.flow.tools import Tool

MESSAGE_LIMIT = 2000


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms a call is made: what it may take of a budget at most, by meter, None where nobody knows; empty: as any
    tool. And the gate it passes, if there is one, with so many tokens."""

    reserve: Mapping[str, int | None] = field(default_factory=dict)
    gate: str | None = None
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Order:
    """A call that is more than a tool with its arguments: of a model, or of a tool whose failure is an answer, too.

    `request` is recorded in place of the arguments. `terms` are asked for when it is not recorded yet and is to be made:
    by `make`, given the effect's number and key, once it is `ready` to be made at once. `used` tells from the result what it took; `partial`, when it is cut off,
    what it had taken by then.
    """

    request: Any
    terms: Callable[[], Terms]
    used: Callable[[Any], Used | None]
    partial: Callable[[], Used | None]
    make: Callable[[int, str], Awaitable[Any]]
    ready: Callable[[], Awaitable[None]] | None = None


@dataclass(frozen=True, slots=True)
class Begun:
    """An effect that is about to be called or looked up."""

    no: int
    key: str
    tool: Tool
    bound: Mapping[str, Any]
    effect: EffectClass
    order: Order | None = None
    reserved: Mapping[str, int | None] = field(default_factory=dict)


@dataclass(slots=True)
class Calls:
    """The effects of one attempt. `encode` turns a result into canonical JSON, or raises FatalError."""

    claim: Claim
    link: Link
    ledger: Ledger
    encode: Callable[[Any], bytes]
    context: Callable[[str], Any]
    _left: InDoubt | None = None
    _closing: Suspend | None = None
    _open: dict[int, Begun] = field(default_factory=dict)
    _under_way: set[asyncio.Future[None]] = field(default_factory=set)

    async def call(
        self, tool: Tool, given: Mapping[str, Any], approval: UUID | None, order: Order | None = None
    ) -> Any:
        """Return the recorded result of this call, or make it and record it. See `Context.call`."""
        self._still_open()
        under_way: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._under_way.add(under_way)
        try:
            return await self._call(under_way, tool, given, approval, order)
        finally:
            self._under_way.discard(under_way)
            if not under_way.done():
                under_way.set_result(None)

    async def _call(
        self, under_way: asyncio.Future[None], tool: Tool, given: Mapping[str, Any], approval: UUID | None,
        order: Order | None,
    ) -> Any:  # fmt: skip
        request = self.encode(given if order is None else order.request)
        bound = tool.bind(orjson.loads(request)) if order is None else given
        sha = digest(request)
        try:
            found = self.ledger.effect(tool.name, sha)
        except Diverged as error:
            raise Divergence(str(error)) from None
        match found:
            case Fresh(no):
                key = effect_key(self.claim.idempotency_key, no, sha)
                begun = Begun(no, key, tool, bound, EffectClass(tool.effect), order)
            case Effect():
                if found.state is EffectState.DONE:
                    return await self.link.whole(_recorded(found))
                approval = None  # used up when it was first begun
                begun = Begun(found.no, found.key, tool, bound, found.effect, order)
                settled = await self._recover(found, begun, under_way)
                if settled is not None:
                    return settled[0]
        if order is not None and order.ready is not None:
            await order.ready()
        terms = order.terms() if order is not None else Terms(gate=f"tool:{tool.name}" if tool.breaker else None)
        intent = Intended(
            self.claim.lease, begun.no, tool.name, begun.effect, request, sha, begun.key, tool.compensate, approval,
            terms.reserve, terms.gate,
        )  # fmt: skip
        passage = await self._admitted(intent, terms.tokens, under_way)
        return await self._send(replace(begun, reserved=terms.reserve), passage, under_way)

    async def _admitted(self, intent: Intended, tokens: int, own: asyncio.Future[None]) -> Passage:
        """Return the way through the call's gate once its intent is committed; one that shut meanwhile is waited for."""
        while True:
            try:
                passage = await self.link.pass_gate(intent.gate, tokens)
            except RateLimited as error:
                # It would take longer than an attempt waits: the step gives itself back until then, and nothing is counted.
                await self.suspend(Released(self.claim.lease, error.retry_after_s), own)
                raise
            try:
                verdict = await self.link.tell(intent)
                if verdict is not Verdict.HELD:
                    await self._heed(verdict, intent.name, own)
                    while passage.late():
                        passage.give_back()
                        passage = await self.link.pass_gate(intent.gate, tokens)
                    return passage
            except BaseException:
                passage.give_back()
                raise
            passage.give_back()

    async def _heed(self, verdict: Verdict, tool: str, own: asyncio.Future[None] | None) -> None:
        """Return when the engine lets the call be made. Raises Refused, BudgetExceeded; Suspend when the run is paused."""
        match verdict:
            case Verdict.PAUSED:
                # The step gives itself back and is held; what it has done so far is recorded.
                await self.suspend(Released(self.claim.lease), own)
            case Verdict.REFUSED:
                raise Refused(
                    f"the approval does not allow this call of {tool!r}: it was given for other arguments, or used already"
                )
            case Verdict.UNBOUNDED:
                raise BudgetExceeded(
                    f"nobody can say what the call of {tool!r} costs at most, and the run's money is limited: set the "
                    "model's price, or lift the limit"
                )

    async def metered(self, tool: str) -> None:
        """Count the step's own call of a tool against the run's budget, before it is made."""
        await self._heed(await self.link.tell(Metered(self.claim.lease, tool)), tool, None)

    async def _recover(self, found: Effect, begun: Begun, own: asyncio.Future[None]) -> tuple[Any] | None:
        """Deal with an effect that was begun before; return its result if it has one now."""
        if self.claim.replay is not None:
            if found.state in (EffectState.FAILED, EffectState.UNKNOWN) and found.error:
                raise failure_again(found.error)
            raise Divergence(f"effect {found.no} ({found.name!r}) was recorded without a result")
        if found.state is EffectState.REFUSED:
            raise EffectRefused((found.error or {}).get("message", "it was decided that this effect failed"))
        match recovery(found.effect, found.state):
            case Recovery.SEND:
                return None
            case Recovery.ASK:
                message = f"an attempt ended while it called {found.name!r}, and nobody heard the answer"
                await self.suspend(InDoubt(self.claim.lease, found.no, found.name, message, found.key), own)
            case Recovery.VERIFY:
                result = await look_up(self.link, begun.tool, begun.bound, self.context(begun.key))
                if result is not None:
                    return (await self._done(begun, result),)
        return None

    async def _make(self, begun: Begun) -> Any:
        if begun.order is not None:
            return await begun.order.make(begun.no, begun.key)
        return await self.link.invoke(begun.tool, begun.bound, self.context(begun.key))

    async def _send(self, begun: Begun, passage: Passage, own: asyncio.Future[None]) -> Any:
        self._open[begun.no] = begun
        try:
            result = await passage.through(lambda: self._make(begun))
        except asyncio.CancelledError:
            if begun.order is not None and (used := begun.order.partial()) is not None:
                self.link.post(Booked(self.claim.lease, begun.no, begun.key, used))
            raise
        except UnknownOutcome as error:
            await self._in_doubt(begun, error, own)
            self._open.pop(begun.no, None)
            raise
        except StepError as error:
            # The author's word that it did not happen.
            facts = {"type": type(error).__name__, "message": str(error)[:MESSAGE_LIMIT]}
            del self._open[begun.no]
            await self.link.tell(_recorded_as(self.claim, begun, EffectState.FAILED, None, facts))
            raise
        except Exception as error:
            await self._in_doubt(begun, error, own)
            self._open.pop(begun.no, None)
            raise
        del self._open[begun.no]
        return await self._done(begun, result)

    async def _in_doubt(self, begun: Begun, error: Exception, own: asyncio.Future[None]) -> None:
        """Nobody said that it did not happen: a manual effect waits for a person; the others may be sent or looked up."""
        if begun.effect is EffectClass.MANUAL:
            message = f"{type(error).__name__}: {error}"[:MESSAGE_LIMIT]
            self._open.pop(begun.no, None)
            await self.suspend(InDoubt(self.claim.lease, begun.no, begun.tool.name, message, begun.key), own)
        facts = {"type": type(error).__name__, "message": str(error)[:MESSAGE_LIMIT]}
        self.link.post(_recorded_as(self.claim, begun, EffectState.UNKNOWN, None, facts))

    async def _done(self, begun: Begun, result: Any) -> Any:
        used = begun.order.used(result) if begun.order is not None else None
        try:
            text = self.encode(result)
            kept = await self.link.keep(text)
        except FatalError as error:
            # It happened; only its result cannot be kept, and trying again would not change that.
            facts = {"message": str(error)}
            self.link.post(_recorded_as(self.claim, begun, EffectState.DONE, b"null", facts, used))
            raise
        self.link.post(_recorded_as(self.claim, begun, EffectState.DONE, kept, None, used))
        return orjson.loads(text)

    def note(self, name: str, make: Callable[[], Any]) -> Any:
        """Return the recorded value of that name, or make and record it: what it is made of would not be the same again."""
        self._still_open()
        try:
            found = self.ledger.effect(name, "")
        except Diverged as error:
            raise Divergence(str(error)) from None
        if isinstance(found, Effect):
            return found.result
        value = make()
        self.link.post(Noted(self.claim.lease, found.no, name, "", dumps(value)))
        return value

    async def suspend(self, outcome: Outcome, own: asyncio.Future[None] | None = None) -> None:
        """End the attempt with this outcome, after the calls under way in other tasks have been recorded. Raises Suspend.

        `own` is the call that asks for it, if one does: it is not waited for.
        """
        if self._closing is None:
            self._closing = Suspend(outcome)
            others = self._under_way - {own} if own is not None else self._under_way
            if others:
                await asyncio.wait(set(others))
        raise self._closing

    def _still_open(self) -> None:
        if self._closing is not None:
            raise self._closing

    async def quiet(self) -> None:
        """Return when no call is under way: what other tasks of the handler began is recorded before the attempt ends."""
        while self._under_way:
            await asyncio.wait(set(self._under_way))

    def leave(self, doubt: InDoubt) -> None:
        """Take note that the step's own call was ended in its middle."""
        self._left = doubt

    def manual_in_flight(self) -> InDoubt | None:
        """Return the doubt that an attempt leaves behind which was ended in the middle of a manual call."""
        for no, begun in self._open.items():
            if begun.effect is EffectClass.MANUAL:
                message = "the attempt was ended in the middle of the call"
                return InDoubt(self.claim.lease, no, begun.tool.name, message, begun.key)
        return self._left


def _recorded_as(
    claim: Claim, begun: Begun, state: EffectState, result: bytes | None, error: Any, used: Used | None = None
) -> Recorded:
    return Recorded(claim.lease, begun.no, begun.tool.name, state, result, error, begun.reserved, used)


def failure_again(error: Mapping[str, Any]) -> Exception:
    """Return a recorded failure as the exception it was, one of ours or of Python's own, else as a StepError."""
    name = str(error.get("type"))
    kind = getattr(errors, name, None) or getattr(builtins, name, None)
    known = isinstance(kind, type) and issubclass(kind, Exception)
    return (kind if known else StepError)(str(error.get("message")))  # type: ignore[misc]


async def look_up(link: Link, tool: Tool, bound: Mapping[str, Any], context: Any) -> Any:
    """Ask the tool's own look-up whether the call happened; return its result, or None if it did not."""
    if tool.verify is None:
        raise FatalError(f"tool {tool.name!r} has no verify function any more, and one of its calls is in doubt")
    arguments = dict(bound)
    if tool.takes_context is not None:
        arguments = {tool.takes_context: context, **arguments}
    result = tool.verify(**arguments)
    return await result if asyncio.iscoroutine(result) else result


def _recorded(found: Effect) -> Any:
    if found.error:
        raise FatalError(found.error.get("message", "its result could not be kept"))
    return found.result
