"""Fence: a transaction of somebody else's tables that holds only while a lease does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from durable_agent.core.records import Lease
from durable_agent.db.batch import batch
from durable_agent.db.pool import Connection, Database
from durable_agent.db.sql import load
from durable_agent.errors import LeaseLost, LostRace

SESSIONS = load("sessions")


@asynccontextmanager
async def fenced(db: Database, lease: Lease) -> AsyncIterator[Connection]:
    """Yield a connection in a transaction that commits on leaving, if the lease is live and stays so until then.

    One round trip with whatever is written within, unless that asks for an answer. Raises LeaseLost, then or on leaving, and
    nothing was written.
    """
    params = {
        "tenant": lease.tenant, "run": lease.run_id, "no": lease.step_no, "claim_no": lease.claim_no, "token": lease.token,
    }  # fmt: skip
    async with db.transaction() as conn:
        try:
            async with batch(conn):
                await conn.execute(SESSIONS.fence, params)
                yield conn
        except LostRace as error:
            raise LeaseLost(f"step {lease.step_no} of run {lease.run_id} is no longer this worker's") from error
