"""Promote: what becomes of steps when those they wait for are resolved.

Runs entirely under the runs' locks; the rule itself is `core.promotion`. A skipped step resolves its own children in
turn, so the walk goes on until nothing more is decided.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, NamedTuple, assert_never
from uuid import UUID

import orjson

from durable_agent.core.events import dumps
from durable_agent.core.port import Offer
from durable_agent.core.promotion import (
    ChildState,
    ConditionFailed,
    ParentResolution,
    Skipped,
    StillPending,
    Verdict,
    as_written,
    resolve,
    spawn_prefix,
)
from durable_agent.core.promotion import (
    Outcome as ParentOutcome,
)
from durable_agent.core.promotion import (
    Ready as ReadyVerdict,
)
from durable_agent.core.records import FailureClass, Lease, Tenant
from durable_agent.core.states import RunStatus, StepEvent
from durable_agent.db.arrays import literals
from durable_agent.db.pool import Connection
from durable_agent.engine.claim import WIDE, fresh_tokens, note_claim
from durable_agent.engine.journal import JOURNAL, STEP_KEY, Head, Journal, RunKey, StepKey


@dataclass(frozen=True, slots=True)
class Resolution:
    """A parent that reached an end which its children were waiting for."""

    run: RunKey
    no: int
    name: str
    succeeded: bool
    output: bytes | None
    children: tuple[int, ...]


class Child(NamedTuple):
    """A pending step under its run's lock, as `pending` returns it."""

    tenant: int
    run_id: UUID
    no: int
    at: str
    name: str
    kind: str
    tool: str
    input: Any
    timeout_s: float | None
    deadline_s: float
    children: list[int]
    max_attempts: int
    max_crashes: int
    retry: str
    deps_left: int
    taken: int
    condition: str | None
    edge_conditions: dict[str, str] | None
    parents: list[int]
    route: int
    ord: int
    claim_no: int
    failures: int
    crashes: int
    spawned_by: int | None
    compensates: int | None
    origin: UUID | None

    @property
    def key(self) -> StepKey:
        """The step's key."""
        return self.tenant, self.run_id, self.no


@dataclass(slots=True)
class Ready:
    """A step that became ready in this transaction; with a `lease` when it was handed off at once."""

    head: Head
    child: Child
    lease: Lease | None = None

    @property
    def tenant(self) -> Tenant:
        """The step's tenant."""
        return self.head.tenant

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
        """Whether it lost leases before, has a record to be read, or outputs to be measured: such a step is never handed off.

        See `core.turns`.
        """
        child = self.child
        return child.crashes > 0 or child.claim_no > 0 or self.head.origin is not None or len(child.parents) > WIDE


class Count(NamedTuple):
    """What a pending step still waits for, and what it is by now."""

    deps_left: int
    taken: int
    status: str


# What has more to decide is settled one by one, and of one result the conditions are decided for so long.
SHARED_S = 2.0
ALONE_S = 10.0
# Whoever decides says nothing meanwhile, and PostgreSQL ends a transaction that is idle for five seconds.
SILENT_S = 1.0


class TooSlow(ValueError):
    """The conditions after several results take too long to be decided in one transaction: settle them one by one."""


@dataclass(slots=True)
class Deciding:
    """The time that the conditions of one transaction take: of this thread's processor, for a busy machine is no defect."""

    spent_s: float = 0.0
    _heard_s: float = field(default_factory=time.monotonic)

    async def speak(self, conn: Connection) -> None:
        """Let the server hear of this transaction now and then."""
        if time.monotonic() - self._heard_s > SILENT_S:
            await (await conn.execute(JOURNAL.now)).fetchone()
            self._heard_s = time.monotonic()


