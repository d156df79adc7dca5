"""The protocol where one process meets another: zombies, locks, reapers, commits nobody heard of; each rule by its breach."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

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
    Stored,
    Suspended,
    Verdict,
)
from durable_agent.core.records import (
    DEFAULT_TENANT,
    Claim,
    EffectClass,
    EffectState,
    FailureClass,
    Lease,
    Limit,
    RunId,
    WaitKind,
)
from durable_agent.core.waits import Decision, approval_digest
from durable_agent.db.arrays import literals
from durable_agent.db.batch import batch
from durable_agent.db.doorbell import Bell, Listener
from durable_agent.engine import agents, control
from durable_agent.engine.answer import answer, cancel_orphans, settle_due
from durable_agent.engine.backend import PostgresBackend
from durable_agent.engine.exchange import Room, exchange
from durable_agent.engine.journal import JOURNAL, Journal
from durable_agent.engine.submit import Submission, submit
from durable_agent.errors import Conflict, KeyReused, LostRace
from durable_agent.telemetry import Counters
from tests.engine.test_budgets import begun, budgets, intent, result
from tests.support.postgres import Database
from tests.support.runs import Engine, Hand, ok, run_of, step

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


def call_of(lease: Lease, no: int, request: bytes = b"{}", **more: Any) -> Intended:
    """Return the intent of a call that may be made again."""
    key = effect_key(f"{lease.run_id}", no, digest(request))
    return Intended(lease, no, "noop", EffectClass.SAFE, request, digest(request), key, **more)


async def waits_of(engine: Engine, run: UUID) -> list[tuple[Any, ...]]:
    """Return (id, kind, state) of a run's waits."""
    async with engine.pools.reading() as conn:
        query = "select id, kind, state from waits where run_id = %s order by id"
        return await (await conn.execute(query, (run,))).fetchall()


async def asked(engine: Engine, hand: Hand, kind: WaitKind, sha: str = "x", **more: Any) -> tuple[UUID, UUID]:
    """Return a new run whose only step waits, and its wait."""
    run = await engine.submit(run_of(step("a")))
    (claim,) = await hand.claim()
    assert await hand.settle(Suspended(claim.lease, kind, "w", {}, sha, **more)) == [Verdict.OK]
    ((wait, *_),) = await waits_of(engine, run)
    return run, wait


@asynccontextmanager
async def held(engine: Engine, *runs: UUID) -> AsyncIterator[psycopg.Connection[Any]]:
    """Yield while a connection of somebody else's holds the runs' locks."""
    with psycopg.connect(engine.url) as other:
        other.execute("select from runs where id = any(%s) for no key update", (list(runs),))
        yield other


async def blocked(engine: Engine, count: int) -> list[int]:
    """Return the backends that wait for locks, when there are so many."""
    query = "select pid from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    async with asyncio.timeout(20), engine.pools.reading() as conn:
        while True:
            found = [row[0] for row in await (await conn.execute(query)).fetchall()]
            if len(found) >= count:
                return found
            await asyncio.sleep(0)


# Fences (R3, I2)


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


async def test_an_exchange_that_was_broken_off_leaves_the_session_unsure(engine: Engine) -> None:
    run = await engine.submit(run_of(step("a")))
    hand = engine.hand("w")
    (claim,) = await hand.claim()
    assert hand.room.unsure_until_s == 0
    async with held(engine, run):
        asking = asyncio.create_task(exchange(engine.pools, hand.room, [ok(claim, 1)], free=0, solo=True))
        await blocked(engine, 1)
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


# Claims (R1, R2)


async def test_a_claim_waits_for_nobody(engine: Engine) -> None:
    busy, free = [await engine.submit(run_of(step("a"))) for _ in range(2)]
    hand = engine.hand()
    async with held(engine, busy) as other:
        found = asyncio.create_task(hand.claim())
        waits = asyncio.create_task(blocked(engine, 1))
        await asyncio.wait([found, waits], return_when=asyncio.FIRST_COMPLETED)
        did_wait = waits.done()
        other.rollback()
        waits.cancel()
        claimed = [claim.lease.run_id for claim in await found]
    assert not did_wait
    assert claimed == [free]


async def test_what_is_handed_on_and_what_is_claimed_share_the_slots(engine: Engine) -> None:
    await engine.submit(run_of(step("a"), step("b", "a")))
    hand = engine.hand()
    (a,) = await hand.claim()
    await engine.submit(run_of(step("other")))
    answered = await hand.exchange([ok(a)], free=1)
    assert len(answered.claims) == 1


async def test_nothing_is_handed_on_past_a_turn_that_is_seen_only_now(engine: Engine) -> None:
    await engine.submit(run_of(step("a"), step("b", "a"), lane="one"))
    hand = engine.hand()
    (a,) = await hand.claim()
    await engine.submit(run_of(step("other"), lane="two"))
    done = await exchange(hand.pools, hand.room, [ok(a)], free=1, solo=True)  # without a look before
    assert (done.answer.claims, done.answer.more) == ((), True)


