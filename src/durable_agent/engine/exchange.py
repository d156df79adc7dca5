"""Exchange: a worker settles what it finished and claims what comes next in one transaction.

Two round trips and one commit, whatever the batch: everything that waited is settled, the steps this made ready are
handed straight back when nobody else waits for the slots (a chain then costs one commit a step and no claim), and the
other free slots are filled in fair turns.

What a session leased it remembers, and settles on that memory: the runs are locked and the fence stands in the writing
statements, but the steps are not read again. When the fence does not hold (the lease is gone, or the outcome was
settled by a commit whose answer was lost), nothing was written, and the batch is settled again by what the rows say.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from durable_agent.core.outcomes import ON_THE_WAY, Emitted, Exchange, Metered, Outcome, Released, Succeeded, Verdict
from durable_agent.core.port import Offer
from durable_agent.core.records import Lease, RunId, Tenant, Token, Turn
from durable_agent.core.states import IllegalTransition, RunStatus
from durable_agent.core.turns import Share, priority_rank, share
from durable_agent.db.batch import batch
from durable_agent.db.doorbell import EVENTS, Bell
from durable_agent.db.pool import TRANSIENT, Connection, Database
from durable_agent.db.sql import load
from durable_agent.engine.caps import release
from durable_agent.engine.claim import Leased, Picked, Step, lease_picked, leased_from, pick, read_records
from durable_agent.engine.conclude import cancel_failed, conclude, ended_children
from durable_agent.engine.effects import uses_approval
from durable_agent.engine.journal import JOURNAL, QUEUE, Journal, RunKey
from durable_agent.engine.promote import Promotion, Ready
from durable_agent.engine.routes import Routes
from durable_agent.engine.settle import Reads, Settlement, read
from durable_agent.engine.waiting import arrivals, open_waits, settle_waiting
from durable_agent.errors import LostRace
from durable_agent.telemetry import logger

log = logger("exchange")

SESSIONS = load("sessions")

# As long as a statement may take, a transaction whose connection is gone may still be committed.
UNSURE_S = 35.0
SLACK_S = 1.0
MOST_PROMOTED = 200


@dataclass(slots=True)
class Room:
    """What a worker session remembers between exchanges: its leases, whose turn it is, what stands for what.

    `usual` is the only route there was work on when there last was any: a worker that is woken asks there without a
    look first. With several routes it looks, for then their order matters. `doubtful`: the last exchange may have been
    committed without an answer; `unsure_until_s`: one that began after `unsure_since_s` may be committed even now, by the
    monotonic clock. `disowned`: leases under which the worker runs nothing.
    """

    offer: Offer
    routes: Routes = field(default_factory=Routes)
    secrets: dict[Tenant, bytes] = field(default_factory=dict)
    turns: tuple[Turn, ...] = ()
    usual: tuple[Turn, ...] = ()
    round: int = 0
    held: dict[Token, Leased] = field(default_factory=dict)
    disowned: frozenset[Token] = frozenset()
    doubtful: bool = False
    unsure_since_s: float = 0.0
    unsure_until_s: float = 0.0

    def serves(self, tenant: int, route: int) -> bool:
        """Whether this worker offers what the route asks for."""
        key = self.routes.keys.get((tenant, route))
        return key is not None and key[1] in self.offer.queues and key[3] in self.offer.tools

    def lane(self, tenant: int, route: int) -> tuple[int, str]:
        """The fairness key of a route: its tenant and lane."""
        return tenant, self.routes.keys[tenant, route][2]

    def recall(self, outcomes: Sequence[Outcome]) -> list[Leased] | None:
        """Return what is remembered of each outcome's step; None when the rows must be asked.

        So they must for a step that is not remembered, what has no fence of its own, an approval that is to be used, and after
        an unknown commit.
        """
        if self.doubtful or uses_approval(outcomes):
            return None
        found: list[Leased] = []
        for outcome in outcomes:
            one = self.held.get(outcome.lease.token)
            if one is None or isinstance(outcome, Emitted | Metered):
                return None
            found.append(one)
        return found

    def first_of(self, outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
        """Return the first of the outcomes, so many that they make no more than MOST_PROMOTED steps ready (one at least).

        What one result makes ready goes in one commit; what many do would keep the other workers waiting for all of it.
        """
        weight = 0
        for count, outcome in enumerate(outcomes):
            one = self.held.get(outcome.lease.token)
            weight += max(1, len(one.step.children)) if one is not None and isinstance(outcome, Succeeded) else 1
            if weight > MOST_PROMOTED and count:
                return outcomes[:count]
        return outcomes

    def note(self, settled: Sequence[Outcome], leased: Iterable[Leased]) -> None:
        """Forget what was settled and remember what was leased, once that is committed.

        Attempts that ended without an outcome leave their memory behind: the oldest goes when there is too much.
        """
        for outcome in settled:
            if not isinstance(outcome, ON_THE_WAY):
                self.held.pop(outcome.lease.token, None)
        for one in leased:
            self.held[one.claim.lease.token] = one
        for token in list(self.held)[: max(0, len(self.held) - 2 * self.offer.concurrency)]:
            del self.held[token]


class Ask(NamedTuple):
    """One exchange as asked: what to settle, how many slots are free, whose turn they are for, and what to hint with."""

    outcomes: Sequence[Outcome]
    slots: int
    shares: dict[Tenant, list[Share]]
    solo: bool
    bell: Bell | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """What an exchange did: the answer for the worker, and whom to wake, if the commit did not do so itself."""

    answer: Exchange
    ready_left: bool
    events: bool
    ended_children: Sequence[RunKey] = ()


async def look(db: Database, room: Room) -> bool:
    """Learn whose turn it is; tell whether there is work for this worker. One statement, no transaction."""
    async with db.transaction() as conn:
        await _learn(conn, room, await (await conn.execute(QUEUE.turns)).fetchall(), ())
    return bool(room.turns)


async def exchange(
    db: Database, room: Room, outcomes: Sequence[Outcome], *, free: int, solo: bool, bell: Bell | None = None
) -> Done:
    """Settle the outcomes and claim up to `free` steps. See `core.port.Backend.exchange`.

    For a while after an exchange nobody heard the end of, leases that it may have taken are given back: no attempt knows of them.
    So are leases that the worker disowned.
    """
    began_s = time.monotonic()
    first = room.first_of(outcomes)
    if len(first) < len(outcomes):
        outcomes, free = first, 0  # who has results left takes nothing new: what these made ready is for others
    strays = await _strays(db, room) if room.disowned or began_s < room.unsure_until_s else []
    try:
        slots = max(free, 0)
        shares = share(room.turns or room.usual, slots, after=room.round)
        ask = Ask([*outcomes, *strays], slots, shares, solo, bell)
        done = await _settle_and_claim(db, room, ask)
    except (*TRANSIENT, asyncio.CancelledError):  # what else is raised was refused, and is rolled back
        if began_s >= room.unsure_until_s:
            room.unsure_since_s = began_s
        room.unsure_until_s = time.monotonic() + UNSURE_S
        raise
    verdicts = done.answer.verdicts[: len(outcomes)]
    return replace(done, answer=replace(done.answer, verdicts=verdicts)) if strays else done


async def _strays(db: Database, room: Room) -> list[Released]:
    now_s, disowned = time.monotonic(), room.disowned
    # What was claimed before is somebody's, remembered here or not, unless the worker says that it is nobody's.
    age_s = now_s - room.unsure_since_s + SLACK_S if now_s < room.unsure_until_s else 0.0
    where = {"session": room.offer.session, "known": list(room.held), "age_s": age_s, "disowned": list(disowned)}
    async with db.transaction() as conn:
        rows = await (await conn.execute(SESSIONS.strays, where)).fetchall()
    room.disowned -= disowned
    for tenant, run, no, claim_no, token in rows:
        log.warning("lease_given_back", tenant=tenant, run=str(run), step=no, claim_no=claim_no,
                    reason="nothing runs under it here" if token in disowned else "nobody heard of its claim")  # fmt: skip
    # Under a claim that nobody heard of nothing was done; what was in doubt before, nobody remembers.
    return [
        Released(
            Lease(Tenant(tenant), RunId(run), no, claim_no, Token(token)), in_doubt=claim_no > 1 or token in disowned
        )
        for tenant, run, no, claim_no, token in rows
    ]


async def _settle_and_claim(db: Database, room: Room, ask: Ask) -> Done:
    room.round += 1
    held = room.recall(ask.outcomes)
    room.doubtful = bool(ask.outcomes)  # until the answer is here
    if held is not None:
        try:
            done = await _exchange(db, room, ask, held)
            room.doubtful = False
            return done
        except (LostRace, IllegalTransition):
            if not ask.outcomes:
                raise
    done = await _exchange(db, room, ask, None)
    room.doubtful = False
    return done


class NotAccepted(Exception):
    """An outcome that was settled in somebody's transaction was not accepted, and nothing of that transaction happened."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.value)
        self.verdict = verdict