@dataclass(slots=True)
class Promotion:
    """The promotions of one transaction: fed with resolutions, it fills the journal."""

    journal: Journal
    ready: list[Ready] = field(default_factory=list)
    failing: dict[RunKey, tuple[str, str]] = field(default_factory=dict)
    closed: dict[RunKey, set[int]] = field(default_factory=lambda: defaultdict(set))
    arrived: dict[StepKey, list[int]] = field(default_factory=lambda: defaultdict(list))
    outputs: dict[StepKey, tuple[str, bytes]] = field(default_factory=dict)
    left: int = 0
    _deciding: Deciding = field(default_factory=Deciding)
    _several: bool = False
    _asked: set[StepKey] = field(default_factory=set)
    _children: dict[StepKey, Child] = field(default_factory=dict)
    _counts: dict[StepKey, Count] = field(default_factory=dict)
    _faults: dict[StepKey, str] = field(default_factory=dict)
    _inputs: dict[RunKey, Any] = field(default_factory=dict)
    _values: dict[StepKey, Any] = field(default_factory=dict)

    def know(self, asked: Iterable[StepKey], rows: Iterable[Any]) -> None:
        """Take the rows of `pending` for the steps that were asked for."""
        self._asked.update(asked)
        for row in rows:
            child = Child._make(row)
            self._children[child.key] = child

    async def resolve(
        self, conn: Connection, resolutions: Sequence[Resolution], failing: Mapping[RunKey, tuple[str, str]]
    ) -> None:
        """Resolve the children of the given parents, and on through every step that is skipped on the way.

        In a run that fails in this transaction steps are counted down all the same, so that a redrive finds the counts
        true; they only do not become ready. Raises TooSlow.
        """
        self.failing.update(failing)
        self._several = len(resolutions) > 1
        wave = list(resolutions)
        while wave:
            await self._read(conn, wave)
            wave = await self._wave(conn, wave)
        self._write()

    async def _read(self, conn: Connection, wave: Sequence[Resolution]) -> None:
        wanted = {(*r.run, no) for r in wave for no in r.children} - self._asked
        if wanted:
            cursor = await conn.execute(JOURNAL.pending, literals(STEP_KEY, sorted(wanted, key=itemgetter(1, 2))))
            self.know(wanted, await cursor.fetchall())

    async def _wave(self, conn: Connection, wave: Sequence[Resolution]) -> list[Resolution]:
        by_child: dict[StepKey, list[Resolution]] = defaultdict(list)
        for resolution in wave:
            if resolution.output is not None:
                self.outputs[*resolution.run, resolution.no] = (resolution.name, resolution.output)
            for no in resolution.children:
                by_child[*resolution.run, no].append(resolution)
        skipped: list[Resolution] = []
        for key, parents in sorted(by_child.items(), key=_in_order):
            child = self._children.get(key)
            if child is not None:
                skipped.extend(await self._decide(conn, child, parents))
        return skipped

    async def _decide(self, conn: Connection, child: Child, parents: Sequence[Resolution]) -> list[Resolution]:
        run = child.tenant, child.run_id
        head = self.journal.heads[run]
        count = self._counts.get(child.key) or Count(child.deps_left, child.taken, "pending")
        verdict = await self._verdict(conn, child, count, parents)
        match verdict:
            case StillPending(deps_left, taken):
                self._counts[child.key] = Count(deps_left, taken, "pending")
            case ReadyVerdict(taken):
                self._counts[child.key] = Count(0, taken, "queued")
                self.ready.append(Ready(head, child))
            case Skipped():
                self._counts[child.key] = Count(0, count.taken, "skipped")
                self.journal.append(head, StepEvent.SKIPPED, child.no, why=verdict.why)
                head.steps_left -= 1
                self.closed[run].add(child.no)
                if child.spawned_by is not None:
                    self.arrived[*run, child.spawned_by].append(child.no)
                return [Resolution(run, child.no, child.name, False, None, tuple(child.children))]
            case ConditionFailed():
                self._counts[child.key] = Count(0, count.taken, "dead_letter")
                self._faults[child.key] = self._bury(head, child, verdict)
            case _:
                assert_never(verdict)
        return []

    async def _verdict(self, conn: Connection, child: Child, count: Count, parents: Sequence[Resolution]) -> Verdict:
        state = ChildState(child.no, child.name, count.deps_left, count.taken, child.condition)
        said = child.condition or next(iter((child.edge_conditions or {}).values()), None)
        if said is None:
            return resolve(state, [self._parent(child, parent) for parent in parents], None, outputs={})
        await self._deciding.speak(conn)
        if self._deciding.spent_s > SHARED_S and self._several:
            raise TooSlow("the conditions after these results take too long for one transaction")
        if self._deciding.spent_s > ALONE_S:
            message = f"the conditions after one result take more than {ALONE_S:g} s to decide"
            return ConditionFailed(said, message, late=True)
        run_input, outputs = await self._context(conn, (child.tenant, child.run_id), child, parents)
        began_s = time.thread_time()
        verdict = resolve(state, [self._parent(child, parent) for parent in parents], run_input, outputs=outputs)
        self._deciding.spent_s += time.thread_time() - began_s
        return verdict

    def _parent(self, child: Child, parent: Resolution) -> ParentResolution:
        when = (child.edge_conditions or {}).get(str(parent.no))
        outcome = ParentOutcome.SUCCEEDED if parent.succeeded else ParentOutcome.SKIPPED
        output = None if when is None else self._value(parent)  # no other rule looks at it, and it may be large
        return ParentResolution(parent.no, parent.name, outcome, output, when)

    async def _context(
        self, conn: Connection, run: RunKey, child: Child, parents: Sequence[Resolution]
    ) -> tuple[Any, dict[str, Any]]:
        """Return what the child's conditions may look at: the run's input and, for one of its own, the parents' outputs."""
        where = {"tenant": run[0], "run": run[1]}
        if run not in self._inputs:
            row = await (await conn.execute(JOURNAL.run_input, where)).fetchone()
            self._inputs[run] = row[0] if row else None
        if child.condition is None:
            return self._inputs[run], {}
        statement = JOURNAL.shared_outputs if self.journal.heads[run].origin else JOURNAL.outputs
        cursor = await conn.execute(statement, literals(STEP_KEY, [(*run, no) for no in child.parents]))
        outputs = {name: output for *_, name, output in await cursor.fetchall()}
        outputs.update({p.name: self._value(p) for p in parents if p.succeeded})
        if child.spawned_by is not None:
            spawner = await (await conn.execute(JOURNAL.spawner, {**where, "no": child.spawned_by})).fetchone()
            outputs = as_written(outputs, spawn_prefix(*spawner) if spawner else "")
        return self._inputs[run], outputs

    def _value(self, parent: Resolution) -> Any:
        """Return what a parent returned; many may ask."""
        key = *parent.run, parent.no
        if parent.output is not None and key not in self._values:
            self._values[key] = orjson.loads(parent.output)
        return self._values.get(key)

    def _bury(self, head: Head, child: Child, failed: ConditionFailed) -> str:
        text = f"the condition {failed.expression!r} cannot be decided: {failed.message}"
        failure = FailureClass.INVALID_INPUT.value
        facts = {"why": "late"} if failed.late else {}
        self.journal.append(
            head, StepEvent.DEAD_LETTER, child.no, {"message": text}, reason="condition_error", failure=failure, **facts
        )
        head.steps_left -= 1
        self.journal.dead.add(
            child.tenant, child.run_id, child.no, child.name, child.tool, "condition_error", failure, text[:2000]
        )
        self.closed[head.key].add(child.no)
        self.failing[head.key] = (child.name, "condition_error")
        return text

    def _write(self) -> None:
        self.ready = [ready for ready in self.ready if ready.head.key not in self.failing]
        for (tenant, run_id, no), count in sorted(self._counts.items(), key=_in_order):
            status = count.status
            fault = self._faults.get((tenant, run_id, no))
            error = dumps({"reason": "condition_error", "message": fault}).decode() if fault is not None else None
            if status == "queued" and (tenant, run_id) in self.failing:
                status = "pending"
            at = self._children[tenant, run_id, no].at
            self.journal.resolved.add(at, tenant, run_id, no, count.deps_left, count.taken, status, error)

    def enqueue(self, handed: Sequence[Ready], offer: Offer) -> None:
        """Put the ready steps into the queue: those handed off leased to the worker, the others for whoever claims."""
        given = {id(ready) for ready in handed}
        tokens = fresh_tokens(len(handed))
        for ready in self.ready:
            child, head = ready.child, ready.head
            self.journal.append(head, StepEvent.READY, child.no)
            token, state, claim_no, effect = None, "ready", child.claim_no, None
            if head.status is RunStatus.PAUSED:
                state = "held"
            elif id(ready) in given:
                token, state, claim_no = next(tokens), "leased", claim_no + 1
                ready.lease = Lease(head.tenant, head.id, child.no, claim_no, token)
                note_claim(self.journal, head, ready.lease, attempt=child.failures + 1, worker=offer.worker)
                effect = offer.effects.get(child.tool)
            else:
                self.left += 1
            self.journal.enqueued.add(
                child.tenant, child.run_id, child.no, child.route, child.ord, state, claim_no, child.failures,
                child.crashes, child.max_crashes, token, child.deadline_s, effect,
            )  # fmt: skip

    async def read_outputs(self, conn: Connection, handed: Sequence[Ready]) -> Any:
        """Queue the reading of the outputs that the handed-off steps need and this transaction did not bring."""
        missing = [
            key for ready in handed for no in ready.child.parents
            if (key := (*ready.head.key, no)) not in self.outputs
        ]  # fmt: skip
        return await conn.execute(JOURNAL.outputs, literals(STEP_KEY, missing)) if missing else None

    def outputs_for(self, ready: Ready, read: Mapping[RunKey, Mapping[int, tuple[str, Any]]]) -> dict[str, Any]:
        """Return what the step's succeeded parents returned, by their names."""
        found: dict[str, Any] = {}
        before = read.get(ready.head.key, {})
        for no in ready.child.parents:
            known = self.outputs.get((*ready.head.key, no))
            if known is not None:
                found[known[0]] = orjson.loads(known[1])
            elif no in before:
                name, output = before[no]
                found[name] = output
        return found


def _in_order(item: tuple[StepKey, Any]) -> tuple[UUID, int]:
    return item[0][1:]
