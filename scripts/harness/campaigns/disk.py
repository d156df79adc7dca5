"""PostgreSQL's disk fills up and is freed again: a small tmpfs and a ballast file.

    python scripts/chaos.py --campaign disk --minutes 2 --seed 1

An episode counts when the server itself said that there was no space left, or panicked. It is started again when it
ended, as a supervisor would.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
from typing import Any

from durable_agent.db.pool import Database
from durable_agent.embedded import EmbeddedPostgres
from durable_agent.errors import EmbeddedPostgresError
from harness.history import Report
from harness.stack import Campaign, Place, Stack, embedded

_SIZE_MB = 320
_SETTINGS = {"max_wal_size": "64MB", "min_wal_size": "32MB", "wal_recycle": "off", "wal_init_zero": "on"}
_FULL = (b"No space left on device", b"could not extend file")


class Run(Campaign):
    """The campaign of the full disk."""

    must_land = ("disk full",)
    mutants = ("no-fence",)

    def missing(self) -> str:
        """Ask for the right to mount."""
        return "" if os.geteuid() == 0 and shutil.which("mount") else "a tmpfs can be mounted by root alone"

    def place(self) -> Place:
        """Start PostgreSQL with its whole cluster on a small disk."""
        self.server = EmbeddedPostgres(self.directory / "postgres", settings=_SETTINGS)
        self.server.start()
        self.server.stop()
        cluster = self.server.cluster
        kept = cluster.with_name("kept")
        cluster.rename(kept)
        cluster.mkdir(mode=0o700)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_SIZE_MB}m,mode=0700", "tmpfs", cluster], check=True)
        self.exits.callback(lambda: subprocess.run(["umount", "-l", cluster], check=False))
        subprocess.run(["cp", "-a", f"{kept}/.", cluster], check=True)
        shutil.rmtree(kept)
        self.panics = 0
        self.ballast = cluster / "ballast"
        return embedded(self.directory, self.exits, self.server)[1]

    async def rage(self, stack: Stack, db: Database) -> None:
        """Fill the disk again and again."""
        chooser = random.Random(self.given.seed)
        await stack.load.during([self._episodes(stack, chooser)], self.given.minutes * 60)

    async def _episodes(self, stack: Stack, chooser: random.Random) -> None:
        while not stack.faults.over.is_set():
            await stack.faults.pause(2.0, 4.0)
            if not stack.faults.over.is_set():
                logged = self.server.log.stat().st_size
                self._fill()
                await self._felt(stack, logged, chooser.uniform(0.5, 2.5))
                self.ballast.unlink(missing_ok=True)
                await self._revive()
                said = self.server.log.read_bytes()[logged:]
                stack.faults.landed["disk full"] += any(words in said for words in _FULL)
                self.panics += b"PANIC" in said

    def _fill(self) -> None:
        """Leave no byte free."""
        with self.ballast.open("ab", buffering=0) as file:
            for size in (1 << 20, 1 << 12):
                try:
                    while True:
                        if file.write(bytes(size)) < size:
                            break
                except OSError:
                    continue

    async def _felt(self, stack: Stack, logged: int, then_s: float) -> None:
        """Wait until the server has met the full disk, and then a while longer."""
        for _ in range(200):
            if any(words in self.server.log.read_bytes()[logged:] for words in _FULL) or self.server.pid is None:
                break
            self._fill()
            await stack.faults.query("checkpoint")
            await asyncio.sleep(0.05)
        await stack.faults.pause(then_s, then_s)

    async def _revive(self) -> None:
        for _ in range(60):
            try:
                await asyncio.to_thread(self.server.ensure)
                return
            except EmbeddedPostgresError:
                await asyncio.sleep(0.2)

    async def calm(self, stack: Stack) -> None:
        """Free the disk."""
        self.ballast.unlink(missing_ok=True)
        await self._revive()

    def crashes(self, server: EmbeddedPostgres) -> list[str]:
        """Leave out the panics: without room for its log PostgreSQL aborts by itself, and recovers."""
        return [line for line in server.crashes() if "by signal 6:" not in line]

    def figures(self, stack: Stack, report: Report) -> dict[str, Any]:
        """Return how often PostgreSQL panicked."""
        return {"disk, MB": _SIZE_MB, "PostgreSQL panicked": self.panics}
