"""Handlers that end as nobody should: each hurts its own step, and no other."""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta
from typing import Any

from durable_agent import Context, RateLimited, StepError, step, tool


class Wordless(Exception):
    """An exception without a text: its code is a number."""

    def __str__(self) -> str:
        return self.args[0]  # type: ignore[no-any-return]


class Upstream(StepError):
    """An author's own class of failures."""

    failure_class = "upstream"


@tool("break", effect="safe")
async def breaks(how: str) -> None:
    """Fail as asked for."""
    match how:
        case "wordless":
            raise Wordless(404)
        case "undecodable":
            raise OSError(os.fsdecode(b"no caf\xe9"))
        case "own class":
            raise Upstream("it is down")
        case "header":
            raise RateLimited("slow down", retry_after_s="0.01")  # type: ignore[arg-type]  # the header as it came
        case "no number":
            raise RateLimited("slow down", retry_after_s="soon")  # type: ignore[arg-type]
        case "cancelled":
            task = asyncio.create_task(asyncio.sleep(60))
            await asyncio.sleep(0)
            task.cancel()
            await task


@tool("break_in_a_thread", effect="safe")
def breaks_in_a_thread(how: str) -> None:
    """Fail as asked for, in a thread."""
    raise asyncio.CancelledError if how == "cancelled" else Wordless(404)


@step("break_in_a_call")
async def breaks_in_a_call(ctx: Context, how: str) -> None:
    """Call what fails as asked for."""
    await ctx.call(breaks, how=how)


@step("say")
async def says(ctx: Context, how: str) -> Any:
    """Tell the engine what it cannot store."""
    match how:
        case "event":
            await ctx.emit("\udcff", 1)
        case "signal":
            await ctx.wait_for_signal("\udcff")
        case "media type":
            await ctx.artifact("a", b"1", media_type="\udcff")
        case "step":
            await ctx.spawn([{"name": "a", "tool": "noop", "deadline_s": float("inf")}])
        case "time":
            await ctx.sleep(float("nan"))


@step("waits_long")
async def waits_long(ctx: Context) -> None:
    """Wait for a signal, longer than any number of seconds the database knows."""
    await ctx.wait_for_signal("go", timeout=timedelta.max)


CLEANED: list[str] = []


@tool("cleans_up", effect="safe")
async def cleans_up() -> None:
    """Wait until cancelled, and clean up with a few awaits."""
    try:
        await asyncio.Event().wait()
    finally:
        for turn in range(50):
            await asyncio.sleep(0.001)
            CLEANED.append(f"turn {turn}")


LEAVE = asyncio.Event()


@tool("goes_on", effect="safe")
async def goes_on() -> None:
    """Do not listen to a cancellation."""
    while not LEAVE.is_set():
        try:
            await LEAVE.wait()
        except asyncio.CancelledError:
            continue


@tool("neighbour", effect="safe")
async def neighbour() -> None:
    """Wait until cancelled, beside the others."""
    await asyncio.Event().wait()
