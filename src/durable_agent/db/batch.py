"""A transaction in as few round trips as it has syncs.

An exchange has a dozen statements and two points where it needs answers, so here nothing is sent before a sync or a fetch. Within a
batch a connection's statements go to libpq's pipeline without a cursor each: that takes the driver a third of the time, and
what an exchange takes is for the most part the driver's. Values are adapted, and rows loaded, by psycopg as ever.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, NamedTuple

import psycopg
from psycopg import generators, pq
from psycopg.adapt import PyFormat, Transformer
from psycopg.waiting import Ready, Wait

from durable_agent.db.pool import Connection, EngineConnection, first_line, permanent
from durable_agent.errors import LostRace

# What the function require_rows raises.
LOST_RACE: Final = "DA001"

_PLACE: Final = re.compile(r"%(?:\((\w+)\)s|(s)|(%))")
# Each is a few kilobytes in the server; the engine has some hundred, and an integer's size makes another one.
MOST_PREPARED: Final = 500


@lru_cache(maxsize=1000)
def _converted(query: str) -> tuple[bytes, tuple[str | int, ...]]:
    """Return a query as libpq takes it, and whose value each of its places takes: a name, or a number."""
    places: dict[str | int, int] = {}

    def place(match: re.Match[str]) -> str:
        if match[3]:
            return "%"
        return f"${places.setdefault(match[1] or len(places), len(places) + 1)}"

    return _PLACE.sub(place, query).encode(), tuple(places)


class Column(NamedTuple):
    """A column of an answer."""

    name: str


@dataclass(slots=True)
class Rows:
    """The answer to one statement; fetched before a sync it costs a round trip of its own."""

    _batch: Batch
    _prepares: tuple[Any, ...] | None = None
    result: Any = None
    _next: int = 0

    async def fetchall(self) -> list[Any]:
        """Return the rows that were not fetched yet."""
        first, self._next = self._next, (await self._answer()).ntuples
        return self._batch.load(self.result, first, self._next)

    async def fetchone(self) -> Any:
        """Return the next row, or None."""
        if self._next >= (await self._answer()).ntuples:
            return None
        self._next += 1
        return self._batch.load(self.result, self._next - 1, self._next)[0]

    @property
    def description(self) -> list[Column]:
        """The columns, after the sync."""
        return [Column(self.result.fname(no).decode()) for no in range(self.result.nfields)]

    @property
    def rowcount(self) -> int:
        """How many rows the statement returned or changed, after the sync."""
        return int(self.result.command_tuples or 0)

    async def _answer(self) -> Any:
        if self.result is None:
            await self._batch.sync()
        return self.result


@dataclass(slots=True)
class Batch:
    """What a connection's statements go to while a batch is open on it."""

    conn: EngineConnection
    _unsent: list[tuple[Rows, Any, tuple[Any, ...]]] = field(default_factory=list)
    _loader: Any = None

    def execute(self, query: str | bytes, params: Sequence[Any] | Mapping[str, Any] | None = None) -> Rows:
        """Queue a statement and return its answer to come."""
        text = query.decode() if isinstance(query, bytes) else query
        values: Sequence[Any] = ()
        if params is None:
            sent: bytes = text.encode()
        else:
            sent, places = _converted(text)
            values = [params[place] for place in places]  # type: ignore[index]
        dumper = self.conn.dumper
        given = dumper.dump_sequence(values, [PyFormat.AUTO] * len(values)) if values else ()
        types, formats = (dumper.types, dumper.formats) if values else ((), ())
        pg, rows = self.conn.pgconn, Rows(self)
        if self.conn.prepare_threshold is None:  # behind a pooler nothing can be prepared
            self._unsent.append((rows, pg.send_query_params, (sent, given, types, formats)))
            return rows
        key = sent, tuple(types)
        prepared = self.conn.prepared
        name = prepared.get(key)
        if name is None:
            name = self._prepare(key, prepared)
        else:
            prepared.move_to_end(key)
        self._unsent.append((rows, pg.send_query_prepared, (name, given, formats)))
        return rows

    def _prepare(self, key: tuple[bytes, tuple[int, ...]], prepared: OrderedDict[Any, bytes]) -> bytes:
        pg = self.conn.pgconn
        if len(prepared) >= MOST_PREPARED:
            _, oldest = prepared.popitem(last=False)
            self._unsent.append((Rows(self), pg.send_query_params, (b"deallocate " + oldest, None)))
        self.conn.named += 1
        name = prepared[key] = b"da_%d" % self.conn.named
        self._unsent.append((Rows(self, key), pg.send_prepare, (name, *key)))
        return name

    async def sync(self) -> None:
        """Send what is queued, once; return with all answers. Raises the first error of the statements."""
        queued, self._unsent = self._unsent, []
        async with self.conn.lock:
            try:
                await self.conn.wait(self._exchange(queued))
            finally:
                error = self._take_in(queued)
        if error is not None:
            raise error

    def leave(self) -> None:
        """Forget what is queued: nothing of it was sent, so nothing of it was prepared."""
        self._take_in(self._unsent)
        self._unsent = []

    def _take_in(self, queued: Sequence[tuple[Rows, Any, tuple[Any, ...]]]) -> psycopg.Error | None:
        """Forget what was to be prepared and is not; return the first error."""
        first: psycopg.Error | None = None
        for rows, _, _ in queued:
            status = rows.result.status if rows.result is not None else pq.ExecStatus.PIPELINE_ABORTED
            if status in (pq.ExecStatus.FATAL_ERROR, pq.ExecStatus.PIPELINE_ABORTED):
                if rows._prepares is not None:
                    self.conn.prepared.pop(rows._prepares, None)
                if first is None and status == pq.ExecStatus.FATAL_ERROR:
                    first = permanent(psycopg.errors.error_from_result(rows.result, encoding="utf-8"))
        return first

    def _exchange(self, queued: Sequence[tuple[Rows, Any, tuple[Any, ...]]]) -> Any:
        pg = self.conn.pgconn
        for _, send, given in queued:
            send(*given)
        pg.pipeline_sync()
        while pg.flush():
            if (yield Wait.RW) & Ready.R:
                pg.consume_input()  # or both sides wait for the other to read
        for rows, _, _ in queued:
            (result,) = yield from generators.fetch_many(pg)
            rows.result = result
        yield from generators.fetch_many(pg)  # the sync

    def load(self, result: Any, first: int, last: int) -> list[Any]:
        """Return rows of an answer as tuples."""
        if first >= last:
            return []
        loader = self._loader = self._loader or Transformer(self.conn)
        loader.set_pgresult(result)
        return list(loader.load_rows(first, last, tuple))


