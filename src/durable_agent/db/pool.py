"""The connections of one process: a pool for the engine's verbs, a pool for reading, direct ones for LISTEN.

All are in autocommit; a transaction is always explicit. The engine's connections have their plans pinned: every
statement on the hot path is a look-up by key, and with hash joins and sequential scans off it stays one whatever
the statistics say (tests pin the plans with EXPLAIN). Behind a transaction pooler nothing may be set on a session
and nothing prepared on it, so there the pool does neither.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cached_property
from typing import Any, LiteralString

import orjson
import psycopg
from psycopg import AsyncConnection
from psycopg._preparing import PrepareManager
from psycopg.adapt import Transformer
from psycopg.types.json import set_json_loads
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from durable_agent.errors import DatabaseUnavailable

Connection = AsyncConnection[Any]


class _Names(PrepareManager):
    """psycopg's own prepared statements; when it deallocates all there are, a batch's are gone too."""

    def maintain_gen(self, conn: Any) -> Any:
        if None in self._to_flush:
            conn.prepared.clear()
        yield from super().maintain_gen(conn)


class TooLarge(psycopg.DataError):
    """A value is more than PostgreSQL can hold where it belongs (SQLSTATE class 54): the same would be refused again, always."""

    sqlstate = "54000"


def permanent(error: psycopg.Error) -> psycopg.Error:
    """Return an error as what it is: psycopg counts the limits of class 54 among the errors of operation, as it does an outage."""
    if not (error.sqlstate or "").startswith("54"):
        return error
    refused = TooLarge(first_line(error))
    refused.__cause__ = error
    return refused


class EngineConnection(AsyncConnection[Any]):
    """A connection whose statements may be gathered (`db.batch`). `prepared` are the names of those that the server knows."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._prepared = _Names()
        self.batch: Any = None
        self.prepared: OrderedDict[tuple[bytes, tuple[int, ...]], bytes] = OrderedDict()
        self.named = 0

    @cached_property
    def dumper(self) -> Any:
        """What adapts values to PostgreSQL."""
        return Transformer(self)

    def cursor(self, *given: Any, **named: Any) -> Any:
        """Return a cursor of psycopg's; a batch has none."""
        if self.batch is not None:
            raise RuntimeError("a batch is open on this connection: execute on the connection itself")
        return super().cursor(*given, **named)

    async def wait(self, *given: Any, **named: Any) -> Any:
        """See psycopg. Raises TooLarge for what exceeds a limit of PostgreSQL's; every answer but a batch's comes this way."""
        try:
            return await super().wait(*given, **named)
        except psycopg.OperationalError as error:
            if (refused := permanent(error)) is error:
                raise
            raise refused from error

    async def execute(self, query: Any, params: Any = None, **options: Any) -> Any:
        """Execute a statement, or queue it while a batch is open; its answer is fetched in the same way."""
        if self.batch is not None:
            return self.batch.execute(query, params)
        return await super().execute(query, params, **options)


# Errors after which the same work may be tried again on a new connection; what is TooLarge is none of them.
TRANSIENT = (psycopg.OperationalError, psycopg.InterfaceError, psycopg.errors.InternalError, PoolTimeout, OSError)


def may_be_committed(error: BaseException) -> bool:
    """Tell whether a COMMIT that ended with this error may have taken place: PostgreSQL did not say that it was refused."""
    said = getattr(error, "diag", None)
    if said is None or said.severity_nonlocalized == "ERROR":
        return said is None
    # A session that ends for the time that its transaction takes has not come to its COMMIT.
    return not (said.sqlstate or "").startswith("25")


# An empty table makes all indexes look alike, and a plan made then is kept: so no plan may sort what an index has in order.
# What the engine touches was touched a moment ago and is in memory: a page costs little more than a row.
ENGINE_SETTINGS: LiteralString = (
    "select set_config('plan_cache_mode', 'force_generic_plan', false), set_config('enable_hashjoin', 'off', false),"
    " set_config('enable_mergejoin', 'off', false), set_config('enable_seqscan', 'off', false),"
    " set_config('enable_bitmapscan', 'off', false), set_config('enable_sort', 'off', false),"
    " set_config('enable_incremental_sort', 'off', false), set_config('enable_memoize', 'off', false),"
    " set_config('random_page_cost', '0.01', false), set_config('seq_page_cost', '0.01', false),"
    " set_config('jit', 'off', false)"
)
# The same for one transaction of a connection that is otherwise for reading whatever people ask for.
ENGINE_SETTINGS_HERE: LiteralString = ENGINE_SETTINGS.replace("false", "true")
_TIMEOUTS: LiteralString = (
    "select set_config('statement_timeout', %s, false), set_config('lock_timeout', %s, false),"
    " set_config('idle_in_transaction_session_timeout', %s, false), set_config('TimeZone', 'UTC', false)"
)


