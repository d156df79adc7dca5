"""Scenes: runs in the middle of everything, kept as copies of their rows, from which each schedule starts anew.

The clock stands still, so rows that came about the same way are the same rows. What a schedule left is one text (`state`):
every row of every table a verb may write, without hashes, and ids by the part they play.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import orjson

from durable_agent.core.effects import effect_key
from durable_agent.core.events import digest, dumps, genesis, link, micros
from durable_agent.core.outcomes import Failed, Intended, Outcome, Succeeded, Suspended, Used, Verdict
from durable_agent.core.port import Offer
from durable_agent.core.records import (
    DEFAULT_TENANT,
    Claim,
    Dependency,
    EffectClass,
    FailureClass,
    Limit,
    RetryPolicy,
    RunId,
    RunSpec,
    SessionId,
    StepKind,
    StepSpec,
    WaitKind,
)
from durable_agent.engine import agents, control
from durable_agent.engine.exchange import SESSIONS, Room, exchange, look
from durable_agent.engine.health import HEALTH, check_history
from durable_agent.engine.submit import Submission, submit
from harness.steered import Own, Steered

TABLES = (
    "runs", "steps", "queue", "events", "effects", "waits", "signals", "artifacts", "dead_letters", "budgets",
    "budget_windows", "idempotency_keys", "workers", "deltas", "agents",
)  # fmt: skip
# Hashes are checked by themselves; a route's number is drawn from a sequence that is never set back, a run's place in the
# order of claims is made from its id.
LEFT_OUT = ("chain", "hash", "route", "ord", "detail_sha256", "text")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
# What the workers of a scene keep their leases for, and when it is then: the first has let its own run out.
SHORT_S, NOW_S, LONG_S = 30.0, 61.0, 100.0

_WRONG = (
    ("stranded", HEALTH.stranded), ("dependency counts", HEALTH.miscounted_deps), ("orphaned queue rows", HEALTH.orphans),
    ("ownerless leases", HEALTH.ownerless), ("step counts", HEALTH.miscounted), ("waits", HEALTH.miswaited),
)  # fmt: skip
_BROKEN = """
select 'a limit is overshot: ' || b.meter from budgets b where b.spent < 0 or b.reserved < 0
   or (b.meter <> 'wall_clock_s' and b.spent + b.reserved > b.cap)
union all
select 'something is reserved at rest: ' || b.meter from budgets b join runs r on r.tenant = b.tenant and r.id = b.owner
where b.reserved > 0 and r.finished_at is not null and not exists (select from runs c where c.root = r.id and c.finished_at is null)
union all
select 'step ' || s.name || ' is ' || s.status || ' and in the queue' from steps s
join queue q on q.tenant = s.tenant and q.run_id = s.run_id and q.no = s.no where s.status <> 'queued'
union all
select 'step ' || s.name || ' is queued and in no queue' from steps s where s.status = 'queued'
  and not exists (select from queue q where q.tenant = s.tenant and q.run_id = s.run_id and q.no = s.no)
union all
select 'a step of a paused run can be claimed' from queue q join runs r on r.tenant = q.tenant and r.id = q.run_id
where r.status = 'paused' and q.state in ('ready', 'scheduled')
union all
select 'claim ' || (c.data->>'claim_no') || ' of step ' || c.step_no || ' is lost by ' || coalesce(l.data->>'worker', 'nobody')
  || ', but it was made by ' || (c.data->>'worker')
from events l join events c on c.tenant = l.tenant and c.run_id = l.run_id and c.step_no = l.step_no
where l.type = 'step.lease_lost' and c.type = 'step.claimed' and l.data->>'claim_no' = c.data->>'claim_no'
  and l.data->>'worker' is distinct from c.data->>'worker'
union all
select 'a wait of an ended run is open' from waits w join runs r on r.tenant = w.tenant and r.id = w.run_id
where w.state = 'open' and r.finished_at is not null
"""


@dataclass(frozen=True, slots=True)
class Scene:
    """A state to start from: ids by name, leases by step, what sessions remember, and each run's last event and hash."""

    name: str
    ids: dict[str, UUID]
    claims: dict[str, Claim]
    rooms: dict[str, Room]
    heads: dict[UUID, tuple[int, bytes]]
    names: dict[str, str]

    def room(self, session: str) -> Room:
        """Return a session's memory as it was, to be changed."""
        one = self.rooms[session]
        made = Room(one.offer, secrets=dict(one.secrets), turns=one.turns, usual=one.usual, held=dict(one.held))
        made.routes.ids.update(one.routes.ids)
        made.routes.keys.update(one.routes.keys)
        return made

    def plain(self, value: Any) -> str:
        """Return a value as text in which ids are the parts they play."""
        return _UUID.sub(lambda found: self.names.get(found[0], "?"), str(value))


