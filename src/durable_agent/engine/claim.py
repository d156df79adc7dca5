"""Claim: ready steps become leases.

The pick never waits: it skips the queue rows and the runs that others hold (R2). What it locked is leased under a
fresh random token (R4) and the next claim number, which is never reset (R3).
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple
from uuid import UUID

from durable_agent.core import large
from durable_agent.core.port import Offer
from durable_agent.core.records import (
    Answer,
    Claim,
    Effect,
    EffectClass,
    EffectState,
    Lease,
    Replay,
    RunId,
    StepKind,
    Tenant,
    Token,
    WaitKind,
)
from durable_agent.core.states import RunEvent, RunStatus, StepEvent
from durable_agent.core.turns import Share
from durable_agent.db.arrays import literals
from durable_agent.db.pool import Connection
from durable_agent.engine.journal import JOURNAL, QUEUE, Head, Journal
from durable_agent.telemetry import logger

log = logger("claim")

# Of a step with no more parents the outputs are not measured before they are read together.
WIDE = 100
CLAIMABLE = frozenset({RunStatus.PENDING, RunStatus.RUNNING, RunStatus.COMPENSATING})


class Step(NamedTuple):
    """A leased step: what its settlement needs to know, under its run's lock or as it was when it was leased.

    The counters and the token belong to the live lease; `retry` is the policy's JSON; `effect` is the class of the tool
    when the step itself is a call of the outside world that is not safe to make twice.
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
    spawned_by: int | None
    failures: int
    crashes: int
    claim_no: int | None
    token: UUID | None
    effect: str | None = None
    last_token: UUID | None = None
    done_token: UUID | None = None
    budgeted: bool = False

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
    waiting: int
    parent_run: UUID | None
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
    spawned_by: int | None
    compensates: int | None
    effect: str | None
    origin: UUID | None
    mode: str | None
    budgeted: bool
    step_origin: UUID | None
    outputs: dict[str, Any] | None
    outputs_bytes: int

    @property
    def replayed(self) -> bool:
        """Whether the step is made again from the record of another run."""
        return self.mode == "recorded" and self.step_origin is not None

    @property
    def has_record(self) -> bool:
        """Whether something may have been recorded that the attempt must know."""
        return self.claim_no > 0 or self.replayed

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
            "wide": WIDE,
            "most": large.MOST_TOGETHER_BYTES,
        },
    )


def lease_picked(
    journal: Journal, picked: Sequence[Picked], *, limit: int, offer: Offer, secrets: Mapping[Tenant, bytes]
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
                row.chain, row.run_at, row.last_seq, row.waiting, row.parent_run, row.origin, row.budgeted,
            )  # fmt: skip
        ended_here = head.status is RunStatus.COMPENSATING and row.status != head.status.value
        if head.status not in CLAIMABLE or ended_here:  # a run that turns back here took its steps out of the queue
            if row.status == head.status.value:
                log.error("claim_refused", run=str(row.run_id), step=row.no, status=row.status, hint="run doctor")
            continue
        chanced = chanced or row.last_chance
        leased.append(_lease(journal, head, row, offer, next(tokens), secrets[row.tenant]))
    return leased


def _lease(journal: Journal, head: Head, row: Picked, offer: Offer, token: Token, secret: bytes) -> Leased:
    if head.status is RunStatus.PENDING:
        journal.move(head, RunEvent.STARTED)
    lease = Lease(row.tenant, row.run_id, row.no, row.claim_no + 1, token)
    note_claim(journal, head, lease, attempt=row.failures + 1, worker=offer.worker)
    effect = None if row.replayed else offer.effects.get(row.tool)
    journal.leased.add(row.at, row.tenant, row.run_id, row.no, lease.claim_no, lease.token, effect)
    leased = leased_from(lease, row, row.run_input, row.goal, row.outputs or {}, secret, effect, row.budgeted)
    if row.outputs_bytes > large.MOST_TOGETHER_BYTES:
        refused = large.too_much(
            f"the outputs of the steps it depends on, {len(row.outputs or ())} of them,", row.outputs_bytes
        )
        return leased._replace(claim=replace(leased.claim, parents={}, refused=refused))
    return leased


