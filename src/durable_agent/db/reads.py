"""What people look at: runs, steps, events, workers, dead letters. Reading only."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, NamedTuple, cast
from uuid import UUID

import orjson

from durable_agent.core.records import Tenant
from durable_agent.db.batch import once
from durable_agent.db.pool import ENGINE_SETTINGS_HERE, Connection, Database
from durable_agent.db.sql import load

READS = load("reads")
WAITS = load("waits")
MODELS = load("models")
JOURNAL = load("journal")


class Place(NamedTuple):
    """A place among a tenant's events in order of time; without a run and a number: before all that are stamped so."""

    at: datetime
    run_id: UUID = UUID(int=0)
    seq: int = 0


@asynccontextmanager
async def watching(db: Database) -> AsyncIterator[Connection]:
    """Yield a reading connection for what is asked again and again by key: it goes in one round trip, and is planned once.

    A plan for one run takes longer than the answer, for it is made over every week's partition. Queue all statements before the
    first is fetched. Raises DatabaseUnavailable.
    """
    async with db.reading() as conn, once(conn):
        await conn.execute(ENGINE_SETTINGS_HERE)
        yield conn


async def rows(conn: Connection, statement: str, params: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a reading statement as dictionaries."""
    return await dicts(await conn.execute(statement.encode(), params))


async def dicts(cursor: Any) -> list[dict[str, Any]]:
    """Return the rows of an answer as dictionaries."""
    found = await cursor.fetchall()
    names = [column.name for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in found]


async def run(conn: Connection, tenant: Tenant, run_id: UUID) -> dict[str, Any] | None:
    """Return a run without its steps, or None."""
    found = await rows(conn, READS.get_run, {"tenant": tenant, "run": run_id})
    return found[0] if found else None


async def steps(conn: Connection, tenant: Tenant, run_id: UUID) -> list[dict[str, Any]]:
    """Return a run's steps by number, as they stand."""
    return await rows(conn, READS.get_steps, {"tenant": tenant, "run": run_id})


async def events(conn: Connection, tenant: Tenant, run_id: UUID, *, after: int, limit: int) -> list[dict[str, Any]]:
    """Return a run's events after a number, in order, at most `limit`, as stored."""
    return await rows(conn, READS.events_after, {"tenant": tenant, "run": run_id, "after": after, "limit": limit})


async def run_events(db: Database, tenant: Tenant, after: Place, *, limit: int) -> list[dict[str, Any]]:
    """Return run-level events after a place, in order, at most `limit`, of the runs that are open or ended since its time.

    Raises DatabaseUnavailable.
    """
    params = {"tenant": tenant, "since": after.at, "run": after.run_id, "seq": after.seq, "limit": limit}
    async with watching(db) as conn:
        found = await conn.execute(READS.run_events_since, params)
        return await dicts(found)


async def writing(db: Database) -> tuple[datetime, list[str]]:
    """Return the engine's time, and its transactions that write: what they have stamped is seen when they commit.

    Raises DatabaseUnavailable.
    """
    async with watching(db) as conn:
        found = await conn.execute(READS.writing, ())
        [[at, under_way]] = await found.fetchall()
    return at, under_way


async def now(db: Database) -> datetime:
    """Return the engine's time. Raises DatabaseUnavailable."""
    async with db.reading() as conn:
        [[at]] = await (await conn.execute(JOURNAL.now)).fetchall()
    return cast(datetime, at)


def frame(run_id: UUID, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return an event as watchers see it: what may be erased is merged into its data."""
    data = orjson.loads(row["data"])
    if row.get("detail") is not None:
        data.pop("detail_sha256", None)
        data.update(orjson.loads(row["detail"]))
    step = row.get("step")
    return {"seq": row["seq"], "type": row["type"], "run_id": str(run_id), "step": step, "at": row["at"], "data": data}
