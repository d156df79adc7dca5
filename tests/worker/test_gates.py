"""A worker's way through a gate whose slots the engine counts: what is given is counted at once, what is freed is told at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID, uuid4

import pytest

from durable_agent.core.gate import Heard, Passing
from durable_agent.core.records import DEFAULT_TENANT
from durable_agent.engine import gate
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

    async def passing(self, name: str, tokens: Sequence[int], in_use: int) -> Passing:
        self.asked.set()
        return await gate.passing(self.engine.pools, DEFAULT_TENANT, name, self.id, tokens, in_use=in_use)

    async def heard(self, name: str, what: Heard, wait_s: float | None, error: str | None) -> None:
        await gate.heard(self.engine.pools, DEFAULT_TENANT, name, self.id, what, wait_s=wait_s, error=error)

    async def hold_slots(self, name: str, slots: int) -> None:
        await gate.hold_slots(self.engine.pools, DEFAULT_TENANT, name, self.id, slots)
        self.told.set()


def slots(database: Database) -> int:
    ((count,),) = database.execute("select coalesce(sum(slots), 0)::int from gate_slots where until > engine_now()")
    return int(str(count))


async def test_a_question_that_follows_an_answer_counts_what_that_answer_gave(
    engine: Engine, database: Database
) -> None:
    limited(database, concurrency=3)
    session = Session(engine)
    gates = Gates(session)
    first = asyncio.create_task(gates.passed(NAME, 1))
    await session.asked.wait()  # the second comes while the first is being asked for
    second = asyncio.create_task(gates.passed(NAME, 1))
    await asyncio.gather(first, second)
    assert slots(database) == 2


async def test_a_slot_is_free_for_others_when_its_call_ended(engine: Engine, database: Database) -> None:
    limited(database, concurrency=1)
    mine, theirs = Session(engine), Session(engine)
    passage = await Gates(mine).passed(NAME, 1)

    async def call() -> None:
        return None

    await passage.through(call)
    await mine.told.wait()
    await Gates(theirs).passed(NAME, 1)
    assert slots(database) == 1


async def test_a_passage_that_nobody_waits_for_any_more_is_given_back(engine: Engine, database: Database) -> None:
    limited(database, concurrency=2)
    session = Session(engine)
    gates = Gates(session)
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
    gates = Gates(Session(engine))
    first = await gates.passed(NAME, 1)
    waits = asyncio.create_task(gates.passed(NAME, 1))
    first.give_back()
    await waits
    assert slots(database) == 1
