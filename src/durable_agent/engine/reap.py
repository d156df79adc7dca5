"""Reap: leases that nobody keeps alive are given back, retries that are due become ready, defects are found.

Any number of processes reap; there is no leader. What a look at the tables finds are candidates: each is looked at
again under its run's lock, with the same fence as a worker's own write (R7).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

import psycopg

from durable_agent.core.outcomes import Verdict
from durable_agent.core.records import Lease, RunId, Tenant, Token
from durable_agent.db.arrays import literals
from durable_agent.db.batch import batch
from durable_agent.db.doorbell import CONTROL, EVENTS, READY, Bell
from durable_agent.db.pool import TRANSIENT, Connection, Database, first_line
from durable_agent.db.sql import load
from durable_agent.engine.answer import MANY_DUE, cancel_orphans, settle_children, settle_due
from durable_agent.engine.caps import release, release_all
from durable_agent.engine.claim import Step, idempotency_key
from durable_agent.engine.conclude import cancel_failed, ended_children
from durable_agent.engine.exchange import SESSIONS, wind_up
from durable_agent.engine.forget import forget
from durable_agent.engine.gate import GATES
from durable_agent.engine.grant import settle_budgets
from durable_agent.engine.journal import EFFECTS, Journal, read_now
from durable_agent.engine.promote import Promotion
from durable_agent.engine.settle import Lost, Settlement, read
from durable_agent.engine.spared import Spared
from durable_agent.engine.waiting import settle_waiting
from durable_agent.engine.weeks import drop_weeks, make_weeks, put_off, reset_empty
from durable_agent.errors import DatabaseUnavailable, LostRace
from durable_agent.telemetry import Counters, logger

log = logger("reap")

# While nothing is leased nobody's death matters: so many ticks from look to look, until the first hint of work.
IDLE = 4
# After an own reconnect nobody is suspected for so long: a crash of PostgreSQL takes every session away at once (R10).
QUIET_S = 5.0
# A process that just started may itself be part of a restart of everything.
START_QUIET_S = 1.0
SWEEP_S = 60.0
# A run that ends tells the step that waits for it at once; this is for the process that died in between.
CHILDREN_S = 5.0
# Weeks are made a fortnight ahead and dropped a week at a time: an hour more or less does not matter.
PARTITIONS_S = 3600.0

DELTAS = load("deltas")
TICKETS = load("tickets")


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look found: how many retries fell due, leases to take, whether work is ready or leased, when to look again."""

    promoted: int
    expired: list[Lost]
    ready: bool
    leased: bool
    overdue: bool
    next_due_s: float | None


