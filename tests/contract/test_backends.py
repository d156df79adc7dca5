"""What every backend keeps: the engine on PostgreSQL and the one in memory are told the same and answer alike."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any, Protocol
from uuid import UUID, uuid4

import pytest

from durable_agent.core.effects import effect_key
from durable_agent.core.events import digest, dumps
from durable_agent.core.outcomes import (
    Exchange,
    Failed,
    InDoubt,
    Intended,
    Noted,
    Outcome,
    Recorded,
    Released,
    Suspended,
    Verdict,
)
from durable_agent.core.records import Claim, EffectClass, EffectState, FailureClass, RunSpec, Token, WaitKind
from durable_agent.testing import FakeBackend
from tests.support.postgres import Database
from tests.support.runs import engine_on, ok, run_of, step


class Engine(Protocol):
    """What the tests need of both."""

    async def submit(self, spec: RunSpec) -> UUID: ...

    async def exchange(self, outcomes: Sequence[Outcome], *, free: int, solo: bool) -> Exchange: ...


class InMemory(FakeBackend):
    """Its `submit` is awaited, too."""

    async def submit(self, spec: RunSpec) -> UUID:  # type: ignore[override]
        return super().submit(spec)


class OnPostgres:
    """An engine and one session driven by hand."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._hand = engine.hand()

    async def submit(self, spec: RunSpec) -> UUID:
        return await self._engine.submit(spec)  # type: ignore[no-any-return]

    async def exchange(self, outcomes: Sequence[Outcome], *, free: int, solo: bool) -> Exchange:
        await self._engine.reap()  # retries that are due
        return await self._hand.exchange(outcomes, free=free, solo=solo)  # type: ignore[no-any-return]


