"""Tools that return, send and emit what no database takes, and some that are only large."""

from __future__ import annotations

from typing import Any

from durable_agent import Context, FatalError, RetryableError, Step, step, tool
from tests.support.outside import CALLS


def value(how: str) -> Any:
    """Return something hostile."""
    match how:
        case "surrogate":
            return "\ud800"
        case "nan":
            return float("nan")
        case "huge":
            return "x" * 200_000_000
        case "deep":
            made: Any = []
            for _ in range(100_000):
                made = [made]
            return made
        case "bytes":
            return b"\xff"
        case "cycle":
            ring: list[Any] = []
            ring.append(ring)
            return ring
        case "bigint":
            return 2**64
        case "nul":
            return "a\x00b"
        case _:
            return object()


@tool("give", effect="safe")
async def give(how: str) -> Any:
    """Return something hostile."""
    return value(how)


@tool("take", effect="safe")
async def take(given: Any) -> None:
    """Take anything."""


@step("hostile")
async def hostile(ctx: Context, how: str, where: str) -> Any:
    """Be hostile in one of the places where a value is stored."""
    match where:
        case "effect":
            return await ctx.call(give, how=how)
        case "event":
            await ctx.emit("hostile", value(how))
            return None
        case "argument":
            return await ctx.call(take, given=value(how))
        case _:
            return value(how)


@tool("large", effect="safe")
async def large(size: int) -> str:
    """Return a large text."""
    return "x" * size


@tool("length", effect="safe")
async def length(ctx: Context) -> dict[str, int]:
    """Measure the parents."""
    return {name: len(output) for name, output in ctx.parents.items()}


@tool("big", effect="safe")
async def big(ctx: Context, size: int) -> str:
    """Return a large text, counted."""
    CALLS["big"].append((ctx.idempotency_key, size))
    return "x" * size


@step("resumes")
async def resumes(ctx: Context, size: int) -> list[int]:
    """Fail once after a large effect."""
    first = await ctx.call(big, size=size)
    if ctx.attempt == 1:
        raise RetryableError("once more")
    return [len(first), size]


@tool("report", effect="safe", compensate="unreport")
async def report(size: int) -> dict[str, Any]:
    """Return something large that has a small part."""
    return {"ok": True, "text": "x" * size}


@tool("unreport", effect="safe")
async def unreport(result: dict[str, Any]) -> list[Any]:
    """Tell what is to be undone."""
    return [result["ok"], len(result["text"])]


@tool("refuses", effect="safe")
async def refuses() -> None:
    """Fail for good."""
    raise FatalError("no")


@step("reports")
async def reports(ctx: Context, size: int) -> list[Any]:
    """Measure the reports of steps and of a run of its own."""
    mapped = await ctx.map("report", [size, size + 1], argument="size")
    ended = await ctx.run([Step("inner", "report", input={"size": size + 2})])
    return [[one["ok"], len(one["text"])] for one in (*mapped, ended["output"]["inner"])]


@tool("nested", effect="safe", compensate="unnested")
async def nested(levels: int) -> Any:
    """Return lists in lists, so many in all."""
    made: list[Any] = []
    for _ in range(levels - 1):
        made = [made]
    return made


@tool("unnested", effect="safe")
async def unnested(result: Any) -> Any:
    """Return what is to be undone."""
    return result


@step("nests")
async def nests(ctx: Context, levels: int, how: str) -> None:
    """Have something nested made by a step that is added, or by a run."""
    if how == "map":
        await ctx.map("nested", [levels], argument="levels")
        return
    ended = await ctx.run([Step("inner", "nested", input={"levels": levels})])
    if ended["status"] != "completed":
        raise FatalError(f"the run is {ended['status']}")


@tool("disguised", effect="safe")
async def disguised() -> dict[str, Any]:
    """Return what looks like what stands for something large."""
    return {"$artifact": "0" * 64, "bytes": 1}


@step("unmasks")
async def unmasks(ctx: Context) -> bool:
    """Tell whether what is disguised comes as it was given, from a step and from a call."""
    called = await ctx.call(disguised)
    return called == await disguised() == ctx.parents["disguised"]


@step("files")
async def files(ctx: Context) -> None:
    """Store two files."""
    await ctx.artifact("page.html", "<script>alert(1)</script>\n", media_type="text/html")
    await ctx.artifact("raw.bin", b"\x00\x01\x02")
