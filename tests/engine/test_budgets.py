"""Budgets: never overshot, whoever calls at once and whoever is killed; nothing held at rest; paused runs go on."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from durable_agent.core.effects import effect_key
from durable_agent.core.events import digest, dumps
from durable_agent.core.outcomes import Booked, Intended, Metered, Recorded, Released, Suspended, Used, Verdict
from durable_agent.core.records import DEFAULT_TENANT, Claim, EffectClass, EffectState, Limit, RunId, WaitKind
from durable_agent.engine import agents, control, waiting
from durable_agent.engine.grant import grant, settle_budgets
from durable_agent.errors import InvalidRequest
from tests.support.postgres import Database
from tests.support.runs import Engine, Hand, run_of, step


def intent(claim: Claim, no: int, tokens: int | None, *, microusd: int | None = 0, name: str = "llm") -> Intended:
    request = dumps([no])
    key = effect_key(claim.idempotency_key, no, digest(request))
    reserve = {"tokens": tokens, "microusd": microusd}
    return Intended(claim.lease, no, name, EffectClass.SAFE, request, digest(request), key, reserve=reserve)


def result(asked: Intended, used: int, *, microusd: int = 0, state: EffectState = EffectState.DONE) -> Recorded:
    spent = Used(used - 1, 1, microusd, {"input_tokens": used - 1, "output_tokens": 1}) if used else None
    return Recorded(asked.lease, asked.no, asked.name, state, b'"ok"', None, asked.reserve, spent)


def budgets(url: str, owner: UUID) -> dict[str, tuple[int, int, int]]:
    """Return (cap, spent, reserved) by meter."""
    with psycopg.connect(url) as conn:
        rows = conn.execute("select meter, cap, spent, reserved from budgets where owner = %s", [owner]).fetchall()
    return {meter: (cap, spent, reserved) for meter, cap, spent, reserved in rows}


async def begun(engine: Engine, *limits: Limit, steps: int = 1, **given: Any) -> tuple[UUID, Hand, list[Claim]]:
    run = await engine.submit(run_of(*(step(f"s{i}") for i in range(steps)), budget=limits, **given))
    hand = engine.hand()
    return run, hand, await hand.claim(free=steps)


async def test_a_call_reserves_its_bound_before_and_is_charged_what_it_took_after(
    engine: Engine, database: Database
) -> None:
    run, hand, (claim,) = await begun(engine, Limit("tokens", 1000), Limit("microusd", 500))
    asked = intent(claim, 1, 600, microusd=300)
    assert await hand.settle(asked) == [Verdict.OK]
    assert budgets(database.url, run) == {"tokens": (1000, 0, 600), "microusd": (500, 0, 300)}
    assert await hand.settle(result(asked, 90, microusd=40)) == [Verdict.OK]
    assert budgets(database.url, run) == {"tokens": (1000, 90, 0), "microusd": (500, 40, 0)}
    await hand.succeed(claim)
    row = await engine.run(run)
    assert (row["calls"], row["input_tokens"], row["output_tokens"], row["microusd"]) == (1, 89, 1, 40)
    assert row["steps"]["s0"]["tokens"] == 90


async def test_what_does_not_fit_ends_the_run_and_cuts_its_calls_off(engine: Engine, database: Database) -> None:
    run, hand, (first, second) = await begun(engine, Limit("tokens", 1000), steps=2)
    assert await hand.settle(intent(first, 1, 700)) == [Verdict.OK]
    assert await hand.settle(intent(second, 1, 301)) == [Verdict.EXHAUSTED]
    row = await engine.run(run)
    assert row["status"] == "budget_exceeded"
    assert row["error"]["budget"] | {} == {
        "scope": "run", "meter": "tokens", "cap": 1000, "spent": 0, "reserved": 700, "wanted": 301,
    }  # fmt: skip
    assert set((await engine.statuses(run)).values()) == {"cancelled"}
    # Nobody knows what became of the first call: its whole bound is spent, and nothing is held.
    assert budgets(database.url, run) == {"tokens": (1000, 700, 0)}
    assert await hand.settle(result(intent(first, 1, 700), 10)) == [Verdict.LOST]


async def test_what_a_cut_off_call_had_used_takes_the_place_of_its_bound(engine: Engine, database: Database) -> None:
    run, hand, (claim,) = await begun(engine, Limit("tokens", 1000))
    asked = intent(claim, 1, 700)
    await hand.settle(asked)
    await control.cancel(engine.pools, DEFAULT_TENANT, run, actor="me")
    assert budgets(database.url, run) == {"tokens": (1000, 700, 0)}
    used = Used(40, 2, 7, {"input_tokens": 40, "output_tokens": 2})
    forged = Booked(claim.lease, 1, "no such key", used)
    assert await hand.settle(forged) == [Verdict.OK]
    assert budgets(database.url, run) == {"tokens": (1000, 700, 0)}
    told = Booked(claim.lease, 1, asked.key, used)
    await hand.settle(told)
    await hand.settle(told)
    assert budgets(database.url, run) == {"tokens": (1000, 42, 0)}
    assert (await engine.run(run))["microusd"] == 7


@pytest.mark.parametrize("how", ["lost", "released", "waits", "unknown"])
async def test_a_lease_that_ends_in_the_middle_of_a_call_is_charged_its_bound(
    engine: Engine, database: Database, how: str
) -> None:
    run, hand, (claim,) = await begun(engine, Limit("tokens", 1000))
    asked = intent(claim, 1, 300)
    await hand.settle(asked)
    match how:
        case "lost":
            hand.beat(ttl_s=-1)
            await engine.reap()
        case "released":
            await hand.settle(Released(claim.lease))
        case "waits":
            await hand.settle(Suspended(claim.lease, WaitKind.INPUT, "q", {}, "x"))
        case _:
            await hand.settle(replace(result(asked, 0, state=EffectState.UNKNOWN), result=None), Released(claim.lease))
    assert budgets(database.url, run) == {"tokens": (1000, 300, 0)}
    if how == "waits":
        await control.cancel(engine.pools, DEFAULT_TENANT, run, actor="me")
        return
    hand = engine.hand()
    (again,) = await hand.claim()
    asked = replace(asked, lease=again.lease)
    assert await hand.settle(asked) == [Verdict.OK]
    assert budgets(database.url, run) == {"tokens": (1000, 300, 300)}
    await hand.settle(result(asked, 50))
    await hand.succeed(again)
    assert budgets(database.url, run) == {"tokens": (1000, 350, 0)}


async def test_tools_are_counted_as_they_are_called_each_by_its_name_too(engine: Engine, database: Database) -> None:
    run, hand, (claim,) = await begun(engine, Limit("tools", 3), Limit("tool:web_search", 1))
    call = replace(intent(claim, 1, 0, name="web_search"), reserve={})
    assert await hand.settle(call, Metered(claim.lease, "noop")) == [Verdict.OK, Verdict.OK]
    assert budgets(database.url, run) == {"tools": (3, 2, 0), "tool:web_search": (1, 1, 0)}
    again = replace(intent(claim, 2, 0, name="web_search"), reserve={})
    assert await hand.settle(again) == [Verdict.EXHAUSTED]
    assert (await engine.run(run))["error"]["budget"]["meter"] == "tool:web_search"


async def test_a_limit_on_money_refuses_a_call_whose_cost_nobody_can_bound(engine: Engine) -> None:
    run, hand, (claim,) = await begun(engine, Limit("microusd", 1_000_000))
    assert await hand.settle(intent(claim, 1, 10, microusd=None)) == [Verdict.UNBOUNDED]
    await hand.succeed(claim)
    assert (await engine.run(run))["status"] == "completed"


async def test_a_run_that_a_budget_pauses_goes_on_when_the_limit_is_raised(engine: Engine, database: Database) -> None:
    run, hand, (claim,) = await begun(engine, Limit("tokens", 100, "pause"))
    assert await hand.settle(intent(claim, 1, 101)) == [Verdict.PAUSED]
    await hand.settle(Released(claim.lease))
    row = await engine.run(run)
    assert (row["status"], row["paused_for"]) == ("paused", "budget")
    assert await hand.claim() == []
    with pytest.raises(InvalidRequest, match="less than"):
        await hand_out(engine, run, -1)
    root, gone = await hand_out(engine, run, 500)
    assert (root, gone) == (run, [run])
    (again,) = await hand.claim()
    asked = intent(again, 1, 101)
    assert await hand.settle(asked) == [Verdict.OK]
    await hand.settle(result(asked, 20))
    await hand.succeed(again)
    assert budgets(database.url, run) == {"tokens": (500, 20, 0)}
    assert (await engine.run(run))["paused_for"] is None


async def hand_out(engine: Engine, run: UUID, cap: int) -> Any:
    return await grant(engine.pools, DEFAULT_TENANT, run, [Limit("tokens", cap, "pause")], actor="me")


async def test_a_run_that_had_no_limit_gets_one_that_knows_what_is_spent(engine: Engine, database: Database) -> None:
    run, hand, (claim,) = await begun(engine)
    asked = intent(claim, 1, 600)
    await hand.settle(asked)
    await hand.settle(result(asked, 70))
    await hand_out(engine, run, 200)
    assert budgets(database.url, run) == {"tokens": (200, 70, 0)}
    await hand.settle(Released(claim.lease))
    (again,) = await hand.claim()
    assert again.budgeted
    assert await hand.settle(intent(again, 2, 131)) == [Verdict.PAUSED]
    await control.cancel(engine.pools, DEFAULT_TENANT, run, actor="me")


async def test_a_limit_cannot_be_set_below_what_is_spent_and_what_calls_under_way_hold(
    engine: Engine, database: Database
) -> None:
    run, hand, (claim,) = await begun(engine, Limit("tokens", 1000))
    spent, asked = intent(claim, 1, 200), intent(claim, 2, 600)
    await hand.settle(spent)
    await hand.settle(result(spent, 100))
    await hand.settle(asked)
    with pytest.raises(
        InvalidRequest, match="699 is less than the 100 that are spent and the 600 that calls under way hold"
    ):
        await hand_out(engine, run, 699)
    await hand_out(engine, run, 700)
    assert budgets(database.url, run) == {"tokens": (700, 100, 600)}
    await hand.settle(result(asked, 600))
    await hand.succeed(claim)
    assert budgets(database.url, run) == {"tokens": (700, 700, 0)}


async def test_a_limit_waits_for_a_child_older_than_its_root_and_takes_nothing_before_it(
    engine: Engine, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever starts a child gives it its id by his own clock; runs are locked in the order of their ids all the same."""
    run, hand, (claim,) = await begun(engine, Limit("tokens", 1000))
    before = UUID(int=run.int - (5000 << 80))
    monkeypatch.setattr(waiting, "uuid7", lambda: before)
    await hand.settle(Suspended(claim.lease, WaitKind.RUN, "run", {}, "x", run=run_of(step("inner"))))
    monkeypatch.undo()
    engine.runs.append(RunId(before))
    async with await psycopg.AsyncConnection.connect(database.url) as batch:
        for_update = "select from runs where id = %s for no key update"
        await batch.execute(for_update, [before])
        setting = asyncio.create_task(grant(engine.pools, DEFAULT_TENANT, run, [Limit("microusd", 900)], actor="me"))
        await engine.blocked()
        await batch.execute("set local lock_timeout = '5s'")
        await batch.execute(for_update, [run])
    await setting
    assert budgets(database.url, run)["microusd"] == (900, 0, 0)
    await control.cancel(engine.pools, DEFAULT_TENANT, run, actor="me")


