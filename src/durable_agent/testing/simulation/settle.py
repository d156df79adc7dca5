"""What the simulated store makes of outcomes: the fence, then the core's decision, then rows and events in one step.

The order of events within a transaction is the engine's, so that the two can be compared command by command.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, assert_never
from uuid import UUID

from durable_agent.core import retry
from durable_agent.core.events import digest
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
from durable_agent.core.records import FailureClass, Lease, Token, WaitKind
from durable_agent.core.states import RunStatus, StepEvent
from durable_agent.testing.simulation.clock import Moment
from durable_agent.testing.simulation.mutants import Mutant
from durable_agent.testing.simulation.purse import Purse
from durable_agent.testing.simulation.record import note_effect
from durable_agent.testing.simulation.rows import Place, RunRow, StepRow, WaitRow

FINAL = (Succeeded, Failed, Released, Suspended, InDoubt)


@dataclass(frozen=True, slots=True)
class Lost:
    """The reaper's word about a lease; `key` is its step's."""

    lease: Lease
    why: str
    worker: str | None
    key: str | None


@dataclass(slots=True)
class Settlement:
    """One transaction's settlement of outcomes, and what it leaves to be wound up."""

    at: Moment
    runs: dict[UUID, RunRow]
    mutant: Mutant | None
    worker: str | None
    purse: Purse
    jitter: float = 0.0
    verdicts: list[Verdict] = field(default_factory=list)
    resolutions: list[tuple[RunRow, StepRow]] = field(default_factory=list)
    failing: dict[UUID, tuple[str, str]] = field(default_factory=dict)
    opening: list[tuple[RunRow, WaitRow, Suspended]] = field(default_factory=list)
    arrived: dict[tuple[UUID, int], int] = field(default_factory=lambda: defaultdict(int))
    let_go: set[tuple[UUID, int]] = field(default_factory=set)
    _ended: set[Token] = field(default_factory=set)

    def settle(self, outcomes: Sequence[Outcome | Lost]) -> None:
        """Decide every outcome in order."""
        for outcome in outcomes:
            run = self.runs.get(outcome.lease.run_id)
            if run is None:
                self.verdicts.append(Verdict.LOST)
                continue
            step = run.steps[outcome.lease.step_no]
            if isinstance(outcome, Booked):
                self.verdicts.append(Verdict.OK)
            elif outcome.lease.token in self._ended or not self._owned(step, outcome.lease):
                self.verdicts.append(self._refuse(run, step, outcome))
            else:
                self.verdicts.append(self._accept(run, step, outcome))

    def _owned(self, step: StepRow, lease: Lease) -> bool:
        if step.place is None or step.place.state != "leased":
            return False
        if self.mutant is Mutant.NO_FENCE:
            return True
        return step.claim_no == lease.claim_no and step.place.token == lease.token

    def _refuse(self, run: RunRow, step: StepRow, outcome: Outcome | Lost) -> Verdict:
        last = step.place.last_token if step.place is not None else None
        known = outcome.lease.token in (step.done_token, last) or outcome.lease.token in self._ended
        if isinstance(outcome, FINAL) and known and self.mutant is not Mutant.FORGETFUL:
            return Verdict.ALREADY
        if not isinstance(outcome, Lost):
            what = type(outcome).__name__.lower()
            facts = {"claim_no": outcome.lease.claim_no, "what": what, "worker": self.worker}
            run.append(self.at.us, StepEvent.FENCED, step.no, **facts)
        return Verdict.LOST

    def _accept(self, run: RunRow, step: StepRow, outcome: Outcome | Lost) -> Verdict:
        match outcome:
            case Intended() | Recorded() | Noted() | Metered():
                verdict = note_effect(self, run, step, outcome)
                if verdict is Verdict.EXHAUSTED:
                    self.failing.setdefault(run.id, (step.spec.name, "budget"))
                return verdict
            case Booked():
                raise AssertionError("booked before the fence is asked")
            case Stored():
                raise NotImplementedError("no simulated step stores files")
            case Emitted():
                facts = {"name": outcome.type, "claim_no": outcome.lease.claim_no}
                run.append(self.at.us, StepEvent.EMITTED, step.no, {"data": outcome.data}, **facts)
            case Succeeded():
                self._succeed(run, step, outcome)
            case Failed():
                self._fail(run, step, outcome)
            case Released():
                facts = {"again_in_s": round(outcome.delay_s, 3)} if outcome.delay_s is not None else {}
                claim = {"claim_no": outcome.lease.claim_no, "worker": self.worker}
                run.append(self.at.us, StepEvent.RELEASED, step.no, **claim, **facts)
                effect = step.place.effect if step.place is not None else None
                effect = effect if outcome.in_doubt or effect == "verify" else None
                self._requeue(run, step, outcome.lease, delay_s=outcome.delay_s, effect=effect)
            case Suspended():
                self._suspend(run, step, outcome, None)
            case InDoubt():
                self._doubt(run, step, outcome)
                self._suspend(run, step, asked_of(outcome), outcome.no)
            case Lost():
                self._lose(run, step, outcome)
            case _:
                assert_never(outcome)
        return Verdict.OK

    def _succeed(self, run: RunRow, step: StepRow, outcome: Succeeded) -> None:
        run.append(
            self.at.us, StepEvent.SUCCEEDED, step.no, claim_no=outcome.lease.claim_no, attempt=step.failures + 1,
            output_sha256=digest(outcome.output), output_bytes=len(outcome.output), worker=self.worker,
        )  # fmt: skip
        step.output = outcome.output
        self._finish(run, step, outcome.lease, "succeeded")
        self.resolutions.append((run, step))

    def _fail(self, run: RunRow, step: StepRow, outcome: Failed) -> None:
        step.failures += 1
        policy = step.spec.retry.__class__(
            step.max_attempts, step.spec.retry.base_s, step.spec.retry.factor, step.spec.retry.cap_s,
            step.spec.retry.non_retryable,
        )  # fmt: skip
        decision = retry.decide(
            policy, failures=step.failures, failure=outcome.failure, retry_after_s=outcome.retry_after_s,
            jitter=self.jitter,
        )  # fmt: skip
        facts: dict[str, Any] = {
            "failure": outcome.failure.value, "error_type": outcome.error_type, "attempt": step.failures,
        }  # fmt: skip
        error = {**facts, "message": outcome.message}
        if isinstance(decision, retry.RetryAt):
            facts["retry_in_s"] = round(decision.delay_s, 3)
        run.append(
            self.at.us, StepEvent.FAILED, step.no, {"message": outcome.message}, **facts, of=step.max_attempts,
            claim_no=outcome.lease.claim_no, worker=self.worker,
        )  # fmt: skip
        effect = step.place.effect if step.place is not None and outcome.in_doubt else None
        if isinstance(decision, retry.RetryAt):
            self._requeue(run, step, outcome.lease, delay_s=decision.delay_s, effect=effect)
        else:
            named = {"Rejected": "rejected", "Expired": "expired", "Refused": "refused"}.get(outcome.error_type)
            reason = named or _REASONS.get(outcome.failure) or decision.reason
            self._bury(run, step, outcome.lease, reason, outcome.failure, error, effect)

    def _lose(self, run: RunRow, step: StepRow, outcome: Lost) -> None:
        got_on = any(
            e.step == step.no and e.claim_no == outcome.lease.claim_no and e.state in ("done", "failed")
            for e in run.effects.values()
        )  # fmt: skip
        step.crashes = 1 if got_on else step.crashes + 1
        if self.mutant is Mutant.UNCOUNTED:
            step.crashes = max(0, step.crashes - 1)
        effect = step.place.effect if step.place is not None else None
        message = f"worker {outcome.worker or 'unknown'} was lost while it called {step.spec.tool!r}"
        doubt = InDoubt(outcome.lease, 0, step.spec.tool, message, outcome.key)
        if effect == "manual":
            self._doubt(run, step, doubt)
        run.append(
            self.at.us, StepEvent.LEASE_LOST, step.no, claim_no=outcome.lease.claim_no, crashes=step.crashes,
            of=step.max_crashes, why=outcome.why, worker=outcome.worker,
        )  # fmt: skip
        if effect == "manual":
            self._suspend(run, step, asked_of(doubt), 0)
        elif isinstance(retry.crash(step.crashes, step.max_crashes), retry.Requeue):
            self._requeue(run, step, outcome.lease, effect=effect)
        else:
            message = f"its lease was lost {step.crashes} times; the last holder was {outcome.worker or 'unknown'}"
            error = {"failure": FailureClass.LEASE_LOST.value, "error_type": "LeaseLost", "message": message}
            self._bury(run, step, outcome.lease, "poisoned", FailureClass.LEASE_LOST, error, effect)

    def _doubt(self, run: RunRow, step: StepRow, outcome: InDoubt) -> None:
        if outcome.no > 0:
            row = run.effects[step.no, outcome.no]
            row.state, row.claim_no, row.error = "unknown", outcome.lease.claim_no, {"message": outcome.message}
            row.result = row.usage = None
        facts = {"effect": outcome.no, "name": outcome.name, "claim_no": outcome.lease.claim_no}
        run.append(self.at.us, StepEvent.EFFECT_UNKNOWN, step.no, {"message": outcome.message}, **facts)

    def _suspend(self, run: RunRow, step: StepRow, asked: Suspended, effect: int | None) -> None:
        number = 1 + max((w.no for w in run.waits.values() if w.step == step.no), default=0)
        wait = WaitRow(
            self.at.new_id(), step.no, number, asked.kind, asked.name, asked.request_sha256, asked.allow_self,
            self.at.s + asked.expires_s if asked.expires_s is not None else None, effect, asked.request,
        )  # fmt: skip
        facts: dict[str, Any] = {"effect": effect} if effect is not None else {}
        if asked.expires_s is not None:
            facts["expires_s"] = round(asked.expires_s, 3)
        run.append(
            self.at.us, StepEvent.WAITING, step.no, {"request": asked.request}, kind=asked.kind.value,
            name=asked.name, wait=str(wait.id), request_sha256=asked.request_sha256, claim_no=asked.lease.claim_no,
            **facts,
        )  # fmt: skip
        run.waiting += 1
        run.waits[wait.id] = wait
        self.opening.append((run, wait, asked))
        kept = step.place.effect if step.place is not None and effect == 0 else None
        self._requeue(run, step, asked.lease, state="waiting", effect=kept)

    def _bury(
        self,
        run: RunRow,
        step: StepRow,
        lease: Lease,
        reason: str,
        failure: FailureClass,
        error: dict[str, Any],
        doubt: str | None,
    ) -> None:
        facts = {"reason": reason, "failure": failure.value}
        run.append(self.at.us, StepEvent.DEAD_LETTER, step.no, {"message": error["message"]}, **facts)
        step.error, step.dead = {**error, "reason": reason}, reason
        step.in_doubt = doubt
        self._finish(run, step, lease, "dead_letter")
        self.failing.setdefault(run.id, (step.spec.name, reason))

    def _requeue(
        self, run: RunRow, step: StepRow, lease: Lease, *, delay_s: float | None = None, state: str | None = None,
        effect: str | None = None,
    ) -> None:  # fmt: skip
        if state is None:
            state = "held" if run.status is RunStatus.PAUSED else "scheduled" if delay_s is not None else "ready"
        due_s = self.at.s + delay_s if delay_s is not None else None
        step.place = Place(state, due_s=due_s, effect=effect, last_token=self._told(lease))
        self._end(run, step, lease)

    def _finish(self, run: RunRow, step: StepRow, lease: Lease, status: str) -> None:
        step.status, step.place, step.worker = status, None, self.worker
        step.done_token = self._told(lease)
        run.steps_left -= 1
        if step.spawned_by is not None:
            self.arrived[run.id, step.spawned_by] += 1
        self._end(run, step, lease)

    def _end(self, run: RunRow, step: StepRow, lease: Lease) -> None:
        self._ended.add(lease.token)
        self.let_go.add((run.id, step.no))

    def _told(self, lease: Lease) -> Token | None:
        """The token by which the same worker hears `already`; what a reaper ended, it hears was lost."""
        return lease.token if self.worker is not None else None


def asked_of(doubt: InDoubt) -> Suspended:
    """Return the wait for a person that a call in doubt becomes."""
    request = {"effect": doubt.no, "tool": doubt.name, "message": doubt.message, "key": doubt.key}
    own = "" if doubt.no == 0 else str(doubt.no)
    return Suspended(doubt.lease, WaitKind.UNKNOWN_EFFECT, doubt.name, request, own)


_REASONS = {
    FailureClass.UNKNOWN_EFFECT: "unknown_effect", FailureClass.DIVERGED: "diverged", FailureClass.BUDGET: "budget",
}  # fmt: skip
