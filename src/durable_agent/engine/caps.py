"""Caps: how many runs of an agent are under way at once; the others wait in the order they came."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from durable_agent.db.arrays import literals
from durable_agent.db.pool import Connection, Database
from durable_agent.db.sql import load

AGENTS = load("agents")


def releases(agents: Iterable[tuple[int, UUID]], *, lifted: bool = False) -> list[tuple[str, dict[str, Any]]]:
    """Return the statements that let waiting runs of some agents begin; they follow each other in one transaction.

    The first waits for whoever counts these agents' runs, so that the second, which looks afterwards, sees what they began.
    """
    rows = sorted(set(agents), key=str)
    if not rows:
        return []
    given = {**literals(("tenants", "agents"), rows), "lifted": lifted}
    return [(AGENTS.lock_agents, given), (AGENTS.release_capped, given)]


async def release(conn: Connection, agents: Iterable[tuple[int, UUID]], *, lifted: bool = False) -> Any:
    """Let waiting runs of some agents begin, as many as each may have under way; with `lifted` all of one without a limit.

    Returns the cursor over those runs, to be fetched after the sync; None without an agent.
    """
    cursor = None
    for statement, given in releases(agents, lifted=lifted):
        cursor = await conn.execute(statement, given)
    return cursor


async def release_all(db: Database) -> int:
    """Let begin whoever may and return how many do: for those that somebody held when their turn came."""
    async with db.transaction() as conn, conn.transaction():
        rows = await (await conn.execute(AGENTS.capped)).fetchall()
        cursor = await release(conn, [(tenant, agent) for tenant, agent in rows], lifted=True)
        return 0 if cursor is None else len(await cursor.fetchall())
