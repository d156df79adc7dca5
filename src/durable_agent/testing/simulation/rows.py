"""Runs, steps, effects and waits as the simulated store holds them, and their histories as an export would show them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson

from durable_agent.core.budget import Budget
from durable_agent.core.events import digest, dumps, genesis, link, micros
from durable_agent.core.records import Answer, Effect, EffectClass, EffectState, RunSpec, StepSpec, Token, WaitKind
from durable_agent.core.states import RunEvent, RunStatus, StepEvent, next_run
from durable_agent.core.waits import Decision
from durable_agent.testing.history import ExportedRun
from durable_agent.testing.history.documents import Event

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Place:
    """A step's place in the queue; `state` is ready, scheduled, held, leased or waiting.

    `effect` is the class of a tool that is not safe to call again, while a call of it may have been made.
    """

    state: str
    token: Token | None = None
    session: UUID | None = None
    due_s: float | None = None
    deadline_s: float = 0.0
    effect: str | None = None
    last_token: Token | None = None


@dataclass(slots=True)
class StepRow:
    """A step. Its own `status` is pending, queued (then `place` says where it stands) or final."""

    no: int
    spec: StepSpec
    parents: tuple[int, ...]
    children: tuple[int, ...]
    edges: Mapping[int, str]
    deps_left: int
    max_attempts: int
    max_crashes: int
    taken: int = 0
    status: str = "pending"
    place: Place | None = None
    claim_no: int = 0
    failures: int = 0
    crashes: int = 0
    output: bytes | None = None
    error: Any = None
    worker: str | None = None
    done_token: Token | None = None
    in_doubt: str | None = None
    spawned_by: int | None = None
    spawn_index: int | None = None
    dead: str | None = None
    counted_s: float = -1.0

    @property
    def open(self) -> bool:
        """Whether it is not final."""
        return self.status in ("pending", "queued")

    @property
    def shown(self) -> str:
        """Its status as the API shows it."""
        if self.place is None:
            return self.status
        return {"leased": "running", "waiting": "waiting"}.get(self.place.state, "ready")


@dataclass(slots=True)
class EffectRow:
    """A call as it was recorded, or a value."""

    step: int
    no: int
    name: str
    kind: str
    state: str
    sha: str
    key: str
    claim_no: int
    sends: int
    approval: UUID | None
    request: bytes | None
    result: bytes | None = None
    error: Any = None
    reserved: Mapping[str, int | None] | None = None
    usage: Any = None

    def recorded(self) -> Effect:
        """Return it as a claim carries it."""
        result = orjson.loads(self.result) if self.result is not None else None
        return Effect(
            self.no, self.name, EffectClass(self.kind), self.sha, self.key, EffectState(self.state), result, self.error
        )


@dataclass(slots=True)
class WaitRow:
    """What a step waits for, or waited for."""

    id: UUID
    step: int
    no: int
    kind: WaitKind
    name: str
    sha: str
    allow_self: bool
    due_s: float | None
    effect: int | None
    request: Any
    state: str = "open"
    steps_left: int = 0
    answer: Any = None
    consumed: str | None = None

    def told(self) -> Answer:
        """Return it as a claim carries it."""
        return Answer(self.no, self.kind, self.name, self.sha, self.id, self.answer)


@dataclass(slots=True)
class RunRow:
    """A run with all that belongs to it."""

    id: UUID
    spec: RunSpec
    status: RunStatus = RunStatus.PENDING
    steps: list[StepRow] = field(default_factory=list)
    effects: dict[tuple[int, int], EffectRow] = field(default_factory=dict)
    waits: dict[UUID, WaitRow] = field(default_factory=dict)
    signals: list[dict[str, Any]] = field(default_factory=list)
    budgets: list[Budget] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    steps_left: int = 0
    waiting: int = 0
    error: Any = None
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    metered: set[tuple[int, int, str, int]] = field(default_factory=set)
    chain: bytes = b""

    def __post_init__(self) -> None:
        self.chain = genesis(self.id)

    @property
    def final(self) -> bool:
        """Whether only a redrive moves it on."""
        return self.status.final

    def append(
        self, now_us: int, event: RunEvent | StepEvent, no: int | None = None, detail: Any = None, **data: Any
    ) -> None:
        """Append an event to the history, chained as the engine chains it."""
        detail_text = None
        if detail is not None:
            detail_text = dumps(detail)
            data["detail_sha256"] = digest(detail_text)
        text, seq = dumps(data), len(self.events) + 1
        at = EPOCH + timedelta(microseconds=now_us)
        self.chain = link(self.chain, seq=seq, kind=event, step_no=no, at_us=micros(at), data=text)
        raw = {"data": text.decode(), "hash": self.chain.hex(), "detail": detail_text.decode() if detail_text else None}
        self.events.append(Event(seq, event.value, no, at.isoformat(), data, raw))

    def move(self, now_us: int, event: RunEvent, **data: Any) -> None:
        """Move the run by the core's table. Raises IllegalTransition."""
        self.status = next_run(self.status, event)
        self.append(now_us, event, None, **data)

    def exported(self) -> ExportedRun:
        """Return the run as an export holds it."""
        head = {
            "id": str(self.id), "status": self.status.value, "last_seq": len(self.events), "chain": self.chain.hex(),
            "steps_left": self.steps_left, "input": self.spec.input, "calls": self.calls, "root": None, "agent": None,
            "input_tokens": self.input_tokens, "output_tokens": self.output_tokens, "microusd": 0,
        }  # fmt: skip
        end = {"events": len(self.events), "chain": self.chain.hex()}
        return ExportedRun(
            head, [_step(one) for one in self.steps], [_effect(self.effects[key]) for key in sorted(self.effects)],
            [_wait(one) for one in sorted(self.waits.values(), key=lambda w: (w.step, w.no))], [], self.events, [end],
        )  # fmt: skip

    def budget_rows(self) -> list[dict[str, Any]]:
        """Return the run's budgets as the checker takes them."""
        return [
            {"owner": str(self.id), "meter": b.meter, "window_s": 0, "cap": b.cap, "spent": b.spent, "reserved": b.reserved}
            for b in self.budgets
        ]  # fmt: skip


