"""The simulated store and the engine on PostgreSQL, told the same: every answer and every row is compared.

What the two draw for themselves (tokens, waits' ids, times, jitter) is left out; the choice of a claim is taken away by
claiming whatever is ready.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import groupby, zip_longest
from random import Random
from typing import Any
from uuid import UUID

import orjson

from durable_agent.core.effects import effect_key
from durable_agent.core.events import digest, dumps
from durable_agent.core.outcomes import (
    Emitted,
    Failed,
    InDoubt,
    Intended,
    Metered,
    Noted,
    Outcome,
    Recorded,
    Released,
    Succeeded,
    Suspended,
    Used,
)
from durable_agent.core.records import (
    DEFAULT_TENANT,
    Claim,
    Dependency,
    EffectClass,
    EffectState,
    FailureClass,
    Limit,
    RetryPolicy,
    RunSpec,
    StepKind,
    StepSpec,
    WaitKind,
)
from durable_agent.core.states import IllegalTransition
from durable_agent.core.waits import Decision, approval_digest
from durable_agent.db import reads
from durable_agent.engine import control
from durable_agent.engine.answer import answer, signal
from durable_agent.engine.journal import EFFECTS, WAITS
from durable_agent.engine.spend import BUDGETS
from durable_agent.errors import DurableAgentError
from durable_agent.testing.simulation.store import Session, Store
from tests.support.runs import Engine, Hand

TOOLS = {"noop": "safe", "once": "manual", "checked": "verify"}
OFFERED = {name: kind for name, kind in TOOLS.items() if kind in ("manual", "verify")}
Key = tuple[UUID, int, int]
LEFT_OUT = {"wait", "key", "worker", "retry_in_s", "detail_sha256", "approval"}


@dataclass
class Twins:
    """Both sides. `claims` are by (run, step, claim number): the store's and PostgreSQL's."""

    engine: Engine
    hand: Hand
    random: Random
    store: Store = field(init=False)
    claims: dict[Key, tuple[Claim, Claim]] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    now_s: float = 0.0

    def __post_init__(self) -> None:
        self.store = Store(self.random, lambda: self.now_s)
        self.hand.room.offer = replace(self.hand.room.offer, effects=OFFERED)
        self.offer = self.hand.room.offer
        self.store.beat(self.offer, 1e9)

    async def step(self) -> None:
        """Say one thing to both, and compare what they answer and what they hold then."""
        self.now_s += 1.0
        verbs = ("submit", "claim", "claim", "settle", "settle", "settle", "settle", "settle", "lose", "answer", "answer", "control", "control", "signal")  # fmt: skip
        await getattr(self, f"_{self.random.choice(verbs) if self.store.runs else 'submit'}")()
        await self.compare()

    async def _submit(self) -> None:
        await self.both_submit(drawn(self.random))

    async def both_submit(self, spec: RunSpec) -> UUID:
        """Start the run in both."""
        run_id = await self.engine.submit(spec)
        self._tell("submit", [(s.name, s.tool, [d.step for d in s.depends_on]) for s in spec.steps])
        self.store.submit(spec, str(run_id), b"", run_id)
        return run_id

    async def both_redrive(self, run: UUID) -> None:
        """Give the dead steps of a run another chance in both."""
        await self._both(
            lambda: self.store.redrive(run, actor="ann"),
            control.redrive(self.engine.pools, DEFAULT_TENANT, run_id=run, actor="ann"), counted=True,  # type: ignore[arg-type]
        )  # fmt: skip

    async def both_settle(self, pairs: list[tuple[Outcome, Outcome]]) -> None:
        """Say the same to both, in one exchange."""
        mine = self.store.exchange(self.offer, [one for one, _ in pairs], free=0, solo=True).verdicts
        said = [
            f"{type(one).__name__}({getattr(one, 'no', '')}) {one.lease.step_no}#{one.lease.claim_no}"
            for one, _ in pairs
        ]
        self._tell("settle", said, [v.value for v in mine])
        theirs = (await self.hand.exchange([other for _, other in pairs], free=0)).verdicts
        same(list(mine), list(theirs))

    async def _claim(self) -> None:
        """Claim whatever is ready in both."""
        self._tell("claim")
        await self.engine.reap()
        self.store.reap(self.store.look())
        claims = []
        while got := await self.hand.claim(100):
            claims += got
        theirs = {key_of(one): one for one in claims}
        mine: dict[Key, Claim] = {}
        while got := list(self.store.exchange(self.offer, (), free=100, solo=True).claims):
            mine |= {key_of(one): one for one in got}
        same([(k, shown(mine[k])) for k in sorted(mine)], [(k, shown(theirs[k])) for k in sorted(theirs)])
        self.claims |= {key: (mine[key], theirs[key]) for key in mine}

    async def _settle(self) -> None:
        if not self.claims:
            return
        keys = self.random.sample(sorted(self.claims), min(len(self.claims), self.random.choice((1, 1, 2, 3))))
        pairs = once_each([pair for key in keys for pair in self._outcomes(*self.claims[key])])
        await self.both_settle(pairs)
        if self.random.random() < 0.3:
            # As a worker does that did not hear the answer (R8).
            self._tell("again")
            self.hand.room.doubtful = True
            await self.both_settle(pairs)

    async def _lose(self) -> None:
        if self.random.random() < 0.5:
            return
        self._tell("lose")
        self.hand.beat(-1.0)
        await self.engine.reap()
        self.store.sessions[self.offer.session] = Session(self.offer, -1.0)
        self.store.reap(self.store.look())
        self.store.beat(self.offer, 1e9)
        self.hand.beat(1e6)

    async def _answer(self) -> None:
        waits = [(run, wait) for run in self.store.runs.values() for wait in run.waits.values()]
        if not waits:
            return
        run, wait = self.random.choice(waits)
        decision = self.random.choice(list(Decision))
        value = self.random.choice((None, {"n": 1}))
        other = next(
            w["id"] for w in await self._rows(WAITS.of_run, run.id) if (w["step_no"], w["no"]) == (wait.step, wait.no)
        )
        self._tell("answer", wait.kind.value, wait.step, decision.value)
        await self._both(
            lambda: self.store.answer(wait.id, decision, by="ann", value=value),
            answer(self.engine.pools, DEFAULT_TENANT, other, decision, by="ann", value=value),
        )

    async def _signal(self) -> None:
        run, number = self.random.choice(list(self.store.runs)), str(self.random.randrange(5))
        self._tell("signal", number)
        await self._both(
            lambda: self.store.signal(run, "go", {"n": 1}, key=number, by="ann"),
            signal(self.engine.pools, DEFAULT_TENANT, run, "go", {"n": 1}, key=number, by="ann"),
        )

    async def _control(self) -> None:
        run = self.random.choice(list(self.store.runs))
        verb = self.random.choice(("pause", "resume", "resume", "cancel", "redrive", "redrive", "redrive", "due"))
        if verb == "cancel" and self.random.random() < 0.5:
            return
        self._tell(verb)
        pools, tenant = self.engine.pools, DEFAULT_TENANT
        match verb:
            case "due":
                await self.engine.upkeep.settle_waits()
                self.store.settle_due()
            case "redrive":
                await self.both_redrive(run)
            case _:
                await self._both(
                    lambda: getattr(self.store, verb)(run, actor="ann"),
                    getattr(control, verb)(pools, tenant, run, actor="ann"),
                )

    async def _both(self, mine: Any, theirs: Any, *, counted: bool = False) -> None:
        refused: list[str | None] = [None, None]
        answers: list[Any] = [None, None]
        try:
            answers[0] = mine()
        except (DurableAgentError, IllegalTransition) as error:
            refused[0] = "Conflict" if isinstance(error, IllegalTransition) else type(error).__name__
        try:
            answers[1] = await theirs
        except DurableAgentError as error:
            refused[1] = type(error).__name__
        same(refused[:1], refused[1:])
        if counted and refused[0] is None:
            assert answers[0] == len(answers[1])

    def _tell(self, *what: Any) -> None:
        self.told.append(" ".join(map(str, what)))

    async def _rows(self, statement: str, run: UUID) -> list[dict[str, Any]]:
        async with self.engine.pools.reading() as conn:
            return await reads.rows(conn, statement, {"tenant": DEFAULT_TENANT, "run": run, "owner": run})

    async def compare(self) -> None:
        """Hold every row of the one against the other's."""
        for run in self.store.runs.values():
            found = run.exported()
            async with self.engine.pools.reading() as conn:
                row = await reads.run(conn, DEFAULT_TENANT, run.id)
                steps = await reads.steps(conn, DEFAULT_TENANT, run.id)
                events = await reads.events(conn, DEFAULT_TENANT, run.id, after=0, limit=10_000)
            assert row is not None
            same(
                event_rows([(e.type, e.step_no, e.data) for e in found.events]),
                event_rows([(e["type"], e["step_no"], orjson.loads(e["data"])) for e in events]),
            )
            same(picked(found.run, RUN), picked(row, RUN))
            same([picked(one, STEP) for one in found.steps], [picked(one, STEP) for one in steps])
            effects = await self._rows(EFFECTS.of_run, run.id)
            same([picked(one, EFFECT) for one in found.effects], [picked(one, EFFECT) for one in effects])
            waits = await self._rows(WAITS.of_run, run.id)
            same([wait_row(one) for one in found.waits], [wait_row(one) for one in waits])
            budgets = await self._rows(BUDGETS.of_owner, run.id)
            theirs = sorted((b["meter"], b["cap"], b["spent"], b["reserved"]) for b in budgets)
            same(sorted((b.meter, b.cap, b.spent, b.reserved) for b in run.budgets), theirs)

    def _outcomes(self, mine: Claim, theirs: Claim) -> list[tuple[Outcome, Outcome]]:
        """Return what a worker may say of a claim, for both sides: something on the way, and perhaps its end."""
        random = self.random
        no, number = random.randrange(1, 4), random.getrandbits(20)
        kind = EffectClass(random.choice(("idempotent", "manual", "verify", "safe")))
        known = self.store.runs[mine.lease.run_id].effects.get((mine.lease.step_no, no))
        kind = EffectClass(known.kind) if known is not None else kind
        request = dumps({"n": no})
        sha, key = digest(request), effect_key("k", no, digest(request))
        model = random.random() < 0.4
        name = known.name if known is not None else "model" if model else "pay"
        reserve = {"tokens": 30} if name == "model" else {}
        waits = [w for w in self.store.runs[mine.lease.run_id].waits.values() if w.kind is WaitKind.APPROVAL]
        recorded = known is not None and known.state not in ("done",)
        choices: list[Any] = [
            lambda le: Emitted(le, "note", {"n": no}),
            lambda le: Metered(le, "noop", number),
            lambda le: Succeeded(le, dumps({"ok": no < 3})),
            lambda le: Succeeded(le, dumps({"ok": no < 2})),
            lambda le: Failed(le, FailureClass.TRANSIENT, "Error", "it failed", None, in_doubt=no == 1),
            lambda le: Failed(le, FailureClass.INVALID_INPUT, "Error", "it failed"),
            lambda le: Released(le),
            lambda le: InDoubt(le, 0, "noop", "nobody knows", "k"),
            lambda le: Suspended(le, WaitKind.APPROVAL, "pay", {}, approval_digest("pay", request), 0.0 if no == 1 else None),
            lambda le: Suspended(le, WaitKind.SIGNAL, "go", {}, "s"),
            lambda le: Suspended(le, WaitKind.TIMER, "sleep", {}, "t", 0.0),
            lambda le: Suspended(le, WaitKind.INPUT, "input", {}, "i"),
            lambda le: Suspended(le, WaitKind.STEPS, f"spawn{no}", {}, "x", steps=spawned(mine, no)),
        ]  # fmt: skip
        if not recorded and known is None:
            choices += [lambda le: Noted(le, no, "ctx.now", "", b"1")]
        fresh = known is None or known.claim_no != mine.lease.claim_no or known.state != "intent"
        if known is None or (known.state != "done" and known.key and known.sha == sha and fresh):
            intended = lambda le: Intended(le, no, name, kind, request, sha, key, reserve=reserve)  # noqa: E731
            choices += [intended] * 6
        unsaid = known is not None and not (known.state == "unknown" and known.claim_no == mine.lease.claim_no)
        if known is not None and known.key and known.state != "done" and unsaid:
            used = Used(20, 5, 0, {"input_tokens": 20, "output_tokens": 5}) if name == "model" else None
            choices += [
                lambda le: Recorded(le, no, name, EffectState.DONE, b'{"r":1}', None, reserve, used),
                lambda le: Recorded(le, no, name, EffectState.FAILED, None, {"type": "E", "message": "m"}, reserve),
                lambda le: Recorded(le, no, name, EffectState.UNKNOWN, None, {"type": "E", "message": "m"}, reserve),
                lambda le: InDoubt(le, no, name, "nobody knows", key),
            ] * 2
        del waits
        return [(made(mine.lease), made(theirs.lease)) for made in random.choices(choices, k=random.choice((1, 1, 2)))]


