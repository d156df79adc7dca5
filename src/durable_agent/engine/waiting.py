"""Waiting: waits are opened with the end of an attempt, answered once, and free their step for a new claim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import orjson
from uuid_utils.compat import uuid7

from durable_agent.core import large
from durable_agent.core.events import dumps
from durable_agent.core.graph import plan
from durable_agent.core.promotion import decide_roots
from durable_agent.core.records import RunId, StepSpec, Tenant, WaitKind
from durable_agent.core.states import WAITING_RUN, RunEvent, RunStatus, StepEvent
from durable_agent.core.waits import Decision, answer_of, run_waits
from durable_agent.db.arrays import literals
from durable_agent.db.pool import Connection
from durable_agent.engine.extend import Addition, extend
from durable_agent.engine.journal import JOURNAL, WAITS, Head, Journal, RunKey, StepKey
from durable_agent.engine.routes import Routes
from durable_agent.engine.settle import Opening, Settlement
from durable_agent.engine.spend import BUDGETS
from durable_agent.engine.submit import Planned, Submission, Tree
from durable_agent.engine.writer import Writer


async def open_waits(conn: Connection, settlement: Settlement) -> bool:
    """Write the waits of a batch, with what they wait for; tell whether one was answered at once.

    So is one for a signal that came before, and one for steps all of which are skipped.
    """
    journal, woken = settlement.journal, False
    skipped: list[Opening] = []
    late: set[RunKey] = set()
    for opening in settlement.opening:
        head, asked = opening.head, opening.asked
        left, child = 0, None
        if asked.kind is WaitKind.STEPS:
            left = await _spawn(conn, settlement, opening)
            if left == 0:
                skipped.append(opening)
        elif asked.kind is WaitKind.RUN:
            child, tree = await _start(conn, journal, opening)
            if tree is not None and head.status is RunStatus.PAUSED:
                late.add((head.tenant, tree.root))
        journal.waits.add(
            head.tenant, opening.id, head.id, opening.step.no, asked.kind.value, asked.name, asked.request_sha256,
            asked.allow_self, left, child, asked.expires_s, None, opening.effect, dumps(asked.request).decode(), None,
        )  # fmt: skip
    await journal.flush(conn)
    for opening in settlement.opening:
        if opening.asked.kind is WaitKind.SIGNAL:
            woken = await _early(conn, journal, opening) or woken
    for opening in skipped:
        await end_spawned(conn, journal, opening.head, opening.id, opening.step.no)
        woken = True
    # Their time may be over, and whoever paused them did not know of these runs. In the order of their keys (R1).
    for tenant, root in sorted(late):
        await conn.execute(BUDGETS.rearm_clock, {"tenant": tenant, "run": root})
    return woken


async def _spawn(conn: Connection, settlement: Settlement, opening: Opening) -> int:
    """Add the steps to the run and return how many of them are yet to end; the run fails by a condition that cannot be decided.

    They were checked by the worker and are checked here again. Raises GraphInvalid.
    """
    head, first = opening.head, opening.head.steps_total
    specs = await _queued(conn, opening, opening.asked.steps)
    graph = plan(specs, max_steps=len(specs))
    additions = [
        Addition(
            spec,
            tuple(first + no for no in graph.parents[index]),
            tuple(first + no for no in graph.children[index]),
            spawned_by=opening.step.no,
            spawn_index=index,
            edge_conditions={first + p: graph.edge_conditions[p, index] for p in graph.parents[index]
                             if (p, index) in graph.edge_conditions},
        )
        for index, spec in enumerate(specs)
    ]  # fmt: skip
    roots = await extend(conn, settlement.journal, head, additions)
    if roots.failed is not None:
        settlement.failing.setdefault(head.key, (specs[roots.failed.no].name, "condition_error"))
    return len(specs) - len(roots.skipped)


async def _start(conn: Connection, journal: Journal, opening: Opening) -> tuple[UUID, Tree | None]:
    """Start the run that the step waits for, in this transaction; return it and its tree."""
    spec, head = opening.asked.run, opening.head
    if spec is None:
        raise ValueError("a wait for a run names the run to start")
    row = await (await conn.execute(JOURNAL.lane, {"tenant": head.tenant, "run": head.id})).fetchone()
    graph = plan(spec.steps, max_steps=len(spec.steps))
    by = row[1] if row else None
    spec = replace(spec, steps=await _queued(conn, opening, spec.steps))
    tree = Tree(*row[2:]) if row else None
    child = Submission(spec, by=by, parent=(head.id, opening.step.no), tree=tree)
    roots = decide_roots(spec.steps, graph, spec.input)
    planned = Planned(head.tenant, child, graph, RunId(uuid7()), roots)
    routes = Routes()
    await routes.ensure(conn, planned.routes())
    writer = Writer(journal.now, routes)
    writer.add(planned)
    await writer.write(conn)
    return planned.run_id, tree


async def _queued(conn: Connection, opening: Opening, specs: Sequence[StepSpec]) -> tuple[StepSpec, ...]:
    """Return the steps with the queue of the step that made them where they name none."""
    where = {"tenant": opening.head.tenant, "run": opening.head.id, "no": opening.step.no}
    row = await (await conn.execute(JOURNAL.queue_of, where)).fetchone()
    return tuple(spec if spec.queue else replace(spec, queue=row[0] if row else "default") for spec in specs)


async def _early(conn: Connection, journal: Journal, opening: Opening) -> bool:
    head = opening.head
    where = {"tenant": head.tenant, "run": head.id, "name": opening.asked.name}
    row = await (await conn.execute(WAITS.early_signal, where)).fetchone()
    if row is None:
        return False
    no, by, payload = row
    await conn.execute(WAITS.take_signal, {**where, "no": no, "wait": opening.id})
    answer = answer_of(Decision.SIGNALLED, by=by, reason=None, value=payload)
    await end_wait(conn, journal, head, opening.id, opening.step.no, answer)
    return True


async def end_wait(
    conn: Connection, journal: Journal, head: Head, wait: UUID, no: int, answer: Mapping[str, Any]
) -> None:
    """Answer an open wait and make its step ready again; the caller holds the run's lock and saw the wait open."""
    await conn.execute(
        WAITS.answer_wait,
        {"tenant": head.tenant, "id": wait, "now": journal.now, "by": answer["by"],
         "answer": dumps(answer).decode()},
    )  # fmt: skip
    state = "held" if head.status is RunStatus.PAUSED else "ready"
    where = {"tenant": head.tenant, "run": head.id, "no": no, "state": state, "now": journal.now}
    await conn.execute(WAITS.wake_step, where)
    head.waiting -= 1
    # What steps and runs came to is in their own rows; here it would be a second copy for every watcher.
    value = None if answer["decision"] == Decision.FINISHED else answer["value"]
    journal.append(
        head, StepEvent.ANSWERED, no, {"reason": answer["reason"], "value": value}, wait=str(wait),
        decision=answer["decision"], by=answer["by"],
    )  # fmt: skip


