"""Forget: what LangGraph kept for runs that retention has dropped. SQL only: the library need not be there."""

from __future__ import annotations

from durable_agent.db.pool import Connection
from durable_agent.db.sql import load

RETENTION = load("retention")


async def forget(conn: Connection, *, threads: int = 100) -> int:
    """Return how many threads were dropped because their runs are no more; what another process is at is left to it.

    A database without LangGraph's tables has none. `conn` commits by itself: so many `threads` are looked at in a transaction.
    """
    made = await (await conn.execute("select to_regclass('langgraph.step_effects') is not null")).fetchone()
    after: str | None = "" if made is not None and made[0] else None
    count = 0
    while after is not None:
        row = await (await conn.execute(RETENTION.forget_threads, {"after": after, "threads": threads})).fetchone()
        after, gone = row or (None, 0)
        count += gone
    return count