@dataclass(slots=True)
class _Making:
    """A scene that is being made."""

    db: Own
    ids: dict[str, UUID] = field(default_factory=dict)
    claims: dict[str, Claim] = field(default_factory=dict)
    rooms: dict[str, Room] = field(default_factory=dict)

    async def session(self, name: str, ttl_s: float, *tools: str) -> None:
        offer = Offer(SessionId(uuid4()), name, ("default",), tools, 20, "here", 1, "test")
        self.rooms[name] = Room(offer)
        self.ids[f"session {name}"] = offer.session
        await beat(self.db.conn, offer, ttl_s)

    async def claim(self, session: str) -> None:
        room = self.rooms[session]
        await look(self.db, room)
        for claim in (await exchange(self.db, room, [], free=20, solo=True)).answer.claims:
            self.claims[claim.name] = claim
            self.ids[f"token {claim.name}"] = claim.lease.token

    async def settle(self, session: str, *outcomes: Outcome, verdict: Verdict = Verdict.OK) -> None:
        verdicts = (await exchange(self.db, self.rooms[session], outcomes, free=0, solo=True)).answer.verdicts
        if any(one is not verdict for one in verdicts):
            raise RuntimeError(f"the scene cannot be made: {verdicts}")

    async def submit(self, name: str, spec: RunSpec) -> None:
        self.ids[name] = (await submit(self.db, DEFAULT_TENANT, [Submission(spec, by="me")]))[0].run_id


async def beat(conn: Steered, offer: Offer, ttl_s: float) -> list[Any]:
    """Beat as a worker's heart does and return the tokens it still owns."""
    params = {
        "session": offer.session, "worker": offer.worker, "state": "active", "ttl_s": ttl_s, "direct": False, "running": 0,
        "concurrency": offer.concurrency, "loop_lag_ms": 0, "queues": list(offer.queues), "offers": list(offer.tools),
        "host": offer.host, "os_pid": offer.os_pid, "version": offer.version,
    }  # fmt: skip
    return [row[0] for row in await (await conn.execute(SESSIONS.beat, params)).fetchall()]


def step(name: str, *parents: str, **given: Any) -> StepSpec:
    """Return a step whose tool has its name: which session takes it is the session's offer."""
    retry = RetryPolicy(max_attempts=given.pop("attempts", 3), base_s=0.0)
    return StepSpec(name, StepKind.TOOL_CALL, name, depends_on=tuple(map(Dependency, parents)), retry=retry, **given)


def intent(claim: Claim, no: int, tokens: int) -> Intended:
    """Return the intent of a call that takes so many tokens at most."""
    request = dumps([no])
    key = effect_key(claim.idempotency_key, no, digest(request))
    reserve = {"tokens": tokens}
    return Intended(claim.lease, no, "llm", EffectClass.SAFE, request, digest(request), key, reserve=reserve)


def used(tokens: int) -> Used:
    """Return what a call used."""
    return Used(tokens - 1, 1, 0, {"input_tokens": tokens - 1, "output_tokens": 1})


def suspended(claim: Claim, kind: WaitKind, name: str, **given: Any) -> Suspended:
    """Return the word of a step that waits."""
    return Suspended(claim.lease, kind, name, {"q": name}, name, **given)


def ok(claim: Claim, **given: Any) -> Succeeded:
    """Return a success."""
    return Succeeded(claim.lease, b"1", **given)


def failed(claim: Claim, failure: FailureClass = FailureClass.TRANSIENT) -> Failed:
    """Return a failure."""
    return Failed(claim.lease, failure, "Error", "it failed")


ROOTS = ("a", "b", "last", "free", "ask", "sleep", "listen", "again", "kid", "split")
LEASED = ("b", "last", "part", "inner")


