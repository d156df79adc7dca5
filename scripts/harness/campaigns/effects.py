"""Workers die exactly between an external call's request and the storing of its result, each class in its turn.

python scripts/chaos.py --campaign effects --kills 300
"""

from __future__ import annotations

from durable_agent.db.pool import Database
from harness import aimed
from harness.stack import Campaign, Stack


class Run(Campaign):
    """The campaign of aimed kills; it takes as long as its kills take."""

    must_land = ("sigkill",)
    resend = True

    async def rage(self, stack: Stack, db: Database) -> None:
        """Kill so often."""
        await aimed.rage(self.given, db, stack.faults, stack.load, stack.world)
