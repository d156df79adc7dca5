"""Tools for agents in real workers: what they did is in a table of the test's own."""

from __future__ import annotations

import os
from typing import Any

import psycopg
import pydantic_ai.models.openai  # noqa: F401  # so that a forked worker need not load it

from durable_agent import Context, tool


@tool("work", effect="idempotent")
async def work(ctx: Context, n: int) -> dict[str, Any]:
    """Do a piece of work and say which."""
    if place := os.environ.get("TEST_WORK_URL"):
        async with await psycopg.AsyncConnection.connect(place, autocommit=True) as conn:
            await conn.execute("insert into worked (key, n) values (%s, %s)", [ctx.idempotency_key, n])
    return {"did": n}
