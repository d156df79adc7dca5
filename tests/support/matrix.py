"""The tools of the kill matrix: one of each effect class, each wait, what undoes, what spawns, what writes rows."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from durable_agent import Context, FatalError, step, tool
from tests.support.receiver import call


@tool("safe", effect="safe")
async def safe(ctx: Context, n: int) -> Any:
    """Read."""
    return await call("safe", ctx.idempotency_key, str(ctx.run_id), n)


@tool("idempotent", effect="idempotent", compensate="undo")
async def idempotent(ctx: Context, n: int) -> Any:
    """Write, once a key."""
    return await call("idempotent", ctx.idempotency_key, str(ctx.run_id), n)


@tool("undo", effect="idempotent")
async def undo(ctx: Context, arguments: Any, result: Any) -> Any:
    """Undo."""
    return await call("undo", ctx.idempotency_key, str(ctx.run_id), arguments["n"])


async def looked_up(ctx: Context, n: int) -> Any:
    """Look a call up."""
    return await call("look-up", ctx.idempotency_key, str(ctx.run_id), n)


@tool("verified", effect="verify", verify=looked_up)
async def verified(ctx: Context, n: int) -> Any:
    """Write; it can be looked up."""
    return await call("verified", ctx.idempotency_key, str(ctx.run_id), n)


@tool("manual")
async def manual(ctx: Context, n: int) -> Any:
    """Write; nobody can tell."""
    return await call("manual", ctx.idempotency_key, str(ctx.run_id), n)


@step("effects")
async def effects(ctx: Context) -> list[Any]:
    """One of each."""
    stamp = ctx.uuid()
    done = [await ctx.call(name, n=n) for n, name in enumerate(("safe", "idempotent", "verified", "manual"))]
    await ctx.emit("stamped", str(stamp))
    return done


@step("waits")
async def waits(ctx: Context) -> list[Any]:
    """One of each wait."""
    grant = await ctx.approval("idempotent", {"n": 7}, prompt="May I?")
    done = await ctx.call("idempotent", grant, n=7)
    said = await ctx.ask("How many?")
    await ctx.sleep(timedelta(milliseconds=5))
    heard = await ctx.wait_for_signal("go")
    spawned = await ctx.map("safe", [1, 2], concurrency=1, argument="n")
    child = await ctx.run([{"name": "child", "tool": "idempotent", "input": {"n": 8}}])
    return [done, said, heard, spawned, child["status"], child["output"]]


@step("note")
async def note(ctx: Context) -> str:
    """A row with the result."""
    async with ctx.transaction() as conn:
        await conn.execute("insert into notes (run) values (%s)", (str(ctx.run_id),))
    return "noted"


@step("fails")
async def fails(ctx: Context) -> None:
    """The end: what was done is undone."""
    raise FatalError("and now undo it all")
