"""Answer: what a person, a signal, a clock or another run says to a waiting step. Each answer has exactly one winner.

Every verb takes the run's lock first and looks at the wait again under it; who comes second is told who won.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from durable_agent.core.events import dumps
from durable_agent.core.records import EffectState, RunId, Tenant, WaitKind
from durable_agent.core.states import RunEvent, StepEvent
from durable_agent.core.waits import OVERDUE, Decision, answer_of, refuse
from durable_agent.db import reads
from durable_agent.db.pool import Connection, Database
from durable_agent.engine.control import Held, cancel, locked
from durable_agent.engine.journal import EFFECTS, JOURNAL, WAITS, RunKey
from durable_agent.engine.spared import Spared, shuffled
from durable_agent.engine.waiting import child_value, end_wait
from durable_agent.errors import Conflict, Forbidden, InvalidRequest, NotFound

MAX_SIGNALS = 10_000
# So many due waits are looked at in one go; a process that found as many looks again at once.
MANY_DUE = 200


async def answer(
    db: Database, tenant: Tenant, wait_id: UUID, decision: Decision, *, by: str, reason: str | None = None,
    value: Any = None,
) -> UUID:  # fmt: skip
    """Answer an open wait and free its step; ring READY and EVENTS afterwards. Returns the run's id.

    Raises NotFound, Conflict (answered before: by whom and how; or overdue), InvalidRequest (not what this kind of wait
    takes), Forbidden (who asked for an approval may not give it).
    """
    async with db.reading() as conn:
        found = await _wait(conn, tenant, wait_id)
    overdue = False
    async with locked(db, tenant, found["run_id"]) as held:
        wait = await _wait(held.conn, tenant, wait_id)
        _still_open(wait)
        if wait["due_at"] is not None and wait["due_at"] <= held.journal.now:
            await _overdue(held, wait)
            overdue = True
        else:
            await _decide(held, wait, decision, by, reason, value)
    if overdue:
        raise Conflict(
            f"wait {wait_id} expired at {found['due_at'].isoformat()}; nobody had answered",
            wait_id=str(wait_id), winner={"decision": OVERDUE[WaitKind(found["kind"])].value, "by": None},
        )  # fmt: skip
    return RunId(found["run_id"])


async def _wait(conn: Connection, tenant: Tenant, wait_id: UUID) -> dict[str, Any]:
    rows = await reads.rows(conn, WAITS.wait_of, {"tenant": tenant, "id": wait_id})
    if not rows:
        raise NotFound(f"wait {wait_id} does not exist", wait_id=str(wait_id))
    return rows[0]


def _still_open(wait: dict[str, Any]) -> None:
    if wait["state"] == "open":
        return
    told = wait["answer"] or {"decision": wait["state"], "by": None}
    who = f" by {told['by']}" if told.get("by") else ""
    raise Conflict(
        f"wait {wait['id']} is closed: {told['decision']}{who} at {wait['answered_at'].isoformat()}",
        wait_id=str(wait["id"]), winner={"decision": told["decision"], "by": told.get("by"), "reason": told.get("reason")},
    )  # fmt: skip


async def _decide(
    held: Held, wait: dict[str, Any], decision: Decision, by: str, reason: str | None, value: Any
) -> None:
    row = await (await held.conn.execute(JOURNAL.lane, held.where)).fetchone()
    asked_by = row[1] if row else None
    refused = refuse(WaitKind(wait["kind"]), decision, by=by, asked_by=asked_by, allow_self=wait["allow_self"])
    if refused is not None:
        facts = {"wait_id": str(wait["id"]), "reason": refused.code}
        if refused.code == "self-approval":
            raise Forbidden(refused.message, **facts)
        raise InvalidRequest(refused.message, field="wait_id", **facts)
    await _close(held, wait, answer_of(decision, by=by, reason=reason, value=value))


async def _close(held: Held, wait: dict[str, Any], told: dict[str, Any]) -> None:
    """Settle the effect in doubt, if the wait is about one, and wake the step."""
    if wait["kind"] == WaitKind.UNKNOWN_EFFECT:
        decision = Decision(told["decision"])
        effect = wait["effect_no"]
        held.journal.append(
            held.head, StepEvent.EFFECT_SETTLED, wait["step_no"], {"reason": told["reason"], "result": told["value"]},
            effect=effect, name=wait["name"], decision=decision.value, by=told["by"],
        )  # fmt: skip
        if effect:
            await held.conn.execute(EFFECTS.settle_effect, {**held.where, **_settled(wait, decision, told)})
    await end_wait(held.conn, held.journal, held.head, wait["id"], wait["step_no"], told)


def _settled(wait: dict[str, Any], decision: Decision, told: dict[str, Any]) -> dict[str, Any]:
    where = {"no": wait["step_no"], "effect": wait["effect_no"], "result": None, "error": None}
    match decision:
        case Decision.HAPPENED:
            return {**where, "state": EffectState.DONE.value, "result": dumps(told["value"]).decode()}
        case Decision.RESEND:
            return {**where, "state": EffectState.RESEND.value}
        case _:
            message = told["reason"] or "nobody knows whether it happened, and it was decided to fail"
            return {**where, "state": EffectState.REFUSED.value, "error": dumps({"message": message}).decode()}


async def signal(
    db: Database, tenant: Tenant, run_id: UUID, name: str, payload: Any, *, key: str | None, by: str
) -> bool:
    """Deliver a signal: to the step that waits for it, else it is kept until one does. False if the key is known already.

    First write wins for a key, and who asks again hears so even after the run's end. Raises NotFound, Conflict (the run has
    ended, the key came with another signal, too many).
    """
    text = dumps(payload).decode()
    async with locked(db, tenant, run_id) as held:
        head = held.head
        where = {**held.where, "name": name, "key": key, "by": by, "payload": text, "taken_by": None}
        if key is not None:
            known = await (await held.conn.execute(WAITS.signal_by_key, where)).fetchone()
            if known is not None:
                if known[1:] != (name, text):
                    raise Conflict(
                        f"Idempotency-Key {key!r} belongs to an earlier signal {known[1]!r} of run {run_id}; the first one counts",
                        field="Idempotency-Key", run_id=str(run_id),
                    )  # fmt: skip
                return False
        if head.status.final:
            raise Conflict(f"run {run_id} is {head.status.value}: nobody will hear the signal", run_id=str(run_id))
        counted = await (await held.conn.execute(WAITS.count_signals, where)).fetchone()
        if counted and counted[0] >= MAX_SIGNALS:
            raise Conflict(f"run {run_id} keeps {MAX_SIGNALS} signals; no more are taken", run_id=str(run_id))
        held.journal.append(head, RunEvent.SIGNALLED, None, {"payload": payload}, name=name, by=by)
        waiting = await (
            await held.conn.execute(WAITS.open_wait_of, {**where, "kind": WaitKind.SIGNAL.value})
        ).fetchone()
        if waiting is not None:
            wait, no = waiting[0], waiting[1]
            where["taken_by"] = wait
            told = answer_of(Decision.SIGNALLED, by=by, reason=None, value=payload)
            await end_wait(held.conn, held.journal, head, wait, no, told)
        await held.conn.execute(WAITS.add_signal, where)
    return True


async def settle_due(db: Database, spared: Spared | None = None) -> int:
    """End the waits whose time is over and those for runs that have ended; return how many. Any process may.

    Those that are spared are passed over; one that cannot be ended joins them.
    """
    spared = spared or Spared()
    async with db.reading() as conn:
        due = await (await conn.execute(WAITS.due, {"limit": MANY_DUE, "spared": list(spared.ids)})).fetchall()
    return sum([await _settle_one(db, Tenant(tenant), wait, run, spared) for tenant, wait, run in shuffled(due)])


async def settle_children(db: Database, ended: Iterable[RunKey]) -> int:
    """Tell the steps that wait for these runs what they came to; return how many were told."""
    told, spared = 0, Spared()
    for tenant, child in ended:
        async with db.reading() as conn:
            row = await (await conn.execute(WAITS.of_child, {"tenant": tenant, "child": child})).fetchone()
        if row is not None:
            told += await _settle_one(db, Tenant(tenant), row[0], row[1], spared)
    return told


async def _settle_one(db: Database, tenant: Tenant, wait_id: UUID, run: UUID, spared: Spared) -> bool:
    with spared.trying("wait", wait_id, run):
        async with locked(db, tenant, run) as held:
            settled = await _end_if_due(held, await _wait(held.conn, tenant, wait_id))
        return settled  # which it is once it is committed
    return False


async def _end_if_due(held: Held, wait: dict[str, Any]) -> bool:
    if wait["state"] != "open" or held.head.status.final:
        return False
    if wait["child_run"] is not None:
        value, why, ended = await child_value(held.conn, held.head.tenant, held.head.id, wait["child_run"])
        if ended:
            await _close(held, wait, answer_of(Decision.FINISHED, by=None, reason=why, value=value))
            return True
    if wait["due_at"] is None or wait["due_at"] > held.journal.now:
        return False
    await _overdue(held, wait)
    return True


async def _overdue(held: Held, wait: dict[str, Any]) -> None:
    decision = OVERDUE[WaitKind(wait["kind"])]
    reason = None if decision is Decision.ELAPSED else "nobody answered in time"
    await _close(held, wait, answer_of(decision, by=None, reason=reason, value=None))


async def cancel_orphans(db: Database, spared: Spared | None = None) -> int:
    """Cancel the open runs whose waiting step is no more: their parent was cancelled or failed. Returns how many it found.

    `spared` as for `settle_due`.
    """
    spared = spared or Spared()
    async with db.reading() as conn:
        orphans = await (await conn.execute(WAITS.orphans, {"spared": list(spared.ids)})).fetchall()
    for tenant, run in shuffled(orphans):
        with spared.trying("orphan", run, run):
            await cancel(db, Tenant(tenant), run, actor="engine", reason="the run that waited for it has ended")
    return len(orphans)
