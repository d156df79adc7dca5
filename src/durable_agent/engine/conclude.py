"""Conclude: how runs end in a transaction, after everything else of it is known; what they did is undone first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

import orjson

from durable_agent.core import retry
from durable_agent.core.events import dumps
from durable_agent.core.records import StepKind, StepSpec
from durable_agent.core.states import RunEvent, RunStatus, StepEvent
from durable_agent.db.pool import Connection
from durable_agent.engine.extend import Addition, extend
from durable_agent.engine.journal import EFFECTS, JOURNAL, WAITS, Head, Journal
from durable_agent.engine.promote import Promotion
from durable_agent.engine.settle import Settlement

# How a run that is compensated ends: the event, and what it is called until then.
ENDINGS = {
    "failed": RunEvent.FAILED, "cancelled": RunEvent.CANCELLED, "budget_exceeded": RunEvent.BUDGET_EXCEEDED,
}  # fmt: skip


async def conclude(conn: Connection, settlement: Settlement, promotion: Promotion) -> bool:
    """End the runs that failed (everything open is cancelled) or have nothing left; called after promotion.

    Tells whether steps became ready by it: those that undo what a failed run did.
    """
    journal, more = settlement.journal, False
    settlement.failing.update(promotion.failing)
    for spawner, skipped in promotion.arrived.items():
        settlement.arrived[spawner] += skipped
    for key, (step, reason) in settlement.failing.items():
        head = journal.heads[key]
        closed = settlement.finished[key] | promotion.closed[key]
        ending = "budget_exceeded" if reason == "budget" else "failed"
        await close_open_steps(
            conn, journal, head, closed, why="budget_exceeded" if reason == "budget" else "run_failed"
        )
        if head.status is RunStatus.COMPENSATING:
            await _mark_undone(conn, journal, head)
            head.error = dumps(
                {"step": step, "reason": "compensation_failed", "failure": reason, **await _first(conn, head)}
            )
            journal.move(head, RunEvent.FAILED, step=step, reason="compensation_failed")
            continue
        exhausted = settlement.record.exhausted.get(key)
        facts = exhausted.facts() if exhausted is not None else {}
        head.error = dumps({"step": step, "reason": reason, **facts})
        if await undo(conn, journal, head, ending=ending, step=step, reason=reason, **facts):
            more = True
        else:
            journal.move(head, ENDINGS[ending], step=step, reason=reason, **facts)
    for head in journal.heads.values():
        if head.steps_left == 0 and not head.status.final and head.last_seq != head.seen:
            if head.status is RunStatus.COMPENSATING:
                await _compensated(conn, journal, head)
            else:
                journal.move(head, RunEvent.COMPLETED)
    return more


async def undo(conn: Connection, journal: Journal, head: Head, *, ending: str, **facts: Any) -> bool:
    """Add the steps that undo what the run did, the last first, each after the one before; False if there is nothing.

    The run's other steps are closed already: nothing of it runs any more. Source: the saga of Garcia-Molina and Salem, 1987.
    """
    await journal.flush(conn)
    await cancel_rows(conn, journal, head)
    rows = await (await conn.execute(EFFECTS.to_undo, {"tenant": head.tenant, "run": head.id})).fetchall()
    if not rows:
        return False
    journal.move(head, RunEvent.COMPENSATING, ending=ending, steps=len(rows), **facts)
    head.ending = ending
    first = head.steps_total
    additions = [_undoing(row, first, index, len(rows)) for index, row in enumerate(rows)]
    await extend(conn, journal, head, additions)
    return True


def _undoing(row: Sequence[Any], first: int, index: int, count: int) -> Addition:
    no, step, effect, tool, state, key, queue, _at, request, result = row
    given = {
        "arguments": orjson.loads(request) if request else None, "result": orjson.loads(result) if result else None,
        "key": key or None, "outcome": state,
    }  # fmt: skip
    spec = StepSpec(
        f"undo.{step[:150]}.{effect}", StepKind.TOOL_CALL, tool, input=given, queue=queue,
        retry=retry.default_policy(StepKind.TOOL_CALL), priority=0,
    )  # fmt: skip
    return Addition(
        spec, (first + index - 1,) if index else (), (first + index + 1,) if index + 1 < count else (), compensates=no
    )


async def _compensated(conn: Connection, journal: Journal, head: Head) -> None:
    await _mark_undone(conn, journal, head)
    row = await (await conn.execute(JOURNAL.ending, {"tenant": head.tenant, "run": head.id})).fetchone()
    ending, error = row if row else ("failed", None)
    first = (error or {}).get("first") or error or {}
    facts = {"step": first.get("step"), "reason": first.get("reason")} if first else {}
    if first:
        head.error = dumps({**facts, "compensated": True})
    journal.move(head, ENDINGS[ending], **facts, compensated=True)


async def _first(conn: Connection, head: Head) -> dict[str, Any]:
    """What made the run fail in the first place, before its compensation did."""
    row = await (await conn.execute(JOURNAL.ending, {"tenant": head.tenant, "run": head.id})).fetchone()
    error = (row[1] if row else None) or {}
    return {"first": error.get("first") or error} if error else {}


async def _mark_undone(conn: Connection, journal: Journal, head: Head) -> None:
    await journal.flush(conn)
    where = {"tenant": head.tenant, "run": head.id}
    nos = [row[0] for row in await (await conn.execute(EFFECTS.undone, where)).fetchall()]
    for no in nos:
        journal.append(head, StepEvent.COMPENSATED, no)
    if nos:
        await conn.execute(EFFECTS.mark_undone, {**where, "nos": nos})


async def close_open_steps(conn: Connection, journal: Journal, head: Head, closed: Iterable[int], *, why: str) -> None:
    """Append `step.cancelled` for every open step of the run but those closed by this transaction.

    What such a step had begun to call and nobody will hear the end of is unknown from now on, and recorded so. The
    rows are changed by `cancel_rows`.
    """
    gone, cut = set(closed), list[int]()
    await journal.flush(conn)  # what this transaction took off a step's hands is not asked about
    cursor = await conn.execute(JOURNAL.open_steps, {"tenant": head.tenant, "run": head.id})
    for no, tool, state, claim_no, effect in await cursor.fetchall():
        if no in gone:
            continue
        facts = {"claim_no": claim_no} if state == "leased" else {}
        journal.append(head, StepEvent.CANCELLED, no, why=why, **facts)
        if effect is not None:
            cut.append(no)
            if state == "leased":
                journal.append(head, StepEvent.EFFECT_UNKNOWN, no, effect=0, name=tool)
    begun = await conn.execute(EFFECTS.open_effects, {"tenant": head.tenant, "run": head.id})
    for no, effect, name in await begun.fetchall():
        journal.append(head, StepEvent.EFFECT_UNKNOWN, no, effect=effect, name=name)
    if begun.rowcount:
        await conn.execute(EFFECTS.doubt_effects, {"tenant": head.tenant, "run": head.id, "now": journal.now})
    if cut:
        await conn.execute(WAITS.void_words, {"tenant": head.tenant, "run": head.id, "nos": cut, "now": journal.now})
    if head.waiting:
        await conn.execute(WAITS.cancel_waits, {"tenant": head.tenant, "run": head.id, "now": journal.now})
        head.waiting = 0
    head.steps_left = 0


async def cancel_rows(conn: Connection, journal: Journal, head: Head) -> None:
    """Queue the statement that ends the open steps of a run; harmless when they are ended."""
    await conn.execute(JOURNAL.cancel_steps, {"tenant": head.tenant, "run": head.id, "now": journal.now})


async def cancel_failed(conn: Connection, journal: Journal, settlement: Settlement) -> None:
    """Queue the statements that end the open steps of the runs that failed in this transaction."""
    for key in settlement.failing:
        head = journal.heads[key]
        if head.status in (RunStatus.FAILED, RunStatus.BUDGET_EXCEEDED):
            await cancel_rows(conn, journal, head)


def ended_children(journal: Journal) -> list[tuple[int, UUID]]:
    """Return the runs that ended in this transaction and that another run waits for."""
    return [
        head.key for head in journal.heads.values()
        if head.parent is not None and head.status.final and head.last_seq != head.seen
    ]  # fmt: skip
