"""The person in the loop of a campaign: approves, and settles unknown effects by what the receiver's log says."""

from __future__ import annotations

import asyncio
from collections import Counter

from durable_agent.core.records import DEFAULT_TENANT
from durable_agent.core.waits import Decision
from durable_agent.db import reads
from durable_agent.db.pool import Database
from durable_agent.engine.answer import answer
from durable_agent.errors import DurableAgentError
from harness.receiver import Receiver

_OPEN = {
    "tenant": DEFAULT_TENANT,
    "state": "open",
    "kind": None,
    "people": True,
    "run": None,
    "after": None,
    "limit": 200,
}


async def attend(db: Database, world: Receiver, over: asyncio.Event, told: Counter[str], *, resend: bool) -> None:
    """Answer what is asked until the campaign is over.

    What the receiver does not know is sent again, or (`resend` false: a frozen worker may still wake up and send it)
    counts as failed.
    """
    while not over.is_set():
        try:
            async with db.reading() as conn:
                waits = await reads.rows(conn, reads.WAITS.list_waits, _OPEN)
            for wait in waits:
                decision, value = Decision.APPROVED, None
                if wait["kind"] == "unknown_effect":
                    key = wait["request"]["key"]
                    known = key in world.results
                    decision = Decision.HAPPENED if known else Decision.RESEND if resend else Decision.FAILED
                    value = world.results[key] if known else None
                await answer(db, DEFAULT_TENANT, wait["id"], decision, by="chaos", value=value)
                told[decision.value] += 1
        except DurableAgentError:
            pass  # PostgreSQL is down, or somebody was faster
        await asyncio.sleep(0.05)
