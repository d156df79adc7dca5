"""PostgreSQL's clock jumps forth and back by up to an hour, under kills; two workers live a day ahead and a day behind.

    python scripts/chaos.py --campaign clock --minutes 3 --seed 1

libfaketime stands between the server and its clock, and between two workers and theirs; the monotonic clocks go on.
Only PostgreSQL's clock decides (R5), so a worker's calendar must not matter; and a jump may cost leases, but no step may
have two results, and no lease may stay because the clock was set back behind it (R7).
"""

from __future__ import annotations

import asyncio
import random
import shutil
import time
from pathlib import Path
from typing import Any, Final

from durable_agent.db.pool import Database
from durable_agent.embedded import EmbeddedPostgres
from harness.history import Report
from harness.stack import Campaign, Place, Stack, embedded

_JUMPS_S: Final = (1, 5, 30, 300, 3600)
# A lease that is left too far ahead is pulled back by the next upkeep; twice the lease is ample.
_HEALED_S: Final = 8.0
_AHEAD = """
select count(*)::int from workers where state in ('active', 'draining') and lease_until > clock_timestamp() + interval '10 s'
"""
_DUE = "select count(*)::int from queue where state = 'scheduled' and due_at > clock_timestamp() + interval '30 s'"


class Run(Campaign):
    """The campaign of the jumping clock."""

    must_land = ("clock forth", "clock back", "sigkill")
    mutants = ("no-fence", "no-clamp")
    clock_is_sane = False

    def missing(self) -> str:
        """Ask for libfaketime."""
        return "" if library() else "libfaketime is not installed (Debian: apt-get install faketime)"

    def place(self) -> Place:
        """Start PostgreSQL under a clock that a file sets."""
        self.offset = self.directory / "offset"
        self._set(0)
        self.stuck: list[str] = []
        self.later = 0
        server = Shifted(self.directory / "postgres", self.offset)
        return embedded(self.directory, self.exits, server)[1]

    def _set(self, offset_s: int) -> None:
        new = self.directory / "offset.new"
        new.write_text(f"{offset_s:+d}\n")
        new.chmod(0o644)
        new.rename(self.offset)

    def hire(self, stack: Stack) -> None:
        """Start workers; the last two a day ahead and a day behind."""
        for name, skew in (("w4", "+1d"), ("w5", "-1d")):
            stack.zygotes[name] = stack.zygote(
                {"LD_PRELOAD": library(), "FAKETIME": skew, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
            )  # fmt: skip
        super().hire(stack)

    async def rage(self, stack: Stack, db: Database) -> None:
        """Jump, and kill."""
        chooser = random.Random(self.given.seed)
        await stack.load.during([self._jump(stack, chooser), stack.faults.kill()], self.given.minutes * 60)

    async def _jump(self, stack: Stack, chooser: random.Random) -> None:
        faults, offset, last = stack.faults, 0, 0
        while not faults.over.is_set():
            await faults.pause(0.2, 1.4)
            wanted = chooser.choice((-1, 1)) * chooser.choice(_JUMPS_S)
            if wanted == last:
                continue
            before = await self._ahead(stack)
            last, offset = offset, wanted
            self._set(offset)
            after = await self._ahead(stack)
            if before is None or after is None or abs((after - before) - (offset - last)) > 0.6:
                continue  # it was down, or did not jump as far as it was told
            faults.landed["clock forth" if offset > last else "clock back"] += 1
            if offset < last - 30:
                await self._clamped(stack, last - offset)

    async def _ahead(self, stack: Stack) -> float | None:
        """Return how far the server's clock is ahead of ours."""
        rows = await stack.faults.query("select extract(epoch from clock_timestamp())::float8")
        return rows[0][0] - time.time() if rows else None

    async def _clamped(self, stack: Stack, back_s: int) -> None:
        """Wait until no lease lies further ahead than a lease can."""
        until_s = time.monotonic() + _HEALED_S
        while time.monotonic() < until_s:
            rows = await stack.faults.query(_AHEAD)
            if rows and rows[0][0] == 0:
                return
            await asyncio.sleep(0.1)
        self.stuck.append(f"R7: {_HEALED_S:.0f} s after the clock went back {back_s} s leases still lie ahead")

    async def calm(self, stack: Stack) -> None:
        """Tell how much waits for the clock, then set it forth: what is due by any clock that was is due now."""
        self._set(0)
        await asyncio.sleep(5)
        rows = await stack.faults.query(_DUE)
        self.later = rows[0][0] if rows else 0
        self._set(max(_JUMPS_S) + 60)

    def figures(self, stack: Stack, report: Report) -> dict[str, Any]:
        """Return what waited for the clock."""
        report.violations += self.stuck
        landed = stack.faults.landed
        return {
            "jumps": landed["clock forth"] + landed["clock back"],
            "retries that wait for the clock to come back": self.later, "workers a day off": 2,
        }  # fmt: skip


class Shifted(EmbeddedPostgres):
    """An embedded server whose `postgres` runs under libfaketime."""

    def __init__(self, data_dir: Path, offset: Path) -> None:
        super().__init__(data_dir)
        self._offset = offset

    def _binaries(self) -> Path:
        given = super()._binaries()
        package, home = given.parents[1], self.data_dir / "shifted"
        made = home / given.relative_to(package.parent)
        if not home.exists():
            for part in (given.parent, package.parent / f"{package.name}.libs"):
                if part.exists():
                    shutil.copytree(part, home / part.relative_to(package.parent), symlinks=True)
            real = made / "postgres"
            real.rename(made / "postgres.real")
            real.write_text(
                f"#!/bin/sh\nexport LD_PRELOAD={library()} FAKETIME_TIMESTAMP_FILE={self._offset} FAKETIME_NO_CACHE=1"
                f' FAKETIME_DONT_FAKE_MONOTONIC=1\nexec {real}.real "$@"\n'
            )
            real.chmod(0o755)
        return made

    @property
    def pid(self) -> int | None:
        """The server's process id; its program has another name here."""
        pid = self._noted_pid()
        return pid if pid is not None and Path(f"/proc/{pid}").exists() else None


def library() -> str:
    """Return where libfaketime is, or nothing."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    return str(found[0]) if found else ""
