"""Settle: what workers report becomes the record.

A batch of outcomes is settled under the locks of its runs. The fence comes first: an outcome whose claim number and
token are not those of the live lease is answered `already` when it was accepted before (a commit whose answer was
lost) and `lost` otherwise, and changes nothing. Then the core decides: retry or dead letter, which children are
ready, which are skipped, whether the run is over.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, assert_never
from uuid import UUID

import orjson
from uuid_utils.compat import uuid7

from durable_agent.core import retry
from durable_agent.core.events import digest, dumps
from durable_agent.core.outcomes import (
    Booked,
    Emitted,
    Failed,
    InDoubt,
    Intended,
    Metered,
    Noted,
    Outcome,
    Recorded,
    Released,
    Stored,
    Succeeded,
    Suspended,
    Verdict,
)
from durable_agent.core.records import EffectClass, FailureClass, Lease, RetryPolicy, Token, WaitKind
from durable_agent.core.states import RunStatus, StepEvent
from durable_agent.db.arrays import literals
from durable_agent.db.pool import Connection
from durable_agent.engine import effects, spend
from durable_agent.engine.claim import Step
from durable_agent.engine.journal import JOURNAL, STEP_KEY, Head, Journal, RunKey, StepKey
from durable_agent.engine.promote import Resolution

# Why a lease ended without the worker's word; each counts as a crash.
EXPIRED, SESSION_LOST, DEADLINE = "expired", "session_lost", "deadline"


@dataclass(frozen=True, slots=True)
class Lost:
    """The reaper's word about a lease: `why` is one of expired, session_lost, deadline; `key` is its step's.

    `progress`: the lease got the step on, so it counts as the first that was lost.
    """

    lease: Lease
    why: str
    worker: str | None
    key: str | None = None
    progress: bool = False


@dataclass(frozen=True, slots=True)
class Opening:
    """A wait that this transaction opens; `effect` is the number of the effect in doubt (0: the step's own call)."""

    head: Head
    step: Step
    asked: Suspended
    effect: int | None
    id: UUID = field(default_factory=uuid7)


@dataclass(slots=True)
class Reads:
    """The cursors of one batch's reading, to be fetched after the sync; `asked` are the children in `pending`."""

    heads: Any
    steps: Any = None
    pending: Any = None
    effects: Any = None
    approvals: Any = None
    metered: Any = None
    budgets: tuple[Any, Any] | None = None
    gates: Any = None
    asked: Sequence[StepKey] = ()


async def read(conn: Connection, outcomes: Sequence[Outcome | Lost], held: Sequence[Step] | None = None) -> Reads:
    """Queue the statements that lock the runs of a batch and read what its settlement needs (R1: runs first, in id order).

    `held` are the steps of the outcomes as they were leased. Then the steps are not read again but their children are:
    under a live lease nothing of a step changes, and whether it lives the fence in the writing statements will tell.
    """
    leases = [outcome.lease for outcome in outcomes]
    runs = sorted({(lease.tenant, lease.run_id) for lease in leases}, key=_by_run)
    reads = Reads(await conn.execute(JOURNAL.lock_runs, literals(("tenants", "runs"), runs)))
    reads.gates = await effects.read_gates(conn, outcomes)
    if held is None:
        reads.steps = await conn.execute(
            JOURNAL.settling, literals(STEP_KEY, [(x.tenant, x.run_id, x.step_no) for x in leases])
        )
        reads.effects, reads.approvals, reads.metered = await effects.read(conn, outcomes)
        reads.budgets = await spend.read(conn, runs)
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
    if any(step.budgeted for step in held):
        reads.budgets = await spend.read(conn, runs)
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
    opening: list[Opening] = field(default_factory=list)
    arrived: dict[StepKey, list[int]] = field(default_factory=lambda: defaultdict(list))
    record: effects.Record = field(default_factory=effects.Record)
    _ended: set[Token] = field(default_factory=set)
    _let_go: set[StepKey] = field(default_factory=set)

    def settle(self, outcomes: Sequence[Outcome | Lost], steps: Sequence[Step]) -> None:
        """Decide every outcome; a second outcome for the same lease in the batch meets the fence."""
        for outcome, step in zip(outcomes, steps, strict=True):
            head = self.journal.heads.get(step.run)
            if head is not None and isinstance(outcome, Booked):
                self.record.purse.book(head, outcome)
                self.verdicts.append(Verdict.OK)
                continue
            if head is None or not step.owned_by(outcome.lease) or outcome.lease.token in self._ended:
                self.verdicts.append(self._refuse(head, step, outcome))
                continue
            self.verdicts.append(self._accept(head, step, outcome))

    def _refuse(self, head: Head | None, step: Step, outcome: Outcome | Lost) -> Verdict:
        if isinstance(outcome, Succeeded | Failed | Released | Suspended | InDoubt) and (
            step.knows(outcome.lease) or outcome.lease.token in self._ended
        ):
            return Verdict.ALREADY
        if head is not None and not isinstance(outcome, Lost):
            self.journal.append(
                head, StepEvent.FENCED, step.no,
                claim_no=outcome.lease.claim_no, what=type(outcome).__name__.lower(), worker=self.worker,
            )  # fmt: skip
        return Verdict.LOST

    def _accept(self, head: Head, step: Step, outcome: Outcome | Lost) -> Verdict:
        match outcome:
            case Intended() | Recorded() | Noted():
                return self._checked(head, step, self.record.note(self.journal, head, step, outcome, self.worker))
            case Metered():
                return self._checked(head, step, self.record.meter(self.journal, head, step, outcome))
            case Booked():
                raise AssertionError("booked before the fence is asked")
            case Stored():
                self._store(head, step, outcome)
            case Suspended():
                self._suspend(head, step, outcome, effect=None)
            case InDoubt():
                self._doubt(head, step, outcome)
            case Succeeded():
                self._succeed(head, step, outcome)
            case Failed():
                self._fail(head, step, outcome)
            case Released():
                facts = {"again_in_s": round(outcome.delay_s, 3)} if outcome.delay_s is not None else {}
                self.journal.append(
                    head, StepEvent.RELEASED, step.no, claim_no=outcome.lease.claim_no, worker=self.worker, **facts
                )
                # Given back in the middle, perhaps: the next attempt looks it up. (Of a manual call the worker has told.)
                looked_up = step.effect if outcome.in_doubt or step.effect == EffectClass.VERIFY else None
                self._requeue(
                    head, step, outcome.lease, step.failures, step.crashes, delay_s=outcome.delay_s, effect=looked_up
                )
            case Lost():
                self._lose(head, step, outcome)
            case Emitted():
                self.journal.append(
                    head, StepEvent.EMITTED, step.no, {"data": outcome.data}, name=outcome.type, claim_no=outcome.lease.claim_no
                )  # fmt: skip
            case _:
                assert_never(outcome)
        return Verdict.OK

    def _checked(self, head: Head, step: Step, verdict: Verdict) -> Verdict:
        """End the run whose budget does not hold the call."""
        if verdict is Verdict.EXHAUSTED:
            self.failing.setdefault(head.key, (step.name, "budget"))
        return verdict

    async def spend(self, conn: Connection) -> None:
        """Charge what leases and runs that ended here still held, and hold the runs that a budget paused."""
        purse = self.record.purse
        await purse.settle_bookings(conn, self.journal)
        if purse.budgets:
            # First what the batch gives back is in the queue: then a run that is paused here holds that too.
            await self.journal.flush(conn)
            await purse.hold(conn, self.journal)
            over = [h.key for h in self.journal.heads.values() if (h.status.final or h.ending) and h.last_seq != h.seen]
            await purse.charge(conn, self._let_go, over)

    def freed(self) -> list[tuple[int, UUID]]:
        """Return the agents of which a run ended here: another may begin."""
        return [
            (h.tenant, h.agent) for h in self.journal.heads.values()
            if h.agent is not None and h.status.final and h.last_seq != h.seen
        ]  # fmt: skip

    def _store(self, head: Head, step: Step, outcome: Stored) -> None:
        self.journal.append(
            head, StepEvent.ARTIFACT, step.no, name=outcome.name, artifact=str(outcome.id), sha256=outcome.sha256,
            bytes=outcome.bytes, media_type=outcome.media_type, claim_no=outcome.lease.claim_no,
        )  # fmt: skip
        self.journal.stored.add(
            step.tenant, step.run_id, step.no, outcome.lease.claim_no, outcome.lease.token, outcome.id, outcome.name,
            outcome.media_type, outcome.sha256, outcome.bytes,
        )  # fmt: skip

    def _suspend(self, head: Head, step: Step, outcome: Suspended, *, effect: int | None) -> None:
        opening = Opening(head, step, outcome, effect)
        facts: dict[str, Any] = {"effect": effect} if effect is not None else {}
        if outcome.expires_s is not None:
            facts["expires_s"] = round(outcome.expires_s, 3)
        self.journal.append(
            head, StepEvent.WAITING, step.no, {"request": outcome.request}, kind=outcome.kind.value, name=outcome.name,
            wait=str(opening.id), request_sha256=outcome.request_sha256, claim_no=outcome.lease.claim_no, **facts,
        )  # fmt: skip
        head.waiting += 1
        self.opening.append(opening)
        self._requeue(
            head, step, outcome.lease, step.failures, step.crashes, state="waiting",
            effect=step.effect if effect == 0 else None,
        )  # fmt: skip

    def _doubt(self, head: Head, step: Step, outcome: InDoubt) -> None:
        """A call may or may not have happened: the step waits for somebody who knows."""
        self.record.doubt(self.journal, head, step, outcome)
        request = {"effect": outcome.no, "tool": outcome.name, "message": outcome.message, "key": outcome.key}
        own = "" if outcome.no == 0 else str(outcome.no)
        asked = Suspended(outcome.lease, WaitKind.UNKNOWN_EFFECT, outcome.name, request, own)
        self._suspend(head, step, asked, effect=outcome.no)

    def _succeed(self, head: Head, step: Step, outcome: Succeeded) -> None:
        self.journal.append(
            head, StepEvent.SUCCEEDED, step.no, claim_no=outcome.lease.claim_no, attempt=step.failures + 1,
            output_sha256=digest(outcome.output), output_bytes=len(outcome.output), worker=self.worker,
        )  # fmt: skip
        self._finish(
            head, step, outcome.lease, "succeeded", step.failures, step.crashes, output=outcome.output.decode(),
            compensate=outcome.compensate,
        )  # fmt: skip
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
            effect = step.effect if outcome.in_doubt else None
            self._requeue(head, step, outcome.lease, failures, step.crashes, delay_s=decision.delay_s, effect=effect)
        else:
            reason = _REASONS.get(outcome.error_type) or _REASONS.get(outcome.failure) or decision.reason
            doubt = step.effect if outcome.in_doubt else None
            self._bury(head, step, outcome.lease, failures, step.crashes, reason, outcome.failure, error, doubt)

    def _lose(self, head: Head, step: Step, outcome: Lost) -> None:
        crashes = 1 if outcome.progress else step.crashes + 1
        if step.effect == EffectClass.MANUAL:
            message = f"worker {outcome.worker or 'unknown'} was lost while it called {step.tool!r}"
            doubt = InDoubt(outcome.lease, 0, step.tool, message)
            self.record.doubt(self.journal, head, step, doubt)
        self.journal.append(
            head, StepEvent.LEASE_LOST, step.no, claim_no=outcome.lease.claim_no, crashes=crashes,
            of=step.max_crashes, why=outcome.why, worker=outcome.worker,
        )  # fmt: skip
        if step.effect == EffectClass.MANUAL:
            # Never twice in silence, not even to find a poison pill: the person who answers decides.
            request = {"effect": 0, "tool": step.tool, "message": message, "key": outcome.key}
            asked = Suspended(outcome.lease, WaitKind.UNKNOWN_EFFECT, step.tool, request, "")
            self._suspend(head, step._replace(crashes=crashes), asked, effect=0)
            return
        if isinstance(retry.crash(crashes, step.max_crashes), retry.Requeue):
            self._requeue(head, step, outcome.lease, step.failures, crashes, effect=step.effect)
            return
        message = f"its lease was lost {crashes} times; the last holder was {outcome.worker or 'unknown'}"
        error = {"failure": FailureClass.LEASE_LOST.value, "error_type": "LeaseLost", "message": message}
        self._bury(
            head, step, outcome.lease, step.failures, crashes, "poisoned", FailureClass.LEASE_LOST, error, step.effect
        )

    def _bury(
        self, head: Head, step: Step, lease: Lease, failures: int, crashes: int, reason: str,
        failure: FailureClass, error: dict[str, Any], doubt: str | None,
    ) -> None:  # fmt: skip
        self.journal.append(
            head, StepEvent.DEAD_LETTER, step.no, {"message": error["message"]}, reason=reason, failure=failure.value
        )
        self._finish(head, step, lease, "dead_letter", failures, crashes, error={**error, "reason": reason})
        self.journal.dead.add(
            step.tenant, step.run_id, step.no, step.name, step.tool, reason, failure.value, error["message"][:2000]
        )
        if doubt is not None:
            self.journal.doubted.add(step.tenant, step.run_id, step.no, doubt)
        self.failing.setdefault(head.key, (step.name, reason))

    def _requeue(
        self, head: Head, step: Step, lease: Lease, failures: int, crashes: int, *,
        delay_s: float | None = None, state: str | None = None, effect: str | None = None,
    ) -> None:  # fmt: skip
        if state is None:
            state = "held" if head.status is RunStatus.PAUSED else "scheduled" if delay_s is not None else "ready"
        self.journal.requeued.add(
            step.tenant, step.run_id, step.no, lease.claim_no, lease.token, state, delay_s, failures, crashes,
            self._told(lease), effect,
        )  # fmt: skip
        self._end(step, lease)

    def _finish(
        self, head: Head, step: Step, lease: Lease, status: str, failures: int, crashes: int, *,
        output: str | None = None, error: dict[str, Any] | None = None, compensate: str | None = None,
    ) -> None:  # fmt: skip
        # The statement fences once more, by the lease that the worker showed, not by what is known here.
        self.journal.finished.add(
            step.tenant, step.run_id, step.no, lease.claim_no, lease.token, status, output,
            dumps(error).decode() if error is not None else None, failures, crashes, self.worker, self._told(lease),
            compensate,
        )  # fmt: skip
        head.steps_left -= 1
        if step.spawned_by is not None:
            self.arrived[step.tenant, step.run_id, step.spawned_by].append(step.no)
        self.finished[head.key].add(step.no)
        self._end(step, lease)

    def _end(self, step: Step, lease: Lease) -> None:
        self._ended.add(lease.token)
        self._let_go.add((step.tenant, step.run_id, step.no))

    def _told(self, lease: Lease) -> Token | None:
        """The token by which the same worker, asking again, hears `already`; what a reaper ended it hears was lost."""
        return lease.token if self.worker is not None else None


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


# What a dead letter says when its failure has a name of its own.
_REASONS: dict[str, str] = {
    "Rejected": "rejected", "Expired": "expired", "Refused": "refused", "MaxSteps": "max_steps",
    FailureClass.UNKNOWN_EFFECT: "unknown_effect", FailureClass.DIVERGED: "diverged", FailureClass.BUDGET: "budget",
}  # fmt: skip


def _by_run(key: tuple[Any, ...]) -> UUID:
    return key[1]  # type: ignore[no-any-return]
