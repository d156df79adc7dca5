"""The hub: one LISTEN per process tells the watchers which runs have news.

A watcher reads for itself, by its own cursor, when it is woken: nothing is buffered for it, so a slow one costs
nobody memory, and a missed hint costs one poll.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from durable_agent.core.records import Tenant
from durable_agent.core.states import RunStatus
from durable_agent.db import reads
from durable_agent.db.doorbell import Listener
from durable_agent.db.pool import Database
from durable_agent.db.sql import load
from durable_agent.errors import DatabaseUnavailable, NotFound

PAGE: Final = 500
# How often the watched runs are looked at: as a safety net while hints come, and in place of them.
SLOW_S: Final = 2.0
FAST_S: Final = 0.25
# Hints that come while it looks, and for twice as long after, share the next look; at least so long.
COALESCE_S: Final = 0.002
DELTA: Final = "llm.delta"
DELTAS = load("deltas")

Key = tuple[Tenant, UUID]


@dataclass(eq=False, slots=True)
class Watcher:
    """One socket's interest in one run."""

    key: Key
    seq: int
    news: asyncio.Event = field(default_factory=asyncio.Event)
    speaking: bool = False
    since: datetime | None = None
    heard: dict[tuple[int, int, int], int] = field(default_factory=dict)

    def fresh(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the pieces of answers that this watcher has not heard, as frames without a number."""
        frames = []
        for row in rows:
            self.since = row["at"]
            key = row["step_no"], row["effect"], row["claim_no"]
            if row["piece"] > self.heard.get(key, -1):
                self.heard[key] = row["piece"]
                data = {name: row[name] for name in ("effect", "claim_no", "piece", "text")}
                frame = {"seq": None, "type": DELTA, "run_id": str(self.key[1]), "step": row["step"]}
                frames.append({**frame, "at": row["at"], "data": data})
        return frames


class Hub:
    """Wakes watchers. `run` is owned by the app's task group."""

    def __init__(self, db: Database, listener: Listener) -> None:
        self._db = db
        self._listener = listener
        self._watchers: dict[Key, set[Watcher]] = {}
        self._tick = asyncio.Event()

    @property
    def watching(self) -> int:
        """How many sockets watch a run."""
        return sum(map(len, self._watchers.values()))

    async def run(self) -> None:
        """Look at the watched runs whenever hinted, or when the poll is due, until cancelled."""
        while True:
            await self._listener.wait(SLOW_S if self._listener.up else FAST_S)
            self._tick.set()
            self._tick = asyncio.Event()
            began_s = time.monotonic()
            if self._watchers:
                try:
                    await self._look()
                except DatabaseUnavailable:
                    await asyncio.sleep(FAST_S)
            await asyncio.sleep(max(COALESCE_S, 2 * (time.monotonic() - began_s)))

    async def _look(self) -> None:
        keys = list(self._watchers)
        params = {"tenants": [tenant for tenant, _ in keys], "runs": [run for _, run in keys]}
        async with reads.watching(self._db) as conn:
            found = await (await conn.execute(reads.READS.news, params)).fetchall()
        for tenant, run_id, last_seq, status, speaking in found:
            for watcher in self._watchers.get((tenant, run_id), ()):
                watcher.speaking = watcher.speaking or speaking
                if last_seq > watcher.seq or speaking or RunStatus(status).final:
                    watcher.news.set()

    @contextmanager
    def watch(self, tenant: Tenant, run_id: UUID, seq: int) -> Iterator[Watcher]:
        """Yield a watcher that is woken when the run has events after its cursor."""
        watcher = Watcher((tenant, run_id), seq)
        self._watchers.setdefault(watcher.key, set()).add(watcher)
        try:
            yield watcher
        finally:
            mates = self._watchers[watcher.key]
            mates.discard(watcher)
            if not mates:
                del self._watchers[watcher.key]

    def next_hint(self) -> asyncio.Event:
        """Return what is set at the next hint or poll: taken before a look, it is set for what the look came too early for."""
        return self._tick


async def follow(
    hub: Hub, db: Database, tenant: Tenant, run_id: UUID, after: int
) -> AsyncIterator[list[dict[str, Any]]]:
    """Yield pages of a run's events after a number: first what is recorded, then what comes, without gap or repeat.

    Ends after the run's final event (a redrive goes on with new ones). An outage of the database is waited out; an
    empty page says that nothing came for a while. What models say meanwhile comes between, as frames without a number.
    Raises NotFound.
    """
    known = False
    with hub.watch(tenant, run_id, after) as watcher:
        while True:
            watcher.news.clear()
            speaking, watcher.speaking = watcher.speaking, False
            run = {"tenant": tenant, "run": run_id}
            try:
                async with reads.watching(db) as conn:
                    said_to = await conn.execute(DELTAS.of_run, {**run, "since": watcher.since}) if speaking else None
                    page = await conn.execute(reads.READS.events_after, {**run, "after": watcher.seq, "limit": PAGE})
                    found = await conn.execute(reads.READS.run_exists, run)
                    pieces = await reads.dicts(said_to) if said_to is not None else []
                    rows, head = await reads.dicts(page), await reads.dicts(found)
            except DatabaseUnavailable:
                watcher.speaking = watcher.speaking or speaking
                await asyncio.sleep(FAST_S)
                continue
            if not head and not known:
                raise NotFound(f"run {run_id} does not exist", run_id=str(run_id))
            known = True
            if said := watcher.fresh(pieces):
                yield said
            if rows:
                if [row["seq"] for row in rows] != list(range(watcher.seq + 1, watcher.seq + 1 + len(rows))):
                    raise RuntimeError(f"run {run_id} has a gap in its events after {watcher.seq}; run doctor")
                watcher.seq = rows[-1]["seq"]
                yield [reads.frame(run_id, row) for row in rows]
                if len(rows) == PAGE:
                    continue
            if not head or (RunStatus(head[0]["status"]).final and watcher.seq >= head[0]["last_seq"]):
                return
            try:
                async with asyncio.timeout(15.0):
                    await watcher.news.wait()
            except TimeoutError:
                yield []