async def test_a_child_run_spends_the_budget_of_the_run_at_the_top(engine: Engine, database: Database) -> None:
    run, hand, (claim,) = await begun(engine, Limit("tokens", 1000))
    child = run_of(step("inner"))
    await hand.settle(Suspended(claim.lease, WaitKind.RUN, "run", {}, "x", run=child))
    (inner,) = await hand.claim()
    assert inner.lease.run_id != run
    assert inner.budgeted
    asked = intent(inner, 1, 400)
    assert await hand.settle(asked) == [Verdict.OK]
    assert budgets(database.url, run) == {"tokens": (1000, 0, 400)}
    assert await hand.settle(intent(inner, 2, 601)) == [Verdict.EXHAUSTED]
    engine.runs.append(inner.lease.run_id)
    assert (await engine.run(inner.lease.run_id))["status"] == "budget_exceeded"
    await control.cancel(engine.pools, DEFAULT_TENANT, run, actor="me")
    assert budgets(database.url, run) == {"tokens": (1000, 400, 0)}


async def test_the_wall_clock_ends_a_run_and_one_that_pauses_goes_on_with_more(
    engine: Engine, database: Database
) -> None:
    over = await engine.submit(run_of(step("a"), budget=(Limit("wall_clock_s", 60),)))
    held = await engine.submit(run_of(step("a"), budget=(Limit("wall_clock_s", 60, "pause"),)))
    await settle_budgets(engine.pools)
    assert (await engine.run(over))["status"] == "pending"
    database.move_clock(61)
    await settle_budgets(engine.pools)
    assert (await engine.run(over))["status"] == "budget_exceeded"
    assert (await engine.run(held))["status"] == "paused"
    await grant(engine.pools, DEFAULT_TENANT, held, [Limit("wall_clock_s", 600, "pause")], actor="me")
    hand = engine.hand()
    (claim,) = await hand.claim()
    await hand.succeed(claim)
    assert (await engine.run(held))["status"] == "completed"
    database.move_clock(3600)
    assert await settle_budgets(engine.pools) == 1  # its clock is stopped for good
    assert await settle_budgets(engine.pools) == 0


