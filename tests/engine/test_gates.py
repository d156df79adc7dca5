"""Gates of the fleet: one row decides for all sessions; what is shut is refused in the commit of the intent."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from uuid import uuid4

import psycopg

from durable_agent.core.effects import effect_key
from durable_agent.core.events import digest, dumps
from durable_agent.core.gate import Heard
from durable_agent.core.outcomes import Intended, Released, Verdict
from durable_agent.core.records import DEFAULT_TENANT, Claim, EffectClass
from durable_agent.engine import gate
from durable_agent.engine.explain import explain
from tests.support.postgres import Database
from tests.support.runs import Engine, run_of, step

NAME = "provider:stub"


def limited(database: Database, **limits: int) -> None:
    with psycopg.connect(database.url, autocommit=True) as conn:
        names = ", ".join(limits)
        conn.execute(
            f"insert into gates (tenant, name, {names}) values (1, %s, {', '.join(['%s'] * len(limits))})",
            [NAME, *limits.values()],
        )


def intent(claim: Claim, no: int = 1) -> Intended:
    request = dumps([no])
    key = effect_key(claim.idempotency_key, no, digest(request))
    return Intended(claim.lease, no, "llm", EffectClass.SAFE, request, digest(request), key, gate=NAME)


async def test_two_hundred_ask_at_once_for_a_gate_that_opens_again_and_one_is_let_through(
    engine: Engine, database: Database
) -> None:
    for _ in range(5):
        await gate.heard(engine.pools, DEFAULT_TENANT, NAME, uuid4(), Heard.FAILED, error="down")
    database.move_clock(20)
    with psycopg.connect(database.url) as other:
        other.execute("select from gates where name = %s for no key update", (NAME,))
        asking = asyncio.gather(
            *(gate.passing(engine.pools, DEFAULT_TENANT, NAME, uuid4(), [1], in_use=0) for _ in range(200))
        )
        # Two of them at once at least, where each has read what it goes by unless it waits for the others.
        await engine.blocked(2)
    done = await asking
    assert sum(len(one.starts) for one in done) == 1


async def test_eight_sessions_together_keep_to_one_rate(engine: Engine, database: Database) -> None:
    limited(database, requests_per_minute=600)
    sessions = [uuid4() for _ in range(8)]
    granted: list[float] = []
    for second in range(3):
        for session in sessions:
            done = await gate.passing(engine.pools, DEFAULT_TENANT, NAME, session, [1] * 10, in_use=0)
            granted += [second + start for start in done.starts]
        database.move_clock(second + 1.0)
    assert 3 <= len(granted) <= 33


async def test_slots_are_shared_and_those_of_a_dead_session_come_back(engine: Engine, database: Database) -> None:
    limited(database, concurrency=4)
    first, second = uuid4(), uuid4()
    one = await gate.passing(engine.pools, DEFAULT_TENANT, NAME, first, [1] * 3, in_use=0)
    two = await gate.passing(engine.pools, DEFAULT_TENANT, NAME, second, [1] * 3, in_use=0)
    assert (len(one.starts), len(two.starts)) == (3, 1)
    await gate.hold_slots(engine.pools, DEFAULT_TENANT, NAME, second, 1)
    database.move_clock(gate.SLOT_TTL_S + 1)
    again = await gate.passing(engine.pools, DEFAULT_TENANT, NAME, second, [1] * 9, in_use=1)
    assert len(again.starts) == 3


async def test_a_call_whose_gate_shut_meanwhile_is_not_made(engine: Engine, database: Database) -> None:
    run = await engine.submit(run_of(step("a")))
    hand = engine.hand()
    (claim,) = await hand.claim()
    await gate.heard(engine.pools, DEFAULT_TENANT, NAME, uuid4(), Heard.HELD, wait_s=30.0, error="slow down")
    assert await hand.settle(intent(claim)) == [Verdict.HELD]
    assert ("effect.intended", "a") not in await engine.events(run)
    told = await explain(engine.pools, DEFAULT_TENANT, run)
    assert told.steps[0].facts["gates"][0]["name"] == NAME
    database.move_clock(34)
    hand.beat()
    assert await hand.settle(intent(claim)) == [Verdict.OK]
    await hand.succeed(claim)


async def test_only_the_session_that_probes_may_call_through_a_gate_that_is_half_open(
    engine: Engine, database: Database
) -> None:
    for _ in range(5):
        await gate.heard(engine.pools, DEFAULT_TENANT, NAME, uuid4(), Heard.FAILED, error="down")
    run = await engine.submit(run_of(step("a"), step("b")))
    prober, other = engine.hand("p"), engine.hand("o")
    (mine,) = await prober.claim(free=1)
    (theirs,) = await other.claim(free=1)
    database.move_clock(20)
    prober.beat()
    other.beat()
    await gate.passing(engine.pools, DEFAULT_TENANT, NAME, prober.session, [1], in_use=0)
    assert await other.settle(intent(theirs)) == [Verdict.HELD]
    assert await prober.settle(intent(mine)) == [Verdict.OK]
    await gate.heard(engine.pools, DEFAULT_TENANT, NAME, prober.session, Heard.WORKED)
    assert await other.settle(replace(intent(theirs))) == [Verdict.OK]
    await prober.succeed(mine)
    await other.succeed(theirs)
    assert (await engine.run(run))["status"] == "completed"


async def test_a_step_given_back_at_a_shut_gate_is_not_counted_and_says_what_it_waits_for(
    engine: Engine, database: Database
) -> None:
    run = await engine.submit(run_of(step("a")))
    hand = engine.hand()
    await gate.heard(engine.pools, DEFAULT_TENANT, NAME, uuid4(), Heard.HELD, wait_s=60.0, error="slow down")
    for turn in range(1, 10):
        (claim,) = await hand.claim()
        await hand.settle(Released(claim.lease, 50.0))
        assert await hand.claim() == []
        told = (await explain(engine.pools, DEFAULT_TENANT, run)).steps[0]
        assert (told.reason, NAME in told.text or "a gate" in told.text) == ("gate_shut", True)
        database.move_clock(51 * turn)
        hand.beat()
        await engine.reap()
    (claim,) = await hand.claim()
    assert (claim.attempt, claim.crashes) == (1, 0)
    await hand.succeed(claim)
