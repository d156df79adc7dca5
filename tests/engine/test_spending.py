"""Spending at the edges: batches, cut-off calls, calls that undo, limits that come late, windows and clocks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

import psycopg
import pytest

from durable_agent.core.outcomes import Booked, Emitted, Failed, Metered, Outcome, Released, Suspended, Used, Verdict
from durable_agent.core.records import DEFAULT_TENANT, Claim, FailureClass, Limit, RunId, WaitKind
from durable_agent.engine import agents, control
from durable_agent.engine.grant import grant, settle_budgets
from tests.engine.test_budgets import begun, budgets, intent, result
from tests.support.postgres import Database
from tests.support.runs import Engine, run_of, step

USED = Used(40, 2, 7, {"input_tokens": 40, "output_tokens": 2})
FATAL = FailureClass.INVALID_INPUT


def released(claim: Claim) -> Outcome:
    return Released(claim.lease)


def failed(claim: Claim) -> Outcome:
    return Failed(claim.lease, FailureClass.TRANSIENT, "TimeLimit", "it took too long")


def ended(claim: Claim) -> Outcome:
    return Failed(claim.lease, FATAL, "Error", "it cannot be done")


async def granted(engine: Engine, run: UUID, *limits: Limit) -> list[Any]:
    return list((await grant(engine.pools, DEFAULT_TENANT, run, limits, actor="me"))[1])


async def limited(engine: Engine, **limit: Any) -> UUID:
    """Return an agent with that limit."""
    one = {"meter": "tokens", "window_s": 0, "cap": 10_000, "on_limit": "pause", **limit}
    return await agents.create(engine.pools, DEFAULT_TENANT, "researcher", {"budgets": [one]})


async def test_what_a_batch_gives_back_is_held_when_the_same_batch_pauses_its_run(engine: Engine) -> None:
    run, hand, (first, second) = await begun(engine, Limit("tokens", 100, "pause"), steps=2)
    assert await hand.settle(Released(first.lease), intent(second, 1, 101)) == [Verdict.OK, Verdict.PAUSED]
    await hand.settle(Released(second.lease))
    assert {s["queue_state"] for s in (await engine.run(run))["steps"].values()} == {"held"}
    assert await hand.claim() == []


@pytest.mark.parametrize("first", ["pause", "fail"])
async def test_a_run_that_a_batch_pauses_and_fails_is_undone_and_paused_no_more(engine: Engine, first: str) -> None:
    limit = Limit("tokens", 100, "pause")
    run = await engine.submit(run_of(step("a", compensate="noop"), step("b", "a"), step("c", "a"), budget=(limit,)))
    hand = engine.hand()
    await hand.succeed((await hand.claim())[0])
    b, c = await hand.claim()
    both = {"pause": intent(b, 1, 101), "fail": ended(c)}
    told = {what: both[what] for what in sorted(both, key=lambda what: what != first)}
    verdicts = dict(zip(told, await hand.settle(*told.values()), strict=True))
    assert verdicts == {"pause": Verdict.PAUSED, "fail": Verdict.OK}
    row = await engine.run(run)
    assert (row["status"], row["paused_for"]) == ("compensating", None)
    (undoing,) = await hand.claim()
    assert undoing.compensates
    await hand.succeed(undoing)
    assert (await engine.run(run))["status"] == "failed"


@pytest.mark.parametrize("first", [0, 1])
async def test_a_run_that_a_batch_pauses_and_ends_is_not_told_as_paused(engine: Engine, first: int) -> None:
    """Else it would be resumed behind the back of a person who pauses it after a redrive."""
    run, hand, (a, b) = await begun(engine, Limit("tokens", 100, "pause"), steps=2)
    both = [intent(a, 1, 101), ended(b)]
    await hand.settle(both[first], both[1 - first])
    row = await engine.run(run)
    assert (row["status"], row["paused_for"]) == ("failed", None)
    assert {one["queue_state"] for one in row["steps"].values()} == {None}


@pytest.mark.parametrize(("first", "status"), [("tokens", "paused"), ("tools", "budget_exceeded")])
async def test_of_two_limits_that_a_batch_meets_the_first_decides(engine: Engine, first: str, status: str) -> None:
    run, hand, (a, b) = await begun(engine, Limit("tokens", 100, "pause"), Limit("tools", 0), steps=2)
    both = [intent(a, 1, 101), Metered(b.lease, "noop")]
    verdicts = await hand.settle(*(both if first == "tokens" else both[::-1]))
    assert verdicts == [Verdict.PAUSED if status == "paused" else Verdict.EXHAUSTED] * 2
    row = await engine.run(run)
    assert (row["status"], row["paused_for"]) == (status, "budget" if status == "paused" else None)


@pytest.mark.parametrize("end", [released, failed, ended])
async def test_what_was_used_is_booked_in_the_batch_that_ends_the_lease(
    engine: Engine, database: Database, end: Any
) -> None:
    run, hand, (first, second) = await begun(engine, Limit("tokens", 1000), steps=2)
    asked = intent(first, 1, 700)
    await hand.settle(asked, intent(second, 1, 200))
    assert await hand.settle(Booked(first.lease, 1, asked.key, USED), end(first)) == [Verdict.OK, Verdict.OK]
    assert budgets(database.url, run) == {"tokens": (1000, 242 if end is ended else 42, 0 if end is ended else 200)}
    row = await engine.run(run)
    assert (row["calls"], row["input_tokens"], row["output_tokens"], row["microusd"]) == (1, 40, 2, 7)


async def test_what_a_cut_off_call_used_is_in_the_totals_of_a_run_without_limits(engine: Engine) -> None:
    run, hand, (claim,) = await begun(engine)
    asked = intent(claim, 1, 700)
    await hand.settle(asked)
    told = Booked(claim.lease, 1, asked.key, USED)
    await hand.settle(told, Released(claim.lease))
    await hand.settle(told)
    row = await engine.run(run)
    assert (row["calls"], row["input_tokens"], row["output_tokens"], row["microusd"]) == (1, 40, 2, 7)


async def test_calls_that_undo_a_run_are_reserved_and_charged_and_never_refused(
    engine: Engine, database: Database
) -> None:
    run = await engine.submit(
        run_of(step("a", compensate="noop"), step("b", "a"), budget=(Limit("tokens", 100), Limit("microusd", 100)))
    )
    hand = engine.hand()
    (first,) = await hand.claim()
    await hand.succeed(first)
    (second,) = await hand.claim()
    await hand.settle(ended(second))
    (undoing,) = await hand.claim()
    assert undoing.compensates
    one, other = intent(undoing, 1, 300, microusd=None), intent(undoing, 2, 200)
    assert await hand.settle(one) == [Verdict.OK]
    assert await hand.settle(other) == [Verdict.OK]
    assert budgets(database.url, run)["tokens"] == (100, 0, 500)
    await hand.settle(result(one, 50, microusd=9))
    assert budgets(database.url, run) == {"tokens": (100, 50, 200), "microusd": (100, 9, 0)}
    await hand.settle(result(other, 60))
    await hand.succeed(undoing)
    assert budgets(database.url, run) == {"tokens": (100, 110, 0), "microusd": (100, 9, 0)}
    assert (await engine.run(run))["status"] == "failed"


async def test_what_a_run_held_when_it_began_to_be_undone_is_charged_once(engine: Engine, database: Database) -> None:
    run = await engine.submit(
        run_of(step("a", compensate="noop"), step("b", "a"), step("c", "a"), budget=(Limit("tokens", 1000),))
    )
    hand = engine.hand()
    await hand.succeed((await hand.claim())[0])
    second, third = await hand.claim()
    await hand.settle(intent(third, 1, 300))
    await hand.settle(ended(second))
    assert budgets(database.url, run) == {"tokens": (1000, 300, 0)}
    (undoing,) = await hand.claim()
    await hand.succeed(undoing)
    assert budgets(database.url, run) == {"tokens": (1000, 300, 0)}


async def test_a_limit_that_comes_late_holds_what_the_calls_under_way_may_take(
    engine: Engine, database: Database
) -> None:
    run, hand, (first, second, third) = await begun(engine, steps=3)
    unheard = intent(third, 1, 500)
    await hand.settle(unheard, Released(third.lease))  # its lease ended: nobody limited it then
    asked = intent(first, 1, 600)
    await hand.settle(asked)
    await granted(engine, run, Limit("tokens", 1000, "pause"))
    assert budgets(database.url, run) == {"tokens": (1000, 0, 600)}
    other = intent(second, 1, 300)
    assert await hand.settle(other) == [Verdict.OK]
    await hand.settle(result(asked, 50))
    (again,) = await hand.claim()
    await hand.settle(Released(again.lease))
    await hand.settle(Booked(third.lease, 1, unheard.key, USED))
    assert budgets(database.url, run) == {"tokens": (1000, 92, 300)}
    await hand.settle(result(other, 60), Released(second.lease), Released(first.lease))
    assert budgets(database.url, run) == {"tokens": (1000, 152, 0)}
    await control.cancel(engine.pools, DEFAULT_TENANT, run, actor="me")
    assert budgets(database.url, run) == {"tokens": (1000, 152, 0)}


async def test_a_limit_of_an_agent_that_comes_late_holds_what_its_calls_may_take(
    engine: Engine, database: Database
) -> None:
    agent = await agents.create(engine.pools, DEFAULT_TENANT, "researcher", {})
    _, hand, (claim,) = await begun(engine, agent=agent, lane="researcher")
    asked = intent(claim, 1, 600)
    await hand.settle(asked)
    one = {"meter": "tokens", "window_s": 3600, "cap": 1000, "on_limit": "pause"}
    for _ in range(2):  # the second time the limit is known, and holds what it holds
        await agents.change(engine.pools, DEFAULT_TENANT, agent, "researcher", {"budgets": [one]}, by="me")
        assert budgets(database.url, agent) == {"tokens": (1000, 0, 600)}
    await hand.settle(result(asked, 50))
    assert budgets(database.url, agent) == {"tokens": (1000, 50, 0)}


async def test_what_is_booked_later_leaves_no_trace_in_a_rolling_window(engine: Engine, database: Database) -> None:
    agent = await limited(engine, window_s=3600)
    run, hand, (claim,) = await begun(engine, agent=agent, lane="researcher")
    asked = intent(claim, 1, 1000)
    await hand.settle(asked)
    await control.cancel(engine.pools, DEFAULT_TENANT, run, actor="me")
    assert budgets(database.url, agent) == {"tokens": (10_000, 1000, 0)}
    database.move_clock(1800)
    await hand.settle(Booked(claim.lease, 1, asked.key, replace(USED, input_tokens=98)))
    assert (await engine.run(run))["input_tokens"] == 98
    for later in (3700, 7300):
        database.move_clock(later)
        _, hand, (claim,) = await begun(engine, agent=agent, lane="researcher")
        asked = intent(claim, 1, 5)
        await hand.settle(asked)
        await hand.settle(result(asked, 0))
        await hand.succeed(claim)
        assert budgets(database.url, agent) == {"tokens": (10_000, 0, 0)}


async def test_a_window_that_is_taken_away_takes_its_past_with_it(engine: Engine, database: Database) -> None:
    agent = await limited(engine, window_s=3600)
    _, hand, (claim,) = await begun(engine, agent=agent, lane="researcher")
    asked = intent(claim, 1, 100)
    await hand.settle(asked)
    await hand.settle(result(asked, 80))
    assert database.execute("select spent from budget_windows") == [(80,)]
    await agents.change(engine.pools, DEFAULT_TENANT, agent, "researcher", {}, by="me")
    assert database.execute("select spent from budget_windows") == []


async def test_a_run_that_waited_for_its_window_and_was_cancelled_is_not_due_any_more(
    engine: Engine, database: Database
) -> None:
    agent = await limited(engine, window_s=3600, cap=100)
    run, hand, (claim,) = await begun(engine, agent=agent, lane="researcher")
    assert await hand.settle(intent(claim, 1, 101)) == [Verdict.PAUSED]
    await hand.settle(Released(claim.lease))
    database.move_clock(61)
    async with engine.pools.transaction() as conn:
        assert (await engine.upkeep._look(conn, suspect=False)).overdue
        await control.cancel(engine.pools, DEFAULT_TENANT, run, actor="me")
        assert not (await engine.upkeep._look(conn, suspect=False)).overdue


@pytest.mark.parametrize("beside", [False, True])
async def test_a_call_of_a_tool_that_is_told_again_is_counted_once(
    engine: Engine, database: Database, beside: bool
) -> None:
    run, hand, (claim,) = await begun(engine, Limit("tools", 10))
    more: list[Outcome] = [Emitted(claim.lease, "note", 1)] if beside else []
    assert (await hand.settle(*more, Metered(claim.lease, "noop")))[-1] is Verdict.OK
    assert (await hand.settle(*more, Metered(claim.lease, "noop", 1)))[-1] is Verdict.OK
    hand.room.doubtful = True  # the answer was lost
    assert (await hand.settle(*more, Metered(claim.lease, "noop", 1)))[-1] is Verdict.ALREADY
    assert budgets(database.url, run) == {"tools": (10, 2, 0)}
    await hand.settle(Released(claim.lease))
    (again,) = await hand.claim()
    hand.room.doubtful = True
    assert await hand.settle(Metered(again.lease, "noop")) == [Verdict.OK]
    assert budgets(database.url, run) == {"tools": (10, 3, 0)}


@pytest.mark.parametrize("by", ["another limit", "a person"])
async def test_a_run_whose_time_is_over_pauses_again_whoever_resumes_it(
    engine: Engine, database: Database, by: str
) -> None:
    run = await engine.submit(run_of(step("a"), budget=(Limit("wall_clock_s", 60, "pause"), Limit("tokens", 10))))
    database.move_clock(61)
    await settle_budgets(engine.pools)
    if by == "a person":
        await control.resume(engine.pools, DEFAULT_TENANT, run, actor="me")
    else:
        assert await granted(engine, run, Limit("tokens", 20)) == [run]
    assert (await engine.run(run))["status"] == "running"
    await settle_budgets(engine.pools)
    row = await engine.run(run)
    assert (row["status"], row["paused_for"]) == ("paused", "budget")
    await granted(engine, run, Limit("wall_clock_s", 600))
    await settle_budgets(engine.pools)
    assert (await engine.run(run))["status"] == "running"


async def test_a_run_that_a_person_paused_stays_so_when_its_time_is_over_and_more_is_given(
    engine: Engine, database: Database
) -> None:
    run = await engine.submit(run_of(step("a"), budget=(Limit("wall_clock_s", 60, "pause"), Limit("tokens", 10))))
    await control.pause(engine.pools, DEFAULT_TENANT, run, actor="me")
    database.move_clock(61)
    await settle_budgets(engine.pools)
    assert (await engine.run(run))["paused_for"] is None
    assert await granted(engine, run, Limit("tokens", 20), Limit("wall_clock_s", 600)) == []
    assert (await engine.run(run))["status"] == "paused"


async def test_the_wall_clock_pauses_every_run_of_the_tree_and_more_of_it_lets_them_go_on(
    engine: Engine, database: Database
) -> None:
    spec = run_of(step("a"), budget=(Limit("wall_clock_s", 60, "pause"),))
    run = await engine.submit(spec)
    hand = engine.hand()
    (claim,) = await hand.claim()
    child = run_of(step("x"), step("y"), step("z", "x"))
    await hand.settle(Suspended(claim.lease, WaitKind.RUN, "run", {}, "x", run=child))
    x, y = await hand.claim()
    await hand.settle(Released(y.lease))
    database.move_clock(61)
    hand.beat()
    await settle_budgets(engine.pools)
    for paused in (run, x.lease.run_id):
        row = await engine.run(paused)
        assert (row["status"], row["paused_for"]) == ("paused", "budget")
    await hand.succeed(x)  # who is at it goes on to their end
    assert await hand.claim() == []
    assert await granted(engine, run, Limit("wall_clock_s", 600)) == [run, x.lease.run_id]
    assert sorted([claim.name for claim in await hand.claim()]) == ["y", "z"]
    assert (await engine.run(run))["status"] == "waiting"


@pytest.mark.parametrize("late", ["started late", "resumed alone"])
async def test_a_run_that_begins_or_goes_on_after_its_trees_time_is_paused_too(
    engine: Engine, database: Database, late: str
) -> None:
    run = await engine.submit(run_of(step("a"), budget=(Limit("wall_clock_s", 60, "pause"),)))
    hand = engine.hand()
    (claim,) = await hand.claim()
    starts = Suspended(claim.lease, WaitKind.RUN, "run", {}, "x", run=run_of(step("x")))
    if late == "resumed alone":
        await hand.settle(starts)
    database.move_clock(61)
    hand.beat()
    await settle_budgets(engine.pools)
    if late == "started late":
        await hand.settle(starts)
    with psycopg.connect(database.url) as conn:
        ((child,),) = conn.execute("select id from runs where parent_run = %s", [run]).fetchall()
    if late == "resumed alone":
        await control.resume(engine.pools, DEFAULT_TENANT, child, actor="me")
    await settle_budgets(engine.pools)
    row = await engine.run(child)
    assert (row["status"], row["paused_for"]) == ("paused", "budget")
    assert await hand.claim() == []
    assert await granted(engine, run, Limit("wall_clock_s", 600)) == [run, child]
    (x,) = await hand.claim()
    assert x.lease.run_id == child


async def test_a_run_that_is_redriven_alone_after_its_trees_time_is_paused_again(
    engine: Engine, database: Database
) -> None:
    await engine.submit(run_of(step("a"), budget=(Limit("wall_clock_s", 60, "pause"),)))
    hand = engine.hand()
    (claim,) = await hand.claim()
    await hand.settle(Suspended(claim.lease, WaitKind.RUN, "run", {}, "x", run=run_of(step("x"))))
    (x,) = await hand.claim()
    database.move_clock(61)
    hand.beat()
    await settle_budgets(engine.pools)
    await hand.settle(ended(x))
    child = x.lease.run_id
    await control.redrive(engine.pools, DEFAULT_TENANT, run_id=child, actor="me")
    await settle_budgets(engine.pools)
    row = await engine.run(child)
    assert (row["status"], row["paused_for"]) == ("paused", "budget")
    assert await hand.claim() == []


@pytest.mark.parametrize("looked", [True, False])
async def test_a_tree_that_is_redriven_after_its_time_has_that_time_again(
    engine: Engine, database: Database, looked: bool
) -> None:
    run, hand, (claim,) = await begun(engine, Limit("wall_clock_s", 60))
    await hand.settle(ended(claim))
    database.move_clock(61)
    if looked:
        await settle_budgets(engine.pools)
    await control.redrive(engine.pools, DEFAULT_TENANT, run_id=RunId(run), actor="me")
    await settle_budgets(engine.pools)
    assert (await engine.run(run))["status"] == "running"
    database.move_clock(122)
    await settle_budgets(engine.pools)
    assert (await engine.run(run))["status"] == "budget_exceeded"


async def test_what_failed_while_a_budget_paused_it_is_not_told_as_paused_when_it_is_redriven(engine: Engine) -> None:
    run, hand, (a, b) = await begun(engine, Limit("tokens", 100, "pause"), steps=2)
    await hand.settle(intent(a, 1, 101))
    await hand.settle(ended(b))
    await control.redrive(engine.pools, DEFAULT_TENANT, run_id=RunId(run), actor="me")
    row = await engine.run(run)
    assert (row["status"], row["paused_for"]) == ("running", None)


async def test_a_limit_that_is_set_anew_does_at_its_end_what_it_did_before(engine: Engine) -> None:
    run = await engine.submit(run_of(step("a"), budget=(Limit("tokens", 10, "pause"), Limit("tools", 5))))
    await granted(engine, run, Limit("tokens", 20), Limit("tools", 6, "pause"), Limit("microusd", 7))
    rows = engine_rows(engine, run)
    assert rows == {"tokens": (20, "pause"), "tools": (6, "pause"), "microusd": (7, "fail")}


def engine_rows(engine: Engine, owner: UUID) -> dict[str, Any]:
    rows = Database(engine.url).execute("select meter, cap, on_limit from budgets where owner = %s", owner)
    return {str(meter): (cap, on_limit) for meter, cap, on_limit in rows}
