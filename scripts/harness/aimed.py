"""Aimed kills: a worker dies exactly between the request of an external call and the storing of its result.

The receiver itself does it: it is told the caller's process id with each order, and ends the caller before it carries
the order out (the request was lost on the way) or after it (the answer was).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
from hashlib import sha256
from typing import Any

from durable_agent.core.records import DEFAULT_TENANT, RunSpec
from durable_agent.db.pool import Database
from durable_agent.engine.submit import Memory, Submission, submit
from harness.faults import Faults
from harness.receiver import Receiver
from harness.workload import errands

RUNS_OPEN = 40
CLASSES = ("idempotent", "verify", "manual")


async def rage(given: argparse.Namespace, db: Database, faults: Faults, done: Any, world: Receiver) -> None:
    """Keep errands under way until so many workers have died in the middle of a call."""
    dead: asyncio.Queue[int] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    chooser = random.Random(given.seed)
    landed: dict[str, int] = {}
    killed: set[int] = set()

    def on_order(order: dict[str, Any], when: str) -> None:
        pid, what = order["pid"], order["what"]
        total = sum(landed.values())
        # Each class in its turn: the first call of an errand would else take nearly all.
        if what != CLASSES[total % len(CLASSES)] or pid in killed or total >= given.kills or chooser.random() > 0.5:
            return
        killed.add(pid)
        os.kill(pid, signal.SIGKILL)
        name = f"killed {when} the call: {what}"
        landed[name] = landed.get(name, 0) + 1
        loop.call_soon_threadsafe(dead.put_nowait, pid)
        if when == "before":
            raise KeyError("the request was lost on the way")

    world.on_order = on_order
    async with asyncio.TaskGroup() as group:
        filling = group.create_task(_fill(given, db, done))
        while sum(landed.values()) < given.kills:
            pid = await dead.get()
            faults.replace(pid)
            faults.landed["sigkill"] += 1
        filling.cancel()
    faults.landed.update(landed)


async def _fill(given: argparse.Namespace, db: Database, done: Any) -> None:
    memory, count = Memory(), 0
    while True:
        async with db.reading() as conn:
            row = await (await conn.execute("select count(*) from runs where finished_at is null")).fetchone()
        if row is not None and row[0] < RUNS_OPEN:
            for _ in range(10):
                count += 1
                key = f"aimed-{given.seed}-{count}"
                spec = RunSpec(steps=tuple(errands(count % 2 == 0)), goal="chaos")
                one = Submission(spec, key, sha256(key.encode()).digest())
                (submitted,) = await submit(db, DEFAULT_TENANT, [one], memory=memory)
                done.runs[submitted.run_id] = key
        await asyncio.sleep(0.05)
