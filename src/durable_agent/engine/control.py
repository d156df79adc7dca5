"""Control: what a person tells a run. Each verb locks the run, so it and a worker's settlement have one winner."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from durable_agent.core.records import RunId, Tenant
from durable_agent.core.states import IllegalTransition, RunEvent, RunStatus, StepEvent
from durable_agent.core.waits import Decision, answer_of
from durable_agent.db.arrays import literals
from durable_agent.db.batch import batch
from durable_agent.db.pool import TRANSIENT, Connection, Database, first_line, may_be_committed
from durable_agent.db.sql import load
from durable_agent.engine.caps import release, releases
from durable_agent.engine.conclude import cancel_rows, close_open_steps, undo
from durable_agent.engine.journal import JOURNAL, Head, Journal, read_now
from durable_agent.engine.spend import BUDGETS, charge_run
from durable_agent.engine.waiting import child_value, end_spawned, end_wait, settle_waiting
from durable_agent.errors import Conflict, DatabaseUnavailable, NotFound

REDRIVE = load("redrive")


@dataclass(frozen=True, slots=True)
class Held:
    """One locked run with the journal of its transaction; `later` are statements on its row, for after the head is written."""

    conn: Connection
    journal: Journal
    head: Head
    later: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    @property
    def where(self) -> dict[str, Any]:
        """The run's key as parameters."""
        return {"tenant": self.head.tenant, "run": self.head.id, "now": self.journal.now}


@asynccontextmanager
async def locked(
    db: Database, tenant: Tenant, run_id: UUID, first: tuple[str, dict[str, Any]] | None = None
) -> AsyncIterator[Held]:
    """Yield the run under its lock; on leaving, the journal is written and committed. Raises NotFound, Conflict.

    `first` is a statement that locks what must be locked before it.
    """
    committing = False
    try:
        async with db.transaction() as conn, batch(conn):
            if first is not None:
                await conn.execute(*first)
            rows = await (
                await conn.execute(JOURNAL.lock_runs, literals(("tenants", "runs"), [(tenant, run_id)]))
            ).fetchall()
            if not rows:
                raise NotFound(f"run {run_id} does not exist", run_id=str(run_id))
            row = await (await read_now(conn)).fetchone()
            journal = Journal(row[0])
            journal.take(rows)
            held = Held(conn, journal, journal.heads[tenant, run_id])
            yield held
            await settle_waiting(conn, journal)
            await journal.write(conn)
            for statement, params in held.later:
                await conn.execute(statement, params)
            if held.head.agent is not None and held.head.status.final:
                await release(conn, [(tenant, held.head.agent)])
            committing = True
    except IllegalTransition as error:
        verb = error.event.removeprefix("run.")
        raise Conflict(
            f"run {run_id} is {error.state}: it cannot be {verb}", run_id=str(run_id), run_status=error.state
        ) from error
    except TRANSIENT as error:
        if committing and may_be_committed(error):
            raise DatabaseUnavailable(
                f"nobody knows whether run {run_id} was changed: {first_line(error)}; look at it before you try again"
            ) from error
        raise DatabaseUnavailable(f"run {run_id} was not changed: {first_line(error)}; try again") from error


async def cancel(db: Database, tenant: Tenant, run_id: UUID, *, actor: str, reason: str | None = None) -> str:
    """End the run as cancelled with every open step; no lease of it outlives the commit. Returns the status.

    A run that did what can be undone is `compensating` first. Runs it had started are cancelled by `cancel_orphans`.

    Raises NotFound, Conflict (the run ended before, and how).
    """
    async with locked(db, tenant, run_id) as held:
        journal, head = held.journal, held.head
        if head.status.final or head.status is RunStatus.COMPENSATING:
            raise IllegalTransition("run", head.status, RunEvent.CANCELLED)
        begun = head.status is not RunStatus.PENDING
        await close_open_steps(held.conn, journal, head, (), why="run_cancelled")
        await cancel_rows(held.conn, journal, head)
        if not (begun and await undo(held.conn, journal, head, ending="cancelled", by=actor)):
            journal.move(head, RunEvent.CANCELLED, _why(reason), by=actor)
        if head.budgeted:
            await charge_run(held.conn, journal, head)
    return head.status.value


async def pause(db: Database, tenant: Tenant, run_id: UUID, *, actor: str, reason: str | None = None) -> str:
    """Stop claiming the run's steps; attempts in flight begin no further effect. Raises NotFound, Conflict.

    An attempt that asks for one gives its step back, which is held; the others go on to their end.
    """
    async with locked(db, tenant, run_id) as held:
        held.journal.move(held.head, RunEvent.PAUSED, _why(reason), by=actor)
        await held.conn.execute(JOURNAL.hold_steps, held.where)
    return held.head.status.value


async def resume(
    db: Database, tenant: Tenant, run_id: UUID, *, actor: str, reason: str | None = None, broke: bool = False
) -> str:
    """Let a paused run's steps be claimed again; ring READY afterwards. Raises NotFound, Conflict.

    One whose time is over is paused again when its clock is looked at. With `broke` only one that a budget paused goes on: what a
    person paused meanwhile stays so.
    """
    async with locked(db, tenant, run_id) as held:
        if broke and await (await held.conn.execute(BUDGETS.paused_for, held.where)).fetchone() == (None,):
            raise Conflict(f"run {run_id} is not paused for a budget any more", run_id=str(run_id))
        held.journal.move(held.head, RunEvent.RESUMED, _why(reason), by=actor)
        await held.conn.execute(JOURNAL.unhold_steps, held.where)
        held.later.extend([(BUDGETS.mark_resumed, held.where), (BUDGETS.rearm_clock, held.where)])
        if held.head.agent is not None:
            held.later.extend(releases([(tenant, held.head.agent)]))
    return held.head.status.value


