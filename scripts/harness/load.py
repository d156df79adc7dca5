"""The load of a campaign: who submits runs and who watches them, what they were told, and whether it is all still true."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from hashlib import sha256
from typing import Any, Protocol
from uuid import UUID

from durable_agent.cli.client import events
from durable_agent.core.records import DEFAULT_TENANT, RunSpec
from durable_agent.db.pool import Database
from durable_agent.engine.explain import explain
from durable_agent.engine.submit import Memory, Submission, submit
from durable_agent.errors import DurableAgentError
from harness.faults import Faults
from harness.history import Report, check_run
from harness.receiver import Receiver
from harness.workload import mixed

OPEN_RUNS = 60
WATCHERS = 5


class Reached(Protocol):
    """Where PostgreSQL is."""

    @property
    def own_url(self) -> str:
        """Straight to it."""
        ...

    @property
    def load_url(self) -> str | None:
        """As clients reach it, if that is another way."""
        ...


class Load:
    """What a campaign submitted and watched."""

    def __init__(self, seed: int, place: Reached, faults: Faults, world: Receiver, api_port: int) -> None:
        self.seed, self.place, self.faults, self.world, self.api_port = seed, place, faults, world, api_port
        self.runs: dict[UUID, str] = {}
        self.watched = 0
        self.watch_faults: list[str] = []
        self.twice: dict[str, set[UUID]] = {}
        self.sent = 0
        self.refused = 0
        self.told: Counter[str] = Counter()
        self.ended = asyncio.Event()

    async def during(
        self, loops: Sequence[Coroutine[Any, Any, None]], seconds: float, make: Callable[[random.Random], RunSpec] = mixed,
        *, watchers: int = WATCHERS,
    ) -> None:  # fmt: skip
        """Run the loops beside the load for so long; then nothing more is submitted and `over` is set."""
        async with asyncio.TaskGroup() as group:
            for loop in (*loops, self.faults.watch_deadlocks(), self.submitting(make)):
                group.create_task(loop)
            watches = [group.create_task(self.watching()) for _ in range(watchers)]
            await asyncio.sleep(seconds)
            self.faults.over.set()
            for watch in watches:
                watch.cancel()
        self.faults.thaw(list(self.faults.workers.values()))
        await self.faults.count_deadlocks()

    async def submitting(self, make: Callable[[random.Random], RunSpec] = mixed) -> None:
        """Keep a number of runs open; each is sent twice under one key (I10)."""
        memory, rng = Memory(), random.Random(self.seed + 1)
        async with Database.open(self.place.load_url or self.place.own_url, size=3) as db:
            while not self.faults.over.is_set():
                open_runs = await self.faults.query("select count(*) from runs where finished_at is null")
                if not open_runs or open_runs[0][0] >= OPEN_RUNS:
                    await self.faults.pause(0.1, 0.3)
                    continue
                self.sent += 1
                key = f"chaos-{self.sent}"
                await self._send(db, Submission(make(rng), key, sha256(key.encode()).digest()), memory)

    async def _send(self, db: Database, one: Submission, memory: Memory) -> None:
        ids: set[UUID] = set()
        while len(ids) == 0 or not self.faults.over.is_set():
            try:
                for _ in range(2):
                    async with asyncio.timeout(10):
                        ids.add(run := (await submit(db, DEFAULT_TENANT, [one], memory=memory))[0].run_id)
                        self.runs[run] = one.key or ""
                break
            except (DurableAgentError, TimeoutError):
                self.refused += 1  # nobody knows whether it was stored; the same key goes again
                if self.faults.over.is_set():
                    break
                await self.faults.pause(0.1, 0.3)
        if len(ids) > 1:
            self.twice[one.key or ""] = ids

    async def watching(self) -> None:
        """Follow runs by WebSocket to their ends: every event once and in order, through every fault (I9)."""
        chooser = random.Random()
        while not self.faults.over.is_set():
            await self.faults.pause(0.2, 0.4)
            if not self.runs:
                continue
            run_id, expected = chooser.choice(list(self.runs)[-20:]), 1
            try:
                async with asyncio.timeout(60):
                    async for event in events(f"http://127.0.0.1:{self.api_port}", str(run_id)):
                        if event["seq"] != expected:
                            self.watch_faults.append(f"I9: a watcher of {run_id} got {event['seq']} for {expected}")
                        expected = event["seq"] + 1
                    self.watched += 1
            except (TimeoutError, DurableAgentError):
                continue

    async def settled(self, db: Database, timeout_s: float) -> list[str]:
        """Wait until every run has ended (P1); return what is stuck, and why."""
        until_s = time.monotonic() + timeout_s
        while time.monotonic() < until_s:
            rows = await self.faults.query("select count(*) from runs where finished_at is null")
            if rows and rows[0][0] == 0:
                return []
            await asyncio.sleep(0.2)
        found = []
        for (run_id,) in await self.faults.query("select id from runs where finished_at is null limit 5"):
            why = await explain(db, DEFAULT_TENANT, run_id)
            found.append(f"P1: run {run_id} did not end: {why.steps[0].text if why.steps else why.text}")
        return found

    async def checked(self, db: Database) -> Report:
        """Return what the history checker says of every run that was acknowledged."""
        report = Report()
        async with db.reading() as conn:
            row = await (await conn.execute("select secret from tenants where tenant = 1")).fetchone()
            secret = bytes(row[0]) if row else b""
            for run_id in self.runs:
                await check_run(conn, run_id, report, secret, self.world.results)
            for key, ids in self.twice.items():
                # One that is gone is told as lost; a run that was lost with its key may be sent again.
                known = await (
                    await conn.execute("select count(*) from runs where id = any(%s)", [list(ids)])
                ).fetchone()
                if known and known[0] > 1:
                    report.violations.append(f"I10: key {key} gave {known[0]} runs")
        return report