async def _running(making: _Making, *, undo: bool = True, on_limit: str = "fail") -> None:
    """A run with a step in each state there is: leased and run out (a), leased (b, last, part, inner), ready (free), due
    (again), waiting for a person, a clock, a signal, steps and a run; `join` waits for a and b. Another run of its agent
    waits for it to end."""
    agent = await agents.create(making.db, DEFAULT_TENANT, "researcher", {"concurrency": 1})
    making.ids["agent"] = agent
    first = step("done", capped=True, compensate="undo" if undo else None)
    rest = [step(name, attempts=1 if name == "last" else 3) for name in ROOTS]
    limits = (Limit("tokens", 1000, on_limit), Limit("wall_clock_s", 60))
    spec = RunSpec((first, *rest, step("join", "a", "b")), lane="researcher", agent=agent, budget=limits)
    await making.submit("run", spec)
    await making.submit("next", RunSpec((step("wait", capped=True),), lane="researcher", agent=agent))
    await making.session("w0", LONG_S, "done", "ask", "sleep", "listen", "again", "kid", "split")
    await making.session("w1", SHORT_S, "a")
    await making.session("w2", LONG_S, *LEASED)
    await making.session("w3", LONG_S, "free", "again", "join", "ask", "sleep", "listen", "split", "wait", "undo", "a")
    await making.claim("w0")
    had = making.claims
    child = RunSpec((step("inner"),))
    await making.settle("w0", ok(had["done"]), failed(had["again"]))
    await making.settle("w0", suspended(had["ask"], WaitKind.APPROVAL, "ask", expires_s=1000.0))
    await making.settle("w0", suspended(had["sleep"], WaitKind.TIMER, "sleep", expires_s=0.0))
    await making.settle("w0", suspended(had["listen"], WaitKind.SIGNAL, "listen"))
    await making.settle("w0", suspended(had["kid"], WaitKind.RUN, "kid", run=child))
    await making.settle("w0", suspended(had["split"], WaitKind.STEPS, "split", steps=(step("part"),)))
    await making.claim("w1")
    await making.claim("w2")
    making.ids["child"] = had["inner"].lease.run_id
    call = intent(had["b"], 1, 300)
    await making.settle("w2", call)


async def _paused(making: _Making) -> None:
    await _running(making)
    await control.pause(making.db, DEFAULT_TENANT, making.ids["run"], actor="me")


async def _failed(making: _Making) -> None:
    await _running(making, undo=False)
    await making.settle("w2", failed(making.claims["last"]))


async def _compensating(making: _Making) -> None:
    await _running(making)
    await control.cancel(making.db, DEFAULT_TENANT, making.ids["run"], actor="me")


async def _undoing(making: _Making) -> None:
    """As `compensating`, the step that undoes being under way."""
    await _compensating(making)
    await making.session("w4", LONG_S, "undo")
    await making.claim("w4")


async def _broke(making: _Making) -> None:
    await _running(making, on_limit="pause")
    await making.settle("w1", intent(making.claims["a"], 1, 900), verdict=Verdict.PAUSED)


async def _ending(making: _Making) -> None:
    """Two leased parents and the step that waits for both; nothing else is left of the run."""
    await making.submit("run", RunSpec((step("a"), step("b"), step("join", "a", "b"))))
    await making.session("w1", SHORT_S, "a")
    await making.session("w2", LONG_S, "b")
    await making.session("w3", LONG_S, "join", "a")
    await making.claim("w1")
    await making.claim("w2")


SCENES = {
    "running": _running, "paused": _paused, "failed": _failed, "compensating": _compensating, "undoing": _undoing,
    "broke": _broke, "ending": _ending,
}  # fmt: skip


