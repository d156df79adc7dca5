"""Every verb of the engine that writes the state of runs, as a command on a scene; and the proof that none is forgotten."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg

import durable_agent.engine
from durable_agent.core.outcomes import (
    Booked,
    Emitted,
    Failed,
    InDoubt,
    Intended,
    Metered,
    Noted,
    Outcome,
    Recorded,
    Released,
    Stored,
    Succeeded,
    Suspended,
)
from durable_agent.core.records import DEFAULT_TENANT, EffectState, FailureClass, Limit, RunId, RunSpec, WaitKind
from durable_agent.core.waits import Decision
from durable_agent.db.doorbell import Bell
from durable_agent.db.pool import Database
from durable_agent.db.together import Together
from durable_agent.engine import agents, answer, caps, control, exchange, fence, fork, grant, reap
from durable_agent.engine.submit import Submission, submit
from durable_agent.errors import DatabaseUnavailable, LostRace
from harness.scenes import Scene, beat, failed, intent, ok, step, suspended, used
from harness.steered import Own

Verb = Callable[[Scene, Own], Awaitable[Any]]
NOTHING = ()
# So often a loop asks again that was told it lost a race.
TRIES = 5


@dataclass(frozen=True, slots=True)
class Command:
    """A verb as its caller calls it. `home` is the scene it belongs in, `covers` the engine's verbs it stands for, `settles` the
    outcome it settles. `again`: it takes nothing that somebody holds, and whoever calls it asks again later. `upkeep`: of what somebody holds it leaves
    a part to the upkeep, which comes by afterwards."""

    home: str
    verb: Verb
    covers: tuple[str, ...]
    settles: type | None = None
    again: bool = False
    upkeep: bool = False


COMMANDS: dict[str, Command] = {}


def _command(
    name: str, *covers: str, home: str = "running", again: bool = False, upkeep: bool = False
) -> Callable[[Verb], Verb]:
    def put(verb: Verb) -> Verb:
        COMMANDS[name] = Command(home, verb, covers, again=again, upkeep=upkeep)
        return verb

    return put


def _settles(
    name: str, session: str, kind: type, outcomes: Callable[[Scene], Sequence[Outcome]], *, home: str = "running",
    knows: bool = True,
) -> None:  # fmt: skip
    async def verb(scene: Scene, db: Own) -> Any:
        room = scene.room(session)
        if not knows:
            room.held.clear()
        return await _asked(db, room, outcomes(scene))

    COMMANDS[name] = Command(home, verb, ("exchange.exchange",), kind)


async def _asked(db: Own, room: exchange.Room, outcomes: Sequence[Outcome], free: int = 0) -> Any:
    """Exchange as a worker does, who asks again when he is told that nothing was done; say what was answered."""
    for _ in range(TRIES):
        try:
            done = await exchange.exchange(db, room, outcomes, free=free, solo=True)
        except LostRace:
            continue
        claims = sorted((str(c.lease.run_id), c.name, c.lease.claim_no) for c in done.answer.claims)
        return [str(verdict) for verdict in done.answer.verdicts], claims
    raise DatabaseUnavailable("it lost every race")


# What workers say of their leases. Step a's lease has run out and nobody took it: it is still owned (R6).
_settles("succeed", "w1", Succeeded, lambda s: [ok(s.claims["a"])])
_settles("succeed-unknown", "w1", Succeeded, lambda s: [ok(s.claims["a"])], knows=False)
_settles("succeed-other", "w2", Succeeded, lambda s: [ok(s.claims["b"])])
_settles("succeed-part", "w2", Succeeded, lambda s: [ok(s.claims["part"], compensate="undo")])
_settles("succeed-both", "w2", Succeeded, lambda s: [ok(s.claims["b"]), ok(s.claims["part"])])
_settles("last-parent", "w1", Succeeded, lambda s: [ok(s.claims["a"])], home="ending")
_settles("other-parent", "w2", Succeeded, lambda s: [ok(s.claims["b"])], home="ending")
_settles("fail", "w1", Failed, lambda s: [failed(s.claims["a"])])
_settles("fail-last", "w2", Failed, lambda s: [failed(s.claims["last"])])
_settles("fail-for-good", "w1", Failed, lambda s: [failed(s.claims["a"], FailureClass.INVALID_INPUT)])
_settles("release", "w1", Released, lambda s: [Released(s.claims["a"].lease)])
_settles("emit", "w1", Emitted, lambda s: [Emitted(s.claims["a"].lease, "said", {"x": 1})])
_settles("intend", "w1", Intended, lambda s: [intent(s.claims["a"], 1, 500)])
_settles("intend-too-much", "w1", Intended, lambda s: [intent(s.claims["a"], 1, 900)])
_settles("intend-child", "w2", Intended, lambda s: [intent(s.claims["inner"], 1, 600)])
_settles("record", "w2", Recorded, lambda s: [_recorded(s, EffectState.DONE)])
_settles("book", "w2", Booked, lambda s: [_booked(s)])
_settles("meter", "w1", Metered, lambda s: [Metered(s.claims["a"].lease, "a")])
_settles("note", "w1", Noted, lambda s: [Noted(s.claims["a"].lease, 1, "now", "x", b"1")])
_settles("store", "w1", Stored, lambda s: [Stored(s.claims["a"].lease, UUID(int=7), "f", "text/plain", "x", 1)])
_settles("ask", "w1", Suspended, lambda s: [suspended(s.claims["a"], WaitKind.INPUT, "more")])
_settles(
    "spawn",
    "w1",
    Suspended,
    lambda s: [suspended(s.claims["a"], WaitKind.STEPS, "more", steps=(step("leaf"), step("twig")))],
)
_settles(
    "start-run",
    "w1",
    Suspended,
    lambda s: [suspended(s.claims["a"], WaitKind.RUN, "more", run=RunSpec((step("deep"),)))],
)
_settles("await-signal", "w1", Suspended, lambda s: [suspended(s.claims["a"], WaitKind.SIGNAL, "listen")])
_settles("undone", "w4", Succeeded, lambda s: [ok(s.claims["undo.done.0"])], home="undoing")
_settles(
    "not-undone", "w4", Failed, lambda s: [failed(s.claims["undo.done.0"], FailureClass.INVALID_INPUT)], home="undoing"
)
_settles("doubt", "w2", InDoubt, lambda s: [InDoubt(s.claims["b"].lease, 1, "llm", "nobody knows", "k")])


def _recorded(scene: Scene, state: EffectState) -> Recorded:
    call = intent(scene.claims["b"], 1, 300)
    return Recorded(call.lease, 1, call.name, state, b"1", None, call.reserve, used(40))


def _booked(scene: Scene) -> Booked:
    call = intent(scene.claims["b"], 1, 300)
    return Booked(call.lease, 1, call.key, used(40))


@_command("finish-child", "answer.settle_children")
async def _finish_child(scene: Scene, db: Own) -> Any:
    room, outcome = scene.room("w2"), ok(scene.claims["inner"])
    told = await _asked(db, room, [outcome])
    await answer.settle_children(db, [(DEFAULT_TENANT, outcome.lease.run_id)])
    return told


@_command("author", "exchange.settle_within")
async def _author(scene: Scene, db: Own) -> Any:
    """What an author wrote in his own transaction is committed with the step, or not at all."""
    lease = scene.claims["a"].lease
    await db.conn.execute("begin")
    try:
        await db.conn.execute(
            "insert into deltas (tenant, run_id, step_no, effect, claim_no, piece, at, text)"
            " values (%s, %s, %s, 0, 0, 0, engine_now(), 'the author was here')", (lease.tenant, lease.run_id, lease.step_no),
        )  # fmt: skip
    except psycopg.Error:
        await db.conn.rollback()
        raise
    done = await exchange.settle_within(db.conn, scene.room("w1"), ok(scene.claims["a"]))
    return [str(verdict) for verdict in done.answer.verdicts]


@_command("fenced")
async def _fenced(scene: Scene, db: Own) -> Any:
    lease = scene.claims["a"].lease
    async with fence.Fence(db, lease, Together(db)).transaction() as conn:
        await conn.execute(
            "insert into deltas (tenant, run_id, step_no, effect, claim_no, piece, at, text)"
            " values (%s, %s, %s, 0, 0, 1, engine_now(), 'under the fence')", (lease.tenant, lease.run_id, lease.step_no),
        )  # fmt: skip
    return "written"


@_command("claim", "exchange.exchange", "exchange.look", again=True)
async def _claim(scene: Scene, db: Own) -> Any:
    room = scene.room("w3")
    if not await exchange.look(db, room):
        return NOTHING
    _, claims = await _asked(db, room, [], free=10)
    return claims or NOTHING


@_command("claim-next", "exchange.exchange", "exchange.look", home="ending", again=True)
async def _claim_next(scene: Scene, db: Own) -> Any:
    return await _claim(scene, db)


@_command("settle-and-claim", "exchange.exchange")
async def _settle_and_claim(scene: Scene, db: Own) -> Any:
    """A worker's usual round: what it finished and what comes next, in one transaction."""
    room = scene.room("w2")
    verdicts, _ = await _asked(db, room, [ok(scene.claims["b"])], free=10)
    return verdicts


