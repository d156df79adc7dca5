"""Tools for the console's tests; a step that knocks stays until the test opens the door."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pydantic_ai.models.openai  # noqa: F401  # so that a forked worker need not load it

from durable_agent import Context, FatalError, UnknownOutcome, tool


@tool("knock", effect="safe")
async def knock(ctx: Context, text: str = "") -> str:
    """Wait at the door, say that one is there, and return what was given once it is opened."""
    host, port = os.environ["TEST_DOOR"].split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(f"{ctx.step}\n".encode())
        await reader.readline()
    finally:
        writer.close()
    return text or ctx.step


@tool("tell", effect="safe")
async def tell(ctx: Context, events: list[Any] | None = None, times: int = 0) -> int:
    """Emit what is given, or so many events."""
    for given in events or range(times):
        await ctx.emit("said", {"what": given, str(given)[:100]: given})
    return times


@tool("hurt", effect="safe")
async def hurt(ctx: Context, message: str, until: int = 1_000_000) -> str:
    """Fail for good with the message, until an attempt is asked for often enough."""
    if ctx.attempt <= until:
        raise FatalError(message)
    return "mended"


@tool("give", effect="safe")
async def give(value: Any = None) -> Any:
    """Return what was given."""
    return value


@tool("stay", effect="safe")
async def stay() -> None:
    """Go on until cancelled."""
    await asyncio.Event().wait()


@tool("lose", effect="manual")
async def lose() -> None:
    """Make a call that nobody hears the end of."""
    raise UnknownOutcome("the line went dead")
