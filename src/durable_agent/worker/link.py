"""An attempt's way to the engine and to the tools of its worker."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

from durable_agent.artifacts import Artifacts
from durable_agent.core.outcomes import InDoubt, Intended, Metered, Outcome, Released, Succeeded, Verdict
from durable_agent.core.port import AuthorTransaction, Backend, ToolServer
from durable_agent.core.records import Claim, FailureClass, Token
from durable_agent.errors import DatabaseUnavailable, FatalError, LeaseLost, Unrecorded
from durable_agent.flow.link import Passage
from durable_agent.flow.model import Models
from durable_agent.flow.registry import Registry
from durable_agent.flow.tools import Tool
from durable_agent.worker.attempt import broken, invoke
from durable_agent.worker.gates import NO_GATE, Gates
from durable_agent.worker.voice import Voice


class Desk(Protocol):
    """What an attempt needs of the worker that runs it."""

    backend: Backend
    registry: Registry
    artifacts: Artifacts
    payload_limit_bytes: int
    models: Models
    sessions: Any
    gates: Gates
    voice: Voice

    def post(self, outcome: Outcome) -> None:
        """Hand over an outcome on the way."""
        ...

    async def tell(self, outcome: Outcome) -> Verdict:
        """Return the verdict on an outcome when it is committed."""
        ...

    async def leases_are_good(self, token: Token) -> None:
        """Return when the last heartbeat vouches for a lease."""
        ...

    def settled(self) -> None:
        """Take note that an outcome was settled by itself."""
        ...


class AttemptLink:
    """What one attempt may ask for; see `flow.link.Link`."""

    def __init__(self, worker: Desk, claim: Claim) -> None:
        self._worker = worker
        self._claim = claim
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._transaction: AuthorTransaction | None = None
        self._settling = False

    async def tell(self, outcome: Outcome) -> Verdict:
        """See `flow.link.Link.tell`."""
        verdict = await self._worker.tell(outcome)
        if verdict is Verdict.LOST or verdict is Verdict.EXHAUSTED:
            # A budget that is used up ends the run in the commit that says so, and the lease with it.
            raise LeaseLost(f"step {self._claim.name!r} of run {self._claim.lease.run_id} is no longer this worker's")
        if isinstance(outcome, Intended | Metered):
            # A process that was frozen after the commit asks whether the call is still its own before it makes it (R5).
            await self.still_ours()
        return verdict

    async def still_ours(self) -> None:
        """See `flow.link.Link.still_ours`."""
        await self._worker.leases_are_good(self._claim.lease.token)

    def post(self, outcome: Outcome) -> None:
        """See `flow.link.Link.post`; may be called from a thread."""
        if threading.get_ident() == self._thread:
            self._worker.post(outcome)
        else:
            self._loop.call_soon_threadsafe(self._worker.post, outcome)

    def find(self, name: str) -> Tool | None:
        """See `flow.link.Link.find`."""
        return self._worker.registry.get(name)

    async def invoke(self, tool: Tool, arguments: Mapping[str, Any], context: Any) -> Any:
        """See `flow.link.Link.invoke`."""
        return await invoke(tool, arguments, context)

    def transaction(self, claim: Claim) -> AbstractAsyncContextManager[Any]:
        """See `flow.link.Link.transaction`."""
        return self._transact()

    @asynccontextmanager
    async def _transact(self) -> AsyncIterator[Any]:
        if self._claim.replay is not None:
            raise Unrecorded("a transaction leaves no record of its own")
        if self._transaction is not None:
            raise FatalError("an attempt has one transaction; it was opened already")
        self._transaction = await self._worker.backend.begin()
        yield self._transaction.connection

    async def keep(self, text: bytes) -> bytes:
        """See `flow.link.Link.keep`."""
        return await self._worker.artifacts.keep(text, inline_bytes=self._worker.payload_limit_bytes)

    async def whole(self, value: Any) -> Any:
        """See `flow.link.Link.whole`."""
        return await self._worker.artifacts.whole(value)

    async def put(self, content: bytes) -> str:
        """See `flow.link.Link.put`."""
        return await self._worker.artifacts.put(content)

    def models(self) -> Models:
        """See `flow.link.Link.models`."""
        return self._worker.models

    def sessions(self) -> Any:
        """See `flow.link.Link.sessions`."""
        if self._worker.sessions is None:
            raise FatalError("this worker reaches no tool servers")
        return self._worker.sessions

    def say(self, effect: int, text: str) -> None:
        """See `flow.link.Link.say`."""
        self._worker.voice.say(self._claim.lease, effect, text)

    async def pass_gate(self, name: str | None, tokens: int) -> Passage:
        """See `flow.link.Link.pass_gate`."""
        return NO_GATE if name is None else await self._worker.gates.passed(name, tokens)

    def fenced(self, claim: Claim) -> Any:
        """See `flow.link.Link.fenced`."""
        return self._worker.backend.fenced(claim.lease)

    def reading(self) -> AbstractAsyncContextManager[Any]:
        """See `flow.link.Link.reading`."""
        return self._worker.backend.reading()

    async def tool_server(self, name: str) -> ToolServer:
        """See `flow.link.Link.tool_server`."""
        found = await self._worker.backend.tool_server(self._claim.lease.tenant, name)
        if found is None:
            raise FatalError(f"tool server {name!r} is not registered")
        return found

    async def finish(self, outcome: Outcome) -> Outcome | None:
        """Return the outcome that is left to settle: None when it was committed with the author's transaction."""
        transaction, self._transaction = self._transaction, None
        if transaction is None:
            return outcome
        if not isinstance(outcome, Succeeded):
            await transaction.rollback()
            return outcome
        self._settling = True
        try:
            verdict = await transaction.settle(outcome)
        except DatabaseUnavailable as error:
            return await self._after_unknown_commit(outcome, error)
        if verdict is not Verdict.OK:  # and nothing of the transaction is left
            raise LeaseLost(f"step {self._claim.name!r} of run {self._claim.lease.run_id} is no longer this worker's")
        self._worker.settled()
        return None

    async def _after_unknown_commit(self, outcome: Outcome, error: DatabaseUnavailable) -> Outcome | None:
        """Find out whether the commit took place: it did if the lease is gone; else nothing of it did, but the handler had run."""
        while True:
            try:
                owned = await self._worker.backend.owned()
            except DatabaseUnavailable:
                await asyncio.sleep(0.2)
                continue
            if outcome.lease.token not in owned:
                self._worker.settled()
                return None
            lost = DatabaseUnavailable(f"its transaction was not committed: {error.message}")
            return self._unheard(lost)

    def drained(self) -> Outcome:
        """Return what a drain makes of the attempt once it has ended: given back, in doubt when its handler had returned."""
        if self._settling:
            return self.left("the worker was drained while its transaction was being committed")
        return Released(self._claim.lease, in_doubt=self._claim.in_doubt)

    def left(self, why: str = "the worker was drained, and the call did not end when it was cancelled") -> Outcome:
        """Return what gives the lease back without the attempt: nobody knows what it did."""
        outcome = self._unheard(DatabaseUnavailable(why))
        return outcome if isinstance(outcome, InDoubt) else Released(self._claim.lease, in_doubt=True)

    def _unheard(self, error: Exception) -> Outcome:
        return broken(self._claim, self._worker.registry, error, FailureClass.TRANSIENT)

    async def abandon(self) -> None:
        """Roll back what was opened: the attempt ended without an outcome."""
        if self._transaction is not None:
            await self._transaction.rollback()
            self._transaction = None