@asynccontextmanager
async def batch(conn: Connection, *, begun: bool = False) -> AsyncIterator[Batch]:
    """Yield a batch inside a transaction (one that is `begun`, or a new one) that commits on leaving; an exception rolls it back.

    Meanwhile `conn.execute` queues its statement there. Raises LostRace, also on leaving, when a guarded statement changed fewer
    rows than it was given. Answers may be fetched after `sync()`, which raises the first error of the statements before it; one
    fetched without it costs a round trip of its own.
    """
    async with once(conn) as opened:
        if not begun:
            opened.execute("begin")
        yield opened
        opened.execute("commit")
        await opened.sync()


async def alone(conn: Connection, query: str | bytes, params: Sequence[Any] | Mapping[str, Any] | None = None) -> Rows:
    """Run one statement in a transaction of its own, in one round trip, and return its answer. Raises as `batch`."""
    async with once(conn) as opened:
        rows = opened.execute(query, params)
        await opened.sync()
        return rows


@asynccontextmanager
async def once(conn: Connection) -> AsyncIterator[Batch]:
    """Yield a batch whose statements up to the first sync are a transaction by themselves: what lies between two syncs is one.

    One round trip, then, where `batch` takes another to commit. Raises as `batch`.
    """
    assert isinstance(conn, EngineConnection)
    conn.pgconn.enter_pipeline_mode()
    conn.batch = opened = Batch(conn)
    try:
        yield opened
    except BaseException as error:
        opened.leave()
        _close(conn)
        # What made it fail is worth more than a connection that can no longer be told.
        with suppress(psycopg.Error):
            await conn.rollback()
        if isinstance(error, psycopg.Error):
            raise lost_race(error) from error
        raise
    _close(conn)


def _close(conn: EngineConnection) -> None:
    conn.batch = None
    with suppress(psycopg.Error):  # one that is broken, or was left in the middle: the pool closes it
        if conn.pgconn.pipeline_status != pq.PipelineStatus.OFF:
            conn.pgconn.exit_pipeline_mode()


def lost_race(error: psycopg.Error) -> Exception:
    """Return LostRace for the error of a guard that did not hold, and any other error as it is."""
    return LostRace(first_line(error)) if error.sqlstate == LOST_RACE else error
