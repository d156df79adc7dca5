"""A forgotten session holds a REPEATABLE READ snapshot, idle in its transaction, during the default faults.

    python scripts/chaos.py --campaign snapshot --minutes 2 --seed 1

Dead rows cannot be vacuumed meanwhile. The throughput before, during and after is printed, and `doctor` must name the
session while it is there and not before or after.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

import psycopg

from durable_agent.db.pool import Database
from harness.history import Report
from harness.stack import Campaign, Place, Stack

# What doctor takes for forgotten.
_NAMED_AFTER_S = 31.0
_DONE = "select count(*)::int from events where type = 'step.succeeded'"
_DEAD = (
    "select coalesce(sum(n_dead_tup), 0)::int from pg_stat_user_tables where relname in ('queue', 'workers', 'runs')"
)


class Run(Campaign):
    """The campaign of the held snapshot."""

    must_land = ("snapshot held", "sigkill")
    mutants = ("doctor-blind",)

    def place(self) -> Place:
        """As always."""
        self.rates: dict[str, float] = {}
        self.dead: dict[str, int] = {}
        self.named: dict[str, bool] = {}
        return super().place()

    async def rage(self, stack: Stack, db: Database) -> None:
        """Measure before, while the snapshot is held, and after."""
        seconds = max(self.given.minutes * 60, 2 * 10 + _NAMED_AFTER_S + 5)
        faults = stack.faults
        loops = [faults.kill(), faults.freeze(), faults.drain(), faults.cut(), self._phases(stack, seconds)]
        await stack.load.during(loops, seconds + 8)

    async def _phases(self, stack: Stack, seconds: float) -> None:
        around_s = (seconds - _NAMED_AFTER_S) / 3
        await self._phase(stack, "before", around_s)
        async with await psycopg.AsyncConnection.connect(stack.place.own_url, autocommit=True) as conn:
            await conn.execute("begin isolation level repeatable read")
            await conn.execute("select count(*) from runs")
            await self._phase(stack, "held", around_s + _NAMED_AFTER_S)
            await conn.execute("select 1")  # it is still there: nobody ended it
            stack.faults.landed["snapshot held"] += 1
            await conn.rollback()
        await self._phase(stack, "after", around_s)

    async def _phase(self, stack: Stack, name: str, seconds: float) -> None:
        began = (await stack.faults.query(_DONE))[0][0]
        await asyncio.sleep(seconds)
        self.rates[name] = round(((await stack.faults.query(_DONE))[0][0] - began) / seconds, 1)
        self.dead[name] = (await stack.faults.query(_DEAD))[0][0]
        self.named[name] = await self._doctor(stack)

    async def _doctor(self, stack: Stack) -> bool:
        """Tell whether doctor complains of a session that is idle in a transaction."""
        path = {"PYTHONPATH": str(stack.source)} if stack.source else {}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "durable_agent", "doctor", "--json", env={**os.environ, **stack.environment, **path},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        said, _ = await process.communicate()
        findings = json.loads(said)
        return any(f["check"] == "idle in transaction" and f["level"] != "ok" for f in findings)

    def figures(self, stack: Stack, report: Report) -> dict[str, Any]:
        """Return the rates; a doctor that was wrong is a violation."""
        if self.named and self.named != {"before": False, "held": True, "after": False}:
            report.violations.append(f"doctor: it named the idle session {self.named}")
        return {
            **{f"steps/s {name}": rate for name, rate in self.rates.items()},
            **{f"dead rows {name}": rows for name, rows in self.dead.items()},
            **{f"doctor names it {name}": "yes" if named else "no" for name, named in self.named.items()},
        }
