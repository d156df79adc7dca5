"""The tools of the chaos run. Each calls the receiver outside of the database once, in the middle of its time."""

from __future__ import annotations

import asyncio
import os
import random
from typing import Any

import orjson

from durable_agent import Context, RetryableError, step, tool


async def call_receiver(ctx: Context, what: str = "work") -> str | None:
    """Tell the receiver, with the call's key, and return the result it gives for that key."""
    host, port = os.environ["CHAOS_RECEIVER"].split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        order = {"key": ctx.idempotency_key, "run": str(ctx.run_id), "step": ctx.step, "pid": os.getpid(), "what": what}
        writer.write(orjson.dumps(order) + b"\n")
        await writer.drain()
        answer = await reader.readline()
        if not answer:
            raise ConnectionError("the receiver closed the connection")
        result = orjson.loads(answer)["result"]
        return None if result is None else str(result)
    finally:
        writer.close()


@tool("work", effect="idempotent")
async def work(ctx: Context, delay_s: float = 0.0, failure_rate: float = 0.0) -> dict[str, Any]:
    """Take a time, call the receiver in the middle of it, fail as often as asked."""
    await asyncio.sleep(delay_s / 2)
    if random.random() < failure_rate:
        raise RetryableError("simulated transient failure")
    result = await call_receiver(ctx)
    await asyncio.sleep(delay_s / 2)
    return {"result": result, "parents": sorted(ctx.parents)}


@tool("noop", effect="safe")
async def noop() -> None:
    """Do nothing."""


@tool("sleep", effect="safe")
async def sleep(delay_s: float) -> None:
    """Take a time."""
    await asyncio.sleep(delay_s)


@step("talk")
async def talk(ctx: Context, times: int, rate: float) -> None:
    """Say something so many times, so many times a second."""
    began_s = asyncio.get_running_loop().time()
    for no in range(times):
        await ctx.emit("said", {"no": no, "text": "a line of what is going on, as long as such lines are"})
        await asyncio.sleep(max(0.0, began_s + no / rate - asyncio.get_running_loop().time()))


@tool("ping", effect="safe")
async def ping(n: int) -> int:
    """Answer at once."""
    return n


@step("calls")
async def calls(ctx: Context, times: int, fails: int = 0) -> int:
    """Make so many recorded calls, one after the other; fail the first attempts after them."""
    done: int = sum([await ctx.call("ping", n=n) for n in range(times)])
    if ctx.attempt <= fails:
        raise RetryableError("not yet")
    return done


@tool("book", effect="idempotent", compensate="unbook")
async def book(ctx: Context, n: int) -> str | None:
    """Book; the receiver honours the key."""
    return await call_receiver(ctx, "idempotent")


@tool("unbook", effect="idempotent")
async def unbook(ctx: Context, result: str) -> str | None:
    """Undo a booking."""
    return await call_receiver(ctx, "undo")


async def reserved(ctx: Context, n: int) -> str | None:
    """Look a reservation up."""
    return await call_receiver(ctx, "look-up")


@tool("reserve", effect="verify", verify=reserved)
async def reserve(ctx: Context, n: int) -> str | None:
    """Reserve; the receiver can be asked whether it took place."""
    return await call_receiver(ctx, "verify")


@tool("send")
async def send(ctx: Context, n: int) -> str | None:
    """Send: nobody can tell afterwards but the receiver's own log."""
    return await call_receiver(ctx, "manual")


@step("errand")
async def errand(ctx: Context, approve: bool = False) -> list[Any]:
    """One call of each class, one of them approved first when asked."""
    grant = await ctx.approval("book", {"n": 0}) if approve else None
    booked = await ctx.call("book", grant, n=0)
    return [booked, await ctx.call("reserve", n=1), await ctx.call("send", n=2)]