async def test_a_rolling_window_frees_what_lies_outside_and_lets_the_run_try_again(
    engine: Engine, database: Database
) -> None:
    agent = uuid4()
    with psycopg.connect(database.url, autocommit=True) as conn:
        conn.execute(
            "insert into budgets (tenant, owner, scope, meter, window_s, cap, on_limit) values (1, %s, 'agent', 'tokens', 3600, 100, 'pause')",
            [agent],
        )
    run, hand, (claim,) = await begun(engine, agent=agent, lane="researcher")
    first = intent(claim, 1, 100)
    await hand.settle(first)
    await hand.settle(result(first, 80))
    assert await hand.settle(intent(claim, 2, 21)) == [Verdict.PAUSED]
    await hand.settle(Released(claim.lease))
    database.move_clock(61)
    await settle_budgets(engine.pools)  # it may look again, though nothing moved out of the window yet
    (again,) = await hand.claim()
    assert await hand.settle(intent(again, 2, 21)) == [Verdict.PAUSED]
    await hand.settle(Released(again.lease))
    database.move_clock(3700)
    hand.beat()
    await settle_budgets(engine.pools)
    (again,) = await hand.claim()
    second = intent(again, 2, 100)
    assert await hand.settle(second) == [Verdict.OK]
    await hand.settle(result(second, 30))
    await hand.succeed(again)
    assert budgets(database.url, agent) == {"tokens": (100, 30, 0)}
    assert (await engine.run(run))["status"] == "completed"


