"""Connections whose every statement waits for a scheduler's permission, and the scheduler.

The engine's verbs run as they are. Their batches are unrolled (`unrolled`): each statement is sent by itself and answered
before the next, which is what the server does with a pipelined one, too (a snapshot per statement, locks until the commit).
So a switch between two verbs can be put between any two statements. Who waits for a lock is asked of the server
(`pg_blocking_pids`) on a third connection, never guessed from the time that passes.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import orjson
import psycopg
from psycopg import AsyncCursor
from psycopg.pq import TransactionStatus
from psycopg.types.json import set_json_loads

from durable_agent.db import batch as batch_module
from durable_agent.db.batch import Batch
from durable_agent.db.pool import ENGINE_SETTINGS, TRANSIENT, Connection, Database, EngineConnection, first_line
from durable_agent.errors import DatabaseUnavailable

# These read and change nothing that another could change (the clock stands still): they go with the statement after them.
SILENT = frozenset({"begin", "now", "set"})
_NAME = re.compile(r"\s*(?:/\* (\w+) \*/|(\w+))")
_TAKES = re.compile(r"\b(for (no key )?update|for (key )?share|insert into|update|delete from|require_rows)\b")
# How long a statement may take before it is asked whether it waits for a lock.
GLANCE_S = 0.003

_BLOCKED = "select pg_blocking_pids(%s) && %s::int[]"


@dataclass(slots=True)
class Mark:
    """A statement an actor is about to send; `free` before it no transaction is open; `plain` it only reads."""

    name: str
    free: bool
    plain: bool


@dataclass(eq=False, slots=True)
class Actor:
    """One verb on a connection of its own. `state` is parked (before `next`), blocked (on a lock), or done."""

    name: str
    conn: Steered
    task: asyncio.Task[Any] | None = None
    state: str = "new"
    next: Mark | None = None
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)
    marks: list[Mark] = field(default_factory=list)
    units: int = 0
    open: bool = False
    answer: Any = None

    @property
    def pid(self) -> int:
        """The server process of its connection."""
        return self.conn.info.backend_pid

    async def permission(self, mark: Mark) -> None:
        """Wait until the scheduler lets this statement be sent."""
        self._close(mark.free)
        self.next, self.state = mark, "parked"
        self.arrived.set()
        await self.go.wait()
        self.go.clear()
        self.marks.append(mark)
        self.open = True

    def _close(self, free: bool) -> None:
        """Count a transaction that has ended, a single statement being one."""
        if self.open and free:
            self.units += 1
            self.open = False

    async def run(self, verb: Callable[[], Awaitable[Any]]) -> None:
        """Run the verb to its end and keep what it answered, an error being an answer."""
        try:
            self.answer = await verb()
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # what a verb raises is what its caller hears; a lost lease is no Exception
            self.answer = error
        self._close(True)
        self.next, self.state = None, "done"
        self.arrived.set()


class Unrolled(Batch):
    """A batch that gathers nothing: only its own `begin` and `commit` come here, and the commit waits for permission."""

    def __init__(self, conn: Any) -> None:
        super().__init__(conn)
        conn.pgconn.exit_pipeline_mode()
        self._own: list[str] = []

    def execute(self, query: Any, params: Any = None) -> Any:
        """Keep what the batch begins or ends with."""
        self._own.append(str(query))
        if isinstance(self.conn, Steered):
            self.conn.begun = query == "begin"

    async def sync(self) -> None:
        """Send the commit when the scheduler allows it."""
        if isinstance(self.conn, Steered) and self.conn.actor is not None and "commit" in self._own:
            await self.conn.actor.permission(Mark("commit", False, plain=False))
        await self.open()

    async def open(self) -> None:
        """Send what was kept."""
        own, self._own = self._own, []
        for text in own:
            await AsyncCursor(self.conn).execute(text.encode())


class _Answered:
    """Stands for a pipeline whose statements were all answered already."""

    async def sync(self) -> None:
        """Nothing is left to be sent."""


class Asking(AsyncCursor[Any]):
    """A cursor that asks its connection's actor before each statement."""

    async def execute(self, query: Any, params: Any = None, **given: Any) -> Any:
        """Send a statement when the scheduler allows it."""
        conn = self.connection
        assert isinstance(conn, Steered)
        await conn.permission(query.decode() if isinstance(query, bytes) else query)
        try:
            return await super().execute(query, params, **given)
        except psycopg.errors.DeadlockDetected:
            conn.deadlocks += 1
            raise