async def test_no_two_leases_have_one_token(engine: Engine) -> None:
    for _ in range(2):
        await engine.submit(run_of(step("a"), step("b")))
    tokens = []
    for _ in range(2):
        hand = engine.hand()
        claims = await hand.claim()
        tokens += [claim.lease.token for claim in claims]
        await hand.settle(*(Released(claim.lease) for claim in claims))
    assert len(set(tokens)) == 8


async def test_a_paused_runs_next_step_is_not_handed_on(engine: Engine) -> None:
    run = await engine.submit(run_of(step("a"), step("b", "a")))
    hand = engine.hand()
    (a,) = await hand.claim()
    await control.pause(engine.pools, DEFAULT_TENANT, run, actor="me")
    answered = await hand.exchange([ok(a)], free=1)
    assert (answered.verdicts, answered.claims) == ((Verdict.OK,), ())
    assert (await engine.run(run))["steps"]["b"]["queue_state"] == "held"


async def test_the_runs_of_a_batch_are_locked_in_the_order_of_their_ids(engine: Engine) -> None:
    low, high = sorted([await engine.submit(run_of(step("a"))) for _ in range(2)])
    hand = engine.hand()
    claims = {claim.lease.run_id: claim for claim in await hand.claim()}
    async with held(engine, low) as other:
        settling = asyncio.create_task(hand.settle(ok(claims[high]), ok(claims[low])))
        await blocked(engine, 1)
        with psycopg.connect(engine.url) as third:
            third.execute("select from runs where id = %s for no key update nowait", (high,))
        other.rollback()
    assert await settling == [Verdict.OK, Verdict.OK]


async def test_a_join_is_ready_with_its_last_parent_and_not_before(engine: Engine) -> None:
    run = await engine.submit(run_of(step("a"), step("b"), step("join", "a", "b")))
    hand = engine.hand()
    for claim, then in zip(await hand.claim(), ("pending", "ready"), strict=True):
        await hand.succeed(claim)
        assert (await engine.statuses(run))["join"] == then


# Lost leases (R7, P2)


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
    assert [(kind, state) for _, kind, state in await waits_of(engine, run)] == [("unknown_effect", "open")]


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


async def test_a_manual_step_that_was_cut_off_is_in_doubt_after_a_redrive(engine: Engine) -> None:
    run = await engine.submit(run_of(step("cut off"), step("bad")))
    hand = engine.hand()
    hand.room = Room(replace(hand.room.offer, effects={"noop": "manual"}))
    claims = {claim.name: claim for claim in await hand.claim()}
    await hand.fail(claims["bad"], FailureClass.INVALID_INPUT)
    await control.redrive(engine.pools, DEFAULT_TENANT, run_id=RunId(run), actor="me")
    again = {claim.name: claim for claim in await hand.claim()}
    assert (again["cut off"].in_doubt, again["bad"].in_doubt) == (True, False)


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


# Commits nobody heard of (R8)


async def test_a_call_told_again_after_an_unknown_commit_is_sent_and_reserved_once(
    engine: Engine, database: Database
) -> None:
    run, hand, (claim,) = await begun(engine, Limit("tokens", 1000))
    told = intent(claim, 1, 300)
    twin = Hand(hand.pools, replace(hand.room, held=dict(hand.room.held)), hand.url)
    async with held(engine, run) as other:
        cut = asyncio.create_task(hand.settle(told))
        for pid in await blocked(engine, 1):
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


async def test_a_steps_key_is_the_same_at_every_attempt(engine: Engine) -> None:
    await engine.submit(run_of(step("a"), step("b")))
    await engine.submit(run_of(step("a")))
    hand = engine.hand()
    claims = await hand.claim()
    keys = {(claim.lease.run_id, claim.lease.step_no): claim.idempotency_key for claim in claims}
    assert len(set(keys.values())) == 3
    for claim in claims:
        await hand.fail(claim)
    await engine.reap()
    again: list[Claim] = await engine.hand().claim()
    assert {(claim.lease.run_id, claim.lease.step_no): claim.idempotency_key for claim in again} == keys
    assert {claim.attempt for claim in again} == {2}


# Answers (I7, I8)


@pytest.mark.parametrize("decision", [Decision.APPROVED, Decision.REJECTED])
async def test_a_rejection_allows_nothing(engine: Engine, decision: Decision) -> None:
    hand, request = engine.hand(), dumps({"n": 1})
    _, wait = await asked(engine, hand, WaitKind.APPROVAL, approval_digest("noop", request))
    await answer(engine.pools, DEFAULT_TENANT, wait, decision, by="me")
    (claim,) = await hand.claim()
    verdicts = await hand.settle(call_of(claim.lease, 1, request, approval=wait))
    assert verdicts == [Verdict.OK if decision is Decision.APPROVED else Verdict.REFUSED]