async def settle_within(conn: Connection, room: Room, outcome: Outcome) -> Done:
    """Settle one outcome in the transaction that is open on the connection, and commit both. Raises NotAccepted."""
    return await _on(conn, room, Ask([outcome], 0, {}, False), None, begun=True)


async def _exchange(db: Database, room: Room, ask: Ask, held: Sequence[Leased] | None) -> Done:
    async with db.transaction() as conn:
        return await _on(conn, room, ask, held)


async def _on(conn: Connection, room: Room, ask: Ask, held: Sequence[Leased] | None, *, begun: bool = False) -> Done:
    steps = None if held is None else [one.step for one in held]
    async with batch(conn, begun=begun) as pipeline:
        reads = await read(conn, ask.outcomes, steps) if ask.outcomes else None
        picks = [(tenant, await pick(conn, tenant, s, solo=ask.solo)) for tenant, s in ask.shares.items()]
        turns = await conn.execute(QUEUE.turns if ask.slots > 0 else JOURNAL.now)
        await pipeline.sync()
        rows = await turns.fetchall()
        journal = Journal(rows[0][0], room.offer.session)
        settlement, promotion = await _settle(conn, journal, reads, ask.outcomes, steps, room.offer.worker)
        picked = await _picked(picks)
        await _know_secrets(conn, room, picked)
        if ask.slots > 0:
            await _learn(conn, room, rows, promotion.ready)
        handed = _hand_off(room, promotion.ready, ask.slots - len(picked)) if held else []
        promotion.enqueue(handed, room.offer)
        woken = await wind_up(conn, settlement, promotion)
        leased = lease_picked(journal, picked, limit=ask.slots - len(handed), offer=room.offer, secrets=room.secrets)
        leased = await read_records(conn, picked, leased)
        await settlement.spend(conn)
        await settle_waiting(conn, journal)
        await journal.write(conn)
        await settlement.record.purse.write(conn, journal)
        begun_others = await release(conn, settlement.freed())
        await cancel_failed(conn, journal, settlement)
        late = await promotion.read_outputs(conn, handed)
        carried = bool(ask.bell and ask.outcomes and journal.last_events and await ask.bell.carry(conn, EVENTS))
        if begun and settlement.verdicts != [Verdict.OK]:
            raise NotAccepted(settlement.verdicts[0])  # what the transaction did is undone with it
    outputs = await late.fetchall() if late is not None else ()
    woken = bool(begun_others is not None and await begun_others.fetchall()) or woken
    leased += _handed(room, promotion, handed, held or (), outputs)
    room.note(ask.outcomes, leased)
    done = _done(room, journal, settlement, promotion, leased, picked, ask.shares, woken=woken)
    return replace(done, events=False) if carried else done


