"""Caps: how many runs of an agent are under way at once; the others wait in the order they came."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from durable_agent.db.arrays import literals
from durable_agent.db.pool import Connection, Database
from durable_agent.db.sql import load

AGENTS = load("agents")


async def release(conn: Connection, agents: Iterable[tuple[int, UUID]]) -> int:
    """Let waiting runs of some agents begin, as many as each may have under way; return how many do."""
    rows = sorted(set(agents), key=str)
    if not rows:
        return 0
    return (await conn.execute(AGENTS.release_capped, literals(("tenants", "agents"), rows))).rowcount


async def release_after(conn: Connection, runs: Iterable[tuple[int, UUID]]) -> int:
    """Let others begin where these runs ended; return how many do."""
    rows = sorted(set(runs), key=str)
    if not rows:
        return 0
    found = await (await conn.execute(AGENTS.capped_of, literals(("tenants", "runs"), rows))).fetchall()
    return await release(conn, [(tenant, agent) for tenant, agent in found])


async def release_all(db: Database) -> int:
    """Let begin whoever may: for the process that ended between a run's end and this."""
    async with db.transaction() as conn, conn.transaction():
        rows = await (await conn.execute(AGENTS.capped)).fetchall()
        return await release(conn, [(tenant, agent) for tenant, agent in rows])
