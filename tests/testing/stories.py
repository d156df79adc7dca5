"""Histories for the checker's tests: made once by the engine on PostgreSQL, then changed as documents."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from durable_agent.core.effects import effect_key
from durable_agent.core.events import digest, dumps, genesis, link, micros
from durable_agent.core.outcomes import Emitted, InDoubt, Intended, Noted, Recorded, Released, Suspended, Used, Verdict
from durable_agent.core.records import (
    DEFAULT_TENANT,
    Claim,
    EffectClass,
    EffectState,
    FailureClass,
    Limit,
    RetryPolicy,
    WaitKind,
)
from durable_agent.core.waits import Decision, approval_digest
from durable_agent.db import reads
from durable_agent.engine import control
from durable_agent.engine.answer import answer
from durable_agent.engine.export import export
from durable_agent.testing.history import Report, check, read_runs
from tests.support.runs import Engine, Hand, engine_on, run_of, step

Line = dict[str, Any]
USED = Used(40, 2, 7, {"input_tokens": 40, "output_tokens": 2})


@dataclass
class History:
    """Exports by name, and the logs from outside."""

    runs: dict[str, list[Line]] = field(default_factory=dict)
    client: list[Line] = field(default_factory=list)
    receiver: list[Line] = field(default_factory=list)
    watchers: list[Line] = field(default_factory=list)
    budgets: list[Line] = field(default_factory=list)
    heads: list[Line] = field(default_factory=list)
    deadlocks: int = 0

    def copy(self) -> History:
        return deepcopy(self)

    def check(self, **given: Any) -> Report:
        """Check it as files would be: through their text."""
        text = [orjson.dumps(line) + b"\n" for lines in self.runs.values() for line in lines]
        logs = {"client": self.client, "receiver": self.receiver, "watchers": self.watchers, "budgets": self.budgets}
        return check(read_runs(text), **{"heads": self.heads, "deadlocks": self.deadlocks, **logs, **given})

    def events(self, name: str) -> list[Line]:
        return [line for line in self.runs[name] if line["record"] == "event"]

    def event(self, name: str, kind: str, step: str | None = None, nth: int = 0) -> Line:
        """Return the n-th event of a kind, of a step where one is named."""
        found = [e for e in self.events(name) if e["type"] == kind and step in (None, e["step"])]
        return found[nth]

    def row(self, name: str, record: str, nth: int = 0) -> Line:
        return [line for line in self.runs[name] if line["record"] == record][nth]

    def drop(self, name: str, *lines: Line) -> None:
        self.runs[name] = [line for line in self.runs[name] if all(line is not one for one in lines)]

    def put(self, name: str, line: Line, after: Line, **data: Any) -> Line:
        """Put a copy of an event behind another one."""
        made = deepcopy(line)
        at = next(n for n, one in enumerate(self.runs[name]) if one is after)
        self.runs[name].insert(at + 1, made)
        say(made, **data)
        return made

    def forge(self, name: str) -> None:
        """Number and chain the events anew, as who owns the database could."""
        run, end = self.row(name, "run"), self.row(name, "end")
        previous = genesis(UUID(run["id"]))
        for seq, line in enumerate(self.events(name), 1):
            at = micros(datetime.fromisoformat(line["at"]))
            previous = link(
                previous, seq=seq, kind=line["type"], step_no=line["step_no"], at_us=at, data=line["data"].encode()
            )
            line["seq"], line["hash"] = seq, previous.hex()
        run["last_seq"], run["chain"] = len(self.events(name)), previous.hex()
        end["events"], end["chain"] = run["last_seq"], run["chain"]


def said(line: Line) -> Any:
    """Return what an event says."""
    return orjson.loads(line["data"])


def say(line: Line, **data: Any) -> Line:
    """Let an event say something else."""
    line["data"] = dumps({**said(line), **data}).decode()
    return line


def make(url: str) -> History:
    """Return a history that holds a bit of everything, and all of it right."""
    return asyncio.run(_make(url))


async def _make(url: str) -> History:
    made = History()
    async with engine_on(url) as engine:
        for name, story in STORIES.items():
            run = await story(engine, made)
            made.client.append({"key": name, "body": name, "answer": "ok", "run_id": str(run)})
            made.client.append({"key": name, "body": name, "answer": "unknown"})
            await _keep(engine, made, name, run)
        async with engine.pools.reading() as conn:
            rows = await reads.rows(
                conn, "select owner::text, scope, meter, window_s, cap, spent, reserved from budgets", {}
            )
        made.budgets = orjson.loads(orjson.dumps(rows))
    # Nobody knows whether this one has a run; it has none.
    made.client.append({"key": "lost", "body": "lost", "answer": "unknown"})
    made.client.append({"key": "bad", "body": "bad", "answer": "refused"})
    return made


async def _keep(engine: Engine, made: History, name: str, run: UUID) -> None:
    with await export(engine.pools, DEFAULT_TENANT, run) as file:
        made.runs[name] = [orjson.loads(line) for line in file]
    async with engine.pools.reading() as conn:
        rows = await reads.events(conn, DEFAULT_TENANT, run, after=0, limit=1000)
    frames = [orjson.loads(orjson.dumps(reads.frame(run, row), default=str)) for row in rows]
    watcher = {"watcher": "w1", "run_id": str(run)}
    made.watchers += [{**frame, **watcher} for frame in frames]
    made.watchers.append({**watcher, "ended": True})
    late = {"watcher": "w2", "run_id": str(run)}
    made.watchers += [{**late, "after": 2}, *({**frame, **late} for frame in frames[2:])]


def intent(claim: Claim, no: int, name: str, effect: EffectClass, **given: Any) -> Intended:
    """Return the intent of a call."""
    request = dumps({"n": no})
    key = effect_key(claim.idempotency_key, no, digest(request))
    return Intended(claim.lease, no, name, effect, request, digest(request), key, **given)


async def _call(hand: Hand, made: History, asked: Intended, *, used: Used | None = None) -> None:
    """Intend a call, make it, record what it came to."""
    assert await hand.settle(asked) == [Verdict.OK]
    _received(made, asked, "r-" + asked.key[:6])
    result = dumps("r-" + asked.key[:6])
    recorded = Recorded(asked.lease, asked.no, asked.name, EffectState.DONE, result, None, asked.reserve, used)
    assert await hand.settle(recorded) == [Verdict.OK]


def _received(made: History, asked: Intended, result: str) -> None:
    made.receiver.append({"key": asked.key, "what": asked.name, "class": asked.effect.value, "result": result})


async def _chain(engine: Engine, made: History) -> UUID:
    run = await engine.submit(run_of(step("a"), step("b", "a"), goal="two steps"), "chain", b"x" * 32)
    assert await engine.submit(run_of(step("a"), step("b", "a"), goal="two steps"), "chain", b"x" * 32) == run
    hand = engine.hand()
    for output in ({"n": 1}, None):
        (claim,) = await hand.claim()
        await hand.succeed(claim, output)
    return run


async def _buy(engine: Engine, made: History) -> UUID:
    """A failure, a lost lease and its zombie, a branch not taken, an approval, a budget."""
    run = await engine.submit(
        run_of(
            step("plan"),
            step("big", ("plan", "output.rows > 2")),
            step("small", ("plan", "output.rows > 9")),
            step("join", "big", "small"),
            budget=(Limit("tokens", 1000),),
            input={"for": "us"},
        )
    )  # fmt: skip
    zombie, hand = engine.hand("zombie"), engine.hand("w")
    (plan,) = await hand.claim()
    await hand.fail(plan, FailureClass.TRANSIENT)
    await engine.reap()
    (plan,) = await hand.claim()
    await hand.succeed(plan, {"rows": 3})
    (stale,) = await zombie.claim()
    zombie.beat(ttl_s=-1)
    await engine.reap()
    (big,) = await hand.claim()
    assert await zombie.succeed(stale, "late") is Verdict.LOST
    asked = Suspended(big.lease, WaitKind.APPROVAL, "book", {"n": 1}, approval_digest("book", dumps({"n": 1})))
    await hand.settle(asked)
    wait = await _open_wait(engine, run)
    await answer(engine.pools, DEFAULT_TENANT, wait, Decision.APPROVED, by="me")
    (big,) = await hand.claim()
    call = intent(big, 1, "book", EffectClass.IDEMPOTENT, approval=wait, reserve={"tokens": 100})
    await _call(hand, made, call, used=USED)
    await hand.settle(Noted(big.lease, 2, "now", digest(b"1"), b'"noon"'), Emitted(big.lease, "note", {"x": 1}))
    await hand.succeed(big, "bought")
    (join,) = await hand.claim()
    await hand.settle(Released(join.lease))
    (join,) = await hand.claim()
    await hand.succeed(join)
    return run


async def _open_wait(engine: Engine, run: UUID) -> UUID:
    async with engine.pools.reading() as conn:
        statement = "select id from waits where run_id = %(run)s and state = 'open'"
        (row,) = await reads.rows(conn, statement, {"run": run})
    return UUID(str(row["id"]))


async def _doubt(engine: Engine, made: History) -> UUID:
    """A call that nobody knows of, sent again on a person's word."""
    run, hand = await engine.submit(run_of(step("a"))), engine.hand()
    (claim,) = await hand.claim()
    asked = intent(claim, 1, "send", EffectClass.MANUAL)
    await hand.settle(asked)
    _received(made, asked, "first")
    await hand.settle(InDoubt(claim.lease, 1, "send", "the answer was lost"))
    await answer(engine.pools, DEFAULT_TENANT, await _open_wait(engine, run), Decision.RESEND, by="me")
    (claim,) = await hand.claim()
    await _call(hand, made, replace(asked, lease=claim.lease))
    await hand.succeed(claim)
    return run


