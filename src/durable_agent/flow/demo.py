"""The demo's tools: they fetch and transform nothing real, as slowly and as unreliably as their input asks.

`delay_s` makes a step take its time; `failure_rate` (from 0 to 1) makes that share of attempts fail in passing.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from typing import Any

from durable_agent.errors import RetryableError
from durable_agent.flow.context import Context
from durable_agent.flow.registry import tool


async def _simulate(ctx: Context, given: dict[str, Any]) -> None:
    delay_s = float(given.get("delay_s", given.get("delayS", 0.0)))
    rate = float(given.get("failure_rate", given.get("failureRate", 0.0)))
    if given.get("simulateFailure") and not rate:
        rate = 0.4
    if delay_s > 0:
        await ctx.progress(0.0, "started")
        await asyncio.sleep(delay_s)
    if random.random() < rate:
        raise RetryableError(f"simulated transient failure ({rate:.0%} of attempts)")


@tool("fetch_data", effect="safe")
async def fetch_data(ctx: Context, source: str = "example", **simulated: Any) -> dict[str, Any]:
    """Return rows that depend on the source alone."""
    await _simulate(ctx, simulated)
    seed = hashlib.sha256(source.encode()).hexdigest()
    return {"source": source, "rows": [{"id": i, "value": int(seed[i * 4 : i * 4 + 4], 16)} for i in range(5)]}


@tool("transform", effect="safe")
async def transform(ctx: Context, **simulated: Any) -> dict[str, Any]:
    """Return sums over what the parents fetched."""
    await _simulate(ctx, simulated)
    rows = [row for output in ctx.parents.values() if isinstance(output, dict) for row in output.get("rows", ())]
    values = [row["value"] for row in rows]
    return {"count": len(values), "total": sum(values), "highest": max(values, default=None)}


@tool("llm_call", effect="safe")
async def llm_call(ctx: Context, prompt: str = "", **simulated: Any) -> dict[str, Any]:
    """Return a text that depends on the prompt and the parents alone: the offline stand-in for a model."""
    await _simulate(ctx, simulated)
    known = "; ".join(f"{name}: {output}" for name, output in sorted(ctx.parents.items()))
    return {
        "model": "offline",
        "text": f"{prompt or ctx.goal or 'Nothing was asked'}. What is known: {known or 'nothing'}.",
    }


@tool("echo", effect="safe")
async def echo(ctx: Context, **given: Any) -> dict[str, Any]:
    """Return what it was given."""
    await _simulate(ctx, given)
    return given


@tool("noop", effect="safe")
async def noop() -> None:
    """Do nothing at all."""