async def redrive(
    db: Database, tenant: Tenant, *, run_id: RunId | None = None, step: str | None = None, reason: str | None = None,
    tool: str | None = None, limit: int = 1000, actor: str, extra_attempts: int | None = None,
) -> list[tuple[RunId, str]]:  # fmt: skip
    """Give dead steps another chance, run by run, and return (run, step) of each; ring READY afterwards.

    Limits are raised by `extra_attempts` (default: the step's own number again); no counter is reset, so a claim
    number never repeats (R3). What the run's failure had cancelled becomes pending or ready again, or waits on for the steps
    it had added; what had succeeded stays, and so does a run it waited for that has completed. Filters are combined; at most
    `limit` dead letters are looked at, oldest first, and a run goes on with all its dead steps or not at all. Raises NotFound
    when a named run has no such dead letter, Conflict when it cannot go
    on: a condition of it cannot be decided, or it has undone what it did.
    """
    async with db.reading() as conn:
        cursor = await conn.execute(
            REDRIVE.candidates,
            {"tenant": tenant, "run": run_id, "step": step, "reason": reason, "tool": tool, "limit": limit},
        )
        found = await cursor.fetchall()
    if not found and run_id is not None:
        raise NotFound(f"run {run_id} has no such dead letter", run_id=str(run_id), step=step)
    done: list[tuple[RunId, str]] = []
    for run in dict.fromkeys(run for run, _no in found):
        try:
            done.extend(await _redrive_run(db, tenant, run, actor, extra_attempts))
        except Conflict:
            if run_id is not None:
                raise
            continue  # a run that cannot go on does not keep the others from it
    return done


async def _redrive_run(
    db: Database, tenant: Tenant, run_id: UUID, actor: str, extra: int | None
) -> list[tuple[RunId, str]]:
    async with locked(db, tenant, run_id) as held:
        journal, head, conn = held.journal, held.head, held.conn
        if head.status is not RunStatus.FAILED:
            return []  # somebody was faster
        undoing = await _undoing(held)
        found = await (await conn.execute(REDRIVE.dead_of, held.where)).fetchall()
        for _no, name, reason in found:
            if reason == "condition_error":
                raise Conflict(
                    f"run {run_id} cannot go on: the condition of step {name!r} would fail again; replay it with other input or code",
                    run_id=str(run_id), step=name,
                )  # fmt: skip
        if not found:
            return []
        nos = [no for no, _name, _reason in found]
        if undoing:
            journal.move(head, RunEvent.COMPENSATING, by=actor, redriven=len(nos))
        else:
            journal.move(head, RunEvent.REDRIVEN, by=actor, steps=len(nos))
            head.error = b"null"
        await conn.execute(REDRIVE.forget, {**held.where, "nos": nos})
        dead = await (await conn.execute(REDRIVE.revive, {**held.where, "nos": nos, "extra": extra})).fetchall()
        rows = await (await conn.execute(REDRIVE.recount, held.where)).fetchall()
        for no, ready in rows:
            journal.append(head, StepEvent.REDRIVEN, no)
            if ready:
                journal.append(head, StepEvent.READY, no)
        agent = None if undoing else head.agent
        await _queue_again(held, "ready" if agent is None else "capped")
        if agent is not None:
            held.later.extend(releases([(tenant, agent)], lifted=True))
        for statement in (BUDGETS.mark_resumed, BUDGETS.restart_clock, BUDGETS.rearm_clock):
            held.later.append((statement, held.where))
        row = await (await conn.execute(REDRIVE.steps_left, held.where)).fetchone()
        head.steps_left = row[0] if row else 0
    return [(RunId(run_id), name) for _no, name in dead]


async def _queue_again(held: Held, state: str) -> None:
    """Queue the steps that became ready, in this state; who had added steps and waited for them waits on, for they go on, too.

    The last of those may have ended in the very transaction that failed the run, and a run that was waited for before anybody
    cancelled it: then nothing is left to wait for.
    """
    journal, head, conn = held.journal, held.head, held.conn
    waits = await (await conn.execute(REDRIVE.wait_on, held.where)).fetchall()
    await conn.execute(REDRIVE.enqueue, {**held.where, "waiting": [no for _wait, no, *_ in waits], "state": state})
    for wait, no, kind, name, sha, request, left, child, claim_no in sorted(waits, key=lambda row: row[1]):
        journal.append(
            head, StepEvent.WAITING, no, {"request": request}, kind=kind, name=name, wait=str(wait),
            request_sha256=sha, claim_no=claim_no,
        )  # fmt: skip
        head.waiting += 1
        if child is not None:
            value, why, _ended = await child_value(conn, head.tenant, head.id, child)
            told = answer_of(Decision.FINISHED, by=None, reason=why, value=value)
            await end_wait(conn, journal, head, wait, no, told)
        elif left == 0:
            await end_spawned(conn, journal, head, wait, no)


async def _undoing(held: Held) -> bool:
    """Tell whether the failed run failed to undo what it did. Raises Conflict when it has undone it all."""
    row = await (await held.conn.execute(JOURNAL.ending, held.where)).fetchone()
    ending, error = row if row else (None, None)
    if ending is None:
        return False
    if (error or {}).get("reason") != "compensation_failed":
        raise Conflict(
            f"run {held.head.id} has undone what it did and cannot go on; start it again, or replay it from a step",
            run_id=str(held.head.id),
        )
    return True


def _why(reason: str | None) -> dict[str, str] | None:
    return {"reason": reason} if reason else None
