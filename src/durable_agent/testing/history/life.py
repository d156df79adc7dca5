"""A step's life as its events tell of it so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from durable_agent.core.states import STEP_TABLE, StepEvent, StepStatus
from durable_agent.testing.history.documents import Document, Event

# What only the holder of the live lease may write, and what of it ends the lease.
HELD: Final = frozenset({
    StepEvent.SUCCEEDED, StepEvent.FAILED, StepEvent.RELEASED, StepEvent.LEASE_LOST, StepEvent.EMITTED, StepEvent.ARTIFACT, StepEvent.METERED, StepEvent.WAITING,
    StepEvent.EFFECT_INTENDED, StepEvent.EFFECT_RECORDED,
})  # fmt: skip
ENDS: Final = frozenset(
    {
        StepEvent.SUCCEEDED,
        StepEvent.FAILED,
        StepEvent.RELEASED,
        StepEvent.LEASE_LOST,
        StepEvent.WAITING,
        StepEvent.CANCELLED,
    }
)
RESOLVED: Final = frozenset({StepStatus.SUCCEEDED, StepStatus.SKIPPED, StepStatus.COMPENSATED})
# Where an event leads when it leads to one place only: what is believed of a step after a move that is not allowed.
LEADS: Final = {
    event: targets.pop()
    for event in StepEvent
    if len(targets := {to for (_, on), to in STEP_TABLE.items() if on is event}) == 1
}


@dataclass(slots=True)
class Life:
    """A step as its events so far tell of it; `lease` is the claim that holds it, `ended` what ended the last one.

    `waited` is its last wait.
    """

    no: int
    row: Document
    status: StepStatus = StepStatus.PENDING
    claims: int = 0
    failures: int = 0
    crashes: int = 0
    got_on: int = 0
    lease: Event | None = None
    claimed: Event | None = None
    waited: Event | None = None
    ended: Event | None = None
    succeeded: Event | None = None
    last: Event | None = None
    seal: Event | None = None
    past: dict[int, tuple[Event, Event | None]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What people call it."""
        return f"step {self.row.get('name', self.no)!r}"
