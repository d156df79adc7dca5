"""Runs, steps and waits as the engine in memory holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from durable_agent.core.budget import Budget, charge, counts
from durable_agent.core.outcomes import Booked, Suspended
from durable_agent.core.records import Answer, Effect, RunSpec, StepSpec, Token
from durable_agent.core.states import StepStatus


@dataclass(slots=True)
class FakeStep:
    """A step as it stands. `held` is what its begun calls may take of a budget, `lost` what was charged for them unheard.

    `prefix` is what stands before the names of those it was spawned with.
    """

    no: int
    spec: StepSpec
    parents: tuple[int, ...]
    conditions: Mapping[int, str]
    status: StepStatus = StepStatus.PENDING
    output: Any = None
    error: dict[str, Any] | None = None
    claim_no: int = 0
    failures: int = 0
    token: Token | None = None
    due_s: float = 0.0
    effects: dict[int, Effect] = field(default_factory=dict)
    undo: dict[int, tuple[str, Any, int]] = field(default_factory=dict)
    held: dict[int, Mapping[str, int | None]] = field(default_factory=dict)
    lost: dict[int, Mapping[str, int | None]] = field(default_factory=dict)
    answers: list[Answer] = field(default_factory=list)
    spawned_by: int | None = None
    prefix: str = ""
    compensates: int | None = None
    ended: int = 0


@dataclass(slots=True)
class FakeWait:
    """A wait as it stands; `spawned` are the numbers of the steps it waits for."""

    id: UUID
    run_id: UUID
    step: int
    asked: Suspended
    due_s: float | None
    effect: int | None = None
    spawned: tuple[int, ...] = ()
    child: UUID | None = None
    open: bool = True
    consumed: bool = False


@dataclass(slots=True)
class FakeRun:
    """A run as it stands."""

    id: UUID
    spec: RunSpec
    steps: list[FakeStep]
    status: str = "running"
    ending: str | None = None
    events: list[tuple[str, Any]] = field(default_factory=list)
    signals: list[tuple[str, Any]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    parent: FakeRun | None = None
    budgets: list[Budget] = field(default_factory=list)

    @property
    def top(self) -> FakeRun:
        """The run at the top of its tree, whose budgets the tree spends."""
        return self.parent.top if self.parent is not None else self

    def spend(self, reserved: Mapping[str, int | None], spent: Mapping[str, int | None]) -> None:
        """Charge a call, and end what was reserved for it."""
        for one in self.top.budgets:
            if not counts(one.meter):
                charge(one, reserved=reserved.get(one.meter) or 0, spent=spent.get(one.meter) or 0)

    def lose(self, step: FakeStep) -> None:
        """Charge the calls of a step that nobody heard the end of with all they may have taken."""
        for bound in step.held.values():
            self.spend(bound, bound)
        step.lost |= step.held
        step.held = {}

    def book(self, step: FakeStep, booked: Booked) -> None:
        """Charge a call that was cut off with what it had used, in place of all that it may have taken."""
        if booked.no in step.held:
            self.lose(step)
        bound = step.lost.pop(booked.no, {}) if step.effects[booked.no].key == booked.key else {}
        self.spend({}, {meter: booked.used.spent.get(meter, 0) - (most or 0) for meter, most in bound.items()})

    def step(self, name: str) -> FakeStep:
        """Return the step of that name."""
        return next(step for step in self.steps if step.spec.name == name)

    @property
    def outputs(self) -> dict[str, Any]:
        """The outputs of the steps that succeeded, by name."""
        done = (StepStatus.SUCCEEDED, StepStatus.COMPENSATED)
        return {step.spec.name: step.output for step in self.steps if step.status in done}
