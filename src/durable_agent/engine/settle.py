"""Settle: what workers report becomes the record.

A batch of outcomes is settled under the locks of its runs. The fence comes first: an outcome whose claim number and
token are not those of the live lease is answered `already` when it was accepted before (a commit whose answer was
lost) and `lost` otherwise, and changes nothing. Then the core decides: retry or dead letter, which children are
ready, which are skipped, whether the run is over.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import orjson

from durable_agent.core import retry
from durable_agent.core.events import digest, dumps
from durable_agent.core.records import (
    Emitted,
    Failed,
    FailureClass,
    Lease,
    Outcome,
    Released,
    RetryPolicy,
    Succeeded,
    Token,
    Verdict,
)
from durable_agent.core.states import RunEvent, RunStatus, StepEvent
from durable_agent.db.arrays import literals
from durable_agent.db.pool import Connection
from durable_agent.engine.claim import Step
from durable_agent.engine.journal import JOURNAL, STEP_KEY, Head, Journal, RunKey, StepKey
from durable_agent.engine.promote import Promotion, Resolution

# Why a lease ended without the worker's word; each counts as a crash.
EXPIRED, SESSION_LOST, DEADLINE = "expired", "session_lost", "deadline"


@dataclass(frozen=True, slots=True)
class Lost:
    """The reaper's word about a lease: `why` is one of expired, session_lost, deadline."""

    lease: Lease
    why: str
    worker: str | None


@dataclass(slots=True)
class Reads:
    """The cursors of one batch's reading, to be fetched after the sync; `asked` are the children in `pending`."""

    heads: Any
    steps: Any = None
    pending: Any = None
    asked: Sequence[StepKey] = ()


async def read(conn: Connection, outcomes: Sequence[Outcome | Lost], held: Sequence[Step] | None = None) -> Reads:
    """Queue the statements that lock the runs of a batch and read what its settlement needs (R1: runs first, in id order).

    `held` are the steps of the outcomes as they were leased. Then the steps are not read again but their children are:
    under a live lease nothing of a step changes, and whether it lives the fence in the writing statements will tell.
    """
    leases = [outcome.lease for outcome in outcomes]
    runs = sorted({(lease.tenant, lease.run_id) for lease in leases}, key=_by_run)
    reads = Reads(await conn.execute(JOURNAL.lock_runs, literals(("tenants", "runs"), runs)))
    if held is None:
        reads.steps = await conn.execute(
            JOURNAL.settling, literals(STEP_KEY, [(x.tenant, x.run_id, x.step_no) for x in leases])
        )
        return reads
    reads.asked = sorted(
        {
            (step.tenant, step.run_id, no)
            for outcome, step in zip(outcomes, held, strict=True)
            if isinstance(outcome, Succeeded)
            for no in step.children
        },
        key=_by_run,
    )
    if reads.asked:
        reads.pending = await conn.execute(JOURNAL.pending, literals(STEP_KEY, reads.asked))
    return reads