async def wind_up(conn: Connection, settlement: Settlement, promotion: Promotion) -> bool:
    """Open the waits of a batch, count what others wait for, end what ends; tell whether steps became ready by it."""
    if not (settlement.opening or settlement.arrived or settlement.failing or promotion.failing or settlement.finished):
        return False
    woken = await open_waits(conn, settlement) if settlement.opening else False
    ended = await conclude(conn, settlement, promotion)
    return await arrivals(conn, settlement.journal, settlement.arrived) or woken or ended


async def _settle(
    conn: Connection, journal: Journal, reads: Reads | None, outcomes: Sequence[Outcome], held: Sequence[Step] | None,
    worker: str,
) -> tuple[Settlement, Promotion]:  # fmt: skip
    settlement = Settlement(journal, worker)
    promotion = Promotion(journal)
    if reads is None:
        return settlement, promotion
    journal.take(await reads.heads.fetchall())
    if reads.budgets is not None:
        await settlement.record.purse.know(*reads.budgets)
    if reads.gates is not None:
        await settlement.record.know_gates(reads.gates)
    if held is not None:
        heads = [journal.heads.get(step.run) for step in held]
        if any(head is None or head.status.final for head in heads):
            raise LostRace("a run ended before its step")
        if any(head and head.budgeted != step.budgeted for head, step in zip(heads, held, strict=True)):
            raise LostRace("a run was limited after its step was leased")  # its budgets have to be locked too
        settlement.settle(outcomes, held)
        if settlement.record.exhausted or settlement.record.purse.pausing:
            # It changes the run, and what a refused call writes has no fence: whose lease it is, only the rows can tell.
            raise LostRace("a budget refuses a call")
    else:
        rows = {(row[0], row[1], row[2]): Step(*row) for row in await reads.steps.fetchall()}
        await settlement.record.know(reads.effects, reads.approvals, reads.metered)
        known = [(o, rows.get((o.lease.tenant, o.lease.run_id, o.lease.step_no))) for o in outcomes]
        if any(step and step.run not in journal.heads for _, step in known):
            raise LostRace("a run that is there could not be locked")  # never an answer: the lease may be alive
        settlement.settle([o for o, step in known if step], [step for _, step in known if step])
        answers = iter(settlement.verdicts)
        settlement.verdicts = [next(answers) if step else Verdict.LOST for _, step in known]
    if reads.pending is not None:
        promotion.know(reads.asked, await reads.pending.fetchall())
    if settlement.resolutions:
        await promotion.resolve(conn, settlement.resolutions, settlement.failing)
    return settlement, promotion


