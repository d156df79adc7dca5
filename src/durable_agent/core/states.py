"""The machines of a run and of a step: one transition table each, keyed by the event that moves them.

What is not in a table is an error and changes nothing. The tables are what the engine asks before it writes,
what folds a history back into rows, and what the drawings in `docs/concepts.md` are made from.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class RunStatus(StrEnum):
    """Where a run stands."""

    PENDING = "pending"
    RUNNING = "running"
    WAITING = "waiting"
    WAITING_FOR_APPROVAL = "waiting_for_approval"
    WAITING_FOR_INPUT = "waiting_for_input"
    PAUSED = "paused"
    COMPENSATING = "compensating"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    BUDGET_EXCEEDED = "budget_exceeded"

    @property
    def final(self) -> bool:
        """Whether nothing but a redrive moves the run on."""
        return self in FINAL_RUN


class StepStatus(StrEnum):
    """Where a step stands, as the API shows it."""

    PENDING = "pending"
    READY = "ready"
    RUNNING = "running"
    WAITING = "waiting"
    SUCCEEDED = "succeeded"
    DEAD_LETTER = "dead_letter"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"
    COMPENSATED = "compensated"

    @property
    def final(self) -> bool:
        """Whether nothing but a redrive moves the step on."""
        return self in FINAL_STEP


FINAL_RUN: Final = frozenset({RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.BUDGET_EXCEEDED})
FINAL_STEP: Final = frozenset(
    {
        StepStatus.SUCCEEDED,
        StepStatus.DEAD_LETTER,
        StepStatus.SKIPPED,
        StepStatus.CANCELLED,
        StepStatus.COMPENSATED,
    }
)


class RunEvent(StrEnum):
    """What may happen to a run."""

    CREATED = "run.created"
    STARTED = "run.started"
    COMPLETED = "run.completed"
    FAILED = "run.failed"
    CANCELLED = "run.cancelled"
    BUDGET_EXCEEDED = "run.budget_exceeded"
    PAUSED = "run.paused"
    RESUMED = "run.resumed"
    REDRIVEN = "run.redriven"
    WAITING = "run.waiting"
    WAITING_FOR_APPROVAL = "run.waiting_for_approval"
    WAITING_FOR_INPUT = "run.waiting_for_input"
    CONTINUED = "run.continued"
    COMPENSATING = "run.compensating"
    EXTENDED = "run.extended"
    SIGNALLED = "run.signalled"
    BUDGET_SET = "run.budget_set"


class StepEvent(StrEnum):
    """What may happen to a step."""

    READY = "step.ready"
    CLAIMED = "step.claimed"
    SUCCEEDED = "step.succeeded"
    FAILED = "step.failed"
    LEASE_LOST = "step.lease_lost"
    RELEASED = "step.released"
    DEAD_LETTER = "step.dead_letter"
    SKIPPED = "step.skipped"
    CANCELLED = "step.cancelled"
    REDRIVEN = "step.redriven"
    FENCED = "step.fenced"
    EMITTED = "step.emitted"
    WAITING = "step.waiting"
    ANSWERED = "step.answered"
    COMPENSATED = "step.compensated"
    SHARED = "step.shared"
    ARTIFACT = "step.artifact"
    EFFECT_INTENDED = "effect.intended"
    EFFECT_RECORDED = "effect.recorded"
    EFFECT_UNKNOWN = "effect.unknown"
    EFFECT_SETTLED = "effect.settled"
    METERED = "step.metered"
    BOOKED = "effect.booked"


class IllegalTransition(Exception):
    """An event met a state that does not allow it. In the engine this is a defect, never a user's mistake."""

    def __init__(self, machine: str, state: str, event: str) -> None:
        super().__init__(f"{machine}: {event} is not allowed in state {state}")
        self.state, self.event = state, event


_R, _S, _E, _T = RunStatus, RunEvent, StepEvent, StepStatus

# A run waits when every step that could move is waiting; the status says for whom.
WAITING_RUN: Final = frozenset({_R.WAITING, _R.WAITING_FOR_APPROVAL, _R.WAITING_FOR_INPUT})
_WAITS: Final = {
    _S.WAITING: _R.WAITING,
    _S.WAITING_FOR_APPROVAL: _R.WAITING_FOR_APPROVAL,
    _S.WAITING_FOR_INPUT: _R.WAITING_FOR_INPUT,
}

