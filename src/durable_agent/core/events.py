"""A run's history: the hash chain over it, and the fold that turns it back into rows.

An event's `data` is stored as the very text that was hashed. What may have to be erased one day (messages, outputs)
lies in `detail` or in the step's row; the chain covers only its SHA-256, so erasing breaks nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import orjson

from durable_agent.core.states import (
    IllegalTransition,
    RunEvent,
    RunStatus,
    StepEvent,
    StepStatus,
    next_run,
    next_step,
)

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def dumps(value: Any) -> bytes:
    """Return canonical JSON: sorted keys, no spaces, UTF-8. Raises TypeError for what is not JSON."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def digest(payload: bytes) -> str:
    """Return the SHA-256 of a payload as hex."""
    return hashlib.sha256(payload).hexdigest()


def inputs_digest(run_input: Any, step_inputs: Sequence[Any]) -> str:
    """Return the SHA-256 over a run's input and its steps' inputs in order: what `run.created` carries."""
    return digest(dumps([run_input, list(step_inputs)]))


def genesis(run_id: UUID) -> bytes:
    """Return the hash that stands before a run's first event (32 bytes)."""
    return hashlib.sha256(run_id.bytes).digest()


def micros(at: datetime) -> int:
    """Return microseconds since 1970 UTC, exact."""
    return (at - _EPOCH) // _MICROSECOND


def link(previous: bytes, *, seq: int, kind: str, step_no: int | None, at_us: int, data: bytes) -> bytes:
    """Return the hash of an event that follows one whose hash is `previous` (32 bytes).

    The fields are joined by newlines; none but `data`, the last, can contain one.
    """
    head = f"\n{seq}\n{kind}\n{'' if step_no is None else step_no}\n{at_us}\n".encode()
    return hashlib.sha256(previous + head + data).digest()


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event as stored or exported: `data` is the exact text, `detail` what may be erased (or None)."""

    seq: int
    type: str
    step_no: int | None
    at: datetime
    data: bytes
    detail: bytes | None
    hash: bytes


class ChainBroken(Exception):
    """The history is not what was written; `seq` is the first event that does not fit."""

    def __init__(self, seq: int, message: str) -> None:
        super().__init__(message)
        self.seq = seq


def verify(
    run_id: UUID, events: Iterable[StoredEvent], *, head: bytes | None = None, last_seq: int | None = None
) -> int:
    """Return the number of events when they are 1..n and chained (invariants I9, I13). Raises ChainBroken.

    `head` and `last_seq`, where known from elsewhere, reveal a cut tail.
    """
    previous, expected = genesis(run_id), 1
    for event in events:
        if event.seq != expected:
            raise ChainBroken(expected, f"event {expected} is missing: found {event.seq} in its place")
        found = link(
            previous, seq=event.seq, kind=event.type, step_no=event.step_no, at_us=micros(event.at), data=event.data
        )
        if found != event.hash:
            raise ChainBroken(event.seq, f"event {event.seq} ({event.type}) or one before it was altered")
        if event.detail is not None and orjson.loads(event.data).get("detail_sha256") != digest(event.detail):
            raise ChainBroken(event.seq, f"the detail of event {event.seq} ({event.type}) was altered")
        previous, expected = found, expected + 1
    if last_seq is not None and expected - 1 != last_seq:
        raise ChainBroken(expected, f"the history ends at event {expected - 1} of {last_seq}")
    if head is not None and head != previous:
        raise ChainBroken(expected, "the head of the chain is not the one the run carries")
    return expected - 1


@dataclass(slots=True)
class FoldedStep:
    """A step as its events say it is."""

    status: StepStatus = StepStatus.PENDING
    claim_no: int = 0
    failures: int = 0
    crashes: int = 0
    got_on: int = 0


@dataclass(slots=True)
class FoldedRun:
    """A run as its events say it is; `faults` lists what the machines refuse or the invariants deny."""

    status: RunStatus | None = None
    steps: dict[int, FoldedStep] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    @property
    def steps_left(self) -> int:
        """How many steps are not in a final state."""
        return sum(not step.status.final for step in self.steps.values())


def fold(
    parents: Sequence[Sequence[int]], events: Iterable[tuple[int, str, int | None, Mapping[str, Any]]]
) -> FoldedRun:
    """Return what the events (seq, type, step_no, data) make of a run of `len(parents)` steps.

    `parents[no]` are the steps that `no` waits for. Checked on the way: the machines' tables, claim numbers 1, 2, 3…
    (I3), no claim before every parent is resolved (I6), one success per step (I1, by the table).
    """
    run = FoldedRun(steps={no: FoldedStep() for no in range(len(parents))})
    for seq, kind, step_no, data in events:
        try:
            if step_no is None:
                _fold_run(run, RunEvent(kind))
            else:
                _fold_step(run, parents, step_no, StepEvent(kind), data)
        except (IllegalTransition, ValueError, KeyError) as fault:
            run.faults.append(f"event {seq}: {fault}")
    return run


def _fold_run(run: FoldedRun, event: RunEvent) -> None:
    if event is RunEvent.CREATED:
        if run.status is not None:
            raise ValueError("the run is created twice")
        run.status = RunStatus.PENDING
    elif run.status is None:
        raise ValueError("the history does not begin with run.created")
    else:
        run.status = next_run(run.status, event)


def _fold_step(
    run: FoldedRun, parents: Sequence[Sequence[int]], no: int, event: StepEvent, data: Mapping[str, Any]
) -> None:
    step = run.steps[no]
    step.status = next_step(step.status, event)
    match event:
        case StepEvent.CLAIMED:
            step.claim_no += 1
            if data["claim_no"] != step.claim_no:
                raise ValueError(f"step {no} claimed as number {data['claim_no']}, expected {step.claim_no}")
            open_parents = [p for p in parents[no] if run.steps[p].status not in _RESOLVED]
            if open_parents:
                raise ValueError(f"step {no} claimed before its parents {open_parents} were resolved")
        case StepEvent.FAILED:
            step.failures += 1
        case StepEvent.EFFECT_RECORDED if data["state"] in ("done", "failed"):
            step.got_on = data["claim_no"]
        case StepEvent.LEASE_LOST:
            # A lease that got its step on counts as the first that was lost.
            step.crashes = 1 if step.got_on == step.claim_no else step.crashes + 1
            if data["crashes"] != step.crashes:
                raise ValueError(f"step {no} lost lease {data['crashes']} in a row, its events say {step.crashes}")
        case _:
            pass
    if event in _BY_LEASE and data["claim_no"] != step.claim_no:
        raise ValueError(f"step {no}: {event} by claim {data['claim_no']}, but {step.claim_no} holds the lease")


# What only the holder of the live lease may do (I2).
_BY_LEASE: Final = frozenset(
    {
        StepEvent.SUCCEEDED,
        StepEvent.FAILED,
        StepEvent.RELEASED,
        StepEvent.LEASE_LOST,
        StepEvent.EMITTED,
        StepEvent.ARTIFACT,
        StepEvent.EFFECT_INTENDED,
        StepEvent.EFFECT_RECORDED,
        StepEvent.METERED,
        StepEvent.WAITING,
    }
)
_RESOLVED: Final = frozenset({StepStatus.SUCCEEDED, StepStatus.SKIPPED, StepStatus.COMPENSATED})
