"""Outcomes: what a worker says of an attempt while it runs and when it ends, and the engine's verdicts on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID

from durable_agent.core.records import (
    JSON,
    Claim,
    EffectClass,
    EffectState,
    FailureClass,
    Lease,
    RunSpec,
    StepSpec,
    Turn,
    WaitKind,
)


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
    """The worker gives the step back unstarted or drained: no counter is touched. It is ready again after `delay_s`.

    `in_doubt`: what the step itself was to do may have happened, under this lease or one before it.
    """

    lease: Lease
    delay_s: float | None = None
    in_doubt: bool = False


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
    """A call of a tool that is no effect begins, the step's own at first: counted against the budget before it does.

    `no` tells the calls of one claim apart, so that one that is told again is counted once.
    """

    lease: Lease
    tool: str
    no: int = 0


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
class Exchange:
    """What a worker gets back from one round: verdicts in the order asked, of the first so many, new claims, who else waits.

    `more` tells that ready work was seen but not taken (a contended run, or other turns).
    """

    verdicts: tuple[Verdict, ...]
    claims: tuple[Claim, ...]
    turns: tuple[Turn, ...]
    more: bool
