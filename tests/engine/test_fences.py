"""What is told of a lease that is no longer one's own, or of a commit nobody heard of: each rule by its breach."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import replace
from uuid import UUID, uuid4

import psycopg
import pytest

from durable_agent.core.outcomes import (
    Emitted,
    Failed,
    InDoubt,
    Metered,
    Noted,
    Outcome,
    Recorded,
    Released,
    Stored,
    Suspended,
    Verdict,
)
from durable_agent.core.records import DEFAULT_TENANT, Claim, EffectState, FailureClass, Lease, Limit, WaitKind
from durable_agent.db.arrays import literals
from durable_agent.db.batch import batch
from durable_agent.db.doorbell import Bell, Listener
from durable_agent.engine import control
from durable_agent.engine.backend import PostgresBackend
from durable_agent.engine.exchange import exchange
from durable_agent.engine.journal import JOURNAL, Journal
from durable_agent.errors import LostRace
from durable_agent.telemetry import Counters
from tests.engine.test_budgets import begun, budgets, intent, result
from tests.support.postgres import Database
from tests.support.runs import Engine, Hand, call_of, ok, run_of, step

SHA = "0" * 64
SAID: dict[str, Callable[[Lease], Outcome]] = {
    "failed": lambda lease: Failed(lease, FailureClass.TRANSIENT, "Error", "it failed"),
    "released": Released,
    "suspended": lambda lease: Suspended(lease, WaitKind.INPUT, "q", {}, "x"),
    "in doubt": lambda lease: InDoubt(lease, 0, "noop", "who knows"),
    "intended": lambda lease: call_of(lease, 2),
    "recorded": lambda lease: Recorded(lease, 1, "noop", EffectState.DONE, b'"zombie"'),
    "noted": lambda lease: Noted(lease, 2, "now", "", b"1"),
    "stored": lambda lease: Stored(lease, uuid4(), "a.txt", "text/plain", SHA, 1),
    "emitted": lambda lease: Emitted(lease, "note", 1),
    "metered": lambda lease: Metered(lease, "noop"),
}


@pytest.mark.parametrize("said", SAID)
async def test_whatever_a_zombie_says_is_refused(engine: Engine, database: Database, said: str) -> None:
    run = await engine.submit(run_of(step("a")))
    zombie, heir = engine.hand("same-name"), engine.hand("same-name")
    (old,) = await zombie.claim()
    assert await zombie.settle(call_of(old.lease, 1)) == [Verdict.OK]
    zombie.beat(ttl_s=-1)
    await engine.reap()
    (new,) = await heir.claim()
    assert await zombie.settle(SAID[said](old.lease)) == [Verdict.LOST]
    assert database.execute("select token from queue where state = 'leased'") == [(new.lease.token,)]
    assert database.execute("select no, state from effects") == [(1, "intent")]
    assert database.execute("select (select count(*) from artifacts) + (select count(*) from waits)") == [(0,)]
    assert await heir.succeed(new, "heir") is Verdict.OK
    assert (await engine.run(run))["steps"]["a"]["output"] == "heir"


async def lost(engine: Engine, *limits: Limit) -> tuple[UUID, Hand, Claim, Hand, Claim]:
    """Return a run whose step was taken from a session that does not know it, and its heir."""
    run = await engine.submit(run_of(step("a"), budget=limits))
    zombie, heir = engine.hand("same-name"), engine.hand("same-name")
    (old,) = await zombie.claim()
    zombie.beat(ttl_s=-1)
    await engine.reap()
    (new,) = await heir.claim()
    return run, zombie, old, heir, new


@pytest.mark.parametrize("on_limit", ["fail", "pause"])
async def test_a_zombie_beyond_the_budget_neither_ends_nor_pauses_the_run(engine: Engine, on_limit: str) -> None:
    run, zombie, old, heir, new = await lost(engine, Limit("tokens", 1000, on_limit))
    assert await zombie.settle(intent(old, 1, 1001)) == [Verdict.LOST]
    assert (await engine.run(run))["status"] == "running"
    assert await heir.succeed(new) is Verdict.OK


@pytest.mark.parametrize("how", ["lost", "cancelled"])
async def test_an_authors_rows_are_undone_when_the_step_is_no_longer_its_workers(
    engine: Engine, database: Database, how: str
) -> None:
    database.execute("create table notes (n int)")
    run, zombie, old, heir, new = await lost(engine)
    hand, claim = (zombie, old) if how == "lost" else (heir, new)
    bell, listener = Bell(engine.pools, enabled=False), Listener(engine.pools, [], enabled=False)
    backend = PostgresBackend(engine.pools, hand.room.offer, bell, listener, Counters())
    transaction = await backend.begin()
    await transaction.connection.execute("insert into notes values (1)")
    if hand is heir:
        await control.cancel(engine.pools, DEFAULT_TENANT, run, actor="me")
    assert await transaction.settle(ok(claim, 1)) is Verdict.LOST
    assert database.execute("select n from notes") == []
    if hand is zombie:
        assert await heir.succeed(new) is Verdict.OK


async def test_a_claim_nobody_heard_of_is_given_back_at_the_next_exchange(engine: Engine, database: Database) -> None:
    run = await engine.submit(run_of(step("a"), step("b")))
    hand = engine.hand("w")
    known, stray = await hand.claim()
    # As after a commit whose answer was lost: the lease is there, and neither the worker nor what it remembers knows of it.
    del hand.room.held[stray.lease.token]
    assert await hand.claim() == []
    hand.room.unsure_until_s = math.inf
    hand.room.unsure_since_s = time.monotonic()
    database.move_clock(60)  # what was claimed long before is somebody's, remembered or not
    hand.beat(ttl_s=600)
    await hand.exchange(free=0)
    assert database.execute("select count(*)::int from queue where state = 'leased'") == [(2,)]
    hand.room.unsure_since_s -= 60
    found = await hand.exchange(free=0)
    assert (found.verdicts, found.claims) == ((), ())
    assert database.execute("select no, state from queue order by no") == [
        (known.lease.step_no, "leased"), (stray.lease.step_no, "ready"),
    ]  # fmt: skip
    (again,) = await hand.claim()
    assert (again.lease.step_no, again.lease.claim_no) == (stray.lease.step_no, 2)
    assert await hand.succeed(known) is Verdict.OK
    assert await hand.succeed(again) is Verdict.OK
    assert (await engine.run(run))["status"] == "completed"


async def test_a_manual_step_whose_lease_is_disowned_stays_in_doubt(engine: Engine, database: Database) -> None:
    """What was done under it may have been lost with its record, so it is no claim that nobody heard of."""
    await engine.submit(run_of(step("a")))
    hand = engine.hand("w")
    hand.room.offer = replace(hand.room.offer, effects={"noop": "manual"})
    (claim,) = await hand.claim()
    hand.room.disowned = frozenset({claim.lease.token, uuid4()})
    await hand.exchange(free=0)
    assert hand.room.disowned == frozenset()
    (again,) = await hand.claim()
    assert (again.lease.claim_no, again.in_doubt) == (2, True)


async def test_an_exchange_that_was_broken_off_leaves_the_session_unsure(engine: Engine) -> None:
    run = await engine.submit(run_of(step("a")))
    hand = engine.hand("w")
    (claim,) = await hand.claim()
    assert hand.room.unsure_until_s == 0
    async with engine.held(run):
        asking = asyncio.create_task(exchange(engine.pools, hand.room, [ok(claim, 1)], free=0, solo=True))
        await engine.blocked()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    assert hand.room.unsure_until_s > 0
    assert await hand.succeed(claim) is Verdict.OK


async def test_a_verify_step_given_back_in_the_middle_is_looked_up(engine: Engine, database: Database) -> None:
    await engine.submit(run_of(step("a")))
    hand = engine.hand("w")
    hand.room.offer = replace(hand.room.offer, effects={"noop": "verify"})
    (claim,) = await hand.claim()
    assert not claim.in_doubt
    await hand.settle(Released(claim.lease))
    (again,) = await hand.claim()
    assert again.in_doubt
    await hand.succeed(again)


async def test_a_head_that_moved_is_not_written_over(engine: Engine) -> None:
    run = await engine.submit(run_of(step("a")))

    async def write() -> None:
        async with engine.pools.transaction() as conn, batch(conn):
            cursor = await conn.execute(JOURNAL.lock_runs, literals(("tenants", "runs"), [(DEFAULT_TENANT, run)]))
            row = await (await conn.execute(JOURNAL.now)).fetchone()
            assert row is not None
            journal = Journal(row[0])
            journal.take(await cursor.fetchall())
            head = journal.heads[DEFAULT_TENANT, run]
            head.seen -= 1  # as if another had written since it was read
            head.error = b'"overwritten"'
            journal._events.rows.clear()
            await journal._write_heads(conn)

    with pytest.raises(LostRace, match="put_runs"):
        await write()
    assert (await engine.run(run))["error"] is None


async def test_a_call_told_again_after_an_unknown_commit_is_sent_and_reserved_once(
    engine: Engine, database: Database
) -> None:
    run, hand, (claim,) = await begun(engine, Limit("tokens", 1000))
    told = intent(claim, 1, 300)
    twin = Hand(hand.pools, replace(hand.room, held=dict(hand.room.held)), hand.url)
    async with engine.held(run) as other:
        cut = asyncio.create_task(hand.settle(told))
        for pid in await engine.blocked():
            database.execute("select pg_terminate_backend(%s)", pid)
        with pytest.raises(psycopg.OperationalError):
            await cut
        other.rollback()
    assert await twin.settle(told) == [Verdict.OK]  # as if it had been committed all the same
    assert await hand.settle(told) == [Verdict.ALREADY]
    assert database.execute("select sends from effects") == [(1,)]
    assert budgets(database.url, run) == {"tokens": (1000, 0, 300)}
    took = result(told, 90)
    assert await hand.settle(took) == [Verdict.OK]
    hand.room.doubtful = True  # the answer was lost
    assert await hand.settle(took) == [Verdict.ALREADY]
    assert budgets(database.url, run) == {"tokens": (1000, 90, 0)}
