"""Fence: what is written to somebody else's tables holds only while a lease does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, LiteralString

from durable_agent.core.records import Lease
from durable_agent.db.batch import alone
from durable_agent.db.patient import patient
from durable_agent.db.pool import Connection, Database
from durable_agent.db.sql import load
from durable_agent.db.together import Together
from durable_agent.errors import LeaseLost, LostRace

SESSIONS = load("sessions")
_HELD: LiteralString = SESSIONS.held.rstrip().rstrip(";")
# Bytes that go out at once, whoever is frozen meanwhile: half a transaction would hold the leases of the others in it.
SMALL: Final = 65_536
# Undoes the transaction of who has lost the lease.
FENCE: LiteralString = (
    f"with held as materialized ({_HELD}) select require_rows((select count(*) from held), 1, 'fence')"
)


@cache
def _fenced(ctes: LiteralString, key: LiteralString, *, waits: bool) -> LiteralString:
    """Return the statement that writes under a lease and an advisory lock; one that waits for nobody writes nothing instead."""
    if waits:
        held = f"live as materialized ({_HELD}), held as materialized (select pg_advisory_xact_lock_shared({key}) from live)"
    else:
        held = (
            f"live as materialized ({_HELD} skip locked),"
            f" held as materialized (select from live where pg_try_advisory_xact_lock_shared({key}))"
        )
    return f"with {held}, {ctes} select count(*)::int from held"


@dataclass(frozen=True, slots=True)
class Fence:
    """What writes under one lease. Whoever finds it gone gets LeaseLost, and wrote nothing."""

    db: Database
    lease: Lease
    together: Together

    async def write(self, ctes: LiteralString, params: Mapping[str, Any], *, key: LiteralString) -> None:
        """Write by one statement, `name as (… from held), …`, which is committed when this returns, perhaps with others'.

        `held` is one row while the lease lives, and none when it is gone. Nobody holds the advisory lock `key` alone meanwhile.
        """
        given = {**params, **self._lease()}
        size = sum(len(value) for value in params.values() if isinstance(value, str | bytes))
        if size <= SMALL and (await self.together.run(_fenced(ctes, key, waits=False), given))[0][0]:
            return
        # It is large, its lease is gone, or somebody holds what it takes: who is alone in its transaction may wait for that.
        async with self.db.transaction() as conn:
            rows = await alone(conn, _fenced(ctes, key, waits=True), given)
            if (await rows.fetchone())[0] == 0:
                raise self._lost()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Yield a connection in a transaction that holds the lease until it commits, on leaving.

        One round trip with whatever is written within, unless that asks for an answer.
        """
        try:
            async with self.db.transaction() as conn, patient(conn):
                await conn.execute(FENCE, self._lease())
                yield conn
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