async def _picked(picks: Sequence[tuple[Tenant, Any]]) -> list[Picked]:
    return [Picked._make((tenant, *row)) for tenant, cursor in picks for row in await cursor.fetchall()]


async def _learn(conn: Connection, room: Room, rows: Sequence[Any], ready: Sequence[Ready]) -> None:
    """Remember whose turn it is, and know the routes of all that may be claimed or handed off."""
    turns = [row[1:] for row in rows if row[1] is not None]
    seen = {(tenant, route) for tenant, route, _ in turns} | {(step.tenant, step.route) for step in ready}
    await room.routes.describe(conn, seen)
    room.turns = tuple(Turn(*turn) for turn in turns if room.serves(turn[0], turn[1]))
    if room.turns:
        room.usual = tuple(Turn(turn.tenant, turn.route, 0) for turn in room.turns) if len(room.turns) == 1 else ()


async def _know_secrets(conn: Connection, room: Room, picked: Sequence[Picked]) -> None:
    if any(row.tenant not in room.secrets for row in picked):
        for tenant, secret in await (await conn.execute(SESSIONS.secrets)).fetchall():
            room.secrets[tenant] = bytes(secret)


def _hand_off(room: Room, ready: Sequence[Ready], slots: int) -> list[Ready]:
    """Choose which promoted steps go straight back to this worker: none for which another turn would have to wait."""
    chosen: list[Ready] = []
    for step in ready:
        if len(chosen) >= slots:
            break
        if not room.serves(step.tenant, step.route) or step.head.status not in _GOING or step.risky:
            continue
        lane = room.lane(step.tenant, step.route)
        rank = priority_rank(step.ord)
        if any(room.lane(t.tenant, t.route) != lane or priority_rank(t.ord) < rank for t in room.turns):
            continue
        chosen.append(step)
    return chosen


_GOING = frozenset({RunStatus.RUNNING, RunStatus.COMPENSATING})


def _handed(
    room: Room, promotion: Promotion, handed: Sequence[Ready], held: Sequence[Leased], rows: Sequence[Any]
) -> list[Leased]:
    """Return the claims of the steps that were handed off; their run's input is that of a step just settled."""
    runs = {one.step.run: one.claim for one in held}
    read: dict[RunKey, dict[int, tuple[str, Any]]] = defaultdict(dict)
    for tenant, run_id, no, name, output in rows:
        read[tenant, run_id][no] = (name, output)
    return [
        leased_from(
            ready.lease, ready.child, runs[ready.head.key].run_input, runs[ready.head.key].goal,
            promotion.outputs_for(ready, read), room.secrets[ready.tenant], room.offer.effects.get(ready.child.tool),
            ready.head.budgeted,
        )
        for ready in handed
        if ready.lease is not None
    ]  # fmt: skip


def _done(
    room: Room, journal: Journal, settlement: Settlement, promotion: Promotion, leased: Sequence[Leased],
    picked: Sequence[Picked], shares: dict[Tenant, list[Share]], *, woken: bool,
) -> Done:  # fmt: skip
    asked = {(tenant, s.route) for tenant, own in shares.items() for s in own}
    # Work is left when a turn was seen that was not asked for (what was remembered is old), or what was asked for came.
    more = bool(room.turns) and (bool(picked) or any((t.tenant, t.route) not in asked for t in room.turns))
    left = woken or bool(promotion.left) or any(row[5] == "ready" for row in journal.requeued.rows)
    answer = Exchange(tuple(settlement.verdicts), tuple(one.claim for one in leased), room.turns, more)
    return Done(answer, ready_left=left, events=journal.last_events > 0, ended_children=ended_children(journal))
