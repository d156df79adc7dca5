"""The demo's tools: they fetch and transform nothing real, as slowly and as unreliably as their input asks.

`delay_s` makes a step take its time; `failure_rate` (from 0 to 1) makes that share of attempts fail in passing, and
so does `simulateFailure`.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Mapping
from typing import Any

from durable_agent.core.events import dumps
from durable_agent.errors import FatalError, RetryableError
from durable_agent.flow.context import Context
from durable_agent.flow.tools import step, tool


async def _simulate(ctx: Context, given: Mapping[str, Any]) -> None:
    delay_s = _number(given, "delay_s", "delayS")
    rate = _number(given, "failure_rate", "failureRate", "simulateFailure")
    if given.get("simulateFailure") is True:
        rate = 0.4
    if delay_s > 0:
        await ctx.progress(0.0, "started")
        await asyncio.sleep(delay_s)
    if random.random() < rate:
        raise RetryableError(f"simulated transient failure ({rate:.0%} of attempts)")


def _number(given: Mapping[str, Any], *names: str) -> float:
    """Return the first of the inputs that is given, else 0. Raises FatalError for what is no number."""
    for name in names:
        if name in given:
            try:
                return float(given[name])
            except (TypeError, ValueError):
                raise FatalError(f"{name} must be a number, not {given[name]!r}") from None
    return 0.0


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


@step("llm_call")
async def llm_call(ctx: Context, prompt: str = "", model: str = "default", **simulated: Any) -> dict[str, Any]:
    """Ask a model; without a provider's key the offline one, whose answer depends on the question alone."""
    await _simulate(ctx, simulated)
    known = "; ".join(f"{name}: {dumps(output).decode()}" for name, output in sorted(ctx.parents.items()))
    asked = prompt or ctx.goal or "Nothing was asked"
    reply = await ctx.llm(f"{asked}. What is known: {known or 'nothing'}.", model=model, max_tokens=1024)
    return {"model": reply.model, "text": reply.text}


@tool("echo", effect="safe")
async def echo(ctx: Context, **given: Any) -> dict[str, Any]:
    """Return what it was given."""
    await _simulate(ctx, given)
    return given


@tool("noop", effect="safe")
async def noop() -> None:
    """Do nothing at all."""
