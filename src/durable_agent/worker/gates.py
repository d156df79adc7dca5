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
from typing import Final, TypeVar

from durable_agent.core.gate import AHEAD_S, Heard
from durable_agent.core.port import Gatekeeper
from durable_agent.core.text import plain
from durable_agent.errors import (
    DatabaseUnavailable,
    FatalError,
    RateLimited,
    RetryableError,
    UnknownOutcome,
)
from durable_agent.flow.link import Passage
from durable_agent.tasks import ended
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
# What is to be told when the worker ends may take so long: others wait for its slots no longer than they live.
LEAVE_S = 2.0


@dataclass(slots=True)
class Line:
    """Those who wait at one gate, and what is known of it. `in_use` are the passages given out and not given back.

    Where the engine counts slots, `told` is what it believes this worker holds; one task alone asks and tells, so that no
    answer is overtaken by an older number. `lead_s` is how long it took of late from a passage to its use.
    """

    name: str
    waiting: list[tuple[int, asyncio.Future[float]]] = field(default_factory=list)
    in_use: int = 0
    told: int | None = 0
    counted: bool = False
    open_until_s: float = 0.0
    limited: bool = False
    paced: bool = False
    lead_s: float = 0.0
    careful: bool = False
    speaker: asyncio.Task[None] | None = None
    freed: asyncio.Event = field(default_factory=asyncio.Event)


class Gates:
    """The gates one worker passes, open as a context: on leaving, no slot is held by it any more."""

    def __init__(self, keeper: Gatekeeper, *, now_s: Callable[[], float] = time.monotonic) -> None:
        self.now_s = now_s
        self._keeper = keeper
        self._lines: dict[str, Line] = {}
        self._reports: asyncio.Queue[tuple[str, Heard, float | None, str | None]] = asyncio.Queue()
        self._tasks = asyncio.TaskGroup()
        self._loops: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Gates:
        await self._tasks.__aenter__()
        self._loops = [self._tasks.create_task(loop) for loop in (self._tell_all(), self._keep_on())]
        return self

    async def __aexit__(self, *error: object) -> None:
        try:
            with suppress(TimeoutError, DatabaseUnavailable):
                async with asyncio.timeout(LEAVE_S):
                    await self._leave()
        finally:
            await ended([*self._loops, *(line.speaker for line in self._lines.values() if line.speaker is not None)])
            # Told of no error, the group waits for its tasks and wraps nothing.
            await self._tasks.__aexit__(None, None, None)

    async def _leave(self) -> None:
        await self._reports.join()
        for line in self._lines.values():
            if line.speaker is not None:
                line.freed.set()  # nobody waits any more
                await asyncio.wait([line.speaker])
            if line.counted and line.told != 0:
                await self._keeper.hold_slots(line.name, 0)

    async def _tell_all(self) -> None:
        while True:
            name, what, wait_s, error = await self._reports.get()
            try:
                await self._keeper.heard(name, what, wait_s, error)
            except DatabaseUnavailable:
                pass  # the next failure tells it again
            except Exception as error_:
                log.error("gate_failed", gate=name, error=f"{type(error_).__name__}: {error_}")
            finally:
                self._reports.task_done()

    async def _keep_on(self) -> None:
        while True:
            await asyncio.sleep(KEEP_S)
            self._keep()

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
        start_s = self.now_s()
        if start_s < line.open_until_s and not line.limited:
            line.in_use += 1
        else:
            start_s = await self._given(line, tokens)
        return Pass(self, line, start_s, self.now_s())

    async def _given(self, line: Line, tokens: int) -> float:
        """Return the time of the passage that was asked for, so much before it as the caller has to do until then.

        Given up before, it is given back.
        """
        future: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        line.waiting.append((tokens, future))
        self._speak(line)
        try:
            start_s = await future
            await self.sleep_until(start_s - line.lead_s)
            return start_s
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self.free(line)
            raise

    async def sleep_until(self, time_s: float) -> None:
        """Return at a time of the gates' clock, at once if it is over."""
        if (early_s := time_s - self.now_s()) > 0:
            await asyncio.sleep(early_s)

    def _line(self, name: str) -> Line:
        return self._lines.setdefault(name, Line(name))

    def _speak(self, line: Line) -> None:
        if line.speaker is None or line.speaker.done():
            line.speaker = self._tasks.create_task(self._ask(line), name=f"gate {line.name}")

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
                    await self._keeper.hold_slots(line.name, held)
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
        batch, held, asked_s = line.waiting[:MAX_ASKED], line.in_use, self.now_s()
        answer = await self._keeper.passing(line.name, [tokens for tokens, _ in batch], held)
        line.limited, line.paced, line.careful, line.counted = (
            answer.limits,
            answer.paced,
            answer.careful,
            answer.counted,
        )
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
            case _:
                pass  # says nothing of the other side

    def _report(self, name: str, what: Heard, wait_s: float | None, error: str | None) -> None:
        self._reports.put_nowait((name, what, wait_s, plain(error) if error else None))


@dataclass(slots=True)
class Pass:
    """A passage through a gate from a time on; `through` uses it, `give_back` says that it was not."""

    gates: Gates
    line: Line
    start_s: float
    given_s: float

    async def through(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make the call, not before its time, and take note of how it ended."""
        self._took()
        try:
            await self.gates.sleep_until(self.start_s)
            result = await call()
        except BaseException as error:
            self.gates.left(self.line, error)
            raise
        self.gates.left(self.line, None)
        return result

    def late(self) -> bool:
        """See `flow.link.Passage.late`."""
        return self.line.paced and self.gates.now_s() > self.start_s + LATE_S

    def give_back(self) -> None:
        """Free the slot: the call is not made."""
        self._took()
        self.gates.free(self.line)
        self.gates.forget(self.line.name)

    def _took(self) -> None:
        # The longest of late: one that was passed again has little to do until its use.
        took_s = self.gates.now_s() - self.given_s
        self.line.lead_s = min(AHEAD_S, max(took_s, 0.9 * self.line.lead_s))


class _NoGate:
    async def through(self, call: Callable[[], Awaitable[T]]) -> T:
        return await call()

    def late(self) -> bool:
        return False

    def give_back(self) -> None:
        return None


# A passage through no gate.
NO_GATE: Final[Passage] = _NoGate()