async def _undone(engine: Engine, made: History) -> UUID:
    run, hand = await engine.submit(run_of(step("a", compensate="noop"), step("b", "a"))), engine.hand()
    await hand.succeed((await hand.claim())[0])
    await hand.fail((await hand.claim())[0], FailureClass.INVALID_INPUT)
    await hand.succeed((await hand.claim())[0])
    return run


async def _poisoned(engine: Engine, made: History) -> UUID:
    """A step that kills its worker, sealed, and given another chance."""
    patient = RetryPolicy(max_attempts=3, base_s=0.0)
    run = await engine.submit(run_of(step("a", max_crashes=2, retry=patient), step("b", "a")))
    for n in range(2):
        doomed = engine.hand(f"doomed-{n}")
        assert len(await doomed.claim()) == 1
        doomed.beat(ttl_s=-1)
        await engine.reap()
    await control.redrive(engine.pools, DEFAULT_TENANT, run_id=None, actor="me")
    hand = engine.hand()
    for _ in "ab":
        await hand.succeed((await hand.claim())[0])
    return run


async def _waiting(engine: Engine, made: History) -> UUID:
    """At rest, and not at its end: it waits for a named cause."""
    run, hand = await engine.submit(run_of(step("a"))), engine.hand()
    (claim,) = await hand.claim()
    await hand.settle(Suspended(claim.lease, WaitKind.INPUT, "who", {"question": "who?"}, digest(b"who")))
    return run


STORIES: dict[str, Callable[[Engine, History], Any]] = {
    "chain": _chain, "buy": _buy, "doubt": _doubt, "undone": _undone, "poisoned": _poisoned, "waiting": _waiting,
}  # fmt: skip