@dataclass(slots=True)
class Settlement:
    """The settlement of one batch: fed with outcomes, it fills the journal."""

    journal: Journal
    worker: str | None
    verdicts: list[Verdict] = field(default_factory=list)
    resolutions: list[Resolution] = field(default_factory=list)
    failing: dict[RunKey, tuple[str, str]] = field(default_factory=dict)
    finished: dict[RunKey, set[int]] = field(default_factory=lambda: defaultdict(set))
    _ended: set[Token] = field(default_factory=set)

    def settle(self, outcomes: Sequence[Outcome | Lost], steps: Sequence[Step]) -> None:
        """Decide every outcome; a second outcome for the same lease in the batch meets the fence."""
        for outcome, step in zip(outcomes, steps, strict=True):
            head = self.journal.heads.get(step.run)
            if head is None or not step.owned_by(outcome.lease) or outcome.lease.token in self._ended:
                self.verdicts.append(self._refuse(head, step, outcome))
                continue
            self.verdicts.append(Verdict.OK)
            self._accept(head, step, outcome)

    def _refuse(self, head: Head | None, step: Step, outcome: Outcome | Lost) -> Verdict:
        if isinstance(outcome, Succeeded | Failed | Released) and (
            step.knows(outcome.lease) or outcome.lease.token in self._ended
        ):
            return Verdict.ALREADY
        if head is not None and not isinstance(outcome, Lost):
            self.journal.append(
                head, StepEvent.FENCED, step.no,
                claim_no=outcome.lease.claim_no, what=type(outcome).__name__.lower(), worker=self.worker,
            )  # fmt: skip
        return Verdict.LOST

    def _accept(self, head: Head, step: Step, outcome: Outcome | Lost) -> None:
        match outcome:
            case Succeeded():
                self._succeed(head, step, outcome)
            case Failed():
                self._fail(head, step, outcome)
            case Released():
                self.journal.append(
                    head, StepEvent.RELEASED, step.no, claim_no=outcome.lease.claim_no, worker=self.worker
                )
                self._requeue(head, step, outcome.lease, step.failures, step.crashes)
            case Lost():
                self._lose(head, step, outcome)
            case Emitted():
                self.journal.append(
                    head,
                    StepEvent.EMITTED,
                    step.no,
                    {"data": outcome.data},
                    name=outcome.type,
                    claim_no=outcome.lease.claim_no,
                )

    def _succeed(self, head: Head, step: Step, outcome: Succeeded) -> None:
        self.journal.append(
            head, StepEvent.SUCCEEDED, step.no, claim_no=outcome.lease.claim_no, attempt=step.failures + 1,
            output_sha256=digest(outcome.output), output_bytes=len(outcome.output), worker=self.worker,
        )  # fmt: skip
        self._finish(
            head, step, outcome.lease, "succeeded", step.failures, step.crashes, output=outcome.output.decode()
        )
        self.resolutions.append(Resolution(head.key, step.no, step.name, True, outcome.output, tuple(step.children)))

    def _fail(self, head: Head, step: Step, outcome: Failed) -> None:
        failures = step.failures + 1
        decision = retry.decide(
            policy_from(step.retry, step.max_attempts),
            failures=failures,
            failure=outcome.failure,
            retry_after_s=outcome.retry_after_s,
            jitter=random.random(),
        )
        facts: dict[str, Any] = {
            "failure": outcome.failure.value, "error_type": outcome.error_type, "attempt": failures,
        }  # fmt: skip
        error = {**facts, "message": outcome.message}
        if isinstance(decision, retry.RetryAt):
            facts["retry_in_s"] = round(decision.delay_s, 3)
        self.journal.append(
            head, StepEvent.FAILED, step.no, {"message": outcome.message}, **facts, of=step.max_attempts,
            claim_no=outcome.lease.claim_no, worker=self.worker,
        )  # fmt: skip
        if isinstance(decision, retry.RetryAt):
            self._requeue(head, step, outcome.lease, failures, step.crashes, delay_s=decision.delay_s)
        else:
            self._bury(head, step, outcome.lease, failures, step.crashes, decision.reason, outcome.failure, error)

    def _lose(self, head: Head, step: Step, outcome: Lost) -> None:
        crashes = step.crashes + 1
        self.journal.append(
            head, StepEvent.LEASE_LOST, step.no, claim_no=outcome.lease.claim_no, crashes=crashes,
            of=step.max_crashes, why=outcome.why, worker=outcome.worker,
        )  # fmt: skip
        if isinstance(retry.crash(crashes, step.max_crashes), retry.Requeue):
            self._requeue(head, step, outcome.lease, step.failures, crashes)
            return
        message = f"its lease was lost {crashes} times; the last holder was {outcome.worker or 'unknown'}"
        error = {"failure": FailureClass.LEASE_LOST.value, "error_type": "LeaseLost", "message": message}
        self._bury(head, step, outcome.lease, step.failures, crashes, "poisoned", FailureClass.LEASE_LOST, error)

    def _bury(
        self, head: Head, step: Step, lease: Lease, failures: int, crashes: int, reason: str,
        failure: FailureClass, error: dict[str, Any],
    ) -> None:  # fmt: skip
        self.journal.append(
            head, StepEvent.DEAD_LETTER, step.no, {"message": error["message"]}, reason=reason, failure=failure.value
        )
        self._finish(head, step, lease, "dead_letter", failures, crashes, error={**error, "reason": reason})
        self.journal.dead.add(
            step.tenant, step.run_id, step.no, step.name, step.tool, reason, failure.value, error["message"][:2000]
        )
        self.failing.setdefault(head.key, (step.name, reason))

    def _requeue(
        self, head: Head, step: Step, lease: Lease, failures: int, crashes: int, *,
        delay_s: float | None = None,
    ) -> None:  # fmt: skip
        state = "held" if head.status is RunStatus.PAUSED else "scheduled" if delay_s is not None else "ready"
        self.journal.requeued.add(
            step.tenant, step.run_id, step.no, lease.claim_no, lease.token, state, delay_s, failures, crashes,
            self._told(lease),
        )  # fmt: skip
        self._ended.add(lease.token)

    def _finish(
        self, head: Head, step: Step, lease: Lease, status: str, failures: int, crashes: int, *,
        output: str | None = None, error: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        # The statement fences once more, by the lease that the worker showed, not by what is known here.
        self.journal.finished.add(
            step.tenant, step.run_id, step.no, lease.claim_no, lease.token, status, output,
            dumps(error).decode() if error is not None else None, failures, crashes, self.worker, self._told(lease),
        )  # fmt: skip
        head.steps_left -= 1
        self.finished[head.key].add(step.no)
        self._ended.add(lease.token)

    def _told(self, lease: Lease) -> Token | None:
        """The token by which the same worker, asking again, hears `already`; what a reaper ended it hears was lost."""
        return lease.token if self.worker is not None else None


async def conclude(conn: Connection, settlement: Settlement, promotion: Promotion) -> None:
    """End the runs that failed (everything open is cancelled) or have nothing left; called after promotion."""
    journal = settlement.journal
    settlement.failing.update(promotion.failing)
    for key, (step, reason) in settlement.failing.items():
        head = journal.heads[key]
        closed = settlement.finished[key] | promotion.closed[key]
        await close_open_steps(conn, journal, head, closed, why="run_failed")
        head.error = dumps({"step": step, "reason": reason})
        journal.move(head, RunEvent.FAILED, step=step, reason=reason)
    for head in journal.heads.values():
        if head.steps_left == 0 and not head.status.final and head.last_seq != head.seen:
            journal.move(head, RunEvent.COMPLETED)


async def close_open_steps(conn: Connection, journal: Journal, head: Head, closed: Iterable[int], *, why: str) -> None:
    """Append `step.cancelled` for every open step of the run but those closed by this transaction.

    The rows are changed by `cancel_steps`, which the verb sends after the journal.
    """
    gone = set(closed)
    cursor = await conn.execute(JOURNAL.open_steps, {"tenant": head.tenant, "run": head.id})
    for no, _name, _status, state, claim_no, *_ in await cursor.fetchall():
        if no not in gone:
            facts = {"claim_no": claim_no} if state == "leased" else {}
            journal.append(head, StepEvent.CANCELLED, no, why=why, **facts)
    head.steps_left = 0


def policy_from(text: str, max_attempts: int) -> RetryPolicy:
    """Return the policy a step row carries as JSON."""
    stored = orjson.loads(text)
    return RetryPolicy(
        max_attempts=max_attempts,
        base_s=stored["base_s"],
        factor=stored["factor"],
        cap_s=stored["cap_s"],
        non_retryable=frozenset(FailureClass(name) for name in stored.get("non_retryable", ())),
    )


def _by_run(key: tuple[Any, ...]) -> UUID:
    return key[1]  # type: ignore[no-any-return]
