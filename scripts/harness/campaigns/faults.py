"""Kills, zombies woken beside their successors, drains, cut listeners and crashes of PostgreSQL, all at once.

python scripts/chaos.py --minutes 5 --seed 1
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from durable_agent.db.pool import Database
from harness.stack import Campaign, Stack


class Run(Campaign):
    """The default campaign."""

    mutants: ClassVar[Sequence[str]] = ("no-fence",)

    async def rage(self, stack: Stack, db: Database) -> None:
        """Let everything loose."""
        faults, seconds = stack.faults, self.given.minutes * 60
        loops = [
            faults.kill(), faults.kill(), faults.freeze(), faults.freeze(), faults.freeze(), faults.drain(), faults.cut(),
            faults.crash(min(20.0, max(5.0, seconds / 14))),
        ]  # fmt: skip
        await stack.load.during(loops, seconds)
