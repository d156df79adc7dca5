"""Claim: ready steps become leases.

The pick never waits: it skips the queue rows and the runs that others hold (R2). What it locked is leased under a
fresh random token (R4) and the next claim number, which is never reset (R3).
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from durable_agent.core.records import Claim, Lease, RunId, StepKind, Tenant, Token
from durable_agent.core.states import RunEvent, RunStatus, StepEvent
from durable_agent.core.turns import Share
from durable_agent.db.pool import Connection
from durable_agent.engine.journal import QUEUE, Head, Journal
from durable_agent.telemetry import logger

log = logger("claim")

CLAIMABLE = frozenset({RunStatus.PENDING, RunStatus.RUNNING})


class Step(NamedTuple):
    """A leased step: what its settlement needs to know, under its run's lock or as it was when it was leased.

    The counters and the token belong to the live lease; `retry` is the policy's JSON.
    """

    tenant: int
    run_id: UUID
    no: int
    name: str
    tool: str
    children: list[int]
    max_attempts: int
    max_crashes: int
    retry: str
    failures: int
    crashes: int
    claim_no: int | None
    token: UUID | None
    last_token: UUID | None = None
    done_token: UUID | None = None

    @property
    def run(self) -> tuple[int, UUID]:
        """The key of the step's run."""
        return self.tenant, self.run_id

    def owned_by(self, lease: Lease) -> bool:
        """Whether the lease is the live one (R3, R4, R6: expiry alone takes nothing away)."""
        return self.claim_no == lease.claim_no and self.token == lease.token

    def knows(self, lease: Lease) -> bool:
        """Whether this very lease was settled before (R8)."""
        return lease.token in (self.done_token, self.last_token)


class Leased(NamedTuple):
    """A claim, with what the session remembers of it until it is settled."""

    claim: Claim
    step: Step


class Picked(NamedTuple):
    """A ready step whose queue row and run this transaction holds, as `pick` returns it."""

    tenant: Tenant
    run_id: RunId
    no: int
    claim_no: int
    failures: int
    crashes: int
    max_crashes: int
    at: str
    status: str
    last_seq: int
    chain: bytes
    steps_total: int
    steps_left: int
    run_at: str
    run_input: Any
    goal: str | None
    name: str
    kind: str
    tool: str
    input: Any
    timeout_s: float | None
    deadline_s: float
    children: list[int]
    max_attempts: int
    retry: str
    outputs: dict[str, Any] | None

    @property
    def last_chance(self) -> bool:
        """Whether one more lost lease seals the step: such a step runs beside no other such one."""
        return self.crashes > 0 and self.crashes >= self.max_crashes - 1


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


def lease_picked(
    journal: Journal, picked: Sequence[Picked], *, limit: int, worker: str, secrets: Mapping[Tenant, bytes]
) -> list[Leased]:
    """Lease up to `limit` of the picked steps in the journal; the rest stay ready and are let go at the commit."""
    leased: list[Leased] = []
    chanced = False
    tokens = fresh_tokens(max(0, min(limit, len(picked))))
    for row in picked:
        if len(leased) == limit:
            break
        if row.last_chance and chanced:
            continue
        head = journal.heads.get((row.tenant, row.run_id))
        if head is None:
            head = journal.heads[row.tenant, row.run_id] = Head(
                row.tenant, row.run_id, RunStatus(row.status), row.steps_total, row.steps_left, row.last_seq,
                row.chain, row.run_at, seen=row.last_seq,
            )  # fmt: skip
        if head.status not in CLAIMABLE:
            if row.status == head.status.value:
                log.error("claim_refused", run=str(row.run_id), step=row.no, status=row.status, hint="run doctor")
            continue
        chanced = chanced or row.last_chance
        leased.append(_lease(journal, head, row, worker, next(tokens), secrets[row.tenant]))
    return leased


def _lease(journal: Journal, head: Head, row: Picked, worker: str, token: Token, secret: bytes) -> Leased:
    if head.status is RunStatus.PENDING:
        journal.move(head, RunEvent.STARTED)
    lease = Lease(row.tenant, row.run_id, row.no, row.claim_no + 1, token)
    note_claim(journal, head, lease, attempt=row.failures + 1, worker=worker)
    journal.leased.add(row.at, row.tenant, row.run_id, row.no, lease.claim_no, lease.token)
    return leased_from(lease, row, row.run_input, row.goal, row.outputs or {}, secret)


def leased_from(
    lease: Lease, row: Any, run_input: Any, goal: str | None, parents: dict[str, Any], secret: bytes
) -> Leased:
    """Return the claim of a lease and what is remembered of it; `row` has the step's specification and counters."""
    claim = Claim(
        lease, row.name, _KINDS[row.kind], row.tool, row.input, run_input, goal, parents, row.failures + 1, row.crashes,
        row.timeout_s, row.deadline_s, idempotency_key(secret, lease),
    )  # fmt: skip
    step = Step(
        lease.tenant, lease.run_id, lease.step_no, row.name, row.tool, row.children, row.max_attempts, row.max_crashes,
        row.retry, row.failures, row.crashes, lease.claim_no, lease.token,
    )  # fmt: skip
    return Leased(claim, step)


def note_claim(journal: Journal, head: Head, lease: Lease, *, attempt: int, worker: str) -> None:
    """Append the event of a claim."""
    journal.append(head, StepEvent.CLAIMED, lease.step_no, claim_no=lease.claim_no, attempt=attempt, worker=worker)


def fresh_tokens(count: int) -> Iterator[Token]:
    """Yield so many tokens of 16 random bytes, drawn from the system at once."""
    drawn = os.urandom(16 * count)
    return (Token(UUID(bytes=drawn[at : at + 16])) for at in range(0, 16 * count, 16))


def idempotency_key(secret: bytes, lease: Lease) -> str:
    """Return the key a step hands to the outside world: the same at every attempt, unguessable without the secret."""
    return hmac.digest(secret, f"{lease.tenant}|{lease.run_id}|{lease.step_no}".encode(), "sha256").hex()


_KINDS = {kind.value: kind for kind in StepKind}
