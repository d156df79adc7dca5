"""A worker's way through the gates of providers and tools: who waits together asks together, and what is open costs nothing.

A gate that limits nothing and works is asked about every few seconds. One that limits is asked for every passage, in one
question for all who wait; whether it was shut meanwhile, the commit of each call's intent tells.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from durable_agent.core.gate import Heard, Passing
from durable_agent.errors import (
    DatabaseUnavailable,
    FatalError,
    RateLimited,
    RetryableError,
    StepError,
    UnknownOutcome,
)
from durable_agent.telemetry import logger

T = TypeVar("T")

log = logger("gates")

# How long a gate that was found open and without limits is taken for that.
KNOWN_S = 2.0
# An attempt that would wait for longer gives its slot back and is made again then.
PATIENCE_S = 30.0
# While slots are in use, the engine is told so this often.
KEEP_S = 5.0
MAX_ASKED = 64
# A passage that is used so long after its time would make a second hold more than the rate (see `core.gate.MARGIN`).
LATE_S = 0.04


class Asks(Protocol):
    """What the gates need of the engine."""

    async def passing(self, name: str, tokens: list[int], in_use: int) -> Passing: ...

    async def heard(self, name: str, what: Heard, wait_s: float | None, error: str | None) -> None: ...

    async def hold_slots(self, name: str, slots: int) -> None: ...


@dataclass(slots=True)
class Line:
    """Those who wait at one gate, and what is known of it. `in_use` are the passages given out and not given back.

    Where the engine counts slots, `told` is what it believes this worker holds; one task alone asks and tells, so that no
    answer is overtaken by an older number.
    """

    name: str
    waiting: list[tuple[int, asyncio.Future[float]]] = field(default_factory=list)
    in_use: int = 0
    told: int | None = 0
    counted: bool = False
    open_until_s: float = 0.0
    limited: bool = False
    careful: bool = False
    speaker: asyncio.Task[None] | None = None
    freed: asyncio.Event = field(default_factory=asyncio.Event)


class Gates:
    """The gates one worker passes. `run` is owned by the worker's task group."""

    def __init__(self, asks: Asks) -> None:
        self._asks = asks
        self._lines: dict[str, Line] = {}
        self._reports: asyncio.Queue[tuple[str, Heard, float | None, str | None]] = asyncio.Queue()

    async def run(self) -> None:
        """Tell the engine what was heard and which slots are in use, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(KEEP_S):
                    report = await self._reports.get()
            except TimeoutError:
                self._keep()
                continue
            await self._tell(*report)

    async def _tell(self, name: str, what: Heard, wait_s: float | None, error: str | None) -> None:
        try:
            await self._asks.heard(name, what, wait_s, error)
        except DatabaseUnavailable:
            return  # the next failure tells it again

    def _keep(self) -> None:
        for line in self._lines.values():
            if line.in_use or line.told != 0:
                line.told = None
                self._slots_changed(line)

    def forget(self, name: str) -> None:
        """Take note that what was known of a gate is no longer true."""
        self._line(name).open_until_s = 0.0

    async def passed(self, name: str, tokens: int) -> Pass:
        """Return when the gate lets the caller through. Raises RateLimited when that takes longer than an attempt waits."""
        line = self._line(name)
        if time.monotonic() < line.open_until_s and not line.limited:
            line.in_use += 1
        else:
            await self._given(line, tokens)
        return Pass(self, line, time.monotonic())

    async def _given(self, line: Line, tokens: int) -> None:
        """Return at the time of the passage that was asked for; given up before, it is given back."""
        future: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        line.waiting.append((tokens, future))
        self._speak(line)
        try:
            start_s = await future
            if (early_s := start_s - time.monotonic()) > 0:
                await asyncio.sleep(early_s)
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self.free(line)
            raise

    def _line(self, name: str) -> Line:
        return self._lines.setdefault(name, Line(name))

    def _speak(self, line: Line) -> None:
        if line.speaker is None or line.speaker.done():
            line.speaker = asyncio.create_task(self._ask(line), name=f"gate {line.name}")

    def free(self, line: Line) -> None:
        """Give a passage back; where slots are counted, the engine hears of it."""
        line.in_use -= 1
        self._slots_changed(line)

    def _slots_changed(self, line: Line) -> None:
        if line.counted:
            line.freed.set()
            self._speak(line)

    async def _ask(self, line: Line) -> None:
        """Ask for all who wait and tell what is held, until there is nothing to say; whatever goes wrong, they hear of it."""
        try:
            while True:
                line.freed.clear()
                line.waiting = [(tokens, future) for tokens, future in line.waiting if not future.done()]
                if line.waiting:
                    await self._ask_for_all(line)
                elif line.counted and line.told != (held := line.in_use):
                    await self._asks.hold_slots(line.name, held)
                    line.told = held
                else:
                    return
        except DatabaseUnavailable as error:
            line.told = None  # until the next question, or `_keep`
            self._refuse(line, RetryableError(error.message))
        except Exception as error:
            log.error("gate_failed", gate=line.name, error=f"{type(error).__name__}: {error}")
            self._refuse(line, RetryableError(f"{line.name} cannot be asked: {error}"))

    async def _ask_for_all(self, line: Line) -> None:
        batch, held, asked_s = line.waiting[:MAX_ASKED], line.in_use, time.monotonic()
        answer = await self._asks.passing(line.name, [tokens for tokens, _ in batch], held)
        line.limited, line.careful, line.counted = answer.limits, answer.careful, answer.counted
        line.told = held + len(answer.starts)
        if not (answer.limits or answer.careful):
            line.open_until_s = asked_s + KNOWN_S
        for (_, future), start_s in zip(batch, answer.starts, strict=False):
            if not future.done():
                # Counted here and not where the caller wakes: the next question must not deny what this one gave.
                line.in_use += 1
                future.set_result(asked_s + start_s)
        line.waiting = line.waiting[len(answer.starts) :]
        if line.waiting and len(answer.starts) != len(batch):
            if answer.wait_s > PATIENCE_S:
                why = f"{line.name} lets nothing through ({answer.why})"
                self._refuse(line, RateLimited(why, retry_after_s=answer.wait_s))
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(answer.wait_s + 0.001):
                    await line.freed.wait()

    def _refuse(self, line: Line, error: Exception) -> None:
        for _, future in line.waiting:
            if not future.done():
                future.set_exception(error)
        line.waiting = []

    def left(self, line: Line, error: BaseException | None) -> None:
        """Take note that a call behind the gate ended; whether it worked is told where it matters."""
        name = line.name
        self.free(line)
        match error:
            case None | FatalError():
                # A refusal is an answer, too: the other side works.
                if line.careful:
                    line.careful = False
                    self._report(name, Heard.WORKED, None, None)
            case RateLimited():
                self.forget(name)
                self._report(name, Heard.HELD, error.retry_after_s, str(error))
            case RetryableError() | UnknownOutcome() | TimeoutError() | ConnectionError():
                self.forget(name)
                line.careful = True
                self._report(name, Heard.FAILED, None, str(error) or type(error).__name__)
            case StepError() | Exception() | BaseException():
                pass  # says nothing of the other side

    def _report(self, name: str, what: Heard, wait_s: float | None, error: str | None) -> None:
        self._reports.put_nowait((name, what, wait_s, error))


@dataclass(slots=True)
class Pass:
    """A passage through a gate; `through` uses it, `give_back` says that it was not."""

    gates: Gates
    line: Line
    since_s: float

    async def through(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make the call and take note of how it ended."""
        try:
            result = await call()
        except BaseException as error:
            self.gates.left(self.line, error)
            raise
        self.gates.left(self.line, None)
        return result

    def late(self) -> bool:
        """See `flow.link.Passage.late`."""
        return self.line.limited and time.monotonic() > self.since_s + LATE_S

    def give_back(self) -> None:
        """Free the slot: the call is not made."""
        self.gates.free(self.line)
        self.gates.forget(self.line.name)


def no_gate() -> Any:
    """Return a passage through no gate."""
    return _Open()


class _Open:
    async def through(self, call: Callable[[], Awaitable[T]]) -> T:
        return await call()

    def late(self) -> bool:
        return False

    def give_back(self) -> None:
        return None
