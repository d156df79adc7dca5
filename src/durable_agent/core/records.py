"""The nouns every floor shares: ids, step specifications, policies, leases and outcomes."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, NewType
from uuid import UUID

Tenant = NewType("Tenant", int)
RunId = NewType("RunId", UUID)
SessionId = NewType("SessionId", UUID)
Token = NewType("Token", UUID)

JSON = Any  # a JSON value at a boundary

DEFAULT_TENANT = Tenant(1)
MIN_PRIORITY, MAX_PRIORITY = -1000, 1000


class StepKind(StrEnum):
    """What a step is; taken from `kind`, else from the name's prefix, else `tool_call`."""

    TOOL_CALL = "tool_call"
    LLM_CALL = "llm_call"
    AGENT = "agent"
    APPROVAL = "approval"
    INPUT = "input"
    SIGNAL = "signal"
    SLEEP = "sleep"
    MAP = "map"
    RUN = "run"
    POLICY = "policy"


class FailureClass(StrEnum):
    """Why an attempt failed; each class has a default policy (see `core.retry`)."""

    TRANSIENT = "transient"
    RATE_LIMITED = "rate_limited"
    TIMEOUT = "timeout"
    BUDGET = "budget"
    INVALID_INPUT = "invalid_input"
    BUG = "bug"
    CANCELLED = "cancelled"
    LEASE_LOST = "lease_lost"
    DIVERGED = "diverged"
    UNKNOWN_EFFECT = "unknown_effect"


class EffectClass(StrEnum):
    """What may be done about a call that was begun and whose result is not known (see `core.effects`)."""

    SAFE = "safe"
    IDEMPOTENT = "idempotent"
    VERIFY = "verify"
    MANUAL = "manual"


class EffectState(StrEnum):
    """What is known of a recorded effect; `resend` is a person's word that it may be sent again."""

    INTENT = "intent"
    DONE = "done"
    FAILED = "failed"
    UNKNOWN = "unknown"
    RESEND = "resend"
    REFUSED = "refused"


class WaitKind(StrEnum):
    """What a waiting step waits for."""

    APPROVAL = "approval"
    INPUT = "input"
    SIGNAL = "signal"
    TIMER = "timer"
    STEPS = "steps"
    RUN = "run"
    UNKNOWN_EFFECT = "unknown_effect"


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how fast a failed step is tried again. Times in seconds."""

    max_attempts: int = 5
    base_s: float = 1.0
    factor: float = 2.0
    cap_s: float = 60.0
    non_retryable: frozenset[FailureClass] = frozenset()


@dataclass(frozen=True, slots=True)
class Dependency:
    """An edge into a step; `when` is CEL over the parent's `output` and the run's `input`."""

    step: str
    when: str | None = None


@dataclass(frozen=True, slots=True)
class StepSpec:
    """One step as submitted, after defaults. `tool` is the handler a worker must offer.

    A `capped` one begins when its agent has fewer runs under way than it may.
    """

    name: str
    kind: StepKind
    tool: str
    input: JSON = None
    depends_on: tuple[Dependency, ...] = ()
    when: str | None = None
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    timeout_s: float | None = None
    deadline_s: float = 3600.0
    queue: str = "default"
    priority: int = 0
    max_crashes: int = 3
    compensate: str | None = None
    capped: bool = False


@dataclass(frozen=True, slots=True)
class Limit:
    """One meter of a budget (see `core.budget`). `on_limit` is fail or pause; None: as it is, fail if the limit is new."""

    meter: str
    cap: int
    on_limit: str | None = None


@dataclass(frozen=True, slots=True)
class RunSpec:
    """A run as submitted. `lane` is the fairness key: the agent's or graph's name, else empty.

    `graph_version` is the digest of the registered graph it was made from; `agent` is the agent whose budget it spends
    beside its own.
    """

    steps: tuple[StepSpec, ...]
    goal: str | None = None
    input: JSON = None
    lane: str = ""
    graph: str | None = None
    metadata: JSON = None
    graph_version: str | None = None
    budget: tuple[Limit, ...] = ()
    agent: UUID | None = None
    agent_version: int | None = None
    origin: UUID | None = None


@dataclass(frozen=True, slots=True)
class Lease:
    """Ownership of one attempt: what every write by its worker must carry (rule R3)."""

    tenant: Tenant
    run_id: RunId
    step_no: int
    claim_no: int
    token: Token


@dataclass(frozen=True, slots=True)
class Claim:
    """One claimed step with all an attempt needs.

    `parents` maps the names of succeeded parents to their outputs; `attempt` counts author-visible
    tries from 1 (failures + 1); `idempotency_key` is the same at every attempt of the step; `refused` says why it cannot be
    handed what it needs: then nothing is run, and that is its failure.
    """

    lease: Lease
    name: str
    kind: StepKind
    tool: str
    input: JSON
    run_input: JSON
    goal: str | None
    parents: dict[str, JSON]
    attempt: int
    crashes: int
    timeout_s: float | None
    deadline_s: float
    idempotency_key: str
    effects: tuple[Effect, ...] = ()
    answers: tuple[Answer, ...] = ()
    in_doubt: bool = False
    compensates: bool = False
    replay: Replay | None = None
    budgeted: bool = False
    refused: str | None = None


@dataclass(frozen=True, slots=True)
class Effect:
    """A call of the outside world as a step recorded it; `no` counts from 1 within the step.

    `request_sha256` is the digest of the canonical arguments; `result` is JSON, `error` says why it failed.
    """

    no: int
    name: str
    effect: EffectClass
    request_sha256: str
    key: str
    state: EffectState
    result: JSON = None
    error: JSON = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a wait of the step came to; `no` counts the step's waits from 1 in the order they were opened."""

    no: int
    kind: WaitKind
    name: str
    request_sha256: str
    wait_id: UUID
    answer: JSON


@dataclass(frozen=True, slots=True)
class Replay:
    """The step is made again from its record: nothing may be called, and the output is to be the recorded one."""

    output: bytes | None
    status: str
    error: JSON = None


@dataclass(frozen=True, slots=True)
class Turn:
    """One fair share of the ready work: a route of a tenant and the priority at its head."""

    tenant: Tenant
    route: int
    ord: int


@dataclass(frozen=True, slots=True)
class EventRecord:
    """One row of a run's history; `seq` is contiguous from 1 in commit order."""

    seq: int
    type: str
    run_id: RunId
    step: str | None
    at: datetime
    data: dict[str, JSON]
