"""Tools that store files."""

from __future__ import annotations

from durable_agent import Context, tool


@tool("leave", effect="safe")
async def leave(ctx: Context) -> None:
    """Store a report whose name every step gives."""
    await ctx.artifact("report.txt", f"by {ctx.step}".encode())


@tool("noop", effect="safe")
async def noop() -> None:
    """Do nothing."""
