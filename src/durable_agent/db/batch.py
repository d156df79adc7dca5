"""A transaction in as few round trips as it has syncs.

psycopg's pipeline talks to the server at every statement, and its transaction block syncs around BEGIN and COMMIT. An
exchange has a dozen statements and two points where it needs answers, so here nothing is sent before a sync or a fetch.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import psycopg
from psycopg import AsyncPipeline

from durable_agent.db.pool import Connection, first_line
from durable_agent.errors import LostRace

# What the function require_rows raises.
LOST_RACE: Final = "DA001"


class _Patient(AsyncPipeline):
    """A pipeline that keeps what it is given until somebody waits for an answer."""

    def _communicate_gen(self) -> Any:
        if self.command_queue and self.command_queue[-1] == self.pgconn.pipeline_sync:
            yield from super()._communicate_gen()

    def _fetch_gen(self, *, flush: bool) -> Any:
        if flush and self.command_queue:
            yield from super()._communicate_gen()
        yield from super()._fetch_gen(flush=flush)


@asynccontextmanager
async def batch(conn: Connection, *, begun: bool = False) -> AsyncIterator[AsyncPipeline]:
    """Yield a pipeline inside a transaction (one that is `begun`, or a new one) that commits on leaving; an exception rolls it back.

    Raises LostRace, also on leaving, when a guarded statement changed fewer rows than it was given. Cursors may be fetched after `sync()`, which raises the first error of the statements before it; a cursor fetched
    without it costs a round trip of its own.
    """
    conn._pipeline = _Patient(conn)
    try:
        async with conn.pipeline() as pipeline:
            if not begun:
                await conn.execute("begin")
            yield pipeline
            await conn.execute("commit")
    except BaseException as error:
        # What made it fail is worth more than a connection that can no longer be told.
        with suppress(psycopg.Error):
            await conn.rollback()
        first = _first(error)
        if isinstance(first, psycopg.Error) and first.sqlstate == LOST_RACE:
            raise LostRace(first_line(first)) from first
        if first is not error:
            raise first from None
        raise


def _first(error: BaseException) -> BaseException:
    """Return the error that made the pipeline abort: psycopg may raise what came after it, which tells nothing."""
    while isinstance(error, psycopg.errors.PipelineAborted) and error.__context__ is not None:
        error = error.__context__
    return error
