"""What is too much together for one value ends the step that asks for it, not whoever hands it over."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import structlog

from durable_agent import Context, tool
from durable_agent.core import large
from durable_agent.core.outcomes import Recorded, Released, Verdict
from durable_agent.core.records import EffectState, FailureClass, WaitKind
from durable_agent.engine.answer import settle_due
from durable_agent.engine.claim import WIDE
from durable_agent.settings import Settings
from tests.support.postgres import Database
from tests.support.runs import Engine, Hand, call_of, ok, run_of, step
from tests.support.server import working

# Lower than in earnest: a hundred megabytes take its time to be made.
MOST = 50_000
MANY = WIDE + 1
EACH = MOST // WIDE
HERE = "tests.engine.test_too_much"


@pytest.fixture(autouse=True)
def less(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a step be handed less."""
    monkeypatch.setattr(large, "MOST_TOGETHER_BYTES", MOST)


@tool(effect="safe")
async def joins() -> str:
    """Take what it is given."""
    return "joined"


@tool(effect="safe")
async def spreads(ctx: Context) -> int:
    """Make one step of each item."""
    return len(await ctx.map("noop", list(range(MANY)), concurrency=MANY))


@tool(effect="safe")
async def starts(ctx: Context) -> Any:
    """Start a run of its own."""
    return (await ctx.run([{"name": f"s{no}", "tool": "noop"} for no in range(MANY)]))["status"]


async def all_but_one(hand: Hand) -> Any:
    """Let every ready step succeed but the last, which is returned."""
    claims: list[Any] = []
    while found := await hand.claim(free=1000):
        claims.extend(found)
    for first in range(0, len(claims) - 1, 100):
        await hand.settle(*map(ok, claims[first : min(first + 100, len(claims) - 1)]))
    return claims[-1]


def swell(database: Database, where: str) -> None:
    """Make the outputs of steps large; what they are made of compresses well."""
    database.execute(f"update steps set output = to_json(repeat('x', {EACH})) where status = 'succeeded' and {where}")


def shrink(database: Database) -> None:
    """Make them again what their events say, for whoever compares."""
    database.execute("update steps set output = 'null' where output is not null and octet_length(output::text) > 100")


async def error_of(engine: Engine, settings: Settings, run: Any, name: str) -> dict[str, Any]:
    """Return the error by which a step ended that a worker claimed."""
    async with working(settings, [HERE]):
        while (found := (await engine.run(run))["steps"][name])["error"] is None:  # noqa: ASYNC110  # the worker makes it true
            await asyncio.sleep(0.02)
    assert (found["status"], found["failures"]) == ("dead_letter", 1)
    return dict(found["error"])


async def test_a_step_whose_parents_returned_too_much_together_fails_and_says_so(
    engine: Engine, settings: Settings, database: Database
) -> None:
    names = [f"s{no}" for no in range(MANY)]
    run = await engine.submit(run_of(*map(step, names), step("all", *names, tool="joins")))
    other = await engine.submit(run_of(step("beside", tool="joins")))
    hand = engine.hand()
    last = await all_but_one(hand)
    swell(database, "true")
    assert await hand.succeed(last) is Verdict.OK
    swell(database, "true")
    error = await error_of(engine, settings, run, "all")
    assert error["failure"] == FailureClass.INVALID_INPUT
    assert f"{MANY} of them" in error["message"]
    assert f"more than the {MOST:,}" in error["message"]
    assert (await engine.run(other))["status"] == "completed"
    shrink(database)


async def test_a_step_whose_record_is_too_much_to_be_read_fails_and_says_so(engine: Engine, database: Database) -> None:
    run = await engine.submit(run_of(step("a")))
    hand = engine.hand()
    (claim,) = await hand.claim()
    for no in (1, 2, 3):
        await hand.settle(call_of(claim.lease, no), Recorded(claim.lease, no, "noop", EffectState.DONE, b"null"))
    assert await hand.settle(Released(claim.lease)) == [Verdict.OK]
    database.execute(f"update effects set result = to_json(repeat('x', {MOST // 3}))")
    (claim,) = await hand.claim()
    assert claim.refused is not None
    assert claim.refused.startswith("what its calls and waits returned before have 50,")
    assert (claim.effects, claim.lease.claim_no) == ((), 2)
    database.execute("update effects set result = 'null'")
    assert await hand.settle(Released(claim.lease)) == [Verdict.OK]
    (claim,) = await hand.claim()
    assert (claim.refused, [effect.no for effect in claim.effects]) == (None, [1, 2, 3])
    assert (await engine.run(run))["status"] == "running"


@pytest.mark.parametrize(("tool_name", "where"), [("spreads", "spawned_by is not null"), ("starts", "name like 's%'")])
async def test_who_waits_for_what_is_too_much_together_fails_and_says_so(
    engine: Engine, settings: Settings, database: Database, tool_name: str, where: str
) -> None:
    run = await engine.submit(run_of(step("a", tool=tool_name)))
    async with working(settings, [HERE]):
        while not await engine.waits(run):  # noqa: ASYNC110  # the worker makes it true
            await asyncio.sleep(0.02)
    hand = engine.hand()
    last = await all_but_one(hand)
    swell(database, where)
    assert await hand.succeed(last) is Verdict.OK
    await settle_due(engine.pools)
    error = await error_of(engine, settings, run, "a")
    assert error["failure"] == FailureClass.INVALID_INPUT
    assert f"more than the {MOST:,}" in error["message"]
    shrink(database)


async def test_a_step_with_many_parents_is_measured_though_its_worker_could_be_handed_it(
    engine: Engine, database: Database
) -> None:
    names = [f"s{no}" for no in range(MANY)]
    await engine.submit(run_of(*map(step, names), step("all", *names)))
    hand = engine.hand()
    last = await all_but_one(hand)
    swell(database, "true")
    assert (await hand.exchange([ok(last)])).claims == ()
    (claim,) = await hand.claim()
    assert (claim.name, claim.refused is not None) == ("all", True)
    shrink(database)


async def test_a_wait_that_cannot_be_ended_keeps_no_other_from_its_end(engine: Engine, database: Database) -> None:
    hand = engine.hand()
    good, _ = await engine.asked(hand, WaitKind.TIMER, expires_s=60.0)
    _, late = await engine.asked(hand, WaitKind.TIMER, expires_s=60.0)
    bad, wait = await engine.asked(hand, WaitKind.RUN, run=run_of(step("c")))
    (child,) = await hand.claim()
    assert await hand.succeed(child, "x") is Verdict.OK
    database.execute("update steps set output = %s::json where name = 'c'", "[" * 300 + "]" * 300)
    database.execute(
        "create function refuse() returns trigger language plpgsql as"
        " $$ begin raise exception 'a bad row' using errcode = '22000'; end $$"
    )
    refuse = "create trigger refuse before update on waits for each row when (old.id = '{}') execute function refuse()"
    database.execute(refuse.format(late))
    database.move_clock(61)
    spared = engine.upkeep.spared
    with structlog.testing.capture_logs() as logs:
        assert await settle_due(engine.pools, spared) == 1
    assert [line["event"] for line in logs] == ["not_settled"] * 2
    assert (await engine.statuses(good))["a"] == "ready"
    assert (await engine.statuses(bad))["a"] == "waiting"
    assert spared.ids == {wait, late}
    database.execute("drop trigger refuse on waits")
    database.execute("update steps set output = '\"x\"' where name = 'c'")
    assert await settle_due(engine.pools, spared) == 0
    spared.forget()
    assert await settle_due(engine.pools, spared) == 2
