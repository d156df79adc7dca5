"""What models say on its way to watchers: whatever is in it, it ends nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from durable_agent.core.port import Delta
from durable_agent.db.doorbell import Bell, Listener
from durable_agent.engine.backend import PostgresBackend
from durable_agent.tasks import ended
from durable_agent.telemetry import Counters
from durable_agent.worker import voice
from durable_agent.worker.voice import Voice
from tests.support.postgres import Database
from tests.support.runs import Engine, run_of, step


class Room:
    """Hands on what is said, or fails once."""

    def __init__(self, backend: PostgresBackend, *, fails: bool = False) -> None:
        self._backend = backend
        self._fails = fails
        self.told = asyncio.Event()

    async def stream(self, deltas: Sequence[Delta]) -> None:
        if self._fails:
            self._fails = False
            self.told.set()
            raise ValueError("cannot be told")
        await self._backend.stream(deltas)
        self.told.set()


async def spoken(engine: Engine, *batches: Sequence[str], fails: bool = False) -> None:
    """Say each batch in one effect, and return when it is told."""
    await engine.submit(run_of(step("a")))
    hand = engine.hand()
    (claim,) = await hand.claim()
    pools = engine.pools
    room = Room(
        PostgresBackend(
            pools, hand.room.offer, Bell(pools, enabled=False), Listener(pools, [], enabled=False), Counters()
        ),
        fails=fails,
    )
    mouth = Voice(room)
    speaking = asyncio.create_task(mouth.run())
    for texts in batches:
        for text in texts:
            mouth.say(claim.lease, 1, text)
        await room.told.wait()
        room.told.clear()
    await ended([speaking])


def heard(database: Database) -> list[str]:
    return [str(row[0]) for row in database.execute("select text from deltas order by piece")]


async def test_what_cannot_be_stored_is_shown_as_such(engine: Engine, database: Database) -> None:
    await spoken(engine, ["half \ud800 ", "and \x00"], ["more"])
    assert heard(database) == ["half ? and \ufffd", "more"]


async def test_what_fails_ends_nothing(engine: Engine, database: Database) -> None:
    await spoken(engine, ["lost"], ["heard"], fails=True)
    assert heard(database) == ["heard"]


async def test_no_more_waits_than_so_many_pieces(engine: Engine, database: Database) -> None:
    await spoken(engine, ["x"] * (voice.MOST + 10), ["y"])
    assert [len(text) for text in heard(database)] == [voice.MOST, 1]
