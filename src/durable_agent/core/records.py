"""The nouns every floor shares: ids, step specifications, policies, leases and outcomes."""

from __future__ import annotations

from collections.abc import Mapping
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
    """One meter of a budget (see `core.budget`). `on_limit` is fail or pause."""

    meter: str
    cap: int
    on_limit: str = "fail"


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
    tries from 1 (failures + 1); `idempotency_key` is the same at every attempt of the step.
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
class Succeeded:
    """The handler returned; `output` is canonical JSON. `compensate` names the tool that undoes it."""

    lease: Lease
    output: bytes
    compensate: str | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The handler raised; `message` is safe to show, `retry_after_s` wins over the back-off.

    `in_doubt`: what the step itself was to do may have happened; the next attempt looks it up first.
    """

    lease: Lease
    failure: FailureClass
    error_type: str
    message: str
    retry_after_s: float | None = None
    in_doubt: bool = False


@dataclass(frozen=True, slots=True)
class Released:
    """The worker gives the step back unstarted or drained: no counter is touched. It is ready again after `delay_s`."""

    lease: Lease
    delay_s: float | None = None


@dataclass(frozen=True, slots=True)
class Emitted:
    """An author's own event, written only while the lease is held."""

    lease: Lease
    type: str
    data: JSON


@dataclass(frozen=True, slots=True)
class Intended:
    """An effect is about to be called: committed before it is. `request` is canonical JSON.

    `approval` is the wait that allows it, which is consumed in the same commit. `reserve` is what it may take of each
    meter of a budget at most, None where nobody knows; it is held from this commit on. `gate` must not be shut.
    """

    lease: Lease
    no: int
    name: str
    effect: EffectClass
    request: bytes
    request_sha256: str
    key: str
    compensate: str | None = None
    approval: UUID | None = None
    reserve: Mapping[str, int | None] = field(default_factory=dict)
    gate: str | None = None


@dataclass(frozen=True, slots=True)
class Used:
    """What a call of a model used. `input_tokens` includes those read from or written to a cache."""

    input_tokens: int
    output_tokens: int
    microusd: int = 0
    facts: JSON = None

    @property
    def spent(self) -> dict[str, int]:
        """What each meter of a budget is charged."""
        return {"tokens": self.input_tokens + self.output_tokens, "microusd": self.microusd}


@dataclass(frozen=True, slots=True)
class Recorded:
    """What became of an effect: `result` is canonical JSON when it is done, `error` when it failed.

    `reserved` is what its intent held, which ends here; `used` is what it took in truth.
    """

    lease: Lease
    no: int
    name: str
    state: EffectState
    result: bytes | None = None
    error: JSON = None
    reserved: Mapping[str, int | None] = field(default_factory=dict)
    used: Used | None = None


@dataclass(frozen=True, slots=True)
class Booked:
    """What a call that was cut off had used by then: in place of the upper bound it was charged when its lease ended.

    It needs no live lease: `key` is the effect's, which nobody else knows.
    """

    lease: Lease
    no: int
    key: str
    used: Used


@dataclass(frozen=True, slots=True)
class Metered:
    """A step that is itself the call of a tool begins: counted against the budget before it does."""

    lease: Lease
    tool: str


@dataclass(frozen=True, slots=True)
class Noted:
    """A value that is recorded and calls nobody: the time, an id, a random number."""

    lease: Lease
    no: int
    name: str
    request_sha256: str
    result: bytes


@dataclass(frozen=True, slots=True)
class Stored:
    """A file of the step's is in the artifact store; the same name again replaces it."""

    lease: Lease
    id: UUID
    name: str
    media_type: str
    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Suspended:
    """The attempt ends and the worker is free: the step waits for an answer.

    `request` is what is asked, as JSON; `expires_s` seconds from now the wait ends by itself. `steps` are added to the
    run (kind `steps`), or make up the run that is started (kind `run`, with `run`).
    """

    lease: Lease
    kind: WaitKind
    name: str
    request: JSON
    request_sha256: str
    expires_s: float | None = None
    allow_self: bool = True
    steps: tuple[StepSpec, ...] = ()
    run: RunSpec | None = None


@dataclass(frozen=True, slots=True)
class InDoubt:
    """A call was begun and nobody knows whether it happened: the step waits for a person. `no` 0 is the step's own.

    `key` is the idempotency key it showed, by which its receiver may know it.
    """

    lease: Lease
    no: int
    name: str
    message: str
    key: str | None = None


Outcome = (
    Succeeded
    | Failed
    | Released
    | Emitted
    | Intended
    | Recorded
    | Booked
    | Metered
    | Noted
    | Stored
    | Suspended
    | InDoubt
)

# What leaves the lease as it is.
ON_THE_WAY = (Emitted, Intended, Recorded, Booked, Metered, Noted, Stored)


class Verdict(StrEnum):
    """What became of an outcome: accepted now, accepted before, refused by the fence, not allowed (an approval), put off
    because the run is paused or a gate shut, beyond the budget (the run has ended by it), or of a cost nobody can bound."""

    OK = "ok"
    ALREADY = "already"
    LOST = "lost"
    REFUSED = "refused"
    PAUSED = "paused"
    EXHAUSTED = "exhausted"
    HELD = "held"
    UNBOUNDED = "unbounded"


@dataclass(frozen=True, slots=True)
class Turn:
    """One fair share of the ready work: a route of a tenant and the priority at its head."""

    tenant: Tenant
    route: int
    ord: int


@dataclass(frozen=True, slots=True)
class Exchange:
    """What a worker gets back from one round: verdicts in the order asked, new claims, who else waits.

    `more` tells that ready work was seen but not taken (a contended run, or other turns).
    """

    verdicts: tuple[Verdict, ...]
    claims: tuple[Claim, ...]
    turns: tuple[Turn, ...]
    more: bool


@dataclass(frozen=True, slots=True)
class EventRecord:
    """One row of a run's history; `seq` is contiguous from 1 in commit order."""

    seq: int
    type: str
    run_id: RunId
    step: str | None
    at: datetime
    data: dict[str, JSON]
