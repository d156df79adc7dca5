"""Calls of the outside world, recorded: intent, call, result; and what a resumed attempt makes of them."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import orjson

from durable_agent import errors
from durable_agent.core.effects import Diverged, Fresh, Ledger, Recovery, effect_key, recovery
from durable_agent.core.events import digest, dumps
from durable_agent.core.records import (
    Claim,
    Effect,
    EffectClass,
    EffectState,
    InDoubt,
    Intended,
    Noted,
    Outcome,
    Recorded,
    Released,
    Verdict,
)
from durable_agent.errors import (
    Divergence,
    EffectRefused,
    FatalError,
    Refused,
    StepError,
    Suspend,
    UnknownOutcome,
)
from durable_agent.flow.link import Link
from durable_agent.flow.tools import Tool

MESSAGE_LIMIT = 2000


@dataclass(frozen=True, slots=True)
class Begun:
    """An effect that is about to be called or looked up."""

    no: int
    key: str
    tool: Tool
    bound: Mapping[str, Any]
    effect: EffectClass


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

    async def call(self, tool: Tool, given: Mapping[str, Any], approval: UUID | None) -> Any:
        """Return the recorded result of this call, or make it and record it. See `Context.call`."""
        self._still_open()
        under_way: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._under_way.add(under_way)
        try:
            return await self._call(under_way, tool, given, approval)
        finally:
            self._under_way.discard(under_way)
            if not under_way.done():
                under_way.set_result(None)

    async def _call(
        self, under_way: asyncio.Future[None], tool: Tool, given: Mapping[str, Any], approval: UUID | None
    ) -> Any:
        request = self.encode(given)
        bound = tool.bind(orjson.loads(request))
        sha = digest(request)
        try:
            found = self.ledger.effect(tool.name, sha)
        except Diverged as error:
            raise Divergence(str(error)) from None
        match found:
            case Fresh(no):
                key = effect_key(self.claim.idempotency_key, no, sha)
                begun = Begun(no, key, tool, bound, EffectClass(tool.effect))
            case Effect():
                if found.state is EffectState.DONE:
                    return await self.link.whole(_recorded(found))
                approval = None  # used up when it was first begun
                begun = Begun(found.no, found.key, tool, bound, found.effect)
                settled = await self._recover(found, begun, under_way)
                if settled is not None:
                    return settled[0]
        intent = Intended(
            self.claim.lease, begun.no, tool.name, begun.effect, request, sha, begun.key, tool.compensate, approval
        )
        verdict = await self.link.tell(intent)
        if verdict is Verdict.PAUSED:
            # The step gives itself back and is held; what it has done so far is recorded.
            await self.suspend(Released(self.claim.lease), under_way)
        if verdict is Verdict.REFUSED:
            raise Refused(
                f"the approval does not allow this call of {tool.name!r}: it was given for other arguments, or used already"
            )
        return await self._send(begun, under_way)

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

    async def _send(self, begun: Begun, own: asyncio.Future[None]) -> Any:
        self._open[begun.no] = begun
        try:
            result = await self.link.invoke(begun.tool, begun.bound, self.context(begun.key))
        except UnknownOutcome as error:
            await self._in_doubt(begun, error, own)
            self._open.pop(begun.no, None)
            raise
        except StepError as error:
            # The author's word that it did not happen.
            facts = {"type": type(error).__name__, "message": str(error)[:MESSAGE_LIMIT]}
            del self._open[begun.no]
            await self.link.tell(Recorded(self.claim.lease, begun.no, begun.tool.name, EffectState.FAILED, None, facts))
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
        self.link.post(Recorded(self.claim.lease, begun.no, begun.tool.name, EffectState.UNKNOWN, None, facts))

    async def _done(self, begun: Begun, result: Any) -> Any:
        name = begun.tool.name
        try:
            text = self.encode(result)
            kept = await self.link.keep(text)
        except FatalError as error:
            # It happened; only its result cannot be kept, and trying again would not change that.
            self.link.post(
                Recorded(self.claim.lease, begun.no, name, EffectState.DONE, b"null", {"message": str(error)})
            )
            raise
        self.link.post(Recorded(self.claim.lease, begun.no, name, EffectState.DONE, kept))
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