@dataclass(slots=True)
class Upkeep:
    """The state of one process's upkeep loop. `relaxed()` allows longer pauses while nothing is leased: hints are heard."""

    db: Database
    bell: Bell
    ttl_s: float
    tick_s: float
    suspicion: bool = True
    suspicion_s: float = 0.4
    retention_days: int = 30
    counters: Counters = field(default_factory=Counters)
    on_ready: Callable[[], None] | None = None
    relaxed: Callable[[], bool] = lambda: False
    spared: Spared = field(default_factory=Spared)
    _quiet_until: float = 0.0
    _sweep_at: float = 0.0
    _partitions_at: float = 0.0
    _children_at: float = 0.0
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def stir(self) -> None:
        """Take note that somebody may hold a lease by now: the long pause of an idle engine ends."""
        self._wake.set()

    async def run(self) -> None:
        """Tick until cancelled; an outage is waited out."""
        loop = asyncio.get_running_loop()
        self._quiet_until = loop.time() + START_QUIET_S
        wait_s = 0.0
        while True:
            await self._pause(wait_s)
            try:
                wait_s = await self._tick(loop.time())
            except (*TRANSIENT, DatabaseUnavailable) as error:
                log.info("tick_failed", error=first_line(error))
                self._quiet_until = loop.time() + QUIET_S
                wait_s = self.tick_s * (0.5 + random.random())

    async def _pause(self, wait_s: float) -> None:
        try:
            async with asyncio.timeout(wait_s):
                began_s = asyncio.get_running_loop().time()
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()
        gone_s = asyncio.get_running_loop().time() - began_s
        await asyncio.sleep(min(self.tick_s, wait_s - gone_s))

    async def _tick(self, now_s: float) -> float:
        """Do what is due and return how long to wait for the next look, in seconds."""
        async with self.db.transaction() as conn:
            if self.db.pooled:
                self._quiet_until = now_s + QUIET_S
            suspect = self.suspicion and now_s >= self._quiet_until
            seen = await self._look(conn, suspect)
            found, next_due = seen.expired, seen.next_due_s
            if seen.promoted:
                self.bell.ring(READY)
            if seen.ready and self.on_ready is not None:
                self.on_ready()
            if found:
                await self.reap(conn, found)
            if now_s >= self._sweep_at:
                self._sweep_at = now_s + SWEEP_S * (0.75 + random.random() / 2)
                await self._sweep(conn)
            if now_s >= self._partitions_at:
                self._partitions_at = now_s + PARTITIONS_S * (0.75 + random.random() / 2)
                self.spared.forget()
                await self.keep_partitions(conn)
                async with put_off("forget"):
                    await forget(conn)
        if seen.overdue or now_s >= self._children_at:
            self._children_at = now_s + CHILDREN_S * (0.75 + random.random() / 2)
            await self.settle_waits()
        idle = not (seen.leased or seen.ready or seen.expired) and self.relaxed()
        wait_s = self.tick_s * (0.95 + random.random() / 10) * (IDLE if idle else 1)
        return wait_s if next_due is None else max(0.005, min(wait_s, next_due + 0.002))

    async def _look(self, conn: Connection, suspect: bool) -> Seen:
        cursor = await conn.execute(SESSIONS.look, {"suspect": suspect, "grace_s": self.suspicion_s})
        row = await cursor.fetchone()
        if row is None:
            return Seen(0, [], False, False, False, None)
        suspected, promoted, expired, ready, leased, overdue, next_due_s = row
        for worker in suspected or ():
            log.info("worker_suspected", worker=worker, lease_shortened_to_s=self.suspicion_s)
            next_due_s = self.suspicion_s
        found = [
            Lost(Lease(Tenant(tenant), RunId(UUID(run)), no, claim_no, Token(UUID(token))), why, worker)
            for tenant, run, no, claim_no, token, why, worker in expired or ()
        ]
        return Seen(promoted, found, ready, leased, overdue, next_due_s)

    async def reap(self, conn: Connection, found: Sequence[Lost]) -> int:
        """Give back the leases that are still nobody's, in one transaction; singly when one of them is a bad row."""
        try:
            return await self._reap(conn, found)
        except TRANSIENT:
            raise
        except LostRace:
            if len(found) == 1:
                return 0  # somebody else's word about it came first
        except psycopg.Error as error:
            if len(found) == 1:
                lease = found[0].lease
                log.error("reap_failed", run=str(lease.run_id), step=lease.step_no, error=first_line(error))
                return 0
        return sum([await self.reap(conn, [one]) for one in found])

    async def _reap(self, conn: Connection, found: Sequence[Lost]) -> int:
        async with batch(conn) as pipeline:
            reads = await read(conn, found)
            again = await conn.execute(
                SESSIONS.still_expired,
                {
                    "tenants": [x.lease.tenant for x in found],
                    "runs": [x.lease.run_id for x in found],
                    "nos": [x.lease.step_no for x in found],
                    "tokens": [x.lease.token for x in found],
                },
            )
            now = await read_now(conn)
            await pipeline.sync()
            still = {row[0] for row in await again.fetchall()}
            journal = Journal((await now.fetchone())[0])
            journal.take(await reads.heads.fetchall())
            settlement = Settlement(journal, None)
            if reads.budgets is not None:
                await settlement.record.purse.know(*reads.budgets)
            rows = {(row[1], row[2]): Step(*row) for row in await reads.steps.fetchall()}
            lost = [x for x in found if x.lease.token in still and (x.lease.run_id, x.lease.step_no) in rows]
            if any(rows[x.lease.run_id, x.lease.step_no].effect for x in lost):
                lost = await _with_keys(conn, lost)
            lost = await _with_progress(conn, lost)
            settlement.settle(lost, [rows[x.lease.run_id, x.lease.step_no] for x in lost])
            await wind_up(conn, settlement, Promotion(journal))
            await settlement.spend(conn)
            await settle_waiting(conn, journal)
            await journal.write(conn)
            await settlement.record.purse.write(conn, journal)
            await release(conn, settlement.freed())
            await cancel_failed(conn, journal, settlement)
        taken = [x for x, v in zip(lost, settlement.verdicts, strict=True) if v is Verdict.OK]
        for x in taken:
            log.warning(
                "lease_lost", run=str(x.lease.run_id), step=x.lease.step_no, claim_no=x.lease.claim_no,
                worker=x.worker, why=x.why,
            )  # fmt: skip
        self.counters.leases_lost += len(taken)
        if orphaned := ended_children(journal):
            await settle_children(self.db, orphaned)
        if taken:
            self.bell.ring(READY, EVENTS, CONTROL)
        return len(taken)

    async def settle_waits(self) -> None:
        """End the waits that are due, and the runs that nobody waits for any more."""
        settled = 0
        for _ in range(20):
            settled += (found := await settle_due(self.db, self.spared))
            if found < MANY_DUE:
                break
        settled += await settle_budgets(self.db, self.spared) + await release_all(self.db)
        if settled + await cancel_orphans(self.db, self.spared):
            self.bell.ring(READY, EVENTS, CONTROL)
            self.stir()

    async def keep_partitions(self, conn: Connection) -> int:
        """Make the coming weeks and drop those that are past retention; return how many were dropped."""
        await make_weeks(conn)
        dropped = await drop_weeks(conn, self.retention_days) if self.retention_days > 0 else 0
        await reset_empty(conn)
        return dropped

    async def _sweep(self, conn: Connection) -> None:
        """Do what need not be done often: clock set back, dead sessions, defects."""
        await conn.execute(SESSIONS.clamp, {"ttl_s": self.ttl_s})
        await conn.execute(DELTAS.forget)
        await conn.execute(GATES.drop_slots)
        await conn.execute(TICKETS.sweep_tickets)
        for (worker,) in await (await conn.execute(SESSIONS.bury)).fetchall():
            log.info("worker_lost", worker=worker)
        for tenant, run_id in await (await conn.execute(SESSIONS.stranded)).fetchall():
            self.counters.stranded += 1
            log.error("run_stranded", tenant=tenant, run=str(run_id), hint="a defect: run durable-agent doctor")


async def _with_progress(conn: Connection, lost: Sequence[Lost]) -> list[Lost]:
    """Return the losses, telling of each whether its lease had got the step on: what it recorded is not done again."""
    leases = [(x.lease.tenant, x.lease.run_id, x.lease.step_no, x.lease.claim_no) for x in lost]
    if not leases:
        return []
    cursor = await conn.execute(EFFECTS.progressed, literals(("tenants", "runs", "nos", "claim_nos"), leases))
    found = set(await cursor.fetchall())
    return [replace(x, progress=(x.lease.run_id, x.lease.step_no, x.lease.claim_no) in found) for x in lost]


async def _with_keys(conn: Connection, lost: Sequence[Lost]) -> list[Lost]:
    """Return the losses with the keys their calls showed: whoever looks into what happened asks by them."""
    secrets = {tenant: bytes(secret) for tenant, secret in await (await conn.execute(SESSIONS.secrets)).fetchall()}
    return [replace(x, key=idempotency_key(secrets[x.lease.tenant], x.lease)) for x in lost]