@_command("hand-over", "exchange.exchange", again=True)
async def _hand_over(scene: Scene, db: Own) -> Any:
    """A worker drains, and another one, who lives, takes what it gave back: the step has a new lease under the same number."""
    await _asked(db, scene.room("w1"), [Released(scene.claims["a"].lease)])
    return await _claim(scene, db)


# What keeps things going, in every process.
def _upkeep(db: Own) -> reap.Upkeep:
    return reap.Upkeep(db, Bell(db, enabled=False), LONG_TTL_S, 1.0, suspicion=False)


LONG_TTL_S = 100.0


@_command("reap", "reap.Upkeep.reap", again=True)
async def _reap(scene: Scene, db: Own) -> Any:
    """The look that finds, and the reaping of what was found: leases run out, retries due."""
    upkeep = _upkeep(db)
    seen = await upkeep._look(db.conn, suspect=False)
    taken = await upkeep.reap(db.conn, seen.expired) if seen.expired else 0
    return (seen.promoted, taken) if seen.promoted or taken else NOTHING


@_command("reap-ending", "reap.Upkeep.reap", home="ending", again=True)
async def _reap_ending(scene: Scene, db: Own) -> Any:
    return await _reap(scene, db)


@_command("sweep", "reap.Upkeep.run")
async def _sweep(scene: Scene, db: Own) -> Any:
    await _upkeep(db)._sweep(db.conn)


