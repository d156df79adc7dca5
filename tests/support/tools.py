"""Tools for tests."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

from pydantic import BaseModel

from durable_agent import Context, FatalError, RateLimited, RetryableError, tool


@tool("noop", effect="safe")
async def noop() -> None:
    """Do nothing."""


@tool("echo", effect="safe")
async def echo(ctx: Context, **given: Any) -> dict[str, Any]:
    """Return what was given, and what is known."""
    return {"given": given, "parents": dict(ctx.parents), "attempt": ctx.attempt, "key": ctx.idempotency_key}


@tool("add", effect="safe")
def add(a: int, b: int = 1) -> int:
    """Add in a thread."""
    return a + b


@tool("flaky", effect="safe")
async def flaky(ctx: Context, times: int = 1, how: str = "retryable") -> int:
    """Fail the first attempts, in the way asked for."""
    if ctx.attempt > times:
        return ctx.attempt
    match how:
        case "retryable":
            raise RetryableError("not yet")
        case "limited":
            raise RateLimited("slow down", retry_after_s=0.01)
        case "fatal":
            raise FatalError("never")
        case "exit":
            raise SystemExit(3)
        case _:
            raise ValueError("a bug")


@tool("forever", effect="safe")
async def forever() -> None:
    """Wait until cancelled."""
    await asyncio.Event().wait()


@tool("stuck", effect="safe")
def stuck() -> None:
    """Hang in a thread."""
    threading.Event().wait(5)


@tool("tell", effect="safe")
async def tell(ctx: Context) -> str:
    """Emit two events."""
    await ctx.emit("hello", {"who": "world"})
    await ctx.progress(0.5, "half")
    return "told"


class Point(BaseModel):
    """A model."""

    x: int
    y: float


@tool("modelled", effect="safe")
async def modelled(point: Point) -> Point:
    """Take and return a model."""
    return Point(x=point.x + 1, y=point.y)


@tool("hostile", effect="safe")
async def hostile(what: str) -> Any:
    """Return what no database takes."""
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    return {
        "object": object(),
        "surrogate": "\ud800",
        "deep": deep,
        "huge": "x" * 300_000,
        "nul": "a\x00b",
        "bigint": 2**80,
    }[what]


@tool("alone", effect="safe", isolation="process")
def alone(how: str = "fine") -> dict[str, Any]:
    """Run in a child process."""
    match how:
        case "dies":
            os._exit(9)
        case "hangs":
            threading.Event().wait(60)
        case "fails":
            raise RetryableError("from the child")
        case _:
            print("this goes to stderr")
    return {"pid": os.getpid(), "how": how}
