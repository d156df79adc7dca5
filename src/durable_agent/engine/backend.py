"""The Postgres backend: what `core.port.Backend` promises, kept by the engine's verbs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from dataclasses import replace
from uuid import UUID

import psycopg
from psycopg.pq import TransactionStatus

from durable_agent.core.gate import Heard, Passing
from durable_agent.core.outcomes import ON_THE_WAY, Exchange, Failed, Outcome, Verdict
from durable_agent.core.port import Delta, Offer, ToolServer
from durable_agent.core.records import DEFAULT_TENANT, FailureClass, Lease, Tenant, Token
from durable_agent.core.text import plain
from durable_agent.db.arrays import literals
from durable_agent.db.doorbell import CONTROL, EVENTS, READY, WINDOW_S, Bell, Listener
from durable_agent.db.pool import TRANSIENT, Connection, Database, first_line
from durable_agent.db.sql import load
from durable_agent.db.together import Together
from durable_agent.engine import gate
from durable_agent.engine.answer import settle_children
from durable_agent.engine.exchange import SESSIONS, Done, NotAccepted, Room, exchange, look, settle_within
from durable_agent.engine.fence import Fence
from durable_agent.engine.servers import tool_server
from durable_agent.errors import DatabaseUnavailable, LostRace, RetryableError
from durable_agent.telemetry import Counters
from durable_agent.vault import Vault

DELTAS = load("deltas")


class PostgresBackend:
    """One worker session's way to the engine over its own pool."""

    def __init__(
        self, db: Database, offer: Offer, bell: Bell, listener: Listener, counters: Counters,
        stir: Callable[[], None] = lambda: None, vault: Vault | None = None,
    ) -> None:  # fmt: skip
        self._db = db
        self._together = Together(db)
        self._session = offer.session
        self._vault = vault or Vault(None)
        self._room = Room(offer)
        self._bell = bell
        self._listener = listener
        self._counters = counters
        self._stir = stir

    async def exchange(self, outcomes: Sequence[Outcome], *, free: int, solo: bool) -> Exchange:
        """See `core.port.Backend.exchange`."""
        try:
            known = self._room.turns or self._room.usual
            idle = not outcomes and not self._room.disowned
            if free > 0 and not known and not await look(self._db, self._room) and idle:
                return NOTHING
            done = await self._exchange(outcomes, free=free, solo=solo)
        except (*TRANSIENT, LostRace) as error:
            raise DatabaseUnavailable(f"nobody heard what was settled or claimed: {first_line(error)}") from error
        if done.events and outcomes:
            self._bell.ring(EVENTS)
        elif done.events:
            # A claim alone is no hurry: the bell is kept free for the result that may follow at once.
            asyncio.get_running_loop().call_later(WINDOW_S, self._bell.ring, EVENTS)
        if done.ended_children:
            with suppress(*TRANSIENT, DatabaseUnavailable):  # the upkeep of any process makes up for it
                await settle_children(self._db, done.ended_children)
                self._bell.ring(READY, EVENTS)
        if done.ready_left:
            self._bell.ring(READY)
        self._counters.fenced += sum(v is Verdict.LOST for v in done.answer.verdicts)
        return done.answer

    async def _exchange(self, outcomes: Sequence[Outcome], *, free: int, solo: bool) -> Done:
        """Exchange; what cannot be stored, or loses to the rows, is settled one by one, and fails its own step alone."""
        try:
            return await exchange(self._db, self._room, outcomes, free=free, solo=solo, bell=self._bell)
        except TRANSIENT:
            raise
        except (*UNSTORABLE, LostRace) as error:
            if not outcomes:
                raise
            if len(outcomes) == 1:
                return await self._refuse(outcomes[0], error, solo=solo)
        done = [await self._exchange([outcome], free=0, solo=solo) for outcome in outcomes]
        verdicts = tuple(verdict for one in done for verdict in one.answer.verdicts)
        return Done(Exchange(verdicts, (), (), more=True), ready_left=True, events=True)

    async def _refuse(self, outcome: Outcome, error: Exception, *, solo: bool) -> Done:
        """Fail the step of an outcome that cannot be settled, now or later; an attempt that goes on hears that its lease is lost."""
        if isinstance(error, LostRace):
            with suppress(LostRace):  # under its run's lock by what the rows say: whoever loses twice races with nobody
                return await exchange(self._db, self._room, [outcome], free=0, solo=solo)
        done = await exchange(self._db, self._room, [refused(outcome, error)], free=0, solo=solo)
        if isinstance(outcome, ON_THE_WAY):
            done = replace(done, answer=replace(done.answer, verdicts=(Verdict.LOST,)))
        return done

    async def begin(self) -> PostgresTransaction:
        """See `core.port.Backend.begin`."""
        try:
            conn = await self._db.direct("author")
            await conn.execute("begin")
        except TRANSIENT as error:
            raise RetryableError(f"no transaction could be opened: {first_line(error)}") from error
        return PostgresTransaction(conn, self._room, self._bell)

    async def owned(self) -> frozenset[Token]:
        """See `core.port.Backend.owned`."""
        try:
            async with self._db.transaction() as conn:
                cursor = await conn.execute(SESSIONS.owned, {"session": self._room.offer.session})
                return frozenset(Token(row[0]) for row in await cursor.fetchall())
        except TRANSIENT as error:
            raise DatabaseUnavailable(f"the leases cannot be read: {first_line(error)}") from error

    def disown(self, tokens: frozenset[Token]) -> None:
        """See `core.port.Backend.disown`."""
        self._room.disowned |= tokens

    async def passing(self, name: str, tokens: list[int], in_use: int) -> Passing:
        """See `core.port.Backend.passing`."""
        with _available("the gate cannot be asked"):
            return await gate.passing(self._db, DEFAULT_TENANT, name, self._session, tokens, in_use=in_use)

    async def heard(self, name: str, what: Heard, wait_s: float | None, error: str | None) -> None:
        """See `core.port.Backend.heard`."""
        with _available("the gate cannot be told"):
            await gate.heard(self._db, DEFAULT_TENANT, name, self._session, what, wait_s=wait_s, error=error)

    async def hold_slots(self, name: str, slots: int) -> None:
        """See `core.port.Backend.hold_slots`."""
        with _available("the slots cannot be held"):
            await gate.hold_slots(self._db, DEFAULT_TENANT, name, self._session, slots)

    async def stream(self, deltas: Sequence[Delta]) -> None:
        """See `core.port.Backend.stream`."""
        columns = ("tenants", "runs", "nos", "effects", "claim_nos", "pieces", "texts")
        rows = [(*_where(d.lease), d.effect, d.lease.claim_no, d.piece, d.text) for d in deltas]
        with suppress(DatabaseUnavailable), _available("nobody can watch"):
            async with self._db.transaction() as conn:
                await conn.execute(DELTAS.add, literals(columns, rows))
            self._bell.ring(EVENTS)

    def fenced(self, lease: Lease) -> Fence:
        """See `core.port.Backend.fenced`."""
        return Fence(self._db, lease, self._together)

    def reading(self) -> AbstractAsyncContextManager[Connection]:
        """See `core.port.Backend.reading`."""
        return self._db.reading()

    async def tool_server(self, tenant: int, name: str) -> ToolServer | None:
        """See `core.port.Backend.tool_server`."""
        return await tool_server(self._db, Tenant(tenant), name, self._vault)

    async def wait(self, timeout_s: float) -> frozenset[str]:
        """See `core.port.Backend.wait`."""
        hinted = await self._listener.wait(timeout_s)
        if hinted:
            self._stir()
        return frozenset(_HINTS[channel] for channel in hinted if channel in _HINTS)


