"""LangGraph's checkpoints under a lease: a saver whose writes are fenced, and its tables.

LangGraph keeps a graph's state in tables of its own, after every superstep. Its stock saver would write them for
whoever asks; here each write is made in one transaction in which the step's lease was checked first, so an attempt
that lost its lease leaves nothing behind. The tables lie in the schema `langgraph`, made by `setup`; the thread of a
step is `run id/step`.

Whatever a later version of the stock saver does beside the writes named here meets a transaction that is read-only.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, LiteralString, cast

import psycopg
from psycopg import AsyncConnection, AsyncCursor, pq, sql
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import Jsonb, JsonbBinaryLoader

from durable_agent.db.pool import TRANSIENT, first_line
from durable_agent.errors import DatabaseUnavailable, FatalError, SchemaMismatch

try:
    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import ChannelVersions, Checkpoint, CheckpointMetadata, CheckpointTuple
    from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
    from langgraph.checkpoint.postgres.base import PRUNE_DELETE_THREADS_SQL, PRUNE_SNAPSHOT_SQL
    from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
    from langgraph.checkpoint.serde.types import ERROR, INTERRUPT, RESUME
except ImportError as missing:

    class Missing(FatalError, ImportError):
        """The extra is not installed."""

    raise Missing(f'LangGraph is not installed ({missing}): pip install "durable-agent[langgraph]"') from missing

Connection = AsyncConnection[Any]
# Returns what writes while the step's lease holds (`engine.fence.Fence`).
Fenced = Callable[[], Any]
# Lends a connection for reading.
Reading = Callable[[], AbstractAsyncContextManager[Connection]]

# Any constant will do, so long as every version uses the same one.
_LOCK: Final = 4_837_261_906
# What is written about a task without its having finished; anything else is its output.
_CONTROL: Final = frozenset({ERROR, INTERRUPT, RESUME, "__error_source_node__"})


@dataclass(frozen=True, slots=True)
class _Write:
    """What a method is about to write to: threads, alone or beside others, and the recorded effects that are done with."""

    threads: tuple[str, ...]
    alone: bool = False
    done: tuple[int, ...] = ()


# Set by the methods that write, and by nothing else.
_WRITING: ContextVar[_Write | None] = ContextVar("writing", default=None)

# Enters the schema for one transaction, which cannot write.
_READ: Final[LiteralString] = (
    "select set_config('search_path', 'langgraph', true), set_config('transaction_read_only', 'on', true)"
)
# Enters the schema, and keeps the threads from being pruned meanwhile.
# Locks: each thread, shared, until the commit; in the order of their names.
_WRITE: Final[LiteralString] = (
    "select set_config('search_path', 'langgraph', true),"
    " (select count(pg_advisory_xact_lock_shared(hashtextextended(t, 0))) from unnest(%(threads)s::text[]) t)"
)
# A checkpoint in one statement: what the stock saver's two would write, behind the same lock. Its values come one by one: the
# driver takes longer over an array than over a statement for each number of them.
_THREAD: Final[LiteralString] = "hashtextextended(%(thread)s::text, 0)"
_BLOBS: Final[LiteralString] = (
    "blobs as (insert into langgraph.checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)"
    " select %(thread)s::text, %(ns)s::text, b.channel, b.version, b.type, b.blob from held,"
    " (values {values}) b(channel, version, type, blob)"
    " on conflict (thread_id, checkpoint_ns, channel, version) do nothing), "
)
_BLOB: Final = "(%(channel{no})s::text, %(version{no})s::text, %(type{no})s::text, %(blob{no})s::bytea)"
_PUT: Final[LiteralString] = (
    "put as (insert into langgraph.checkpoints"
    " (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)"
    " select %(thread)s::text, %(ns)s::text, %(id)s::text, %(parent)s::text, %(checkpoint)s::jsonb, %(metadata)s::jsonb"
    " from held on conflict (thread_id, checkpoint_ns, checkpoint_id)"
    " do update set checkpoint = excluded.checkpoint, metadata = excluded.metadata)"
)
# As above, alone: what deletes some of a thread's rows by what it read of the others lets nobody write in between.
_WRITE_ALONE: Final[LiteralString] = (
    "select set_config('search_path', 'langgraph', true),"
    " (select count(pg_advisory_xact_lock(hashtextextended(t, 0))) from unnest(%(threads)s::text[]) t)"
)
_BLOB_COLUMNS: Final = ("channel", "version", "type", "blob")
_MOST_BLOBS: Final = 24  # a statement of more is not worth being prepared
_TRY_LOCK: Final[LiteralString] = "select pg_try_advisory_lock(%s) as held"
# What a process that ended in the middle left behind: such an index serves nobody, and would be taken for made.
_BROKEN_INDEXES: Final[LiteralString] = (
    "select c.relname as name from pg_index i join pg_class c on c.oid = i.indexrelid"
    " where c.relnamespace = 'langgraph'::regnamespace and not i.indisvalid"
)
# Which recorded effects belong to tasks that finished. Index: its primary key.
_EFFECTS_TABLE: Final[LiteralString] = (
    "create table if not exists step_effects (thread_id text not null, no integer not null, primary key (thread_id, no))"
)
_ADD_EFFECTS: Final[LiteralString] = (
    "insert into step_effects (thread_id, no) values (%s, %s) on conflict (thread_id, no) do nothing"
)
_LIST_EFFECTS: Final[LiteralString] = "select no from step_effects where thread_id = %(thread)s"
_DROP_EFFECTS: Final[LiteralString] = "delete from step_effects where thread_id = any(%s)"
# Copies a thread whole, ancestors and all. Index: the primary keys, by thread.
_COPY: Final[tuple[LiteralString, ...]] = (
    "insert into checkpoints (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata)"
    " select %(target)s, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata"
    " from checkpoints where thread_id = %(source)s on conflict do nothing",
    "insert into checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)"
    " select %(target)s, checkpoint_ns, channel, version, type, blob"
    " from checkpoint_blobs where thread_id = %(source)s on conflict do nothing",
    "insert into checkpoint_writes (thread_id, checkpoint_ns, checkpoint_id, task_id, idx, channel, type, blob, task_path)"
    " select %(target)s, checkpoint_ns, checkpoint_id, task_id, idx, channel, type, blob, task_path"
    " from checkpoint_writes where thread_id = %(source)s on conflict do nothing",
)
# Index: none, a scan: asked for by a person who tidies up.
_THREADS_OF_RUNS: Final[LiteralString] = (
    "select distinct thread_id from checkpoints where metadata ->> 'run_id' = any(%(runs)s) order by 1"
)
# Index: the primary keys, by thread.
_DELETE_RUNS: Final[tuple[LiteralString, ...]] = (
    "delete from checkpoint_writes w using checkpoints c"
    " where c.thread_id = any(%(threads)s) and c.metadata ->> 'run_id' = any(%(runs)s) and w.thread_id = c.thread_id"
    " and w.checkpoint_ns = c.checkpoint_ns and w.checkpoint_id = c.checkpoint_id",
    "delete from checkpoints where thread_id = any(%(threads)s) and metadata ->> 'run_id' = any(%(runs)s)",
    "delete from checkpoint_blobs b where b.thread_id = any(%(threads)s) and not exists (select from checkpoints c"
    " where c.thread_id = b.thread_id and c.checkpoint_ns = b.checkpoint_ns"
    " and c.checkpoint -> 'channel_versions' ->> b.channel = b.version)",
)


class FencedSaver(AsyncPostgresSaver):
    """LangGraph's own PostgreSQL saver, for one attempt: it reads as ever, and writes only while the lease is held.

    A write raises LeaseLost, and leaves nothing, when the lease is gone. At most one connection of the pool is in use
    at a time, whatever the graph does in parallel; savers of different attempts never wait for each other. Checkpoints
    are read with an allow-list: plain values, messages and what `allow` names are made again, nothing else is.
    `effects_of` returns the numbers of the recorded effects that a task asked for.
    """

    def __init__(
        self, *, fenced: Fenced, reading: Reading, allow: Iterable[type | tuple[str, ...]] = (),
        effects_of: Callable[[str], Iterable[int]] = lambda task: (),
    ) -> None:  # fmt: skip
        # No connection is handed down: a way past `_cursor` finds none, instead of one without a fence.
        super().__init__(cast(Any, None), serde=JsonPlusSerializer(allowed_msgpack_modules=tuple(allow) or None))
        self._fenced = fenced
        self._reading = reading
        self._effects_of = effects_of

    async def aput(
        self, config: RunnableConfig, checkpoint: Checkpoint, metadata: CheckpointMetadata, new_versions: ChannelVersions
    ) -> RunnableConfig:  # fmt: skip
        """Store a checkpoint. Raises LeaseLost, DatabaseUnavailable; FatalError for what PostgreSQL cannot store."""
        with _writing(config["configurable"]["thread_id"]):
            return await super().aput(config, checkpoint, metadata, new_versions)

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:  # fmt: skip
        """Store what a task wrote; its recorded effects are done with once it has any output. Raises as `aput`."""
        finished = any(channel not in _CONTROL for channel, _ in writes)
        done = self._effects_of(task_id) if finished else ()
        with _writing(config["configurable"]["thread_id"], done=done):
            await super().aput_writes(config, writes, task_id, task_path)

    async def adelete_thread(self, thread_id: str) -> None:
        """Delete a thread. Raises as `aput`."""
        await self.aprune([thread_id], strategy="delete")

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Delete threads, or all but their latest checkpoints. Nobody writes to them meanwhile. Raises as `aput`."""
        if strategy != "delete" or isinstance(thread_ids, str):
            with _writing(*thread_ids, alone=True):
                await super().aprune(thread_ids, strategy=strategy)
        elif thread_ids:
            with _writing(*thread_ids, alone=True):
                async with self._cursor() as cursor:
                    for statement in (*PRUNE_DELETE_THREADS_SQL, _DROP_EFFECTS):
                        await cursor.execute(statement, ([str(one) for one in thread_ids],))

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy a thread whole, its ancestors and pending writes with it. Raises as `aput`."""
        names = {"source": str(source_thread_id), "target": str(target_thread_id)}
        with _writing(*names.values()):
            async with self._cursor() as cursor:
                for statement in _COPY:
                    await cursor.execute(statement, names)

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete the checkpoints whose metadata name these run ids, in every thread. Raises as `aput`."""
        given: dict[str, Any] = {"runs": [str(one) for one in run_ids]}
        async with self._cursor() as cursor:
            rows = await (await cursor.execute(_THREADS_OF_RUNS, given)).fetchall()
        given["threads"] = [row["thread_id"] for row in rows]
        if rows:
            with _writing(*given["threads"], alone=True):
                async with self._cursor() as cursor:
                    for statement in _DELETE_RUNS:
                        await cursor.execute(statement, given)

    async def alist(
        self, config: RunnableConfig | None, *, filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None, limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:  # fmt: skip
        """Iterate over the checkpoints, the newest first; no connection is held between them."""
        found = [one async for one in super().alist(config, filter=filter, before=before, limit=limit)]
        for one in found:
            yield one

    async def effects(self, thread_id: str) -> frozenset[int]:
        """Return the numbers of the recorded effects that the thread's finished tasks asked for."""
        async with self._cursor() as cursor:
            rows = await (await cursor.execute(_LIST_EFFECTS, {"thread": thread_id})).fetchall()
        return frozenset(row["no"] for row in rows)

    @asynccontextmanager
    async def _cursor(self, *, pipeline: bool = False) -> AsyncIterator[AsyncCursor[DictRow]]:
        """Lend a cursor in a transaction of its own: fenced inside a method that writes, else read-only.

        Where the stock saver asks for a pipeline it only writes: its statements are gathered, with whatever it takes to
        serialise a state, and then sent in one short transaction.
        """
        write = _WRITING.get()
        async with self.lock:
            with _explained():
                if write is None:
                    async with self._read_only() as cursor:
                        yield cursor
                elif not pipeline:
                    async with self._fenced_cursor(write) as cursor:
                        yield cursor
                else:
                    batch = _Batch()
                    yield cast(AsyncCursor[DictRow], batch)
                    await self._send(batch, write)

    @asynccontextmanager
    async def _read_only(self) -> AsyncIterator[AsyncCursor[DictRow]]:
        async with self._reading() as conn, conn.transaction():
            await conn.execute(_READ)
            try:
                yield _stock_cursor(conn, AsyncCursor)
            except psycopg.errors.ReadOnlySqlTransaction as error:
                raise RuntimeError("this version of LangGraph's saver writes where no fence is checked") from error

    @asynccontextmanager
    async def _fenced_cursor(self, write: _Write) -> AsyncIterator[AsyncCursor[DictRow]]:
        async with self._fenced().transaction() as conn:
            await conn.execute(_WRITE_ALONE if write.alone else _WRITE, {"threads": list(write.threads)})
            yield _stock_cursor(conn, _Alone if write.alone else AsyncCursor)

    async def _send(self, batch: _Batch, write: _Write) -> None:
        if (checkpoint := self._checkpoint(batch)) is not None:
            await self._fenced().write(*checkpoint, key=_THREAD)
            return
        async with self._fenced_cursor(write) as cursor:
            for query, rows in batch.statements:
                await cursor.executemany(query, rows)
            if write.done:
                await cursor.executemany(_ADD_EFFECTS, [(write.threads[0], no) for no in write.done])

    def _checkpoint(self, batch: _Batch) -> tuple[LiteralString, dict[str, Any]] | None:
        """Return one statement and its parameters for a batch that the stock saver, as we know it, stores a checkpoint by."""
        blobs: list[Any] = []
        match batch.statements:
            case [(self.UPSERT_CHECKPOINT_BLOBS_SQL, blobs), (self.UPSERT_CHECKPOINTS_SQL, [row])]:
                pass
            case [(self.UPSERT_CHECKPOINTS_SQL, [row])]:
                pass
            case _:
                return None
        *names, state, about = row
        if len(blobs) > _MOST_BLOBS or not isinstance(state, Jsonb) or not isinstance(about, Jsonb):
            return None
        # As text it shows how large it is: what is a text itself lies within.
        given = {"checkpoint": json.dumps(state.obj), "metadata": json.dumps(about.obj)}
        given |= dict(zip(("thread", "ns", "id", "parent"), names, strict=True))
        for no, (_, _, *blob) in enumerate(blobs):
            for name, value in zip(_BLOB_COLUMNS, blob, strict=True):
                given[f"{name}{no}"] = value
        return _put(len(blobs)), given


@cache
def _put(blobs: int) -> LiteralString:
    """Return the statement that stores a checkpoint with so many new values."""
    values = ", ".join(_BLOB.format(no=no) for no in range(blobs))
    return (_BLOBS.format(values=values) if blobs else "") + _PUT


class _Batch:
    """Statements on their way into one transaction; nothing can be read back."""

    def __init__(self) -> None:
        self.statements: list[tuple[Any, list[Any]]] = []

    async def execute(self, query: Any, params: Any = None) -> None:
        self.statements.append((query, [params]))

    async def executemany(self, query: Any, params: Iterable[Any]) -> None:
        if rows := list(params):
            self.statements.append((query, rows))


class _Alone(AsyncCursor[DictRow]):
    """The cursor of one who writes to its threads alone, who needs no snapshot to be safe from others.

    Nor could it have one: the fence was read in this transaction already.
    """

    async def execute(self, query: Any, params: Any = None, **options: Any) -> _Alone:
        """Execute, but for the isolation level that pruning asks for."""
        if query == PRUNE_SNAPSHOT_SQL:
            return self
        return await super().execute(query, params, **options)


def _stock_cursor(conn: Connection, kind: type[AsyncCursor[DictRow]]) -> AsyncCursor[DictRow]:
    """Return a cursor as the stock saver makes its own, whatever the pool's connections are set to."""
    cursor = kind(conn, row_factory=dict_row)
    cursor.format = pq.Format.BINARY
    cursor.adapters.register_loader("jsonb", JsonbBinaryLoader)  # integers of any size stay integers
    return cursor


@contextmanager
def _writing(*threads: str, alone: bool = False, done: Iterable[int] = ()) -> Iterator[None]:
    """Let `_cursor` write to these threads within the block."""
    token = _WRITING.set(_Write(tuple(sorted(str(one) for one in threads)), alone, tuple(sorted(done))))
    try:
        yield
    finally:
        _WRITING.reset(token)


@contextmanager
def _explained() -> Iterator[None]:
    """Turn what PostgreSQL says into the product's own errors."""
    try:
        yield
    except TRANSIENT as error:
        raise DatabaseUnavailable(f"a checkpoint was not read, or perhaps not written: {first_line(error)}") from error
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as error:
        raise SchemaMismatch(
            "the database has no tables for LangGraph's checkpoints: run durable_agent.agents.langgraph.setup(URL) once"
        ) from error
    except psycopg.DataError as error:
        raise FatalError(f"the graph's state cannot be stored: {first_line(error)}") from error


async def setup(direct_url: str) -> None:
    """The tables of checkpoints exist when this returns, as this version of LangGraph wants them.

    Any number of processes may do so at once. `direct_url` must lead straight to PostgreSQL: the lock is a session's.
    Raises DatabaseUnavailable; SchemaMismatch when the database refuses.
    """
    try:
        async with await AsyncConnection.connect(
            direct_url, autocommit=True, row_factory=dict_row, application_name="durable-agent langgraph", client_encoding="utf8"
        ) as conn:  # fmt: skip
            await _locked(conn)
            await conn.execute("create schema if not exists langgraph")
            await conn.execute("set search_path to langgraph")
            for row in await (await conn.execute(_BROKEN_INDEXES)).fetchall():
                await conn.execute(sql.SQL("drop index {}").format(sql.Identifier(row["name"])))
            await AsyncPostgresSaver(conn).setup()
            await conn.execute(_EFFECTS_TABLE)
    except TRANSIENT as error:
        raise DatabaseUnavailable(f"PostgreSQL cannot be reached: {first_line(error)}") from error
    except psycopg.Error as error:
        raise SchemaMismatch(
            f"the tables of LangGraph's checkpoints cannot be made: {first_line(error)};"
            " give durable-agent a database of its own, whose owner it is"
        ) from error


async def _locked(conn: AsyncConnection[DictRow]) -> None:
    """Return when the connection holds the lock.

    It asks again and again: an index that is made concurrently waits for whoever waits inside a statement.
    """
    while True:
        row = await (await conn.execute(_TRY_LOCK, (_LOCK,))).fetchone()
        if row is not None and row["held"]:
            return
        await asyncio.sleep(0.05)
