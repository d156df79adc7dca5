"""Extend: steps that come into being while their run is under way (spawned, or undoing what others did)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from durable_agent.core.events import inputs_digest
from durable_agent.core.graph import Graph
from durable_agent.core.records import StepSpec
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


async def extend(conn: Connection, journal: Journal, head: Head, additions: Sequence[Addition]) -> list[int]:
    """Add the steps to a locked run, those without parents ready at once, and return their numbers.

    The routes they take are made in this transaction and not remembered: it may be rolled back.
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
    journal.append(
        head,
        RunEvent.EXTENDED,
        None,
        first=first,
        steps=len(additions),
        graph_sha256=graph.digest(),
        inputs_sha256=inputs,
    )
    for no, one in enumerate(additions, first):
        route = routes.ids[head.tenant, one.spec.queue, lane, one.spec.tool]
        _add(journal, head, rows, no, one, route)
    head.steps_total += len(additions)
    head.steps_left += len(additions)
    await journal.send(conn, rows)
    return list(range(first, head.steps_total))


def _add(journal: Journal, head: Head, rows: Row, no: int, one: Addition, route: int) -> None:
    spec, ready = one.spec, not one.parents
    created_us = (head.id.int >> 80) * 1000
    ord_ = claim_order(spec.priority, created_us)
    rows.add(
        head.tenant, head.id, no, "queued" if ready else "pending", len(one.parents), spec.retry.max_attempts,
        spec.max_crashes, route, ord_, spec.timeout_s, spec.deadline_s, spec.name, spec.kind.value, spec.tool, spec.when,
        ints(one.parents), ints(one.children), _conditions(one), policy_text(spec), json_text(spec.input), None, spec.compensate,
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