def _step(row: StepRow) -> dict[str, Any]:
    spec = row.spec
    return {
        "no": row.no, "name": spec.name, "kind": spec.kind.value, "tool": spec.tool, "parents": list(row.parents),
        "children": list(row.children), "condition": spec.when, "compensates": None, "spawned_by": row.spawned_by, "status": row.shown,
        "edge_conditions": {str(p): when for p, when in row.edges.items()} or None, "claim_no": row.claim_no,
        "failures": row.failures, "crashes": row.crashes, "input": spec.input, "error": row.error,
        "output": orjson.loads(row.output) if row.output is not None else None, "deps_left": row.deps_left,
        "max_attempts": row.max_attempts, "max_crashes": row.max_crashes, "worker": row.worker,
        "queue_state": row.place.state if row.place is not None else None,
    }  # fmt: skip


def _effect(row: EffectRow) -> dict[str, Any]:
    return {
        "step_no": row.step, "no": row.no, "name": row.name, "class": row.kind, "state": row.state,
        "request_sha256": row.sha, "key": row.key, "claim_no": row.claim_no, "sends": row.sends,
        "approval": str(row.approval) if row.approval is not None else None,
        "request": orjson.loads(row.request) if row.request is not None else None,
        "result": orjson.loads(row.result) if row.result is not None else None, "error": row.error,
    }  # fmt: skip


def _wait(row: WaitRow) -> dict[str, Any]:
    return {
        "id": str(row.id), "step_no": row.step, "no": row.no, "kind": row.kind.value, "name": row.name,
        "state": row.state, "request_sha256": row.sha, "consumed_at": row.consumed, "effect_no": row.effect,
        "request": row.request, "answer": row.answer,
    }  # fmt: skip


def outputs_of(run: RunRow, step: StepRow) -> dict[str, Any]:
    """Return what the step's succeeded parents returned, by their names."""
    return {
        run.steps[p].spec.name: orjson.loads(run.steps[p].output or b"null")
        for p in step.parents if run.steps[p].status == "succeeded"
    }  # fmt: skip


def answers_of(run: RunRow, step: StepRow) -> tuple[Answer, ...]:
    """Return what the step's waits came to, as a claim carries it."""
    return tuple(
        wait.told() for wait in run.waits.values()
        if wait.step == step.no and wait.state == "answered"
        and (wait.kind is not WaitKind.UNKNOWN_EFFECT or wait.consumed is None)
    )  # fmt: skip


def settle_effect(run: RunRow, wait: WaitRow, told: Mapping[str, Any]) -> None:
    """Put a person's word about an unknown effect into its row."""
    row = run.effects[wait.step, wait.effect or 0]
    if row.state != "unknown":
        return
    match told["decision"]:
        case Decision.HAPPENED:
            row.state, row.result = "done", orjson.dumps(told["value"], option=orjson.OPT_SORT_KEYS)
        case Decision.RESEND:
            row.state, row.result, row.error = "resend", None, None
        case _:
            row.state, row.result = "refused", None
            row.error = {"message": told["reason"] or "nobody knows whether it happened, and it was decided to fail"}
