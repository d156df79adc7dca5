"""A worker's way through a gate whose slots the engine counts: what is given is counted at once, what is freed is told at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID, uuid4

import psycopg
import pytest

from durable_agent.core.gate import Heard, Passing
from durable_agent.core.records import DEFAULT_TENANT
from durable_agent.engine import gate
from durable_agent.errors import RateLimited
from durable_agent.worker.gates import Gates
from tests.engine.test_gates import NAME, limited
from tests.support.postgres import Database
from tests.support.runs import Engine


@dataclass
class Session:
    """The engine as one worker's gates know it. `asked` is set when a question is on its way."""

    engine: Engine
    id: UUID = field(default_factory=uuid4)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    told: asyncio.Event = field(default_factory=asyncio.Event)
    hears: asyncio.Event = field(default_factory=asyncio.Event)

    async def passing(self, name: str, tokens: Sequence[int], in_use: int) -> Passing:
        self.asked.set()
        return await gate.passing(self.engine.pools, DEFAULT_TENANT, name, self.id, tokens, in_use=in_use)

    async def heard(self, name: str, what: Heard, wait_s: float | None, error: str | None) -> None:
        self.hears.set()
        await gate.heard(self.engine.pools, DEFAULT_TENANT, name, self.id, what, wait_s=wait_s, error=error)

    async def hold_slots(self, name: str, slots: int) -> None:
        await gate.hold_slots(self.engine.pools, DEFAULT_TENANT, name, self.id, slots)
        self.told.set()


class Deaf(Session):
    """Fails at the first report."""

    async def heard(self, name: str, what: Heard, wait_s: float | None, error: str | None) -> None:
        if not self.hears.is_set():
            self.hears.set()
            raise ValueError("cannot be told")
        await super().heard(name, what, wait_s, error)


class Timed(Gates):
    """Gates whose clock stands still until it is moved; to sleep is to move it."""

    def __init__(self, session: Session) -> None:
        super().__init__(session, now_s=lambda: self.clock_s)
        self.clock_s = 1000.0

    async def sleep_until(self, time_s: float) -> None:
        self.clock_s = max(self.clock_s, time_s)


def frozen(database: Database) -> None:
    """Stop the engine's clock."""
    database.execute(
        "create or replace function engine_now() returns timestamptz language sql volatile"
        " as $$ select timestamptz '2026-01-01' $$"
    )


async def answers() -> None:
    return None


async def refuses() -> None:
    raise RateLimited("slow down", retry_after_s=60.0)


def slots(database: Database) -> int:
    ((count,),) = database.execute("select coalesce(sum(slots), 0)::int from gate_slots where until > engine_now()")
    return int(str(count))


async def test_a_question_that_follows_an_answer_counts_what_that_answer_gave(
    engine: Engine, database: Database
) -> None:
    limited(database, concurrency=3)
    session = Session(engine)
    async with Gates(session) as gates:
        first = asyncio.create_task(gates.passed(NAME, 1))
        await session.asked.wait()  # the second comes while the first is being asked for
        second = asyncio.create_task(gates.passed(NAME, 1))
        await asyncio.gather(first, second)
        assert slots(database) == 2


async def test_a_slot_is_free_for_others_when_its_call_ended(engine: Engine, database: Database) -> None:
    limited(database, concurrency=1)
    mine, theirs = Session(engine), Session(engine)
    async with Gates(mine) as ours, Gates(theirs) as others:
        passage = await ours.passed(NAME, 1)
        await passage.through(answers)
        await mine.told.wait()
        await others.passed(NAME, 1)
        assert slots(database) == 1


async def test_a_passage_is_counted_until_it_was_used_or_given_back(engine: Engine, database: Database) -> None:
    limited(database, concurrency=2)
    async with Gates(Session(engine)) as gates:
        used, unused = await gates.passed(NAME, 1), await gates.passed(NAME, 1)
        assert used.line.in_use == 2
        await used.through(answers)
        assert used.line.in_use == 1
        unused.give_back()
        assert used.line.in_use == 0