async def test_two_hundred_and_fifty_six_calls_at_once_and_kills_overshoot_nothing(
    engine: Engine, database: Database
) -> None:
    cap, branches = 20_000, 256
    run = await engine.submit(
        run_of(*(step(f"b{i}") for i in range(branches)), budget=(Limit("tokens", cap, "pause"),))
    )
    rng = random.Random(7)
    hands = [engine.hand(f"w{i}") for i in range(8)]
    most = 0

    async def branch(hand: Hand, claim: Claim) -> None:
        for no in range(1, 4):
            asked = intent(claim, claim.lease.claim_no * 10 + no, rng.randint(1, 300))
            (verdict,) = await hand.settle(asked)
            if verdict is Verdict.PAUSED:
                await hand.settle(Released(claim.lease))
                return
            assert verdict is Verdict.OK
            if rng.random() < 0.1:
                await hand.settle(Released(claim.lease))  # it ends in the middle of the call
                return
            await hand.settle(result(asked, rng.randint(1, asked.reserve["tokens"] or 1)))
        await hand.succeed(claim)

    async def work(hand: Hand) -> None:
        nonlocal most
        while claims := await hand.claim(free=32):
            for claim in claims:
                await branch(hand, claim)
                _, spent, reserved = budgets(database.url, run)["tokens"]
                most = max(most, spent + reserved)

    await asyncio.gather(*(work(hand) for hand in hands))
    row = await engine.run(run)
    assert row["status"] == "paused"
    _, spent, reserved = budgets(database.url, run)["tokens"]
    assert reserved == 0
    assert most <= cap
    assert spent > cap - 8 * 300  # it was used up, but for what the other sessions held when it was
    await control.cancel(engine.pools, DEFAULT_TENANT, run, actor="me")


async def test_two_runs_of_one_agent_that_ask_at_once_do_not_both_get_what_one_may(
    engine: Engine, database: Database
) -> None:
    """The runs are two, so no lock of a run keeps their calls apart: only the budget's own does."""
    limit = {"meter": "tokens", "window_s": 0, "cap": 1000, "on_limit": "fail"}
    agent = await agents.create(engine.pools, DEFAULT_TENANT, "researcher", {"budgets": [limit]})
    both = [await begun(engine, agent=agent, lane="researcher") for _ in range(2)]
    with psycopg.connect(engine.url) as other:
        other.execute("select from budgets for no key update")
        asking = [asyncio.create_task(hand.settle(intent(claim, 1, 600))) for _, hand, (claim,) in both]
        await engine.blocked(2)
        other.rollback()
    verdicts = sorted(verdict for (verdict,) in await asyncio.gather(*asking))
    assert verdicts == [Verdict.EXHAUSTED, Verdict.OK]
    assert budgets(database.url, agent) == {"tokens": (1000, 0, 600)}
