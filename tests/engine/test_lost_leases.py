"""What becomes of a step whose worker is lost, suspected, or only slow; each rule by its breach."""

from __future__ import annotations

from dataclasses import replace

import pytest

from durable_agent.core.outcomes import Recorded, Verdict
from durable_agent.core.records import EffectState
from durable_agent.engine.exchange import Room
from tests.support.postgres import Database
from tests.support.runs import Engine, call_of, run_of, step


@pytest.mark.parametrize("since", ["renewed", "given to another"])
async def test_a_lease_that_was_renewed_since_the_look_is_not_taken(engine: Engine, since: str) -> None:
    run = await engine.submit(run_of(step("a")))
    first, second = engine.hand("first"), engine.hand("second")
    (claim,) = await first.claim()
    first.beat(ttl_s=-1)
    async with engine.pools.transaction() as conn:
        seen = await engine.upkeep._look(conn, suspect=False)
    assert len(seen.expired) == 1
    hand = first
    if since == "renewed":
        first.beat()
    else:
        await engine.reap()
        hand, (claim,) = second, await second.claim()
    async with engine.pools.transaction() as conn:
        assert await engine.upkeep.reap(conn, seen.expired) == 0
    assert await hand.succeed(claim) is Verdict.OK
    assert (await engine.run(run))["status"] == "completed"


async def test_one_bad_row_does_not_stop_the_reaper(engine: Engine, database: Database) -> None:
    bad, good = [await engine.submit(run_of(step("a"))) for _ in range(2)]
    hand = engine.hand()
    assert len(await hand.claim()) == 2
    database.execute(
        f"create function refuse() returns trigger language plpgsql as $$ begin if new.run_id = '{bad}' then"
        " raise exception 'a bad row'; end if; return new; end $$"
    )
    database.execute("create trigger refuse before insert on events for each row execute function refuse()")
    hand.beat(ttl_s=-1)
    await engine.reap()
    assert [(await engine.statuses(run))["a"] for run in (bad, good)] == ["running", "ready"]


async def test_a_lost_lease_uses_up_no_attempt(engine: Engine) -> None:
    run = await engine.submit(run_of(step("a")))
    hand = engine.hand()
    await hand.claim()
    hand.beat(ttl_s=-1)
    await engine.reap()
    a = (await engine.run(run))["steps"]["a"]
    assert (a["failures"], a["crashes"]) == (0, 1)
    assert [claim.attempt for claim in await engine.hand().claim()] == [1]


async def test_a_step_that_gets_on_is_no_poison_pill(engine: Engine) -> None:
    run = await engine.submit(run_of(step("a")))
    for no in range(1, 6):
        hand = engine.hand()
        (claim,) = await hand.claim()
        told = Recorded(claim.lease, no, "noop", EffectState.DONE, b"1")
        assert await hand.settle(call_of(claim.lease, no), told) == [Verdict.OK, Verdict.OK]
        hand.beat(ttl_s=-1)
        await engine.reap()
        assert (await engine.run(run))["steps"]["a"]["crashes"] == 1


async def test_a_manual_step_whose_worker_is_lost_waits_for_a_person(engine: Engine) -> None:
    run = await engine.submit(run_of(step("a")))
    hand = engine.hand()
    hand.room = Room(replace(hand.room.offer, effects={"noop": "manual"}))
    assert len(await hand.claim()) == 1
    hand.beat(ttl_s=-1)
    await engine.reap()
    assert await engine.hand().claim() == []
    assert [(kind, state) for _, kind, state in await engine.waits(run)] == [("unknown_effect", "open")]


async def test_a_suspect_keeps_its_lease_through_the_grace(engine: Engine, database: Database) -> None:
    clock = (
        "create or replace function engine_now() returns timestamptz language sql volatile as $$ select timestamptz "
    )
    run = await engine.submit(run_of(step("a")))
    hand = engine.hand()
    database.execute(f"{clock} '2100-01-01 00:00:00' $$")  # it stands still
    hand.beat()
    assert len(await hand.claim()) == 1
    database.execute(
        "update workers set backend_pid = 0, backend_start = clock_timestamp()"
    )  # of a session that is gone
    for _ in range(3):
        await engine.reap()
    assert database.execute("select suspected_at is not null from workers") == [(True,)]
    assert (await engine.statuses(run))["a"] == "running"
    database.execute(f"{clock} '2100-01-01 00:00:01' $$")
    await engine.reap()
    assert (await engine.statuses(run))["a"] == "ready"


async def test_a_lease_far_ahead_is_pulled_back(engine: Engine, database: Database) -> None:
    """As it is after the database's clock was set back by hours."""
    await engine.submit(run_of(step("a")))
    hand = engine.hand()
    hand.beat(ttl_s=7200.0)
    assert len(await hand.claim()) == 1
    async with engine.pools.transaction() as conn:
        await engine.upkeep._sweep(conn)
    ttl_s = engine.upkeep.ttl_s
    assert database.execute("select lease_until <= engine_now() + make_interval(secs => %s) from workers", ttl_s) == [
        (True,)
    ]