async def test_an_approval_of_another_run_allows_nothing(engine: Engine) -> None:
    hand, request = engine.hand(), dumps({"n": 1})
    _, wait = await asked(engine, hand, WaitKind.APPROVAL, approval_digest("noop", request))
    await answer(engine.pools, DEFAULT_TENANT, wait, Decision.APPROVED, by="me")
    other = await engine.submit(run_of(step("a")))
    claims = {claim.lease.run_id: claim for claim in await hand.claim()}
    told = call_of(claims[other].lease, 1, request, approval=wait)
    assert await hand.settle(told) == [Verdict.REFUSED]


async def test_of_two_answers_at_once_one_is_the_decision(engine: Engine) -> None:
    hand = engine.hand()
    run, wait = await asked(engine, hand, WaitKind.APPROVAL)
    async with held(engine, run) as other:
        said = [
            asyncio.create_task(answer(engine.pools, DEFAULT_TENANT, wait, decision, by=decision.value))
            for decision in (Decision.APPROVED, Decision.REJECTED)
        ]
        await blocked(engine, 2)
        other.rollback()
    won, lost = sorted(await asyncio.gather(*said, return_exceptions=True), key=lambda one: isinstance(one, Exception))
    assert won == run
    assert isinstance(lost, Conflict), lost
    assert (await engine.events(run)).count(("step.answered", "a")) == 1


async def test_an_answer_that_comes_too_late_is_refused_though_nobody_has_looked_yet(
    engine: Engine, database: Database
) -> None:
    hand = engine.hand()
    _, wait = await asked(engine, hand, WaitKind.APPROVAL, expires_s=60.0)
    database.move_clock(61)
    with pytest.raises(Conflict, match="expired"):
        await answer(engine.pools, DEFAULT_TENANT, wait, Decision.APPROVED, by="me")
    assert database.execute("select state, answer->>'decision' from waits") == [("answered", "rejected")]


async def test_a_timer_is_over_at_its_time_and_once(engine: Engine, database: Database) -> None:
    hand = engine.hand()
    run, _ = await asked(engine, hand, WaitKind.TIMER, expires_s=60.0)
    database.move_clock(59)
    assert await settle_due(engine.pools) == 0
    assert (await engine.statuses(run))["a"] == "waiting"
    database.move_clock(61)
    async with held(engine, run) as other:
        looking = [asyncio.create_task(settle_due(engine.pools)) for _ in range(2)]
        await blocked(engine, 2)
        other.rollback()
    assert sorted(await asyncio.gather(*looking)) == [0, 1]
    assert (await engine.events(run)).count(("step.answered", "a")) == 1
    hand.beat()
    assert [claim.name for claim in await hand.claim()] == ["a"]


async def test_what_a_cancelled_run_waited_for_is_cancelled(engine: Engine) -> None:
    hand = engine.hand()
    run, _ = await asked(engine, hand, WaitKind.RUN, run=run_of(step("c")))
    (child,) = await hand.claim()
    await control.cancel(engine.pools, DEFAULT_TENANT, run, actor="me")
    assert await cancel_orphans(engine.pools) == 1
    assert (await engine.run(child.lease.run_id))["status"] == "cancelled"
    assert await hand.succeed(child) is Verdict.LOST


async def test_a_batch_with_a_key_that_is_taken_stores_none(engine: Engine, database: Database) -> None:
    await engine.submit(run_of(step("a")), "a key", b"one body")
    batch_of = [Submission(run_of(step("b"))), Submission(run_of(step("c")), "a key", b"another body")]
    with pytest.raises(KeyReused):
        await submit(engine.pools, DEFAULT_TENANT, batch_of)
    assert database.execute("select count(*) from runs") == [(1,)]


async def test_what_may_have_to_be_erased_is_no_part_of_the_chain(engine: Engine, database: Database) -> None:
    """A person's words and an error's message lie beside the event: erasing them leaves a history that verifies."""
    run = await engine.submit(run_of(step("a"), goal="a secret goal"))
    hand = engine.hand()
    (claim,) = await hand.claim()
    await hand.settle(Emitted(claim.lease, "note", "a secret note"))
    await hand.settle(Failed(claim.lease, FailureClass.TRANSIENT, "Error", "a secret message"))
    await control.cancel(engine.pools, DEFAULT_TENANT, run, actor="me", reason="a secret reason")
    secrets = "select count(*) from events where {}::text like '%secret%'"
    assert database.execute(secrets.format("detail")) == [(4,)]
    assert database.execute(secrets.format("data")) == [(0,)]
    database.execute("update events set detail = null")
    await engine.assert_sound()


# Budgets (I12)


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
        await blocked(engine, 2)
        other.rollback()
    verdicts = sorted(verdict for (verdict,) in await asyncio.gather(*asking))
    assert verdicts == [Verdict.EXHAUSTED, Verdict.OK]
    assert budgets(database.url, agent) == {"tokens": (1000, 0, 600)}
