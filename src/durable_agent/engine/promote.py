"""Promote: what becomes of steps when those they wait for are resolved.

Runs entirely under the runs' locks; the rule itself is `core.promotion`. A skipped step resolves its own children in
turn, so the walk goes on until nothing more is decided.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, assert_never
from uuid import UUID, uuid4

import orjson

from durable_agent.core.events import dumps
from durable_agent.core.promotion import (
    ChildState,
    ConditionFailed,
    ParentResolution,
    Skipped,
    StillPending,
    resolve,
)
from durable_agent.core.promotion import (
    Outcome as ParentOutcome,
)
from durable_agent.core.promotion import (
    Ready as ReadyVerdict,
)
from durable_agent.core.records import FailureClass, Lease, Token
from durable_agent.core.states import RunStatus, StepEvent
from durable_agent.db.pool import Connection
from durable_agent.engine.claim import Leased, note_claim
from durable_agent.engine.journal import JOURNAL, Head, Journal, RunKey


@dataclass(frozen=True, slots=True)
class Resolution:
    """A parent that reached an end which its children were waiting for."""

    run: RunKey
    no: int
    name: str
    succeeded: bool
    output: bytes | None
    children: tuple[int, ...]


@dataclass(slots=True)
class Child:
    """A pending step under its run's lock, as `children` returns it."""

    tenant: int
    run_id: UUID
    no: int
    name: str
    tool: str
    deps_left: int
    taken: int
    condition: str | None
    edge_conditions: dict[str, str] | None
    parents: list[int]
    children: list[int]
    route: int
    ord: int
    max_crashes: int
    deadline_s: float
    claim_no: int
    failures: int
    crashes: int


@dataclass(slots=True)
class Ready:
    """A step that became ready in this transaction; `leased` when it was handed off at once."""

    head: Head
    child: Child
    leased: Leased | None = None

    @property
    def tenant(self) -> int:
        """The step's tenant."""
        return self.child.tenant

    @property
    def route(self) -> int:
        """The step's route."""
        return self.child.route

    @property
    def ord(self) -> int:
        """The step's claim order."""
        return self.child.ord

    @property
    def risky(self) -> bool:
        """Whether it lost leases before: such a step is never handed off (see `core.turns`)."""
        return self.child.crashes > 0


