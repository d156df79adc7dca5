"""Fence: what is written to somebody else's tables holds only while a lease does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, LiteralString

from durable_agent.core.records import Lease
from durable_agent.db.batch import alone
from durable_agent.db.patient import patient
from durable_agent.db.pool import Connection, Database
from durable_agent.db.sql import load
from durable_agent.errors import LeaseLost, LostRace

SESSIONS = load("sessions")
_HELD: LiteralString = f"with held as materialized ({SESSIONS.held.rstrip().rstrip(';')})"
# Undoes the transaction of who has lost the lease.
FENCE: LiteralString = f"{_HELD} select require_rows((select count(*) from held), 1, 'fence')"


@cache
def _fenced(ctes: LiteralString) -> LiteralString:
    return f"{_HELD}, {ctes} select count(*)::int from held"


@dataclass(frozen=True, slots=True)
class Fence:
    """A connection of the engine, for writing under one lease. Whoever finds it gone gets LeaseLost, and wrote nothing."""

    conn: Connection
    lease: Lease

    async def write(self, ctes: LiteralString, params: Mapping[str, Any]) -> None:
        """Write by one statement, `name as (… from held), …`, which is committed when this returns; one round trip.

        `held` is the lease: one row while it lives, and none when it is gone, so that nothing is written.
        """
        rows = await alone(self.conn, _fenced(ctes), {**params, **self._lease()})
        if (await rows.fetchone())[0] == 0:
            raise self._lost()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Yield the connection in a transaction that holds the lease until it commits, on leaving.

        One round trip with whatever is written within, unless that asks for an answer.
        """
        try:
            async with patient(self.conn):
                await self.conn.execute(FENCE, self._lease())
                yield self.conn
        except LostRace as error:
            raise self._lost() from error

    def _lease(self) -> dict[str, Any]:
        lease = self.lease
        return {
            "tenant": lease.tenant, "run": lease.run_id, "no": lease.step_no, "claim_no": lease.claim_no,
            "token": lease.token,
        }  # fmt: skip

    def _lost(self) -> LeaseLost:
        return LeaseLost(f"step {self.lease.step_no} of run {self.lease.run_id} is no longer this worker's")


@asynccontextmanager
async def fenced(db: Database, lease: Lease) -> AsyncIterator[Fence]:
    """Yield what writes under a lease, on a connection of its own."""
    async with db.transaction() as conn:
        yield Fence(conn, lease)