RUN_TABLE: Final[Mapping[tuple[RunStatus, RunEvent], RunStatus]] = {
    (_R.PENDING, _S.STARTED): _R.RUNNING,
    (_R.PENDING, _S.COMPLETED): _R.COMPLETED,  # every root skipped by its condition
    (_R.PENDING, _S.FAILED): _R.FAILED,  # a root's condition cannot be decided
    (_R.PENDING, _S.CANCELLED): _R.CANCELLED,
    (_R.PENDING, _S.PAUSED): _R.PAUSED,
    (_R.RUNNING, _S.COMPLETED): _R.COMPLETED,
    (_R.PAUSED, _S.RESUMED): _R.RUNNING,
    (_R.PAUSED, _S.COMPLETED): _R.COMPLETED,  # what was running when it was paused was the last
    **{(_R.RUNNING, event): status for event, status in _WAITS.items()},
    # From one kind of waiting to another: the last who could be asked answered, another still has to.
    **{(old, event): new for old in _WAITS.values() for event, new in _WAITS.items() if old is not new},
    **{(status, _S.CONTINUED): _R.RUNNING for status in _WAITS.values()},
    **{
        (status, event): target
        for status in (_R.RUNNING, _R.PAUSED, *_WAITS.values())
        for event, target in (
            (_S.FAILED, _R.FAILED),
            (_S.CANCELLED, _R.CANCELLED),
            (_S.BUDGET_EXCEEDED, _R.BUDGET_EXCEEDED),
            (_S.COMPENSATING, _R.COMPENSATING),
        )
    },
    (_R.PENDING, _S.BUDGET_EXCEEDED): _R.BUDGET_EXCEEDED,  # its time is over before it began
    **{(status, _S.PAUSED): _R.PAUSED for status in (_R.RUNNING, *_WAITS.values())},
    (_R.COMPENSATING, _S.FAILED): _R.FAILED,
    (_R.COMPENSATING, _S.CANCELLED): _R.CANCELLED,
    (_R.COMPENSATING, _S.BUDGET_EXCEEDED): _R.BUDGET_EXCEEDED,
    (_R.FAILED, _S.REDRIVEN): _R.RUNNING,
    (_R.FAILED, _S.COMPENSATING): _R.COMPENSATING,  # a compensation that failed is redriven
    # Said of a run that is under way; they move nothing.
    **{
        (status, event): status
        for status in RunStatus
        if status not in FINAL_RUN
        for event in (_S.EXTENDED, _S.SIGNALLED, _S.BUDGET_SET)
    },
}

STEP_TABLE: Final[Mapping[tuple[StepStatus, StepEvent], StepStatus]] = {
    (_T.PENDING, _E.READY): _T.READY,
    (_T.PENDING, _E.SKIPPED): _T.SKIPPED,
    (_T.PENDING, _E.CANCELLED): _T.CANCELLED,
    (_T.PENDING, _E.DEAD_LETTER): _T.DEAD_LETTER,  # its condition cannot be decided
    (_T.READY, _E.CLAIMED): _T.RUNNING,
    (_T.READY, _E.CANCELLED): _T.CANCELLED,
    (_T.READY, _E.DEAD_LETTER): _T.DEAD_LETTER,  # after a failure or a lost lease that was the last
    (_T.RUNNING, _E.SUCCEEDED): _T.SUCCEEDED,
    (_T.RUNNING, _E.FAILED): _T.READY,
    (_T.RUNNING, _E.LEASE_LOST): _T.READY,
    (_T.RUNNING, _E.RELEASED): _T.READY,
    (_T.RUNNING, _E.CANCELLED): _T.CANCELLED,
    (_T.RUNNING, _E.EMITTED): _T.RUNNING,
    (_T.RUNNING, _E.ARTIFACT): _T.RUNNING,
    (_T.RUNNING, _E.METERED): _T.RUNNING,
    (_T.RUNNING, _E.EFFECT_INTENDED): _T.RUNNING,
    (_T.RUNNING, _E.EFFECT_RECORDED): _T.RUNNING,
    (_T.RUNNING, _E.EFFECT_UNKNOWN): _T.RUNNING,  # nobody knows whether it happened: a wait follows
    (_T.RUNNING, _E.WAITING): _T.WAITING,
    (_T.READY, _E.WAITING): _T.WAITING,  # a lease was lost in the middle of a call that must not be made twice
    (_T.PENDING, _E.SHARED): _T.SUCCEEDED,  # in a fork: the result of the run it descends from, or an edit of it
    (_T.WAITING, _E.ANSWERED): _T.READY,
    (_T.WAITING, _E.EFFECT_SETTLED): _T.WAITING,  # a person says what became of an unknown effect
    (_T.WAITING, _E.CANCELLED): _T.CANCELLED,
    # What was begun when the run ended and nobody will hear the end of.
    **{(status, _E.EFFECT_UNKNOWN): status for status in (_T.CANCELLED, _T.DEAD_LETTER, _T.SUCCEEDED)},
    (_T.SUCCEEDED, _E.COMPENSATED): _T.COMPENSATED,
    (_T.DEAD_LETTER, _E.REDRIVEN): _T.PENDING,
    (_T.CANCELLED, _E.REDRIVEN): _T.PENDING,
    # A refused write is recorded and moves nothing, whatever the state; so is what a call that was cut off had used.
    **{(status, event): status for status in _T for event in (_E.FENCED, _E.BOOKED)},
}


def next_run(status: RunStatus, event: RunEvent) -> RunStatus:
    """Return the run's status after the event. Raises IllegalTransition."""
    try:
        return RUN_TABLE[status, event]
    except KeyError:
        raise IllegalTransition("run", status, event) from None


def next_step(status: StepStatus, event: StepEvent) -> StepStatus:
    """Return the step's status after the event. Raises IllegalTransition."""
    try:
        return STEP_TABLE[status, event]
    except KeyError:
        raise IllegalTransition("step", status, event) from None
