"""A transaction in as few round trips as it has syncs, for those who bring cursors of their own.

psycopg's pipeline talks to the server at every statement, and its transaction block syncs around BEGIN and COMMIT. Here nothing
is sent before a sync or a fetch. The engine's own statements go by `db.batch`, which costs a third of it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import psycopg
from psycopg import AsyncPipeline

from durable_agent.db.batch import lost_race
from durable_agent.db.pool import Connection


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
async def patient(conn: Connection) -> AsyncIterator[AsyncPipeline]:
    """Yield a pipeline inside a transaction that commits on leaving; an exception rolls it back.

    Raises LostRace, also on leaving, when a guarded statement changed fewer rows than it was given.
    """
    conn._pipeline = _Patient(conn)
    try:
        async with conn.pipeline() as pipeline:
            await conn.execute("begin")
            yield pipeline
            await conn.execute("commit")
    except BaseException as error:
        # What made it fail is worth more than a connection that can no longer be told.
        with suppress(psycopg.Error):
            await conn.rollback()
        first = _first(error)
        if isinstance(first, psycopg.Error):
            raise lost_race(first) from (first if first is error else None)
        raise


def _first(error: BaseException) -> BaseException:
    """Return the error that made the pipeline abort: psycopg may raise what came after it, which tells nothing."""
    while isinstance(error, psycopg.errors.PipelineAborted) and error.__context__ is not None:
        error = error.__context__
    return error