@dataclass(slots=True)
class Theatre:
    """The database of the campaign: it makes scenes, sets them back, and says what became of them."""

    conn: Steered
    sound: set[tuple[str, str]] = field(default_factory=set)
    scenes: dict[str, Scene] = field(default_factory=dict)

    async def open(self, names: Sequence[str]) -> None:
        """Make the scenes."""
        row = await (await self.conn.execute("select clock_timestamp()")).fetchone()
        zero: datetime = row[0]
        for name in names:
            await self._clock(zero, 0.0)
            await self.conn.execute("truncate " + ", ".join(TABLES))
            making = _Making(Own(self.conn))
            await SCENES[name](making)
            self.scenes[name] = await self._keep(name, making)
        # A route that a schedule makes is made anew each time, for that may be waited for.
        await self.conn.execute("create table scene_routes as table routes")
        await self.conn.execute(_STATE)
        await self._clock(zero, NOW_S)

    async def _clock(self, zero: datetime, seconds: float) -> None:
        await self.conn.execute(
            "create or replace function engine_now() returns timestamptz language sql volatile"
            f" as $$ select timestamptz '{zero.isoformat()}' + interval '{seconds} seconds' $$"
        )

    async def _keep(self, name: str, making: _Making) -> Scene:
        copies = [f"create schema scene_{name}"]
        copies += [f"create table scene_{name}.{table} as table {table}" for table in TABLES]
        back = ["delete from routes where (tenant, route) not in (select tenant, route from scene_routes);"]
        for table in TABLES:
            back += [f"delete from {table};", f"insert into {table} select * from scene_{name}.{table};"]
        for statement in copies:
            await self.conn.execute(statement)
        await self.conn.execute(
            f"create function scene_{name}.restore() returns void language plpgsql as $$ begin {' '.join(back)} end $$"
        )
        waits = await (await self.conn.execute("select name, id from waits")).fetchall()
        ids = {**making.ids, **{f"wait {wait}": found for wait, found in waits}}
        heads = await (await self.conn.execute("select id, last_seq, chain from runs")).fetchall()
        known = {run: (seq, bytes(chain)) for run, seq, chain in heads}
        names = {str(found): f"<{part}>" for part, found in ids.items()}
        return Scene(name, ids, making.claims, making.rooms, known, names)

    async def restore(self, scene: Scene) -> None:
        """Set every table back to the scene."""
        await self.conn.execute(f"select scene_{scene.name}.restore()")

    async def state(self, scene: Scene) -> tuple[str, list[str]]:
        """Return the rows as one text, and what is wrong with them: chains each time, the rest when the text is a new one."""
        row = await (await self.conn.execute("select scene_state()")).fetchone()
        tables: dict[str, list[dict[str, Any]] | None] = orjson.loads(row[0])
        faults = _chain_faults(scene, tables["events"] or (), tables["runs"] or ())
        text = "\n".join(
            f"{name} {line}"
            for name in sorted(tables)
            for line in sorted(_line(scene, row) for row in tables[name] or ())
        )
        if (scene.name, text) not in self.sound:
            found = await self._faults(scene, [UUID(row["id"]) for row in tables["runs"] or ()])
            faults += found
            if not faults:
                self.sound.add((scene.name, text))
        return text, faults

    async def _faults(self, scene: Scene, runs: Sequence[UUID]) -> list[str]:
        faults = [str(row[0]) for row in await (await self.conn.execute(_BROKEN)).fetchall()]
        for name, statement in _WRONG:
            rows = await (await self.conn.execute(statement)).fetchall()
            faults += [f"{name}: {scene.plain(row)}" for row in rows]
        for run in runs:
            found = await check_history(self.conn, DEFAULT_TENANT, RunId(run))
            faults += [f"run {scene.plain(run)}: {fault}" for fault in found]
        return faults


# Hashes are over the bytes that were written, which jsonb does not keep.
_TEXT = " || jsonb_build_object('text', t.data::text)"
_STATE = (
    "create function scene_state() returns text language sql as $$ select json_build_object("
    + ", ".join(
        f"'{table}', (select json_agg(to_jsonb(t){_TEXT if table == 'events' else ''}) from {table} t)"
        for table in TABLES
    )
    + ")::text $$"
)


def _line(scene: Scene, row: Mapping[str, Any]) -> str:
    kept = {key: value for key, value in row.items() if value is not None and key not in LEFT_OUT}
    if isinstance(data := kept.get("data"), dict):
        kept["data"] = {key: value for key, value in data.items() if key not in LEFT_OUT}
    return scene.plain(orjson.dumps(kept, option=orjson.OPT_SORT_KEYS).decode())


def _chain_faults(scene: Scene, events: Sequence[Mapping[str, Any]], runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return where the events that a schedule added are not numbered on, or not chained (I9, I13)."""
    faults = []
    for run in runs:
        key = UUID(run["id"])
        seq, chain = scene.heads.get(key, (0, genesis(RunId(key))))
        added = sorted((e for e in events if e["run_id"] == run["id"] and e["seq"] > seq), key=lambda e: int(e["seq"]))
        if [e["seq"] for e in added] != list(range(seq + 1, run["last_seq"] + 1)):
            faults.append(f"I9: run {scene.plain(key)} has events {[e['seq'] for e in added]} after {seq}")
            continue
        for e in added:
            at_us, text = micros(datetime.fromisoformat(e["at"])), e["text"].encode()
            chain = link(chain, seq=e["seq"], kind=e["type"], step_no=e.get("step_no"), at_us=at_us, data=text)
        if chain.hex() != run["chain"].removeprefix("\\x"):
            faults.append(f"I13: the chain of run {scene.plain(key)} does not lead to its head")
    return faults