@_command("due", "answer.settle_due", "reap.Upkeep.settle_waits")
async def _due(scene: Scene, db: Own) -> Any:
    return await answer.settle_due(db)


@_command("orphans", "answer.cancel_orphans", home="compensating")
async def _orphans(scene: Scene, db: Own) -> Any:
    return await answer.cancel_orphans(db)


@_command("clock", "grant.settle_budgets")
async def _clock(scene: Scene, db: Own) -> Any:
    return await grant.settle_budgets(db)


@_command("uncap", "caps.release_all", home="compensating", again=True)
async def _uncap(scene: Scene, db: Own) -> Any:
    return await caps.release_all(db) or NOTHING


@_command("beat", "heart.Heart")
async def _beat(scene: Scene, db: Own) -> Any:
    """The worker whose leases have run out beats again. What it still owned is not compared: the beat locks no run, so it may be
    told of a lease that a reaper is taking at that moment, and hears better by the fence (R3) or the next beat."""
    await beat(db.conn, scene.rooms["w1"].offer, LONG_TTL_S)


@_command("stop", "heart.Heart")
async def _stop(scene: Scene, db: Own) -> Any:
    await db.conn.execute(exchange.SESSIONS.stop, {"session": scene.ids["session w2"]})


# What people and programs say.
@_command("submit", "submit.submit")
async def _submit(scene: Scene, db: Own) -> Any:
    """Whoever sends the same key gets the same run (I10)."""
    done = await submit(db, DEFAULT_TENANT, [Submission(RunSpec((step("free"),)), "key", b"digest")])
    return [(one.status, one.created) for one in done]


@_command("cancel", "control.cancel", "control.locked")
async def _cancel(scene: Scene, db: Own) -> Any:
    return await control.cancel(db, DEFAULT_TENANT, scene.ids["run"], actor="me")


@_command("pause", "control.pause")
async def _pause(scene: Scene, db: Own) -> Any:
    return await control.pause(db, DEFAULT_TENANT, scene.ids["run"], actor="me")


