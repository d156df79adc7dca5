"""Extend: steps that come into being while their run is under way (spawned, or undoing what others did)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from durable_agent.core.events import dumps, inputs_digest
from durable_agent.core.graph import Graph
from durable_agent.core.promotion import RootFailed, Roots, decide_roots
from durable_agent.core.records import FailureClass, StepSpec
from durable_agent.core.states import RunEvent, RunStatus, StepEvent
from durable_agent.core.turns import claim_order
from durable_agent.db.arrays import ints
from durable_agent.db.pool import Connection
from durable_agent.engine.journal import JOURNAL, Head, Journal, Row
from durable_agent.engine.routes import Routes
from durable_agent.engine.rows import STEP_COLUMNS, SUBMIT, json_text, policy_text


@dataclass(frozen=True, slots=True)
class Addition:
    """A step to add: `parents` and `children` are numbers within the run, its own being known beforehand."""

    spec: StepSpec
    parents: tuple[int, ...] = ()
    children: tuple[int, ...] = ()
    spawned_by: int | None = None
    spawn_index: int | None = None
    compensates: int | None = None
    edge_conditions: Mapping[int, str] = field(default_factory=dict)


async def extend(conn: Connection, journal: Journal, head: Head, additions: Sequence[Addition]) -> Roots:
    """Add the steps to a locked run and return what became of them at once, by their place among the additions.

    Those without parents are ready, or skipped by their conditions with what follows from them. Where one cannot be decided it is
    dead and none is ready: the run has to fail by it. The routes they take are made in this transaction and not remembered: it may
    be rolled back.
    """
    row = await (await conn.execute(JOURNAL.lane, {"tenant": head.tenant, "run": head.id})).fetchone()
    lane = row[0] if row else ""
    routes = Routes()
    await routes.ensure(conn, {(head.tenant, one.spec.queue, lane, one.spec.tool) for one in additions})
    first = head.steps_total
    rows = Row(SUBMIT.add_steps, STEP_COLUMNS)
    graph = Graph(
        tuple(one.spec.name for one in additions), tuple(one.parents for one in additions), (), (),
        {(parent, no): when for no, one in enumerate(additions, first) for parent, when in one.edge_conditions.items()},
    )  # fmt: skip
    inputs = inputs_digest(None, [one.spec.input for one in additions])
    roots = await _decide(conn, head, additions, first)
    journal.append(
        head,
        RunEvent.EXTENDED,
        None,
        first=first,
        steps=len(additions),
        graph_sha256=graph.digest(),
        inputs_sha256=inputs,
    )
    for index, why in roots.skipped.items():
        journal.append(head, StepEvent.SKIPPED, first + index, why=why)
    for no, one in enumerate(additions, first):
        route = routes.ids[head.tenant, one.spec.queue, lane, one.spec.tool]
        _add(journal, head, rows, no, one, route, roots)
    head.steps_total += len(additions)
    head.steps_left += len(additions) - len(roots.skipped)
    if roots.failed is not None:
        _bury(journal, head, first, additions, roots.failed)
    await journal.send(conn, rows)
    return roots


async def _decide(conn: Connection, head: Head, additions: Sequence[Addition], first: int) -> Roots:
    """Decide the additions without parents, numbered among themselves; the run's input is read only where a condition asks."""
    parents = tuple(tuple(no - first for no in one.parents) for one in additions)
    children = tuple(tuple(no - first for no in one.children) for one in additions)
    free = tuple(index for index, own in enumerate(parents) if not own)
    given = None
    if any(additions[index].spec.when is not None for index in free):
        row = await (await conn.execute(JOURNAL.run_input, {"tenant": head.tenant, "run": head.id})).fetchone()
        given = row[0] if row else None
    specs = [one.spec for one in additions]
    return decide_roots(specs, Graph(tuple(spec.name for spec in specs), parents, children, free, {}), given)


def _bury(journal: Journal, head: Head, first: int, additions: Sequence[Addition], failed: RootFailed) -> None:
    spec, no = additions[failed.no].spec, first + failed.no
    why = {"reason": "condition_error", "failure": FailureClass.INVALID_INPUT.value}
    journal.append(head, StepEvent.DEAD_LETTER, no, {"message": failed.message}, **why)
    journal.dead.add(head.tenant, head.id, no, spec.name, spec.tool, *why.values(), failed.message[:2000])
    head.steps_left -= 1


def _add(journal: Journal, head: Head, rows: Row, no: int, one: Addition, route: int, roots: Roots) -> None:
    spec, index = one.spec, no - head.steps_total
    created_us = (head.id.int >> 80) * 1000
    ord_ = claim_order(spec.priority, created_us)
    ready, dead = index in roots.ready, roots.failed if roots.failed is not None and roots.failed.no == index else None
    status = "queued" if ready else "skipped" if index in roots.skipped else "dead_letter" if dead else "pending"
    left = 0 if status == "skipped" else roots.deps_left.get(index, len(one.parents))
    error = dumps({"reason": "condition_error", "message": dead.message}).decode() if dead else None
    rows.add(
        head.tenant, head.id, no, status, left, spec.retry.max_attempts,
        spec.max_crashes, route, ord_, spec.timeout_s, spec.deadline_s, spec.name, spec.kind.value, spec.tool, spec.when,
        ints(one.parents), ints(one.children), _conditions(one), policy_text(spec), json_text(spec.input), error, spec.compensate,
        one.spawned_by, one.spawn_index, one.compensates, None, False, False, None, 0,
    )  # fmt: skip
    if ready:
        journal.append(head, StepEvent.READY, no)
        state = "held" if head.status is RunStatus.PAUSED else "ready"
        journal.enqueued.add(
            head.tenant, head.id, no, route, ord_, state, 0, 0, 0, spec.max_crashes, None, spec.deadline_s, None
        )


def _conditions(one: Addition) -> str | None:
    return json_text({str(parent): when for parent, when in one.edge_conditions.items()} or None)