RUN = ("status", "steps_left", "last_seq", "calls", "input_tokens", "output_tokens")
STEP = ("no", "name", "status", "claim_no", "failures", "crashes", "deps_left", "max_attempts", "max_crashes", "queue_state", "output")  # fmt: skip
EFFECT = ("step_no", "no", "name", "class", "state", "claim_no", "sends", "result", "error")


def picked(row: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """Return some columns of a row."""
    return {name: row[name] for name in names}


def wait_row(row: Any) -> tuple[Any, ...]:
    """Return what is compared of a wait."""
    answer = row["answer"]
    return (
        row["step_no"],
        row["no"],
        str(row["kind"]),
        row["name"],
        row["state"],
        answer,
        row["consumed_at"] is not None,
    )


def event_rows(events: list[tuple[str, int | None, Any]]) -> list[Any]:
    """Return what is compared of events; those of one batch of claims come in any order."""
    rows: list[Any] = []
    for claimed, group in groupby(events, key=lambda e: e[0] == "step.claimed"):
        own = [(kind, no, {k: v for k, v in data.items() if k not in LEFT_OUT}) for kind, no, data in group]
        rows += sorted(own, key=lambda e: (e[1], e[2]["claim_no"])) if claimed else own
    return rows


def same(mine: Any, theirs: Any) -> None:
    """Fail with the first thing that the store has otherwise than PostgreSQL."""
    if mine == theirs:
        return
    if isinstance(mine, list) and isinstance(theirs, list):
        for one, other in zip_longest(mine, theirs):
            assert one == other, f"the store: {one}\nPostgreSQL: {other}"
    raise AssertionError(f"the store: {mine}\nPostgreSQL: {theirs}")


def once_each(pairs: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Return the outcomes without the second about one effect: no worker says two things of a call at once."""
    found: dict[Any, tuple[Any, Any]] = {}
    for number, (mine, theirs) in enumerate(pairs):
        about = (mine.lease.run_id, mine.lease.step_no, mine.no) if isinstance(mine, EFFECTS_TOLD) else number
        found.setdefault(about, (mine, theirs))
    return list(found.values())


EFFECTS_TOLD = (Intended, Recorded, Noted, InDoubt)


def key_of(claim: Claim) -> Key:
    """Return what a claim is known by."""
    return claim.lease.run_id, claim.lease.step_no, claim.lease.claim_no


def shown(claim: Claim) -> Any:
    """Return what is compared of a claim."""
    effects = sorted((e.no, e.name, e.state, dumps(e.result), dumps(e.error)) for e in claim.effects)
    answers = sorted((a.no, a.kind, a.name, dumps(a.answer)) for a in claim.answers)
    return (
        claim.tool, claim.input, claim.parents, claim.attempt, claim.crashes, claim.in_doubt, claim.budgeted, effects, answers,
    )  # fmt: skip


def spawned(claim: Claim, no: int) -> tuple[StepSpec, ...]:
    """Return steps one after the other, of names that no claim gave before, some with conditions."""
    retry, own, kind = RetryPolicy(2, 0.0), f"{claim.lease.claim_no}a", (claim.lease.claim_no + no) % 5
    name = f"{claim.name}.spawn{no}.{own}"
    root = (None, None, "input.go", "!input.go", "input.missing > 1")[kind]
    after = Dependency(name, (None, "output.ok", "!output.ok", None, None)[kind])
    when = f"outputs['{own}'].ok" if kind == 2 else None
    return (
        StepSpec(f"{name}b", StepKind.TOOL_CALL, "noop", depends_on=(after,), when=when, retry=retry),
        StepSpec(name, StepKind.TOOL_CALL, "noop", when=root, retry=retry),
        StepSpec(f"{name}c", StepKind.TOOL_CALL, "noop", depends_on=(Dependency(f"{name}b"),), retry=retry),
    )


def drawn(random: Random) -> RunSpec:
    """Return a run of up to five steps."""
    steps: list[StepSpec] = []
    for no in range(random.choice((1, 2, 3, 5))):
        parents = random.sample(range(no), random.choice([k for k in (0, 1, 2) if k <= no]))
        when = [random.choice((None, None, "output.ok", "!output.ok", "output.missing > 1")) for _ in parents]
        edges = tuple(Dependency(f"s{p}", w) for p, w in zip(sorted(parents), when, strict=True))
        tool = random.choice(("noop", "noop", "once", "checked"))
        steps.append(
            StepSpec(f"s{no}", StepKind.TOOL_CALL, tool, None, edges, None, RetryPolicy(2, 0.0), max_crashes=2)
        )
    limits = random.choice(
        ((), (), (Limit("tokens", 70, "fail"),), (Limit("tokens", 70, "pause"),), (Limit("tools", 3, "fail"),))
    )
    return RunSpec(tuple(steps), None, {"go": True}, budget=limits)
