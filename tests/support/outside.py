"""A world outside of the database, for workers in the test's own process: every call that reaches it is kept."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from datetime import timedelta
from typing import Any

from durable_agent import Context, FatalError, RetryableError, UnknownOutcome, step, tool

CALLS: dict[str, list[tuple[str, Any]]] = defaultdict(list)
GATES: dict[str, asyncio.Event] = defaultdict(asyncio.Event)


def called(what: str) -> list[Any]:
    """Return what a receiver was called with."""
    return [given for _, given in CALLS[what]]


def keys(what: str) -> list[str]:
    """Return the keys it was shown."""
    return [key for key, _ in CALLS[what]]


def forget() -> None:
    """Begin anew."""
    CALLS.clear()
    GATES.clear()


@tool("read", effect="safe")
async def read(ctx: Context, what: str) -> dict[str, Any]:
    """Read."""
    CALLS["read"].append((ctx.idempotency_key, what))
    return {"what": what, "times": len(CALLS["read"])}


@tool("charge", effect="idempotent", compensate="refund")
async def charge(ctx: Context, amount: int) -> dict[str, Any]:
    """Charge; the same key charges once."""
    CALLS["charge"].append((ctx.idempotency_key, amount))
    return {"charged": amount}


@tool("refund", effect="idempotent")
async def refund(ctx: Context, arguments: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    """Undo a charge."""
    CALLS["refund"].append((ctx.idempotency_key, arguments["amount"]))
    if GATES["refund.fails"].is_set():
        raise FatalError("the bank is closed")
    return {"refunded": result["charged"]}


@tool("mail")
async def mail(ctx: Context, to: str, how: str = "well") -> str:
    """Send a letter: nobody can tell afterwards whether it went."""
    CALLS["mail"].append((ctx.idempotency_key, to))
    match how:
        case "breaks":
            raise ConnectionError("the line broke")
        case "bug":
            raise KeyError("id")
        case "unknown":
            raise UnknownOutcome("no answer")
        case "refused":
            raise RetryableError("the letter box is full")
        case "hangs":
            await asyncio.Event().wait()
        case "hostile":
            return "\ud800"
    return f"sent to {to}"


async def find_order(ctx: Context, item: str, breaks: bool = False) -> dict[str, Any] | None:
    """Look an order up by its key."""
    CALLS["look-up"].append((ctx.idempotency_key, item))
    found = [given for key, given in CALLS["order"] if key == ctx.idempotency_key]
    return {"ordered": found[0], "found": True} if found else None


@tool("order", effect="verify", verify=find_order)
async def order(ctx: Context, item: str, breaks: bool = False) -> dict[str, Any]:
    """Order."""
    CALLS["order"].append((ctx.idempotency_key, item))
    if breaks and len(CALLS["order"]) == 1:
        raise ConnectionError("the line broke")
    return {"ordered": item}


@step("buy")
async def buy(ctx: Context, fails: int = 0, waits: bool = False) -> dict[str, Any]:
    """Read, charge, and fail or wait before it goes on."""
    at, uid, luck = ctx.now(), ctx.uuid(), ctx.random()
    before = await ctx.call("read", what="price")
    charged = await ctx.call("charge", amount=5)
    if ctx.attempt <= fails:
        raise RetryableError("not yet")
    answer = await ctx.ask("go on?") if waits else None
    return {"before": before, "charged": charged, "at": at.isoformat(), "uid": str(uid), "luck": luck, "answer": answer}


@step("letter")
async def letter(ctx: Context, how: str = "well", to: str = "her") -> str:
    """Send a letter as an effect."""
    return str(await ctx.call("mail", to=to, how=how))


@step("ordering")
async def ordering(ctx: Context, breaks: bool = True) -> Any:
    """Order as an effect."""
    return await ctx.call("order", item="tea", breaks=breaks)


@step("fickle")
async def fickle(ctx: Context) -> Any:
    """Ask for something else at each attempt."""
    await ctx.call("charge", amount=ctx.attempt)
    raise RetryableError("again")


@step("approved_charge")
async def approved_charge(ctx: Context, asked: int = 5, charged: int = 5, twice: bool = False) -> Any:
    """Charge what was approved, or something else, or twice."""
    grant = await ctx.approval("charge", {"amount": asked}, prompt="Charge?")
    done = await ctx.call("charge", grant, amount=charged)
    if twice:
        await ctx.call("charge", grant, amount=charged)
    return done


@step("hear")
async def hear(ctx: Context, name: str = "go", timeout_s: float | None = None, times: int = 1) -> list[Any]:
    """Wait for signals."""
    return [await ctx.wait_for_signal(name, timeout=timeout_s) for _ in range(times)]


@step("nap")
async def nap(ctx: Context, seconds: float) -> str:
    """Sleep durably."""
    await ctx.sleep(timedelta(seconds=seconds))
    return "awake"


@step("fan")
async def fan(ctx: Context, items: list[int], concurrency: int = 2) -> list[Any]:
    """Double each item in a step of its own."""
    return await ctx.map("double", items, concurrency=concurrency)


@tool("double", effect="safe")
async def double(item: int) -> int:
    """Double."""
    return item * 2


@step("parent")
async def parent(ctx: Context, does: str = "double", given: Any = 4) -> Any:
    """Start a run of one step and wait for it."""
    return await ctx.run([{"name": "child", "tool": does, "input": {"item": given}}], goal="a child")


@tool("boom", effect="safe")
async def boom(item: Any = None) -> None:
    """Fail for good."""
    raise FatalError("boom")


@step("wrong")
async def wrong(ctx: Context) -> Any:
    """Charge, then fail for good."""
    await ctx.call("charge", amount=7)
    raise FatalError("it went wrong")


@step("both")
async def both(ctx: Context) -> Any:
    """Charge and ask at the same time: what is under way is recorded before the step waits."""
    return await asyncio.gather(ctx.call("charge", amount=1), ctx.ask("well?"))


@step("heedless")
async def heedless(ctx: Context, how: str = "breaks") -> list[Any]:
    """Send a letter, charge and ask at the same time, and take whatever comes of each for a result."""
    asked = ctx.call("mail", to="her", how=how), ctx.call("charge", amount=1), ctx.ask("well?")
    return [str(one) for one in await asyncio.gather(*asked, return_exceptions=True)]


@step("write")
async def write(ctx: Context, text: str, fails: int = 0, ends: bool = False) -> str:
    """Write a row together with the step's result."""
    async with ctx.transaction() as conn:
        await conn.execute("insert into notes (text) values (%s)", (text,))
        if ends:
            await conn.execute("commit")
    if ctx.attempt <= fails:
        raise RetryableError("not yet")
    return text


