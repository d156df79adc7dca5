"""What goes out, as the OpenAPI document says it: the shape of every JSON answer, and which operation gives which.

Nothing is checked against these at run time: the answers are what we made ourselves. The tests ask a live API for each.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Generic, Literal, NotRequired, TypeVar
from uuid import UUID

from typing_extensions import TypedDict

from durable_agent.core.records import EffectClass, EffectState, StepKind, WaitKind
from durable_agent.core.states import RunStatus, StepStatus
from durable_agent.core.waits import Decision
from durable_agent.engine.explain import Reason

T = TypeVar("T")
Facts = dict[str, Any]
OnLimit = Literal["fail", "pause"]


class Items(TypedDict, Generic[T]):
    """All of a list."""

    items: list[T]


class Page(TypedDict, Generic[T]):
    """A part of a list; `next_cursor` asks for the next, null at its end."""

    items: list[T]
    next_cursor: str | None


# Runs ------------------------------------------------------------------------------------------------------------------


class RunSummary(TypedDict):
    """A run in a list. Money is in millionths of a US dollar."""

    id: UUID
    status: RunStatus
    goal: str | None
    graph: str | None
    agent: str | None
    steps_total: int
    steps_left: int
    last_seq: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    error: Facts | None
    calls: int
    input_tokens: int
    output_tokens: int
    microusd: int


class Step(TypedDict):
    """A step as it stands; `attempt` counts tries from 1, `claim_no` every claim."""

    no: int
    name: str
    kind: StepKind
    tool: str
    status: StepStatus
    failures: int
    crashes: int
    attempt: int
    claim_no: int
    max_attempts: int
    max_crashes: int
    not_before: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    worker: str | None
    queue: str
    priority: int
    timeout_s: float | None
    deadline_s: float
    retry: Facts
    input: Any
    output: Any
    error: Facts | None
    compensate: str | None
    compensates: str | None
    spawned_by: str | None
    depends_on: list[str]
    when: str | None
    shared: bool
    edited: bool
    calls: int
    tokens: int
    microusd: int


class Run(RunSummary):
    """A run with every step as it stands."""

    input: Any
    metadata: Facts | None
    graph_version: str | None
    started_by: str | None
    parent_run: UUID | None
    parent_step: int | None
    origin: UUID | None
    mode: Literal["recorded", "live"] | None
    from_step: int | None
    root: UUID | None
    paused_for: Literal["budget"] | None
    paused_until: datetime | None
    agent_id: UUID | None
    steps: list[Step]


class StartedRun(TypedDict):
    """A run that was started, or that the Idempotency-Key stands for."""

    id: UUID
    status: RunStatus
    ws_url: str
    warnings: NotRequired[list[str]]


class ControlledRun(TypedDict):
    """A run and what it is now."""

    id: UUID
    status: RunStatus


class Event(TypedDict):
    """One entry of a run's history, as the sockets send it."""

    seq: int
    type: str
    run_id: UUID
    step: str | None
    at: datetime
    data: Facts


class EventPage(TypedDict):
    """Events in order; `next_after` asks for more, null when that is all there is by now."""

    items: list[Event]
    next_after: int | None


class StepReason(TypedDict):
    """Why one step is not moving."""

    step: str
    reason: Reason
    text: str
    facts: Facts


class Explanation(TypedDict):
    """A run's status in a sentence, and a reason for each unfinished step."""

    run_id: UUID
    status: RunStatus
    text: str
    steps: list[StepReason]


class DiffSide(TypedDict):
    """One of two runs that are compared."""

    run_id: UUID
    status: RunStatus
    seconds: float | None
    calls: int
    tokens: int
    microusd: int


class DiffOutcome(TypedDict):
    """How a step ended in one of two runs."""

    status: StepStatus
    output: Any
    seconds: float | None
    attempts: int
    tokens: int
    microusd: int


class DiffStep(TypedDict):
    """A step of two runs side by side; null where a run has none of its name."""

    step: str
    same: bool
    difference: str | None
    a: DiffOutcome | None
    b: DiffOutcome | None


class FirstDifference(TypedDict):
    """Where two runs first differ."""

    step: str
    difference: str


class Diff(TypedDict):
    """Two runs side by side."""

    a: DiffSide
    b: DiffSide
    same: bool
    first: FirstDifference | None
    steps: list[DiffStep]


# `class` is a word of Python's.
Effect = TypedDict(
    "Effect",
    {
        "step": str, "no": int, "name": str, "class": EffectClass, "state": EffectState, "key": "str | None", "sends": int, "request": Any,
        "result": Any, "error": "Facts | None", "usage": "Facts | None", "microusd": "int | None", "at": datetime,
        "ended_at": "datetime | None", "claim_no": int, "worker": "str | None",
    },
)  # fmt: skip
Effect.__doc__ = "One recorded call of a step: what was asked, what came of it, what it cost."


class Artifact(TypedDict):
    """A file that a step stored."""

    id: UUID
    name: str
    step: str | None
    media_type: str
    sha256: str
    bytes: int
    at: datetime


# Waits -----------------------------------------------------------------------------------------------------------------


class Wait(TypedDict):
    """What a step waits for; `answer` is null while nobody gave one."""

    id: UUID
    run_id: UUID
    step: str
    kind: WaitKind
    name: str
    state: Literal["open", "answered", "cancelled"]
    expires_at: datetime | None
    opened_at: datetime
    answered_at: datetime | None
    consumed_at: datetime | None
    answered_by: str | None
    request: Facts
    request_sha256: str | None
    answer: Any
    goal: str | None


class WaitRecord(TypedDict):
    """One wait as it is recorded."""

    id: UUID
    run_id: UUID
    step_no: int
    no: int
    kind: WaitKind
    name: str
    state: Literal["open", "answered", "cancelled"]
    request_sha256: str | None
    allow_self: bool
    due_at: datetime | None
    opened_at: datetime
    answered_at: datetime | None
    consumed_at: datetime | None
    answered_by: str | None
    effect_no: int | None
    child_run: UUID | None
    request: Facts
    answer: Any


class Answered(TypedDict):
    """An answer that was taken."""

    id: UUID
    run_id: UUID
    decision: Decision
    by: str


class Signalled(TypedDict):
    """A signal; `delivered` is false for one that had been before, under the same Idempotency-Key."""

    run_id: UUID
    name: str
    delivered: bool
