"""Tools that do the same in the worker's process and in one of their own, and some that only end the latter."""

from __future__ import annotations

import asyncio
import atexit
import fcntl
import os
import signal
import subprocess
import sys
import threading
from datetime import date
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, SecretStr

from durable_agent import Context, FatalError, StepError, UnknownOutcome, step, tool
from durable_agent.artifacts import StoreUnavailable


class Point(BaseModel):
    """A place."""

    x: int
    y: int = 2


Doubled = Annotated[int, BeforeValidator(lambda given: int(given) * 2)]


class Busy(StepError):
    """A class of an author's, made of more than words."""

    failure_class = "rate_limited"

    def __init__(self, who: str, seconds: float) -> None:
        super().__init__(f"{who} is busy", retry_after_s=seconds)
        self.who = who


class Odd(Exception):
    """Another, which says something else than it was made of."""

    def __init__(self, code: int, *, where: str) -> None:
        super().__init__(code)
        self.where = where

    def __str__(self) -> str:
        return f"{self.args[0]} at {self.where}"


class Mute(Exception):
    """One that cannot be said."""

    def __str__(self) -> str:
        raise ValueError("no words")


@tool("given_inline", effect="safe")
def given_inline(point: Point, raw: bytes, some: set[int], on: date, secret: SecretStr, twice: Doubled = 1) -> str:
    """Tell what arrived."""
    return repr((point, raw, some, on, secret.get_secret_value(), twice))


@tool("given_child", effect="safe", isolation="process")
def given_child(point: Point, raw: bytes, some: set[int], on: date, secret: SecretStr, twice: Doubled = 1) -> str:
    """Tell what arrived, in a process of its own."""
    return repr((point, raw, some, on, secret.get_secret_value(), twice))


async def _group() -> None:
    async def fail(error: Exception) -> None:
        raise error

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(fail(FatalError("one of them")))


ERRORS: dict[str, BaseException] = {
    "bug": ValueError("a bug"), "network": ConnectionResetError(104, "reset"), "busy": Busy("it", 7.5),
    "final": FatalError("never"), "unknown": UnknownOutcome("who knows"),
    "late": TimeoutError("a call took too long"), "odd": Odd(5, where="home"), "exit": SystemExit(3),
    "huge": ValueError("x" * 3_000_000), "surrogate": ValueError("a \ud800 and a \x00"), "mute": Mute(),
    "store": StoreUnavailable("the store refuses"),
}  # fmt: skip


def outcome(how: str) -> Any:
    """Return something, or raise."""
    match how:
        case "model":
            return Point(x=1)
        case "keys":
            return {1: "a", "on": date(2026, 1, 2), "all": [Point(x=1)]}
        case "long":
            return "x" * 200_000
        case "set":
            return {1, 2}
        case "longer":
            return "x" * 300_000
        case "group":
            return asyncio.run(_group())
        case _:
            raise ERRORS[how]


@tool("ends_inline", effect="safe")
def ends_inline(how: str) -> Any:
    """End so."""
    return outcome(how)


@tool("ends_child", effect="safe", isolation="process")
def ends_child(how: str) -> Any:
    """End so in a process of its own."""
    return outcome(how)


@tool("sends_inline")
def sends_inline(how: str) -> Any:
    """Do what nobody may do again, and end so."""
    return outcome(how)


@tool("sends_child", isolation="process")
def sends_child(how: str) -> Any:
    """Do what nobody may do again in a process of its own, and end so."""
    match how:
        case "dies":
            os._exit(0)
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case _:
            return outcome(how)


@step("sends_by_call")
async def sends_by_call(ctx: Context, how: str) -> Any:
    """Call it."""
    return await ctx.call(sends_child, how=how)


@step("gives_by_call")
async def gives_by_call(ctx: Context, **given: Any) -> Any:
    """Call what tells what arrived, in both ways."""
    return [await ctx.call(given_inline, **given), await ctx.call(given_child, **given)]


@step("catches")
async def catches(ctx: Context) -> str:
    """Catch an author's class that a child raised."""
    try:
        await ctx.call(ends_child, how="busy")
    except Busy as error:
        return str(error)
    return "nothing"


@tool("noisy", effect="safe", isolation="process")
def noisy() -> int:
    """Write where an answer might be looked for, and end badly after it."""
    print("noise")
    os.write(1, b"noise")
    sys.stdout.flush()
    atexit.register(os._exit, 3)
    return len(sys.stdin.read())


@tool("forks", effect="safe", isolation="process")
def forks(place: str) -> int:
    """Leave a process behind that holds all that is open here, until somebody writes to it."""
    if os.fork() == 0:
        Path(place).read_bytes()
        os._exit(0)
    return 1


@tool("hangs_with_another", effect="safe", isolation="process")
def hangs_with_another(place: str) -> None:
    """Start another process, which holds a lock, and hang."""
    with open(place, "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.Popen(["sleep", "600"], pass_fds=(lock.fileno(),))
    threading.Event().wait()


@tool("context_of_child", effect="safe", isolation="process")
async def context_of_child(ctx: Context) -> list[Any]:
    """Tell what is known."""
    return [ctx.step, ctx.attempt, ctx.idempotency_key, dict(ctx.parents), ctx.limit_bytes, str(ctx.run_id)]
