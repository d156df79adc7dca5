"""The doorbell: hints that something changed, never the news itself.

A hint is an empty NOTIFY. A process that is busy sends it after the commit, on a connection of its own and coalesced, so that
no step's transaction waits for the queue of notifications; one that is not lets the transaction carry it, which saves whoever
waits a round trip. Whoever hears it looks into the tables; whoever does not, polls. Everything is correct with the doorbell
switched off.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Final, LiteralString

from durable_agent.db.pool import TRANSIENT, Connection, Database, first_line, is_pooled, reconnecting
from durable_agent.telemetry import logger

READY: Final = "da_ready"
EVENTS: Final = "da_events"
CONTROL: Final = "da_control"

# A process that is busy sends its hints together, this often; one that is not sends each at once: a run of one step is two or
# three, and whoever waits for its end must not wait for a window.
WINDOW_S: Final = 0.01
AT_ONCE: Final = 6
_NOTIFY: LiteralString = "select pg_notify(c, '') from unnest(%(channels)s::text[]) c"

log = logger("doorbell")


class Bell:
    """Rings the doorbell. `ring` never waits and never fails; `run` sends what was rung."""

    def __init__(self, db: Database, *, enabled: bool = True) -> None:
        self._db = db
        self._enabled = enabled
        self._rung: set[str] = set()
        self._wake = asyncio.Event()
        self._left, self._sent_s = float(AT_ONCE), time.monotonic()

    async def carry(self, conn: Connection, *channels: str) -> bool:
        """Hint with the transaction that is open on a connection, if this process rings seldom; else ring after the commit."""
        if not self._enabled:
            return True
        if self._rung or self._spare() < AT_ONCE - 1:
            return False
        self._left -= 1
        await conn.execute(_NOTIFY, {"channels": sorted(channels)})
        return True

    def ring(self, *channels: str) -> None:
        """Note the channels to be hinted; call it after the commit."""
        if self._enabled:
            self._rung.update(channels)
            self._wake.set()

    async def run(self) -> None:
        """Send hints until cancelled; an outage loses hints, which the pollers make up for."""
        failures = 0
        while True:
            try:
                await self._send_all(await self._db.direct("bell"))
            except TRANSIENT as error:
                failures += 1
                log.info("bell_disconnected", error=first_line(error), attempt=failures)
                await reconnecting(failures, jitter=random.random())
            else:
                failures = 0

    async def _send_all(self, conn: Connection) -> None:
        async with conn:
            while True:
                await self._wake.wait()
                self._wake.clear()
                rung, self._rung = self._rung, set()
                await conn.execute(_NOTIFY, {"channels": sorted(rung)})
                self._left = self._spare() - 1
                if self._left < 1:
                    await asyncio.sleep((1 - self._left) * WINDOW_S)

    def _spare(self) -> float:
        """Return how many hints may follow at once."""
        now_s = time.monotonic()
        self._left, self._sent_s = min(AT_ONCE, self._left + (now_s - self._sent_s) / WINDOW_S), now_s
        return self._left


class Listener:
    """Hears the doorbell. `run` listens and reconnects; `wait` returns what was hinted."""

    def __init__(self, db: Database, channels: Sequence[str], *, enabled: bool = True) -> None:
        self._db = db
        self._channels = frozenset(channels)
        self._enabled = enabled
        self._hinted: set[str] = set()
        self._wake = asyncio.Event()
        self.up = False

    async def run(self) -> None:
        """Listen until cancelled; after each (re)connect every channel counts as hinted, for hints were missed."""
        failures = 0
        while self._enabled:
            try:
                async with await self._db.direct("listen") as conn:
                    await self._listen(conn)
            except TRANSIENT as error:
                failures = 0 if self.up else failures + 1
                self.up = False
                log.info("listener_disconnected", error=first_line(error), attempt=failures)
                self.hint(*self._channels)
                await reconnecting(failures + 1, jitter=random.random())

    async def _listen(self, conn: Connection) -> None:
        row = await (await conn.execute("select pg_backend_pid()")).fetchone()
        if is_pooled(conn, row[0] if row else 0):
            log.warning("listener_off", reason="a pooler stands before PostgreSQL; set DATABASE_DIRECT_URL")
            self._enabled = False
            return
        for channel in sorted(self._channels):
            await conn.execute(f'listen "{channel}"')  # constants of this module
        self.up = True
        self.hint(*self._channels)
        async for notify in conn.notifies():
            self.hint(notify.channel)

    def hint(self, *channels: str) -> None:
        """Note a hint as if it had been heard; also how a process hints itself without the database."""
        self._hinted.update(channels)
        self._wake.set()

    async def wait(self, timeout_s: float) -> frozenset[str]:
        """Return the channels hinted since the last call, as soon as there is one, else none after `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()
        except TimeoutError:
            return frozenset()
        self._wake.clear()
        hinted, self._hinted = frozenset(self._hinted), set()
        return hinted
