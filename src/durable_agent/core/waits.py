"""Waits: what a step waits for, who may answer, and what an answer or its absence comes to."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from durable_agent.core.events import dumps
from durable_agent.core.records import WaitKind
from durable_agent.core.states import RunEvent


class Decision(StrEnum):
    """How a wait ended."""

    APPROVED = "approved"
    REJECTED = "rejected"
    RESPONDED = "responded"
    HAPPENED = "happened"
    RESEND = "resend"
    FAILED = "failed"
    SIGNALLED = "signalled"
    ELAPSED = "elapsed"
    EXPIRED = "expired"
    FINISHED = "finished"
    CANCELLED = "cancelled"


# What a person may say to a wait of each kind; the others end by what happens in the engine.
ALLOWED: Final = {
    WaitKind.APPROVAL: (Decision.APPROVED, Decision.REJECTED),
    WaitKind.INPUT: (Decision.RESPONDED, Decision.REJECTED),
    WaitKind.UNKNOWN_EFFECT: (Decision.HAPPENED, Decision.RESEND, Decision.FAILED),
}

# What a wait comes to when its time is over.
OVERDUE: Final = {
    WaitKind.TIMER: Decision.ELAPSED,
    WaitKind.APPROVAL: Decision.REJECTED,
    WaitKind.INPUT: Decision.EXPIRED,
    WaitKind.SIGNAL: Decision.EXPIRED,
    WaitKind.STEPS: Decision.EXPIRED,
    WaitKind.RUN: Decision.EXPIRED,
    WaitKind.UNKNOWN_EFFECT: Decision.FAILED,
}


@dataclass(frozen=True, slots=True)
class Refused:
    """Why an answer is not accepted; `code` is stable."""

    code: str
    message: str


def refuse(kind: WaitKind, decision: Decision, *, by: str, asked_by: str | None, allow_self: bool) -> Refused | None:
    """Return why this answer to an open wait is not accepted, or None when it is."""
    allowed = ALLOWED.get(kind)
    if allowed is None:
        return Refused("not-for-people", f"a wait for a {kind.value.replace('_', ' ')} is not answered by a person")
    if decision not in allowed:
        words = ", ".join(one.value for one in allowed)
        return Refused("wrong-answer", f"a wait for {kind.value.replace('_', ' ')} takes {words}, not {decision.value}")
    if decision is Decision.APPROVED and not allow_self and asked_by is not None and by == asked_by:
        return Refused("self-approval", f"{by} asked for this approval and may not give it")
    return None


def approval_digest(tool: str, arguments: bytes) -> str:
    """Return the SHA-256 an approval is bound to: over the tool's name and its canonical arguments."""
    return hashlib.sha256(dumps(tool) + b"\n" + arguments).hexdigest()


def run_waits(kinds: set[WaitKind]) -> RunEvent:
    """Return the event of a run whose steps wait for these: a person who approves comes first, then one who answers."""
    if kinds & {WaitKind.APPROVAL, WaitKind.UNKNOWN_EFFECT}:
        return RunEvent.WAITING_FOR_APPROVAL
    return RunEvent.WAITING_FOR_INPUT if WaitKind.INPUT in kinds else RunEvent.WAITING


def answer_of(decision: Decision, *, by: str | None, reason: str | None, value: Any) -> dict[str, Any]:
    """Return an answer as it is recorded and handed to the step."""
    return {"decision": decision.value, "by": by, "reason": reason, "value": value}