class Database:
    """The open pools of one process. `pooled` is true behind a transaction pooler (PgBouncer)."""

    def __init__(self, url: str, direct_url: str, *, size: int, statement_timeout_s: float = 30.0) -> None:
        self.url = url
        self.direct_url = direct_url
        self.pooled = False
        self._timeout_ms = str(int(statement_timeout_s * 1000))
        self.engine = AsyncConnectionPool[EngineConnection](
            url,
            connection_class=EngineConnection,
            min_size=1,
            max_size=size,
            open=False,
            kwargs=_kwargs("engine"),
            configure=self._configure_engine,
            timeout=10.0,
            max_idle=600.0,
            reconnect_timeout=5.0,
        )
        self.read = AsyncConnectionPool[EngineConnection](
            url, connection_class=EngineConnection, min_size=0, max_size=size, open=False, kwargs=_kwargs("read"), configure=self._configure,
            timeout=10.0, max_idle=60.0, reconnect_timeout=5.0,
        )  # fmt: skip

    @classmethod
    @asynccontextmanager
    async def open(
        cls, url: str, direct_url: str | None = None, *, size: int = 4, statement_timeout_s: float = 30.0
    ) -> AsyncIterator[Database]:
        """Yield a database whose pools are open; connections are made on demand and after an outage anew."""
        database = cls(url, direct_url or url, size=size, statement_timeout_s=statement_timeout_s)
        await database.engine.open()
        await database.read.open()
        try:
            yield database
        finally:
            await database.read.close(timeout=2.0)
            await database.engine.close(timeout=2.0)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Connection]:
        """Yield a connection for one or more reading statements. Raises DatabaseUnavailable."""
        try:
            async with self.read.connection() as conn:
                yield conn
        except psycopg.errors.InsufficientPrivilege as error:
            raise DatabaseUnavailable(f"PostgreSQL refuses its role: {first_line(error)}") from error
        except TRANSIENT as error:
            raise DatabaseUnavailable(f"PostgreSQL cannot be reached: {first_line(error)}") from error

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Yield an engine connection; the verb begins and commits by itself, in its own pipeline."""
        async with self.engine.connection() as conn:
            yield conn

    async def direct(self, application: str) -> Connection:
        """Return a new connection that no pooler stands before: for LISTEN, liveness and migration."""
        conn = await EngineConnection.connect(self.direct_url, **_kwargs(application))
        await _prepares(conn)
        return conn

    async def _configure_engine(self, conn: Connection) -> None:
        await self._configure(conn)
        if self.pooled:
            return
        await conn.execute(ENGINE_SETTINGS)
        if conn.info.server_version >= 170000:
            # One that is frozen while it sends is neither idle nor at a statement, and holds its locks all the same.
            await conn.execute("select set_config('transaction_timeout', %s, false)", (self._timeout_ms,))

    async def _configure(self, conn: Connection) -> None:
        self.pooled = not await _prepares(conn)
        set_json_loads(orjson.loads, conn)
        if self.pooled:
            return
        # A process that is frozen inside a transaction holds its runs' locks: five seconds, no longer.
        await conn.execute(_TIMEOUTS, (self._timeout_ms, "10000", "5000"))


async def _prepares(conn: Connection) -> bool:
    """Let a connection prepare its statements if PostgreSQL itself is at its other end; behind a pooler they would be others'."""
    row = await (await conn.execute("select pg_backend_pid()")).fetchone()
    if is_pooled(conn, row[0] if row else 0):
        return False
    conn.prepare_threshold = 0
    return True


def is_pooled(conn: Connection, backend_pid: int) -> bool:
    """Tell whether a pooler answers instead of PostgreSQL: its cancel key names another process."""
    return conn.info.backend_pid != backend_pid


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, else its class name."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _kwargs(application: str) -> dict[str, Any]:
    return {
        "autocommit": True,
        "prepare_threshold": None,  # until it is known who answers
        "application_name": f"durable-agent {application}",
        "client_encoding": "utf8",  # whatever PGCLIENTENCODING says
        "connect_timeout": 10,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 20_000,  # who vanished while something was on its way to him is missed no later
    }


async def reconnecting(attempt: int, *, jitter: float, cap_s: float = 2.0) -> None:
    """Wait before connection attempt number `attempt` (from 1): exponential, full jitter, at most `cap_s` seconds."""
    await asyncio.sleep(jitter * min(cap_s, 0.05 * 2.0 ** min(attempt, 10)))


def is_pooled_sync(conn: psycopg.Connection[Any]) -> bool:
    """As `is_pooled`, for a connection used by a thread."""
    row = conn.execute("select pg_backend_pid()").fetchone()
    return row is None or conn.info.backend_pid != row[0]
