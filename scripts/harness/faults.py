"""Faults against running workers. One counts only if it landed: the process lived and held a lease."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg

from durable_agent.db.pool import TRANSIENT
from durable_agent.embedded import EmbeddedPostgres

Held = tuple[UUID, int, int]

_LEASES = """
select w.os_pid, q.run_id, q.no, q.claim_no, extract(epoch from q.claimed_at)::float8
from queue q join workers w on w.tenant = 0 and w.session = q.session where q.state = 'leased'
"""
_SUCCESSOR = """
select 1 from queue q join workers w on w.tenant = 0 and w.session = q.session
where q.run_id = %s and q.no = %s and q.claim_no > %s and q.state = 'leased' and w.os_pid <> %s
"""
_CUT = """
select count(pg_terminate_backend(pid)) from (
  select pid from pg_stat_activity where application_name = %s and pid <> pg_backend_pid() order by random() limit 1) x
"""


@dataclass(slots=True)
class Faults:
    """The fault loops of a campaign. All run until `over` is set."""

    rng: random.Random
    spawn: Callable[[str], int]
    admin_url: str
    postgres: EmbeddedPostgres | None
    workers: dict[str, int]
    landed: Counter[str] = field(default_factory=Counter)
    kills: list[tuple[datetime, list[Held]]] = field(default_factory=list)
    deadlocks: int = 0
    over: asyncio.Event = field(default_factory=asyncio.Event)
    woken: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    _frozen: set[int] = field(default_factory=set)
    _stopped: set[int] = field(default_factory=set)
    _deadlocks_base: int = 0

    async def query(self, query: str, *params: Any) -> list[Any]:
        """Return rows by a connection of this campaign's own, or nothing while PostgreSQL is down."""
        try:
            async with await psycopg.AsyncConnection.connect(
                self.admin_url, autocommit=True, connect_timeout=3
            ) as conn:
                cursor = await conn.execute(query.encode(), params or None)
                return await cursor.fetchall() if cursor.description else []
        except TRANSIENT:
            return []

    async def held(self) -> dict[int, list[tuple[UUID, int, int, float]]]:
        """Return the leases by worker process."""
        found: dict[int, list[tuple[UUID, int, int, float]]] = {}
        for pid, run, no, claim_no, since in await self.query(_LEASES):
            found.setdefault(pid, []).append((run, no, claim_no, since))
        return found

    async def pause(self, low_s: float, high_s: float) -> None:
        """Wait a random time, or until the campaign is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.rng.uniform(low_s, high_s)):
                await self.over.wait()

    def signal(self, pid: int, signum: int) -> bool:
        """Send a signal; tell whether the process was there."""
        if signum == signal.SIGSTOP:
            self._stopped.add(pid)
        elif signum == signal.SIGCONT and pid in self._stopped:
            self._stopped.discard(pid)
            self.woken[pid].append(time.time())
        try:
            os.kill(pid, signum)
        except ProcessLookupError:
            return False
        return True

    def replace(self, pid: int) -> None:
        """Start a new worker under the same name: names repeat, and no fence may rest on them."""
        for name, known in self.workers.items():
            if known == pid:
                self.workers[name] = self.spawn(name)

    async def kill(self) -> None:
        """SIGKILL workers that hold leases."""
        while not self.over.is_set():
            await self.pause(0.3, 0.9)
            held = {pid: leases for pid, leases in (await self.held()).items() if pid not in self._frozen}
            alive = [pid for pid in self.workers.values() if held.get(pid)]
            if alive:
                pid = self.rng.choice(alive)
                if self.signal(pid, signal.SIGKILL):
                    self.landed["sigkill"] += 1
                    self.kills.append((datetime.now(UTC), [(r, n, c) for r, n, c, _ in held[pid]]))
                self.replace(pid)

    async def freeze(self) -> None:
        """SIGSTOP a worker with a long step, and wake it exactly while its successor runs that step."""
        while not self.over.is_set():
            await self.pause(0.1, 0.5)
            now = time.time()
            aims = [
                (pid, lease)
                for pid, leases in (await self.held()).items()
                for lease in leases
                if pid in self.workers.values() and pid not in self._frozen and now - lease[3] < 1.0
            ]
            if not aims:
                continue
            pid, (run, no, claim_no, _) = self.rng.choice(aims)
            self._frozen.add(pid)
            try:
                if self.signal(pid, signal.SIGSTOP):
                    self.landed["zombie"] += await self.wake_beside_successor(pid, (run, no, claim_no))
            finally:
                self.signal(pid, signal.SIGCONT)
                self._frozen.discard(pid)

    async def wake_beside_successor(self, pid: int, aim: Held, *, within_s: float = 8.0) -> bool:
        """Wake a frozen worker while another runs a step of its own under a later claim; tell whether that came to pass."""
        until = time.monotonic() + within_s
        while time.monotonic() < until and not self.over.is_set():
            if await self.query(_SUCCESSOR, *aim, pid):
                return self.signal(pid, signal.SIGCONT)
            await asyncio.sleep(0.02)
        return False

    async def drain(self) -> None:
        """SIGTERM workers: their leases must come back uncharged."""
        while not self.over.is_set():
            await self.pause(4.0, 8.0)
            alive = [pid for pid in self.workers.values() if pid not in self._frozen]
            if alive:
                pid = self.rng.choice(alive)
                self.landed["drain"] += self.signal(pid, signal.SIGTERM)
                self.replace(pid)

    async def cut(self) -> None:
        """Cut listeners and liveness connections."""
        while not self.over.is_set():
            await self.pause(1.0, 4.0)
            name = self.rng.choice(["listen", "heart"])
            rows = await self.query(_CUT, f"durable-agent {name}")
            self.landed[f"cut {name}"] += rows[0][0] if rows else 0

    async def crash(self, every_s: float) -> None:
        """Crash PostgreSQL and start it again."""
        while not self.over.is_set() and self.postgres is not None:
            await self.pause(every_s * 0.8, every_s * 1.1)
            if not self.over.is_set():
                await self.count_deadlocks()
                self._deadlocks_base = self.deadlocks
                await asyncio.to_thread(self.postgres.restart, "immediate")
                self.landed["postgres crash"] += 1

    async def watch_deadlocks(self) -> None:
        """Keep the count of deadlocks; a crash of PostgreSQL forgets its statistics."""
        while not self.over.is_set():
            await self.pause(1.0, 1.0)
            await self.count_deadlocks()

    async def count_deadlocks(self) -> None:
        """Add what PostgreSQL counted since its last crash."""
        rows = await self.query("select sum(deadlocks)::int from pg_stat_database")
        if rows and rows[0][0] is not None:
            self.deadlocks = max(self.deadlocks, self._deadlocks_base + rows[0][0])

    def thaw(self, pids: Sequence[int]) -> None:
        """Wake everything up: the campaign is over."""
        for pid in pids:
            self.signal(pid, signal.SIGCONT)
