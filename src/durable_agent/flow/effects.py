"""Calls of the outside world, recorded: intent, call, result; and what a resumed attempt makes of them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, NoReturn, TypeVar
from uuid import UUID

import orjson

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
from durable_agent.core.text import plain, said
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
from durable_agent.flow.again import failure_again, tool_failed
from durable_agent.flow.link import Link, Passage
from durable_agent.flow.tools import Tool

T = TypeVar("T")

# How long another task of the handler may take from one call to the next before what it did not ask for is a divergence.
_HELD_S: Final = 0.5


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

    `request` is recorded in place of the arguments. When it is not recorded yet, it is made by `make`, given the effect's
    number and key, on its `terms` (else those of the tool), once it is `ready` to be made at once. `used` tells from the
    result what it took; `partial`, when it failed or was cut off, what it had taken by then. With `final`, its failure is
    recorded as its end: it is raised as ToolFailed, by a resumed attempt too, which does not send it again.
    """

    request: Any
    make: Callable[[int, str], Awaitable[Any]]
    terms: Callable[[], Terms] | None = None
    used: Callable[[Any], Used | None] | None = None
    partial: Callable[[], Used | None] | None = None
    ready: Callable[[], Awaitable[None]] | None = None
    final: bool = False


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
    """The effects of one attempt. `encode` turns a result into canonical JSON, or raises FatalError.

    `doubted`: what the step itself is to do may have happened before this attempt, which has not looked yet.
    """

    claim: Claim
    link: Link
    ledger: Ledger
    encode: Callable[[Any], bytes]
    context: Callable[[str], Any]
    doubted: bool = False
    _left: InDoubt | None = None
    _closing: Suspend | Divergence | None = None
    _open: dict[int, Begun] = field(default_factory=dict)
    _under_way: set[asyncio.Future[None]] = field(default_factory=set)
    _held: set[asyncio.Future[None] | None] = field(default_factory=set)
    _metered: Iterator[int] = field(default_factory=itertools.count)

    async def call(
        self, tool: Tool, given: Mapping[str, Any], approval: UUID | None, order: Order | None = None
    ) -> Any:
        """Return the recorded result of this call, or make it and record it. See `Context.call`."""
        self.still_open()
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
        match found := await self.in_turn(lambda: self.ledger.effect(tool.name, sha), under_way):
            case Fresh(no):
                key = effect_key(self.claim.idempotency_key, no, sha)
                begun = Begun(no, key, tool, bound, EffectClass(tool.effect), order)
            case Effect():
                if found.state is EffectState.DONE:
                    return await self.link.whole(_result(found))
                approval = None  # used up when it was first begun
                begun = Begun(found.no, found.key, tool, bound, found.effect, order)
                settled = await self._recover(found, begun, under_way)
                if settled is not None:
                    return settled[0]
        if order is not None and order.ready is not None:
            await order.ready()
        if order is not None and order.terms is not None:
            terms = order.terms()
        else:
            terms = Terms(gate=f"tool:{tool.name}" if tool.breaker else None)
        intent = Intended(
            self.claim.lease, begun.no, tool.name, begun.effect, request, sha, begun.key, tool.compensate, approval,
            terms.reserve, terms.gate,
        )  # fmt: skip
        begun = replace(begun, reserved=terms.reserve)
        passage = await self._admitted(begun, intent, terms.tokens, under_way)
        return await self._send(begun, passage, under_way)

    async def _admitted(self, begun: Begun, intent: Intended, tokens: int, own: asyncio.Future[None]) -> Passage:
        """Return the way through the call's gate once its intent is committed; one that shut meanwhile is waited for."""
        while True:
            try:
                passage = await self.link.pass_gate(intent.gate, tokens)
            except RateLimited as error:
                # It would take longer than an attempt waits: the step gives itself back until then, and nothing is counted.
                await self.suspend(Released(self.claim.lease, error.retry_after_s), own)
            try:
                verdict = await self.link.tell(intent)
                if verdict is not Verdict.HELD:
                    await self._heed(verdict, intent.name, own)
            except BaseException:
                passage.give_back()
                raise
            if verdict is not Verdict.HELD and not passage.late():
                return passage
            passage.give_back()
            if verdict is not Verdict.HELD:
                return await self._in_time(begun, intent, tokens, own)

    async def _in_time(self, begun: Begun, intent: Intended, tokens: int, own: asyncio.Future[None]) -> Passage:
        """Return a way through the gate for a call whose intent is committed; if there is none, it is on record as not made."""
        try:
            while (passage := await self.link.pass_gate(intent.gate, tokens)).late():
                passage.give_back()
            return passage
        except BaseException as error:
            facts = {"message": plain(f"it was not sent: {said(error)}")}
            self.link.post(_recorded_as(self.claim, begun, EffectState.FAILED, None, facts))
            if isinstance(error, RateLimited):
                await self.suspend(Released(self.claim.lease, error.retry_after_s), own)
            raise

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
        await self._heed(await self.link.tell(Metered(self.claim.lease, tool, next(self._metered))), tool, None)

    async def counted(self, tool: str) -> None:
        """Count a call that is no effect of its own against the run's budget: once, whichever attempts make it."""
        found = self._recorded(f"counted.{tool}")
        if isinstance(found, Fresh):
            await self.metered(tool)
            self.link.post(Noted(self.claim.lease, found.no, f"counted.{tool}", "", b"null"))

    async def _recover(self, found: Effect, begun: Begun, own: asyncio.Future[None]) -> tuple[Any] | None:
        """Deal with an effect that was begun before; return its result if it has one now."""
        # What was not sent, or was left in the middle, has no type: nobody was told of it.
        if begun.order is not None and begun.order.final and found.error and "type" in found.error:
            raise tool_failed(found.error)
        if found.state is EffectState.REFUSED:
            raise EffectRefused((found.error or {}).get("message", "it was decided that this effect failed"))
        if self.claim.replay is not None:
            if found.state in (EffectState.FAILED, EffectState.UNKNOWN) and found.error:
                raise failure_again(found.error)
            self.diverged(f"effect {found.no} ({found.name!r}) was recorded without a result")
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
            if (used := _partial(begun)) is not None:
                self.link.post(Booked(self.claim.lease, begun.no, begun.key, used))
            raise
        except Exception as error:
            facts = {"type": type(error).__name__, "message": said(error)}
            if isinstance(error, StepError) and not isinstance(error, UnknownOutcome):
                # The author's word that it did not happen.
                del self._open[begun.no]
                await self.link.tell(_recorded_as(self.claim, begun, EffectState.FAILED, None, facts, _partial(begun)))
            else:
                await self._in_doubt(begun, facts, own)
                self._open.pop(begun.no, None)
            if begun.order is not None and begun.order.final:
                raise tool_failed(facts) from error
            raise
        del self._open[begun.no]
        return await self._done(begun, result)

    async def _in_doubt(self, begun: Begun, facts: Mapping[str, str], own: asyncio.Future[None]) -> None:
        """Nobody said that it did not happen: a manual effect waits for a person; the others may be sent or looked up."""
        if begun.effect is EffectClass.MANUAL:
            message = plain(f"{facts['type']}: {facts['message']}")
            await self.suspend(InDoubt(self.claim.lease, begun.no, begun.tool.name, message, begun.key), own)
        self.link.post(_recorded_as(self.claim, begun, EffectState.UNKNOWN, None, facts))

    async def _done(self, begun: Begun, result: Any) -> Any:
        used = begun.order.used(result) if begun.order is not None and begun.order.used is not None else None
        try:
            text = self.encode(result)
            kept = await self.link.keep(text)
        except FatalError as error:
            # It happened; only its result cannot be kept, and trying again would not change that.
            facts = {"message": said(error)}
            self.link.post(_recorded_as(self.claim, begun, EffectState.DONE, b"null", facts, used))
            raise
        self.link.post(_recorded_as(self.claim, begun, EffectState.DONE, kept, None, used))
        return orjson.loads(text)

    def note(self, name: str, make: Callable[[], Any]) -> Any:
        """Return the recorded value of that name, or make and record it: what it is made of would not be the same again."""
        found = self._recorded(name)
        if isinstance(found, Effect):
            return found.result
        value = make()
        self.link.post(Noted(self.claim.lease, found.no, name, "", dumps(value)))
        return value

    def _recorded(self, name: str) -> Effect | Fresh:
        """Return what the record has of a value that no request goes with, taken out of the ledger. Raises Divergence."""
        self.still_open()
        try:
            return self.ledger.effect(name, "")
        except Diverged as error:
            self.diverged(str(error))

    async def in_turn(self, ask: Callable[[], T], own: asyncio.Future[None] | None = None) -> T:
        """Return what the record has of a request, by `ask`. Raises Divergence.

        What is recorded takes no time, so tasks of the handler may come to their calls in another order than they first did: a
        request that is not the recorded one is held back while the task whose turn it is may still come. `own` is its call.
        """
        pause_s = 0.0
        while True:
            self.still_open()
            try:
                return ask()
            except Diverged as error:
                if self.claim.replay is not None or pause_s > _HELD_S:
                    self.diverged(str(error))
            self._held.add(own)
            try:
                if others := self._under_way - self._held:
                    await asyncio.wait(others, return_when=asyncio.FIRST_COMPLETED)
                    pause_s = 0.0
                else:
                    await asyncio.sleep(pause_s)
                    pause_s = max(0.001, 2 * pause_s)
            finally:
                self._held.discard(own)

    def diverged(self, why: str) -> NoReturn:
        """End the attempt: nothing is called any more. Raises Divergence."""
        self._closing = self._closing or Divergence(why)
        raise self._closing from None

    async def suspend(self, outcome: Outcome, own: asyncio.Future[None] | None = None) -> NoReturn:
        """End the attempt with this outcome, after the calls under way in other tasks have been recorded. Raises Suspend.

        `own` is the call that asks for it, if one does: it is not waited for.
        """
        if self._closing is None:
            self._closing = Suspend(outcome)
            if others := self._under_way - self._held - {own}:
                await asyncio.wait(others)
        raise self._closing

    def still_open(self) -> None:
        """Return while nothing has ended the attempt. Raises what has, though the handler took it for a result."""
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
        """Return the doubt that an attempt leaves behind: the one it was ended by, or that of a manual call in its middle."""
        if isinstance(self._closing, Suspend) and isinstance(self._closing.outcome, InDoubt):
            return self._closing.outcome
        for no, begun in self._open.items():
            if begun.effect is EffectClass.MANUAL:
                message = "the attempt was ended in the middle of the call"
                return InDoubt(self.claim.lease, no, begun.tool.name, message, begun.key)
        return self._left


def _recorded_as(
    claim: Claim, begun: Begun, state: EffectState, result: bytes | None, error: Any, used: Used | None = None
) -> Recorded:
    return Recorded(claim.lease, begun.no, begun.tool.name, state, result, error, begun.reserved, used)


def _partial(begun: Begun) -> Used | None:
    return begun.order.partial() if begun.order is not None and begun.order.partial is not None else None


async def look_up(link: Link, tool: Tool, bound: Mapping[str, Any], context: Any) -> Any:
    """Ask the tool's own look-up whether the call happened; return its result, or None if it did not."""
    if tool.verify is None:
        raise FatalError(f"tool {tool.name!r} has no verify function any more, and one of its calls is in doubt")
    arguments = dict(bound)
    if tool.takes_context is not None:
        arguments = {tool.takes_context: context, **arguments}
    result = tool.verify(**arguments)
    return await result if asyncio.iscoroutine(result) else result


def _result(found: Effect) -> Any:
    if found.error:
        raise FatalError(found.error.get("message", "its result could not be kept"))
    return found.result
