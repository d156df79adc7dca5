"""Weeks: history lies in partitions by the week of its run; they are made a fortnight ahead and dropped whole.

No process ends because of them: a run whose week is missing lies in the default partition until it is made. What
cannot be done now is said, undone and put off to the next time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg

from durable_agent.db.pool import TRANSIENT, Connection, Database, first_line
from durable_agent.db.sql import load
from durable_agent.telemetry import logger

log = logger("weeks")

RETENTION = load("retention")
# Runs that lie in no week are deleted so many in a transaction: none holds its locks for long.
OUTSIDE = 500
# Who starts asks so often, a second each time: others that start make the same weeks.
ATTEMPTS = 5


@asynccontextmanager
async def put_off(what: str) -> AsyncIterator[None]:
    """Say what fails within, and go on without; an outage is raised."""
    try:
        yield
    except psycopg.errors.LockNotAvailable as error:
        log.info("put_off", what=what, error=first_line(error))
    except TRANSIENT:
        raise
    except psycopg.Error as error:
        log.error("put_off", what=what, error=f"{type(error).__name__}: {first_line(error)}")


@asynccontextmanager
async def _briefly(conn: Connection) -> AsyncIterator[None]:
    """Yield in a transaction that waits for no lock longer than a second: everyone else would wait behind it."""
    async with conn.transaction():
        await conn.execute("set local lock_timeout = '1s'")
        yield


async def begin_weeks(db: Database) -> None:
    """Return when today's weeks are there, for whoever begins to serve after a long time off; without them if that cannot be."""
    for _ in range(ATTEMPTS):
        try:
            async with db.transaction() as conn, _briefly(conn):
                await conn.execute(RETENTION.make_partitions)
                return
        except psycopg.errors.LockNotAvailable as error:
            log.info("put_off", what="weeks", error=first_line(error))
        except (psycopg.Error, *TRANSIENT) as error:
            log.error("put_off", what="weeks", error=f"{type(error).__name__}: {first_line(error)}")
            return


async def make_weeks(conn: Connection) -> None:
    """Make the coming weeks that are missing."""
    async with put_off("weeks"), _briefly(conn):
        await conn.execute(RETENTION.make_partitions)


async def drop_weeks(conn: Connection, days: int) -> int:
    """Drop the weeks whose runs all ended so many days ago, and such runs that lie in no week; return how many weeks."""
    dropped = outside = 0
    async with put_off("retention"):
        async with _briefly(conn):
            dropped = await _count(conn, RETENTION.drop_partitions, days=days)
        gone = OUTSIDE
        while gone == OUTSIDE:
            async with _briefly(conn):
                gone = await _count(conn, RETENTION.drop_outside, days=days, most=OUTSIDE)
            outside += gone
    if dropped or outside:
        log.info("weeks_dropped", count=dropped, runs_in_no_week=outside, retention_days=days)
    return dropped


async def reset_empty(conn: Connection) -> None:
    """Reset the empty partitions, each in a transaction of its own: two locks at once could meet a statement's."""
    found = True
    while found:
        found = False
        async with put_off("empty weeks"), _briefly(conn):
            row = await (await conn.execute(RETENTION.reset_empty)).fetchone()
            found = row is not None and row[0]


async def _count(conn: Connection, statement: str, **given: int) -> int:
    row = await (await conn.execute(statement, given)).fetchone()
    return int(row[0]) if row is not None else 0
