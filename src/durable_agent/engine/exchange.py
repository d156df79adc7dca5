"""Exchange: a worker settles what it finished and claims what comes next in one transaction.

Two round trips and one commit, whatever the batch: everything that waited is settled, the steps this made ready are
handed straight back when nobody else waits for the slots (a chain then costs one commit a step and no claim), and the
other free slots are filled in fair turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from durable_agent.core.port import Offer
from durable_agent.core.records import Claim, Exchange, Outcome, Tenant, Turn, Verdict
from durable_agent.core.states import RunStatus
from durable_agent.core.turns import Share, priority_rank, share
from durable_agent.db.pool import Connection, Database
from durable_agent.db.sql import load
from durable_agent.engine.claim import Leased, Picked, claims_from, lease_picked, pick, read_work
from durable_agent.engine.journal import JOURNAL, QUEUE, Journal, check, read_now
from durable_agent.engine.promote import Promotion, Ready
from durable_agent.engine.routes import Routes
from durable_agent.engine.settle import Reads, Settlement, Step, conclude, read

SESSIONS = load("sessions")


@dataclass(slots=True)
class Room:
    """What a worker session remembers between exchanges: whose turn it is and what stands for what."""

    offer: Offer
    routes: Routes = field(default_factory=Routes)
    secrets: dict[Tenant, bytes] = field(default_factory=dict)
    turns: tuple[Turn, ...] = ()
    round: int = 0

    def serves(self, tenant: int, route: int) -> bool:
        """Whether this worker offers what the route asks for."""
        key = self.routes.keys.get((tenant, route))
        return key is not None and key[1] in self.offer.queues and key[3] in self.offer.tools

    def lane(self, tenant: int, route: int) -> tuple[int, str]:
        """The fairness key of a route: its tenant and lane."""
        return tenant, self.routes.keys[tenant, route][2]


@dataclass(frozen=True, slots=True)
class Done:
    """What an exchange did: the answer for the worker, and whom to wake."""

    answer: Exchange
    ready_left: bool
    events: bool


async def look(db: Database, room: Room) -> bool:
    """Learn whose turn it is; tell whether there is work for this worker. One statement, no transaction."""
    async with db.transaction() as conn:
        await _learn(conn, room, await conn.execute(QUEUE.turns), ())
    return bool(room.turns)


async def exchange(db: Database, room: Room, outcomes: Sequence[Outcome], *, free: int, solo: bool) -> Done:
    """Settle the outcomes and claim up to `free` steps. See `core.port.Backend.exchange`."""
    slots = max(free, 0)
    shares = share(room.turns, slots, after=room.round)
    room.round += 1
    async with db.transaction() as conn, conn.pipeline() as pipeline, conn.transaction():
        reads = await read(conn, outcomes) if outcomes else None
        picks = [(tenant, await pick(conn, tenant, s, solo=solo)) for tenant, s in shares.items()]
        turns = await conn.execute(QUEUE.turns) if slots > 0 else None
        now = await read_now(conn)
        await pipeline.sync()
        journal = Journal((await now.fetchone())[0], room.offer.session)
        settlement, promotion = await _settle(conn, journal, reads, outcomes, room)
        picked = await _picked(picks)
        await _learn(conn, room, turns, promotion.ready)
        handed = _hand_off(room, promotion.ready, slots - len(picked)) if slots > 0 else []
        promotion.enqueue(handed, room.offer.worker)
        await conclude(conn, settlement, promotion)
        leased = lease_picked(journal, picked, limit=slots - len(handed), worker=room.offer.worker)
        leased += [ready.leased for ready in handed if ready.leased is not None]
        sent = await journal.write(conn)
        await cancel_failed(conn, journal, settlement)
        work = await read_work(conn, leased) if leased else None
        await pipeline.sync()
        check(sent)
        claims = await claims_from(work, leased, await _secrets(conn, room, leased)) if work else []
    return _done(room, journal, settlement, promotion, claims, picked, shares)


async def _settle(
    conn: Connection, journal: Journal, reads: Reads | None, outcomes: Sequence[Outcome], room: Room
) -> tuple[Settlement, Promotion]:
    settlement = Settlement(journal, room.offer.worker)
    promotion = Promotion(journal)
    if reads is None:
        return settlement, promotion
    journal.take(await reads.heads.fetchall())
    rows = {(row[0], row[1], row[2]): Step(*row) for row in await reads.steps.fetchall()}
    known = [(o, rows.get((o.lease.tenant, o.lease.run_id, o.lease.step_no))) for o in outcomes]
    settlement.settle([o for o, step in known if step], [step for _, step in known if step])
    answers = iter(settlement.verdicts)
    settlement.verdicts = [next(answers) if step else Verdict.LOST for _, step in known]
    if settlement.resolutions:
        children = await reads.children.fetchall() if reads.children is not None else []
        await promotion.resolve(conn, settlement.resolutions, children, settlement.failing)
    return settlement, promotion


async def _picked(picks: Sequence[tuple[Tenant, Any]]) -> list[Picked]:
    return [Picked(tenant, *row) for tenant, cursor in picks for row in await cursor.fetchall()]


async def _learn(conn: Connection, room: Room, turns: Any, ready: Sequence[Ready]) -> None:
    """Remember whose turn it is, and know the routes of all that may be claimed or handed off."""
    if turns is None:
        return
    rows = await turns.fetchall()
    seen = {(tenant, route) for tenant, route, _ in rows} | {(step.tenant, step.route) for step in ready}
    await room.routes.describe(conn, seen)
    room.turns = tuple(Turn(*row) for row in rows if room.serves(row[0], row[1]))


def _hand_off(room: Room, ready: Sequence[Ready], slots: int) -> list[Ready]:
    """Choose which promoted steps go straight back to this worker: none for which another turn would have to wait."""
    chosen: list[Ready] = []
    for step in ready:
        if len(chosen) >= slots:
            break
        if not room.serves(step.tenant, step.route) or step.head.status is not RunStatus.RUNNING or step.risky:
            continue
        lane = room.lane(step.tenant, step.route)
        rank = priority_rank(step.ord)
        if any(room.lane(t.tenant, t.route) != lane or priority_rank(t.ord) < rank for t in room.turns):
            continue
        chosen.append(step)
    return chosen


async def cancel_failed(conn: Connection, journal: Journal, settlement: Settlement) -> None:
    """Queue the statements that end the open steps of the runs that failed in this transaction."""
    for tenant, run_id in settlement.failing:
        await conn.execute(JOURNAL.cancel_steps, {"tenant": tenant, "run": run_id, "now": journal.now})


async def _secrets(conn: Connection, room: Room, leased: Sequence[Leased]) -> dict[Tenant, bytes]:
    if any(x.lease.tenant not in room.secrets for x in leased):
        for tenant, secret in await (await conn.execute(SESSIONS.secrets)).fetchall():
            room.secrets[tenant] = bytes(secret)
    return room.secrets


def _done(
    room: Room, journal: Journal, settlement: Settlement, promotion: Promotion, claims: list[Claim],
    picked: Sequence[Picked], shares: dict[Tenant, list[Share]],
) -> Done:  # fmt: skip
    asked = {(tenant, s.route) for tenant, own in shares.items() for s in own}
    # Work is left when a turn was seen that was not asked for (what was remembered is old), or what was asked for came.
    more = bool(room.turns) and (bool(picked) or any((t.tenant, t.route) not in asked for t in room.turns))
    left = bool(promotion.left) or any(row[5] == "ready" for row in journal.requeued.rows)
    answer = Exchange(tuple(settlement.verdicts), tuple(claims), room.turns, more)
    return Done(answer, ready_left=left, events=journal.last_events > 0)