async def read_records(conn: Connection, picked: Sequence[Picked], leased: Sequence[Leased]) -> list[Leased]:
    """Return the claims with what their steps' earlier attempts, or the runs they descend from, recorded.

    Nothing is read for steps that are claimed for the first time in a run of its own: the usual case.
    """
    rows = {(row.run_id, row.no): row for row in picked if row.has_record or row.origin is not None}
    wanted = [row for one in leased if (row := rows.get((one.claim.lease.run_id, one.claim.lease.step_no)))]
    if not wanted:
        return list(leased)
    records = {}
    if asked := [row for row in wanted if row.has_record]:
        sources = [(r.tenant, r.run_id, r.no, r.step_origin if r.replayed else r.run_id, r.replayed) for r in asked]
        columns = ("tenants", "runs", "nos", "sources", "replayed")
        cursor = await conn.execute(QUEUE.records, {**literals(columns, sources), "most": large.MOST_TOGETHER_BYTES})
        records = {(run, no): record for run, no, *record in await cursor.fetchall()}
    outputs = await _shared_outputs(conn, wanted)
    return [
        Leased(_with_record(one.claim, row, records.get((row.run_id, row.no)), outputs), one.step)
        if (row := rows.get((one.claim.lease.run_id, one.claim.lease.step_no))) else one
        for one in leased
    ]  # fmt: skip


async def _shared_outputs(conn: Connection, rows: Sequence[Picked]) -> dict[tuple[UUID, int], tuple[str, Any]]:
    """Return (name, output) of the parents of steps in runs that share results with others."""
    forks = [row for row in rows if row.origin is not None]
    if not forks:
        return {}
    parents = await conn.execute(
        JOURNAL.parents_of, literals(("tenants", "runs", "nos"), [(r.tenant, r.run_id, r.no) for r in forks])
    )
    keys = sorted({(tenant, run, no) for tenant, run, nos in await parents.fetchall() for no in nos})
    if not keys:
        return {}
    cursor = await conn.execute(JOURNAL.shared_outputs, literals(("tenants", "runs", "nos"), keys))
    return {(run, no): (name, output) for _tenant, run, no, name, output in await cursor.fetchall()}


def _with_record(
    claim: Claim, row: Picked, record: Sequence[Any] | None, outputs: Mapping[tuple[UUID, int], tuple[str, Any]]
) -> Claim:
    effects, answers, replay, size = record or (None, None, None, 0)
    status, output, error = replay or ("", None, None)
    parents = claim.parents
    if row.origin is not None:
        known = {name: value for (run, _no), (name, value) in outputs.items() if run == row.run_id}
        parents = {name: known.get(name, value) for name, value in claim.parents.items()}
    return replace(
        claim,
        parents=parents,
        effects=tuple(
            Effect(no, name, EffectClass(kind), request, key, EffectState(state), result, error)
            for no, name, kind, request, key, state, result, error in effects or ()
        ),
        answers=tuple(
            Answer(no, WaitKind(kind), name, request, UUID(wait), answer)
            for no, kind, name, request, wait, answer in answers or ()
        ),
        in_doubt=row.effect is not None,
        replay=None if replay is None else Replay(output.encode() if output is not None else None, status, error),
        refused=large.too_much("what its calls and waits returned before", size)
        if size > large.MOST_TOGETHER_BYTES
        else claim.refused,
    )


def leased_from(
    lease: Lease, row: Any, run_input: Any, goal: str | None, parents: dict[str, Any], secret: bytes,
    effect: str | None, budgeted: bool,
) -> Leased:  # fmt: skip
    """Return the claim of a lease and what is remembered of it; `row` has the step's specification and counters.

    `effect` is the class of the tool the step calls, if it is one that is not safe to call again.
    """
    claim = Claim(
        lease, row.name, _KINDS[row.kind], row.tool, row.input, run_input, goal, parents, row.failures + 1, row.crashes,
        row.timeout_s, row.deadline_s, idempotency_key(secret, lease), compensates=row.compensates is not None,
        budgeted=budgeted,
    )  # fmt: skip
    step = Step(
        lease.tenant, lease.run_id, lease.step_no, row.name, row.tool, row.children, row.max_attempts, row.max_crashes,
        row.retry, row.spawned_by, row.failures, row.crashes, lease.claim_no, lease.token, effect, budgeted=budgeted,
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