@pytest.fixture(params=["memory", "postgres"])
async def backend(request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    """Each engine in turn."""
    if request.param == "memory":
        yield InMemory()
        return
    database: Database = request.getfixturevalue("database")
    async with engine_on(database.url) as engine:
        yield OnPostgres(engine)


async def claim(backend: Engine, free: int = 10) -> list[Claim]:
    return list((await backend.exchange([], free=free, solo=True)).claims)


async def tell(backend: Engine, *outcomes: Outcome) -> list[Verdict]:
    return list((await backend.exchange(outcomes, free=0, solo=True)).verdicts)


def intended(claim: Claim, no: int = 1, n: int = 1) -> Intended:
    request = dumps({"n": n})
    sha = digest(request)
    key = effect_key(claim.idempotency_key, no, sha)
    return Intended(claim.lease, no, "call", EffectClass.IDEMPOTENT, request, sha, key)


async def test_steps_are_claimed_in_the_order_of_the_graph_with_their_parents_outputs(backend: Engine) -> None:
    await backend.submit(run_of(step("a"), step("b", "a")))
    (a,) = await claim(backend)
    assert await claim(backend) == []
    assert await tell(backend, ok(a, {"x": 1})) == [Verdict.OK]
    (b,) = await claim(backend)
    assert (b.name, b.parents, b.attempt, b.lease.claim_no) == ("b", {"a": {"x": 1}}, 1, 1)


async def test_no_more_is_claimed_than_there_are_slots(backend: Engine) -> None:
    await backend.submit(run_of(*(step(f"s{n}") for n in range(5))))
    assert len(await claim(backend, 2)) == 2
    assert len(await claim(backend, 10)) == 3


async def test_a_stranger_is_refused(backend: Engine) -> None:
    await backend.submit(run_of(step("a")))
    (a,) = await claim(backend)
    stranger = replace(a, lease=replace(a.lease, token=Token(uuid4())))
    assert await tell(backend, ok(stranger)) == [Verdict.LOST]
    assert await tell(backend, intended(stranger)) == [Verdict.LOST]


async def test_a_failure_is_tried_again_as_often_as_the_policy_says(backend: Engine) -> None:
    await backend.submit(run_of(step("a")))
    for attempt in (1, 2, 3):
        (a,) = await claim(backend)
        assert (a.attempt, a.lease.claim_no) == (attempt, attempt)
        await tell(backend, Failed(a.lease, FailureClass.TRANSIENT, "Error", "no"))
    assert await claim(backend) == []


async def test_a_released_step_is_claimed_again_and_nothing_is_counted(backend: Engine) -> None:
    await backend.submit(run_of(step("a")))
    (a,) = await claim(backend)
    await tell(backend, Released(a.lease))
    (again,) = await claim(backend)
    assert (again.attempt, again.lease.claim_no, again.idempotency_key) == (1, 2, a.idempotency_key)


async def test_recorded_effects_come_back_with_the_next_claim(backend: Engine) -> None:
    await backend.submit(run_of(step("a")))
    (a,) = await claim(backend)
    first = intended(a)
    assert await tell(backend, first) == [Verdict.OK]
    done = Recorded(a.lease, 1, "call", EffectState.DONE, b'{"r":1}')
    noted = Noted(a.lease, 2, "ctx.now", "", b'"then"')
    assert await tell(backend, done, noted, intended(a, 3, n=3), Released(a.lease)) == [Verdict.OK] * 4
    (again,) = await claim(backend)
    found = [(e.no, e.name, e.state, e.result) for e in sorted(again.effects, key=lambda e: e.no)]
    assert found == [
        (1, "call", EffectState.DONE, {"r": 1}), (2, "ctx.now", EffectState.DONE, "then"), (3, "call", EffectState.INTENT, None),
    ]  # fmt: skip
    assert again.effects[0].key == first.key


async def test_a_signal_wait_and_an_unknown_effect_free_the_slot(backend: Engine) -> None:
    await backend.submit(run_of(step("a"), step("b")))
    a, b = await claim(backend)
    waits = Suspended(a.lease, WaitKind.SIGNAL, "go", {}, "digest")
    doubt = InDoubt(b.lease, 0, "noop", "nobody knows")
    assert await tell(backend, waits, doubt) == [Verdict.OK, Verdict.OK]
    assert await claim(backend) == []
    assert (await tell(backend, ok(a)))[0] in (Verdict.LOST, Verdict.ALREADY)


async def test_spawned_steps_run_and_their_results_come_back_in_order(backend: Engine) -> None:
    await backend.submit(run_of(step("a")))
    (a,) = await claim(backend)
    specs = (step("x", queue="default"), step("y", "x", queue="default"))
    await tell(backend, Suspended(a.lease, WaitKind.STEPS, "spawn", {}, "digest", steps=specs))
    for name, output in (("x", 1), ("y", 2)):
        (one,) = await claim(backend)
        assert one.name == name
        await tell(backend, ok(one, output))
    (again,) = await claim(backend)
    (answer,) = again.answers
    assert [item["output"] for item in answer.answer["value"]] == [1, 2]


CONDITIONS = {
    "an edge": (("p.a", (), None), ("p.b", (("p.a", "output > 100"),), None)),
    "an edge to the first": (("p.b", (("p.a", "output > 100"),), None), ("p.a", (), None)),
    "what follows": (("p.a", (), None), ("p.b", (("p.a", "output > 100"),), None), ("p.c", ("p.b",), None)),
    "a root": (("p.b", ("p.a",), None), ("p.a", (), "has(input.yes)"), ("p.c", (), None)),
    "a root among others": (("p.a", (), "false"), ("p.b", (), "input.x == 1"), ("p.c", ("p.a", "p.b"), None)),
    "its own": (("p.a", (), None), ("p.b", ("p.a",), "outputs['a'] > 100"), ("p.c", ("p.a",), "outputs.size() == 1")),
    "what is there": (("p.a", (), "false"), ("p.b", (), None), ("p.c", ("p.a", "p.b"), "'b' in outputs && !('a' in outputs)")),
}  # fmt: skip
RUNS = {
    "an edge": ["p.a"], "an edge to the first": ["p.a"], "what follows": ["p.a"], "a root": ["p.c"],
    "a root among others": ["p.b", "p.c"], "its own": ["p.a", "p.c"], "what is there": ["p.b", "p.c"],
}  # fmt: skip


@pytest.mark.parametrize("case", list(CONDITIONS))
async def test_spawned_steps_keep_to_their_conditions_and_a_skipped_one_gives_nothing(
    backend: Engine, case: str
) -> None:
    await backend.submit(run_of(step("m"), input={"x": 1}))
    (m,) = await claim(backend)
    specs = tuple(step(f"m.{name}", *(f"m.{p}" if isinstance(p, str) else (f"m.{p[0]}", p[1]) for p in parents),
                       when=when, queue="default") for name, parents, when in CONDITIONS[case])  # fmt: skip
    await tell(backend, Suspended(m.lease, WaitKind.STEPS, "p", {}, "digest", steps=specs))
    ran: list[str] = []
    while (claims := await claim(backend))[:1] and claims[0].name != "m":
        ran += [one.name.removeprefix("m.") for one in claims]
        await tell(backend, *(ok(one, 1) for one in claims))
    (again,) = claims
    (answer,) = again.answers
    assert sorted(ran) == RUNS[case]
    told = [(one["name"], one["status"], one["output"]) for one in answer.answer["value"]]
    assert told == [
        (spec.name, "succeeded", 1) if spec.name.removeprefix("m.") in ran else (spec.name, "skipped", None)
        for spec in specs
    ]
    assert await tell(backend, ok(again)) == [Verdict.OK]


async def test_steps_that_are_all_skipped_are_no_wait(backend: Engine) -> None:
    await backend.submit(run_of(step("m")))
    (m,) = await claim(backend)
    specs = (step("m.p.a", when="false", queue="default"), step("m.p.b", "m.p.a", queue="default"))
    await tell(backend, Suspended(m.lease, WaitKind.STEPS, "p", {}, "digest", steps=specs))
    (again,) = await claim(backend)
    assert [one["status"] for one in again.answers[0].answer["value"]] == ["skipped", "skipped"]


async def test_a_spawned_step_whose_condition_cannot_be_decided_ends_the_run(backend: Engine) -> None:
    for when in ("input.missing > 1", "outputs['nobody'] > 1"):
        await backend.submit(run_of(step("m"), input={}))
        (m,) = await claim(backend)
        specs = (step("m.p.a", when=when, queue="default"), step("m.p.b", queue="default"))
        await tell(backend, Suspended(m.lease, WaitKind.STEPS, "p", {}, "digest", steps=specs))
        assert await claim(backend) == []