class Steered(EngineConnection):
    """A connection that asks its actor before each statement; without an actor it is any other."""

    actor: Actor | None = None
    deadlocks: int = 0
    begun: bool = False

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.cursor_factory = Asking

    async def execute(self, query: Any, params: Any = None, **given: Any) -> Any:
        """Send a statement at once, in a batch, too."""
        return await Asking(self).execute(query, params, **given)

    async def permission(self, query: str) -> None:
        """Wait until the statement may be sent, and open the transaction it is the first of."""
        if self.actor is not None:
            found = _NAME.match(query)
            name = (found[1] or found[2]) if found else "?"
            if name == "begin":
                self.begun = True
            elif name not in SILENT:
                free = self.begun or self.info.transaction_status is not TransactionStatus.INTRANS
                self.begun = False
                await self.actor.permission(Mark(name, free, plain=not _TAKES.search(query) and name != "commit"))
        if isinstance(self.batch, Unrolled):
            await self.batch.open()

    @asynccontextmanager
    async def pipeline(self) -> AsyncIterator[Any]:
        """Yield what looks like psycopg's own pipeline; nothing is pipelined."""
        self._pipeline = None
        yield _Answered()

    @asynccontextmanager
    async def transaction(self, savepoint_name: str | None = None, force_rollback: bool = False) -> AsyncIterator[Any]:
        """Yield a transaction whose commit waits for permission, too."""
        async with super().transaction(savepoint_name, force_rollback) as made:
            self.begun = True
            yield made
            if self.actor is not None:
                await self.actor.permission(Mark("commit", False, plain=False))


class Own(Database):
    """A database of which one verb has one connection, whatever it asks for."""

    def __init__(self, conn: Steered) -> None:
        self.conn = conn
        self.pooled = False

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Connection]:
        """Yield the connection. Raises DatabaseUnavailable."""
        try:
            yield self.conn
        except TRANSIENT as error:
            raise DatabaseUnavailable(f"PostgreSQL cannot be reached: {first_line(error)}") from error

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Yield the connection."""
        yield self.conn


@contextmanager
def unrolled() -> Iterator[None]:
    """Run with batches whose statements are sent one by one."""
    with patch.object(batch_module, "Batch", Unrolled):
        yield


async def connect(url: str, application: str) -> Steered:
    """Return a connection set up as the engine's are, but for its time limits: a scheduler may hold it for long."""
    conn = await Steered.connect(
        url, autocommit=True, prepare_threshold=0, application_name=f"interleave {application}"
    )
    conn.prepared_max = 2000  # every statement of the engine, and no planning anew
    set_json_loads(orjson.loads, conn)
    await conn.execute(ENGINE_SETTINGS)
    await conn.execute("select set_config('TimeZone', 'UTC', false)")
    return conn


@dataclass(slots=True)
class Stage:
    """The actors of one schedule, moved one statement at a time. `trace` is who moved, in capitals who then waited for a lock;
    `order` is whose transaction ended when."""

    watch: Steered
    actors: Sequence[Actor]
    trace: list[str] = field(default_factory=list)
    order: list[int] = field(default_factory=list)
    blocked: int = 0

    async def begin(self, verbs: Sequence[Callable[[], Awaitable[Any]]]) -> None:
        """Start every verb, each up to its first statement."""
        for actor, verb in zip(self.actors, verbs, strict=True):
            actor.conn.actor = actor
            actor.task = asyncio.create_task(actor.run(verb))
            await actor.arrived.wait()

    def able(self, index: int) -> bool:
        """Whether an actor can be moved."""
        return self.actors[index].state == "parked"

    @property
    def over(self) -> bool:
        """Whether every verb has ended."""
        return all(actor.state == "done" for actor in self.actors)

    async def move(self, index: int) -> bool:
        """Let an actor send one statement and return when it is answered, or waits for a lock (True)."""
        actor = self.actors[index]
        actor.arrived.clear()
        actor.state = "moving"
        before = [one.units for one in self.actors]
        actor.go.set()
        waits = await self._settle(actor)
        self.trace.append(chr(ord("A" if waits else "a") + index))
        self.blocked += waits
        # A lock is let go by the end of a transaction, and only the mover's can have ended.
        if actor.units > before[index]:
            for other in self.actors:
                if other is not actor and other.state == "blocked":
                    await self._settle(other)
        for number, other in enumerate(self.actors):
            self.order += [number] * (other.units - before[number])
        return waits

    async def _settle(self, actor: Actor) -> bool:
        while True:
            try:
                async with asyncio.timeout(GLANCE_S):
                    await actor.arrived.wait()
                return False
            except TimeoutError:
                pids = [one.pid for one in self.actors if one is not actor]
                row = await (await self.watch.execute(_BLOCKED, (actor.pid, pids))).fetchone()
                if actor.arrived.is_set():  # while the server was asked
                    return False
                if row is not None and row[0]:
                    if any(one.state == "parked" for one in self.actors):
                        actor.state = "blocked"
                        return True
                    await asyncio.sleep(GLANCE_S)  # each waits for the other: the server will end one of them

    async def end(self) -> None:
        """Let go of the connections; what is not over is cancelled and rolled back."""
        for actor in self.actors:
            actor.conn.actor = None
            if actor.task is not None and actor.state != "done":
                actor.task.cancel()
                await asyncio.gather(actor.task, return_exceptions=True)
                await actor.conn.rollback()
