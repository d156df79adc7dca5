"""What W9's agents call; the client of the provider is loaded here, before workers are forked."""

from __future__ import annotations

from typing import Any

import pydantic_ai.models.openai  # noqa: F401

from durable_agent import Context, step, tool


@tool("work", effect="idempotent")
async def work(n: int = 0) -> dict[str, Any]:
    """Do a piece of work."""
    return {"did": n}


@step("reserves")
async def reserves(ctx: Context, times: int) -> int:
    """Ask the offline model so many times."""
    for number in range(times):
        await ctx.llm(f"number {number}", model="offline", max_tokens=100)
    return times