@step("stubborn")
async def stubborn(ctx: Context, fails: int) -> Any:
    """Read, and fail until it was tried often enough."""
    read = await ctx.call("read", what="price")
    if ctx.attempt <= fails:
        raise RetryableError("not yet")
    return read


@step("pausable")
async def pausable(ctx: Context) -> int:
    """Read, wait to be let on within the attempt, and charge."""
    await ctx.call("read", what="price")
    await GATES["go on"].wait()
    await ctx.call("double", item=1)
    return ctx.attempt


@step("gated")
async def gated(ctx: Context) -> str:
    """Fail for good at the first attempt, when told to."""
    await GATES["fail"].wait()
    if ctx.attempt == 1:
        raise FatalError("as told")
    return "well"


@step("half")
async def half(ctx: Context) -> str:
    """Fail while another call is under way, and go on without the one whose answer was lost."""
    try:
        await ctx.call("order", item="tea", breaks=True)
    except ConnectionError:
        return "without tea"
    return "with tea"


@tool("slow_charge", effect="idempotent")
async def slow_charge(ctx: Context, amount: int) -> int:
    """Charge when the gate opens."""
    CALLS["slow"].append((ctx.idempotency_key, amount))
    GATES["charged"].set()
    await GATES["slow"].wait()
    return amount


@step("beside")
async def beside(ctx: Context) -> Any:
    """Fail at the first attempt while a call of another task is under way."""

    async def fail() -> None:
        await GATES["charged"].wait()
        asyncio.get_running_loop().call_soon(GATES["slow"].set)
        if ctx.attempt == 1:
            raise RetryableError("not yet")

    done, _ = await asyncio.gather(ctx.call("slow_charge", amount=1), fail())
    return done


@tool("brief", effect="safe", timeout_s=0.05)
async def brief() -> None:
    """Take longer than it may."""
    await asyncio.Event().wait()


@step("impatient")
async def impatient(ctx: Context) -> None:
    """Call what takes too long."""
    await ctx.call("brief")
