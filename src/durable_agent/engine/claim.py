"""Claim: ready steps become leases.

The pick never waits: it skips the queue rows and the runs that others hold (R2). What it locked is leased under a
fresh random token (R4) and the next claim number, which is never reset (R3).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from durable_agent.core.records import Claim, Lease, RunId, StepKind, Tenant, Token
from durable_agent.core.states import RunEvent, RunStatus, StepEvent
from durable_agent.core.turns import Share
from durable_agent.db.arrays import literals
from durable_agent.db.pool import Connection
from durable_agent.engine.journal import QUEUE, Head, Journal
from durable_agent.telemetry import logger

log = logger("claim")

CLAIMABLE = frozenset({RunStatus.PENDING, RunStatus.RUNNING})


@dataclass(frozen=True, slots=True)
class Picked:
    """A ready step whose queue row and run this transaction holds."""

    tenant: Tenant
    run_id: RunId
    no: int
    route: int
    claim_no: int
    failures: int
    crashes: int
    max_crashes: int
    status: str
    last_seq: int
    chain: bytes
    steps_total: int
    steps_left: int

    @property
    def last_chance(self) -> bool:
        """Whether one more lost lease seals the step: such a step runs beside no other such one."""
        return self.crashes > 0 and self.crashes >= self.max_crashes - 1


@dataclass(frozen=True, slots=True)
class Leased:
    """A lease made in this transaction, with the counters its attempt is told."""

    lease: Lease
    failures: int
    crashes: int


async def pick(conn: Connection, tenant: Tenant, shares: Sequence[Share], *, solo: bool) -> Any:
    """Queue the pick of one tenant's shares; the cursor is fetched after the sync."""
    return await conn.execute(
        QUEUE.pick,
        {
            "tenant": tenant,
            "routes": [share.route for share in shares],
            "limits": [share.limit for share in shares],
            "froms": [share.ord for share in shares],
            "solo": solo,
        },
    )


def lease_picked(journal: Journal, picked: Sequence[Picked], *, limit: int, worker: str) -> list[Leased]:
    """Lease up to `limit` of the picked steps in the journal; the rest stay ready and are let go at the commit."""
    leased: list[Leased] = []
    chanced = False
    for row in picked:
        if len(leased) == limit:
            break
        if row.last_chance and chanced:
            continue
        head = journal.heads.setdefault(
            (row.tenant, row.run_id),
            Head(
                row.tenant, row.run_id, RunStatus(row.status), row.steps_total, row.steps_left, row.last_seq,
                row.chain, seen=row.last_seq,
            ),
        )  # fmt: skip
        if head.status not in CLAIMABLE:
            if row.status == head.status.value:
                log.error("claim_refused", run=str(row.run_id), step=row.no, status=row.status, hint="run doctor")
            continue
        chanced = chanced or row.last_chance
        leased.append(_lease(journal, head, row, worker))
    return leased


def _lease(journal: Journal, head: Head, row: Picked, worker: str) -> Leased:
    if head.status is RunStatus.PENDING:
        journal.move(head, RunEvent.STARTED)
    lease = Lease(row.tenant, row.run_id, row.no, row.claim_no + 1, Token(uuid4()))
    note_claim(journal, head, lease, attempt=row.failures + 1, worker=worker)
    journal.leased.add(row.tenant, row.run_id, row.no, lease.claim_no, lease.token)
    return Leased(lease, row.failures, row.crashes)


def note_claim(journal: Journal, head: Head, lease: Lease, *, attempt: int, worker: str) -> None:
    """Append the event of a claim."""
    journal.append(head, StepEvent.CLAIMED, lease.step_no, claim_no=lease.claim_no, attempt=attempt, worker=worker)


@dataclass(frozen=True, slots=True)
class WorkReads:
    """The cursors over what attempts need, to be fetched after the sync."""

    work: Any
    outputs: Any


async def read_work(conn: Connection, leased: Sequence[Leased]) -> WorkReads:
    """Queue the reading of what the leased steps need."""
    keys = literals(("tenants", "runs", "nos"), [(x.lease.tenant, x.lease.run_id, x.lease.step_no) for x in leased])
    return WorkReads(await conn.execute(QUEUE.work, keys), await conn.execute(QUEUE.parent_outputs, keys))


async def claims_from(reads: WorkReads, leased: Sequence[Leased], secrets: Mapping[Tenant, bytes]) -> list[Claim]:
    """Return the claims of the leases, in their order."""
    work = {(row[1], row[2]): row for row in await reads.work.fetchall()}
    parents: dict[tuple[UUID, int], dict[str, Any]] = {}
    for run_id, no, name, output in await reads.outputs.fetchall():
        parents.setdefault((run_id, no), {})[name] = output
    claims = []
    for x in leased:
        key = (x.lease.run_id, x.lease.step_no)
        _, _, _, name, kind, tool, input_, timeout_s, deadline_s, _, run_input, goal = work[key]
        claims.append(
            Claim(
                x.lease, name, StepKind(kind), tool, input_, run_input, goal, parents.get(key, {}),
                attempt=x.failures + 1, crashes=x.crashes, timeout_s=timeout_s, deadline_s=deadline_s,
                idempotency_key=idempotency_key(secrets[x.lease.tenant], x.lease),
            )
        )  # fmt: skip
    return claims


def idempotency_key(secret: bytes, lease: Lease) -> str:
    """Return the key a step hands to the outside world: the same at every attempt, unguessable without the secret."""
    text = f"{lease.tenant}|{lease.run_id}|{lease.step_no}".encode()
    return hmac.new(secret, text, hashlib.sha256).hexdigest()