@dataclass(slots=True)
class Promotion:
    """The promotions of one transaction: fed with resolutions, it fills the journal."""

    journal: Journal
    ready: list[Ready] = field(default_factory=list)
    failing: dict[RunKey, tuple[str, str]] = field(default_factory=dict)
    closed: dict[RunKey, set[int]] = field(default_factory=lambda: defaultdict(set))
    left: int = 0
    _children: dict[tuple[RunKey, int], Child] = field(default_factory=dict)
    _touched: dict[tuple[RunKey, int], str] = field(default_factory=dict)

    async def resolve(
        self,
        conn: Connection,
        resolutions: Sequence[Resolution],
        rows: Sequence[Any],
        failing: Mapping[RunKey, tuple[str, str]],
    ) -> None:
        """Resolve the children of the given parents, and on through every step that is skipped on the way.

        In a run that fails in this transaction steps are counted down all the same, so that a redrive finds the counts
        true; they only do not become ready.
        """
        self._add(rows)
        self.failing.update(failing)
        wave = list(resolutions)
        while wave:
            wave = await self._wave(conn, wave)
            if wave:
                cursor = await conn.execute(
                    JOURNAL.children,
                    {
                        "tenants": [r.run[0] for r in wave],
                        "runs": [r.run[1] for r in wave],
                        "nos": [r.no for r in wave],
                    },
                )
                self._add(await cursor.fetchall())
        self._write()

    def _add(self, rows: Sequence[Any]) -> None:
        for row in rows:
            child = Child(*row)
            self._children.setdefault(((child.tenant, child.run_id), child.no), child)

    async def _wave(self, conn: Connection, wave: Sequence[Resolution]) -> list[Resolution]:
        by_child: dict[tuple[RunKey, int], list[Resolution]] = defaultdict(list)
        for resolution in wave:
            for no in resolution.children:
                by_child[resolution.run, no].append(resolution)
        skipped: list[Resolution] = []
        for (run, no), parents in sorted(by_child.items(), key=lambda item: (item[0][0][1], item[0][1])):
            child = self._children.get((run, no))
            if child is not None:
                skipped.extend(await self._decide(conn, run, child, parents))
        return skipped

    async def _decide(
        self, conn: Connection, run: RunKey, child: Child, parents: Sequence[Resolution]
    ) -> list[Resolution]:
        head = self.journal.heads[run]
        run_input, outputs = await self._context(conn, run, child, parents)
        verdict = resolve(
            ChildState(child.no, child.name, child.deps_left, child.taken, child.condition),
            [self._parent(child, parent) for parent in parents],
            run_input,
            outputs=outputs,
        )
        match verdict:
            case StillPending(deps_left, taken):
                self._count(run, child, deps_left, taken, "pending")
            case ReadyVerdict(taken):
                self._count(run, child, 0, taken, "queued")
                self.ready.append(Ready(head, child))
            case Skipped():
                self._count(run, child, 0, child.taken, "skipped")
                self.journal.append(head, StepEvent.SKIPPED, child.no, why=verdict.why)
                head.steps_left -= 1
                self.closed[run].add(child.no)
                return [Resolution(run, child.no, child.name, False, None, tuple(child.children))]
            case ConditionFailed(expression, message):
                self._bury(head, child, expression, message)
            case _:
                assert_never(verdict)
        return []

    def _parent(self, child: Child, parent: Resolution) -> ParentResolution:
        when = (child.edge_conditions or {}).get(str(parent.no))
        outcome = ParentOutcome.SUCCEEDED if parent.succeeded else ParentOutcome.SKIPPED
        return ParentResolution(parent.no, parent.name, outcome, _value(parent.output), when)

    async def _context(
        self, conn: Connection, run: RunKey, child: Child, parents: Sequence[Resolution]
    ) -> tuple[Any, dict[str, Any]]:
        """Return the run's input and the parents' outputs, read only for a child that has conditions."""
        if child.condition is None and not child.edge_conditions:
            return None, {}
        where = {"tenant": run[0], "run": run[1]}
        row = await (await conn.execute(JOURNAL.run_input, where)).fetchone()
        outputs: dict[str, Any] = {}
        if child.condition is not None:
            cursor = await conn.execute(JOURNAL.outputs, {**where, "nos": child.parents})
            outputs = {name: output for _, name, status, output in await cursor.fetchall() if status == "succeeded"}
        outputs.update({p.name: _value(p.output) for p in parents if p.succeeded})
        return (row[0] if row else None), outputs

    def _count(self, run: RunKey, child: Child, deps_left: int, taken: int, status: str) -> None:
        child.deps_left, child.taken = deps_left, taken
        self._touched[run, child.no] = status

    def _bury(self, head: Head, child: Child, expression: str, message: str) -> None:
        text = f"the condition {expression!r} cannot be decided: {message}"
        failure = FailureClass.INVALID_INPUT.value
        self._count(head.key, child, 0, child.taken, "dead_letter")
        self.journal.append(
            head, StepEvent.DEAD_LETTER, child.no, {"message": text}, reason="condition_error", failure=failure
        )
        head.steps_left -= 1
        self.journal.dead.add(
            child.tenant, child.run_id, child.no, child.name, child.tool, "condition_error", failure, text[:2000]
        )
        self.closed[head.key].add(child.no)
        self.failing[head.key] = (child.name, "condition_error")

    def _write(self) -> None:
        self.ready = [ready for ready in self.ready if ready.head.key not in self.failing]
        for (run, no), status in sorted(self._touched.items(), key=lambda item: (item[0][0][1], item[0][1])):
            child = self._children[run, no]
            error = dumps({"reason": "condition_error"}).decode() if status == "dead_letter" else None
            if run in self.failing and status == "queued":
                status = "pending"
            self.journal.resolved.add(run[0], run[1], no, child.deps_left, child.taken, status, error)

    def enqueue(self, handed: Sequence[Ready], worker: str) -> None:
        """Put the ready steps into the queue: those handed off leased to the worker, the others for whoever claims."""
        given = {id(ready) for ready in handed}
        for ready in self.ready:
            child, head = ready.child, ready.head
            self.journal.append(head, StepEvent.READY, child.no)
            token, state, claim_no = None, "ready", child.claim_no
            if head.status is RunStatus.PAUSED:
                state = "held"
            elif id(ready) in given:
                token, state, claim_no = Token(uuid4()), "leased", claim_no + 1
                lease = Lease(head.tenant, head.id, child.no, claim_no, token)
                note_claim(self.journal, head, lease, attempt=child.failures + 1, worker=worker)
                ready.leased = Leased(lease, child.failures, child.crashes)
            else:
                self.left += 1
            self.journal.enqueued.add(
                child.tenant, child.run_id, child.no, child.route, child.ord, state, claim_no, child.failures,
                child.crashes, child.max_crashes, token, child.deadline_s,
            )  # fmt: skip


def _value(output: bytes | None) -> Any:
    return None if output is None else orjson.loads(output)
