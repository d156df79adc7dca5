"""Grant: what a run's tree may spend is set anew, and goes on if that is what it waited for; clocks and windows that are due."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from durable_agent.core.budget import MICROUSD, TOKENS, WALL_CLOCK
from durable_agent.core.events import dumps
from durable_agent.core.records import Limit, RunId, Tenant
from durable_agent.core.states import RunEvent, RunStatus
from durable_agent.db.arrays import literals
from durable_agent.db.pool import Connection, Database
from durable_agent.engine.conclude import cancel_rows, close_open_steps, undo
from durable_agent.engine.control import Held, locked, resume
from durable_agent.engine.journal import JOURNAL
from durable_agent.engine.spared import Spared, shuffled
from durable_agent.engine.spend import BUDGET_COLUMNS, BUDGETS, charge_run, under_way
from durable_agent.errors import Conflict, InvalidRequest, NotFound


async def grant(
    db: Database, tenant: Tenant, run_id: UUID, limits: Sequence[Limit], *, actor: str
) -> tuple[RunId, list[RunId]]:
    """Set limits of the run's tree; runs of it that a budget paused go on. Ring READY and EVENTS afterwards.

    Returns the root, which the limits belong to, and the runs that go on. Raises NotFound, Conflict (the tree has ended),
    InvalidRequest (less than is spent already and held by calls under way).
    """
    async with db.reading() as conn:
        row = await (await conn.execute(BUDGETS.tree_of, {"tenant": tenant, "run": run_id})).fetchone()
    if row is None:
        raise NotFound(f"run {run_id} does not exist", run_id=str(run_id))
    root = RunId(row[0])
    # The whole tree, in the order of its ids (R1): a child that a worker with a slow clock started comes before its root.
    tree = BUDGETS.lock_spenders, {"tenant": tenant, "owner": root}
    async with locked(db, tenant, root, tree) as held:
        if held.head.status.final:
            raise Conflict(
                f"run {root} is {held.head.status.value}: nothing of it will spend any more", run_id=str(root)
            )
        await _set(held, limits)
        told = {limit.meter: limit.cap for limit in limits}
        held.journal.append(held.head, RunEvent.BUDGET_SET, None, by=actor, limits=told)
        held.later.append((BUDGETS.set_budgeted, {"tenant": tenant, "root": root}))
    return root, await carry_on(db, tenant, root, actor=actor)


async def _set(held: Held, limits: Sequence[Limit]) -> None:
    tenant, root = held.head.key
    cursor = await held.conn.execute(BUDGETS.lock_owner, {"tenant": tenant, "owner": root})
    known = {meter: (spent, held_now, on_limit) for meter, spent, held_now, on_limit in await cursor.fetchall()}
    late = any(limit.meter not in known for limit in limits)
    reserved = await under_way(held.conn, tenant, root) if late else {}
    (tree,) = await (await held.conn.execute(BUDGETS.tree_of, held.where)).fetchall()
    since, before = tree[1].isoformat(), {TOKENS: tree[3], MICROUSD: tree[4]}
    rows = []
    for limit in limits:
        new = before.get(limit.meter, 0), reserved.get(limit.meter, 0), "fail"
        spent, held_now, on_limit = known.get(limit.meter, new)
        if limit.cap < spent + held_now:
            more = f" and the {held_now} that calls under way hold" if held_now else ""
            raise InvalidRequest(
                f"budget {limit.meter!r}: {limit.cap} is less than the {spent} that are spent{more}; give the new total",
                field=f"budget.{limit.meter}",
            )
        rows.append(
            (tenant, root, "run", limit.meter, 0, limit.cap, spent, held_now, limit.on_limit or on_limit, since)
        )
    await held.conn.execute(BUDGETS.add_budgets, literals(BUDGET_COLUMNS, rows))


async def carry_on(db: Database, tenant: Tenant, owner: UUID, *, actor: str) -> list[RunId]:
    """Resume the runs of a tree or of an agent that a budget paused; one that still has none is paused again by its next call."""
    async with db.reading() as conn:
        rows = await (await conn.execute(BUDGETS.broke, {"tenant": tenant, "owner": owner})).fetchall()
    gone = []
    for (run,) in rows:
        try:
            await resume(db, tenant, run, actor=actor, reason="the budget was set anew", broke=True)
        except (Conflict, NotFound):
            continue
        gone.append(RunId(run))
    return gone


async def settle_budgets(db: Database, spared: Spared | None = None) -> int:
    """End or pause the trees whose time is over, and let runs try again whose rolling window moved on; any process may.

    Those that are spared are passed over; one with which it cannot be done joins them.
    """
    spared = spared or Spared()
    async with db.reading() as conn:
        due = await (await conn.execute(BUDGETS.due, {"spared": list(spared.ids)})).fetchall()
    for tenant, run, what in shuffled(due):
        with spared.trying("budget", run, run):
            await _settle(db, Tenant(tenant), run, what)
    return len(due)


async def _settle(db: Database, tenant: Tenant, run: UUID, what: str) -> None:
    if what == "again":
        await resume(db, tenant, run, actor="engine", reason="the budget's window moved on", broke=True)
        return
    try:
        await _time_is_over(db, tenant, run)
    except NotFound:
        async with db.transaction() as conn:  # retention was faster
            await conn.execute(BUDGETS.stop_clock, {"tenant": tenant, "owner": run})


async def _time_is_over(db: Database, tenant: Tenant, run_id: UUID) -> None:
    where = {"tenant": tenant, "owner": run_id}
    async with locked(db, tenant, run_id, (BUDGETS.lock_spenders, where)) as held:
        head, conn = held.head, held.conn
        row = await (await conn.execute(BUDGETS.clock_of, where)).fetchone()
        if row is None or row[2] is None or row[2] > held.journal.now:
            return
        cap, on_limit, _ = row
        await conn.execute(BUDGETS.stop_clock, where)
        if head.status.final or head.status is RunStatus.COMPENSATING:
            return
        facts = {"budget": {"scope": "run", "meter": WALL_CLOCK, "cap": cap}}
        if on_limit == "pause":
            await _pause_tree(held, where, facts)
        else:
            await _end(held, conn, facts)


async def _pause_tree(held: Held, where: dict[str, Any], facts: dict[str, Any]) -> None:
    """Pause the open runs of a tree, all of whose locks are held; one that undoes what it did goes on."""
    conn, journal = held.conn, held.journal
    tree = await (await conn.execute(BUDGETS.open_tree, where)).fetchall()
    others = [(held.head.tenant, run) for (run,) in tree if run != held.head.id]
    if others:
        journal.take(await (await conn.execute(JOURNAL.lock_runs, literals(("tenants", "runs"), others))).fetchall())
    for head in journal.heads.values():
        # What somebody paused goes on when they say so.
        if head.status.final or head.status in (RunStatus.PAUSED, RunStatus.COMPENSATING):
            continue
        journal.move(head, RunEvent.PAUSED, by="engine", reason="budget", **facts)
        run = {"tenant": head.tenant, "run": head.id, "now": journal.now}
        await conn.execute(JOURNAL.hold_steps, run)
        held.later.append((BUDGETS.mark_paused, {**run, "wait_s": None}))


async def _end(held: Held, conn: Connection, facts: dict[str, Any]) -> None:
    head, journal = held.head, held.journal
    begun = head.status is not RunStatus.PENDING
    head.error = dumps({"step": None, "reason": "budget", **facts})
    await close_open_steps(conn, journal, head, (), why="budget_exceeded")
    await cancel_rows(conn, journal, head)
    if not (begun and await undo(conn, journal, head, ending="budget_exceeded", reason="budget", **facts)):
        journal.move(head, RunEvent.BUDGET_EXCEEDED, reason="budget", **facts)
    await charge_run(conn, journal, head)