async def arrivals(conn: Connection, journal: Journal, arrived: Mapping[StepKey, Sequence[int]]) -> bool:
    """Count spawned steps that ended; a step all of whose spawned steps ended gets their results and goes on."""
    if not arrived:
        return False
    await journal.flush(conn)
    rows = [(*key, no) for key, ended in sorted(arrived.items(), key=lambda item: item[0][1:]) for no in ended]
    cursor = await conn.execute(WAITS.arrive, literals(("tenants", "runs", "nos", "ended"), rows))
    woken = False
    for tenant, wait, run, no, left in await cursor.fetchall():
        head = journal.heads[tenant, run]
        if left > 0 or head.status.final:
            continue
        await end_spawned(conn, journal, head, wait, no)
        woken = True
    return woken


async def end_spawned(conn: Connection, journal: Journal, head: Head, wait: UUID, no: int) -> None:
    """Answer an open wait for spawned steps, all of which have ended, with what they came to."""
    where = {"tenant": head.tenant, "run": head.id, "no": no, "most": large.MOST_TOGETHER_BYTES}
    results = await (await conn.execute(WAITS.spawned, where)).fetchall()
    value = [{"name": name, "status": status, "output": output} for name, status, output, _ in results]
    reason = _over(f"the outputs of the {len(results)} steps it added", results[0][3] if results else 0)
    await end_wait(conn, journal, head, wait, no, answer_of(Decision.FINISHED, by=None, reason=reason, value=value))


def _over(what: str, size: int) -> str | None:
    """Return why the outputs were left out of an answer, if they were; the step fails with it."""
    return large.too_much(what, size) if size > large.MOST_TOGETHER_BYTES else None


async def settle_waiting(conn: Connection, journal: Journal) -> None:
    """Give runs with waits the status that fits: waiting when no step can move, and for whom; else running."""
    for head in journal.heads.values():
        if head.status not in _WAITABLE or not (head.waiting or head.status in WAITING_RUN):
            continue
        await journal.flush(conn)
        where = {"tenant": head.tenant, "run": head.id}
        row = await (await conn.execute(WAITS.waiting_now, where)).fetchone()
        active, kinds = row if row else (0, None)
        if active or not kinds:
            if head.status in WAITING_RUN:
                journal.move(head, RunEvent.CONTINUED)
            continue
        event = run_waits({WaitKind(kind) for kind in kinds})
        if head.status.value != event.value.removeprefix("run."):
            journal.move(head, event)


_WAITABLE = frozenset({RunStatus.RUNNING, *WAITING_RUN})


async def child_value(
    conn: Connection, tenant: Tenant, run: UUID, child: UUID
) -> tuple[dict[str, Any], str | None, bool]:
    """Return what a child run came to (its status, its last steps' outputs, its error), why outputs are left out, and if it ended."""
    row = await (await conn.execute(WAITS.child, {"tenant": tenant, "run": child})).fetchone()
    if row is None:
        return {"run_id": str(child), "status": "gone", "output": None, "error": None}, None, True
    status, ended, error = row
    where = {"tenant": tenant, "run": child, "most": large.MOST_TOGETHER_BYTES}
    ((outputs, size),) = await (await conn.execute(WAITS.child_outputs, where)).fetchall()
    value = {"run_id": str(child), "status": status, "output": outputs, "error": error}
    return orjson.loads(orjson.dumps(value)), _over(f"the outputs of run {child}", size), bool(ended)