class PostgresTransaction:
    """An author's transaction on a connection of its own; it ends with the step."""

    def __init__(self, conn: Connection, room: Room, bell: Bell) -> None:
        self.connection = conn
        self._room = room
        self._bell = bell

    async def settle(self, outcome: Outcome) -> Verdict:
        """See `core.port.AuthorTransaction.settle`."""
        try:
            if self.connection.info.transaction_status is not TransactionStatus.INTRANS:
                raise DatabaseUnavailable("the transaction was ended by the handler; only the step's end may commit it")
            done = await settle_within(self.connection, self._room, outcome)
        except NotAccepted as refused:
            return refused.verdict
        except (psycopg.Error, OSError, LostRace) as error:  # also what only the author's own commit finds out
            raise DatabaseUnavailable(f"nobody knows whether it was committed: {first_line(error)}") from error
        finally:
            await self.connection.close()
        self._bell.ring(EVENTS, *((READY,) if done.ready_left else ()))
        return done.answer.verdicts[0]

    async def rollback(self) -> None:
        """See `core.port.AuthorTransaction.rollback`."""
        await self.connection.close()


@contextmanager
def _available(what: str) -> Iterator[None]:
    try:
        yield
    except TRANSIENT as error:
        raise DatabaseUnavailable(f"{what}: {first_line(error)}") from error


def _where(lease: Lease) -> tuple[int, UUID, int]:
    return lease.tenant, lease.run_id, lease.step_no


def refused(outcome: Outcome, error: Exception) -> Outcome:
    """Return the failure that an outcome becomes that cannot be settled: final, for neither its values nor the rows will change."""
    message = plain(f"the result cannot be stored: {first_line(error)}")
    return Failed(outcome.lease, FailureClass.INVALID_INPUT, type(error).__name__, message)


# What PostgreSQL refuses, or what does not come so far because it cannot be encoded.
UNSTORABLE = (psycopg.Error, TypeError, ValueError, OverflowError)
NOTHING = Exchange((), (), (), more=False)
_HINTS = {READY: "ready", CONTROL: "control"}