@_command("resume", "control.resume", home="paused")
async def _resume(scene: Scene, db: Own) -> Any:
    return await control.resume(db, DEFAULT_TENANT, scene.ids["run"], actor="me")


@_command("redrive", "control.redrive", home="failed")
async def _redrive(scene: Scene, db: Own) -> Any:
    return sorted(
        name for _, name in await control.redrive(db, DEFAULT_TENANT, run_id=RunId(scene.ids["run"]), actor="me")
    )


@_command("answer", "answer.answer")
async def _answer(scene: Scene, db: Own) -> Any:
    return await answer.answer(db, DEFAULT_TENANT, scene.ids["wait ask"], Decision.APPROVED, by="boss")


@_command("refuse", "answer.answer")
async def _refuse(scene: Scene, db: Own) -> Any:
    return await answer.answer(db, DEFAULT_TENANT, scene.ids["wait ask"], Decision.REJECTED, by="chief")


@_command("signal", "answer.signal")
async def _signal(scene: Scene, db: Own) -> Any:
    return await answer.signal(db, DEFAULT_TENANT, scene.ids["run"], "listen", {"x": 1}, key="k", by="me")


@_command("grant", "grant.grant", "grant.carry_on")
async def _grant(scene: Scene, db: Own) -> Any:
    limits = [Limit("tokens", 5000), Limit("microusd", 9000)]
    return await grant.grant(db, DEFAULT_TENANT, scene.ids["run"], limits, actor="me")


@_command("grant-more", "grant.grant", "grant.carry_on", home="broke")
async def _grant_more(scene: Scene, db: Own) -> Any:
    return await _grant(scene, db)


@_command("change-agent", "agents.change", home="broke")
async def _change_agent(scene: Scene, db: Own) -> Any:
    agent = scene.ids["agent"]
    config = {"concurrency": 2, "budgets": [{"meter": "tokens", "window_s": 0, "cap": 4000, "on_limit": "fail"}]}
    return await agents.change(db, DEFAULT_TENANT, agent, "researcher", config, by="me")


@_command("drop-agent", "agents.drop", upkeep=True)
async def _drop_agent(scene: Scene, db: Own) -> Any:
    await agents.drop(db, DEFAULT_TENANT, scene.ids["agent"])


@_command("fork", "fork.fork")
async def _fork(scene: Scene, db: Own) -> Any:
    await fork.fork(db, DEFAULT_TENANT, scene.ids["run"], start="join", mode="live", edits={}, by="me")


# Verbs that change nothing.
READS = frozenset({
    "agents.find", "agents.get", "agents.run_of", "agents.follow_up", "deploy.check_deploy", "graphs.graph_of", "prices.prices_of",
    "servers.tool_server", "servers.get", "servers.reached", "explain.explain", "export.export", "fork.diff",
    "health.registered",
})  # fmt: skip
# Verbs that change what no run's rows are made of: settings, partitions, and the gates, whose one row has a lock of its own.
ELSEWHERE = frozenset({
    "agents.create", "graphs.register", "prices.set_model", "prices.drop_model", "servers.register", "servers.change",
    "servers.forget", "servers.seen", "servers.not_seen", "servers.approve", "gate.passing", "gate.heard", "gate.hold_slots",
    "gate.set_gate", "weeks.begin_weeks",
})  # fmt: skip


def verbs() -> dict[str, Any]:
    """Return the engine's verbs by module and name: whatever is public, async and takes a database first."""
    found = {}
    for info in pkgutil.iter_modules(durable_agent.engine.__path__):
        module = importlib.import_module(f"durable_agent.engine.{info.name}")
        for name, one in vars(module).items():
            plain = inspect.unwrap(one) if callable(one) else one
            if name.startswith("_") or not inspect.isfunction(plain) or plain.__module__ != module.__name__:
                continue
            first = next(iter(inspect.signature(plain).parameters.values()), None)
            if (
                first is not None
                and first.annotation == Database.__name__
                and (inspect.iscoroutinefunction(plain) or inspect.isasyncgenfunction(plain))
            ):
                found[f"{info.name}.{name}"] = plain
    return found


def writes(verb: Any) -> bool:
    """Tell whether a verb's own text opens a transaction that may write."""
    text = inspect.getsource(verb)
    return ".transaction() as" in text or "locked(" in text or "batch(" in text