async def test_a_passage_that_nobody_waits_for_any_more_is_given_back(engine: Engine, database: Database) -> None:
    limited(database, concurrency=2)
    session = Session(engine)
    async with Gates(session) as gates:
        kept = await gates.passed(NAME, 1)
        session.asked.clear()
        left = asyncio.create_task(gates.passed(NAME, 1))
        await session.asked.wait()
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
        await session.told.wait()
        assert slots(database) == kept.line.in_use == 1


async def test_who_waits_for_a_slot_of_its_own_worker_has_it_when_it_is_free(
    engine: Engine, database: Database
) -> None:
    limited(database, concurrency=1)
    async with Gates(Session(engine)) as gates:
        first = await gates.passed(NAME, 1)
        waits = asyncio.create_task(gates.passed(NAME, 1))
        first.give_back()
        await waits
        assert slots(database) == 1


async def test_who_leaves_holds_no_slot_any_more(engine: Engine, database: Database) -> None:
    limited(database, concurrency=1)
    async with Gates(Session(engine)) as gates:
        await gates.passed(NAME, 1)
    assert slots(database) == 0


async def test_who_leaves_has_told_what_it_heard(engine: Engine, database: Database) -> None:
    async with Gates(Session(engine)) as gates:
        with pytest.raises(RateLimited):
            await (await gates.passed(NAME, 1)).through(refuses)
    assert database.execute("select held_until > engine_now() from gates") == [(True,)]


async def test_slots_are_kept_while_a_report_waits_for_the_gate(
    engine: Engine, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited(database, concurrency=2)
    monkeypatch.setattr("durable_agent.worker.gates.KEEP_S", 0.01)
    session = Session(engine)
    with psycopg.connect(database.url) as other:
        async with Gates(session) as gates:
            kept, reports = await gates.passed(NAME, 1), await gates.passed(NAME, 1)
            other.execute("select from gates for update")
            with pytest.raises(RateLimited):
                await reports.through(refuses)
            await session.hears.wait()
            session.told.clear()
            for _ in range(3):
                await session.told.wait()
                session.told.clear()
            assert slots(database) == kept.line.in_use == 1
            other.rollback()


async def test_what_the_other_side_said_is_told_whatever_is_in_it(engine: Engine, database: Database) -> None:
    async def says() -> None:
        raise RateLimited("wait \x00 a \ud800 moment")

    async with Gates(Session(engine)) as gates:
        with pytest.raises(RateLimited):
            await (await gates.passed(NAME, 1)).through(says)
    assert database.execute("select error from gates") == [("wait \ufffd a ? moment",)]


async def test_a_report_that_fails_ends_nothing(engine: Engine, database: Database) -> None:
    session = Deaf(engine)
    async with Gates(session) as gates:
        for _ in range(2):
            with pytest.raises(RateLimited):
                await (await gates.passed(NAME, 1)).through(refuses)
    assert database.execute("select state from gates") == [("closed",)]


async def test_a_slow_commit_costs_a_rate_one_passage_and_no_more(engine: Engine, database: Database) -> None:
    limited(database, requests_per_minute=600)
    frozen(database)
    async with Timed(Session(engine)) as gates:
        first = await gates.passed(NAME, 1)
        gates.clock_s += 0.08  # its intent is committed
        assert first.late()
        first.give_back()
        second = await gates.passed(NAME, 1)
        gates.clock_s += 0.08
        assert (second.late(), gates.clock_s) == (False, pytest.approx(second.start_s))
        await second.through(answers)


async def test_a_call_that_was_let_through_before_its_time_is_made_at_its_time(
    engine: Engine, database: Database
) -> None:
    limited(database, requests_per_minute=600)
    frozen(database)
    made: list[float] = []

    async with Timed(Session(engine)) as gates:

        async def call() -> None:
            made.append(gates.clock_s)

        first = await gates.passed(NAME, 1)
        gates.clock_s += 0.08
        first.give_back()
        second = await gates.passed(NAME, 1)
        assert gates.clock_s < second.start_s
        await second.through(call)
    assert made == [second.start_s]


async def test_a_slot_has_no_time(engine: Engine, database: Database) -> None:
    limited(database, concurrency=1)
    async with Timed(Session(engine)) as gates:
        passage = await gates.passed(NAME, 1)
        gates.clock_s += 10.0
        assert not passage.late()
