"""An event loop whose time is virtual and whose order is drawn from a seed: the same seed, the same history.

Each callback belongs to a process, by the context it was made in. A process that is frozen keeps its callbacks until it
is woken, while time goes on without it; one that is killed never runs again, wherever it stood. Within one process the
order is asyncio's own, first come, first served; between processes the seed decides.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from random import Random
from typing import Any

from durable_agent.errors import innermost

# So many callbacks at most in one history: more is a defect of whoever spins.
MOST = 2_000_000


class Spinning(Exception):
    """Somebody is busy for ever and waits for nothing."""


class Process:
    """Somebody who may be killed or frozen at any of its awaits. `turns` counts the callbacks that ran."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.turns = 0
        self.frozen = False
        self.dead = False
        self.busy = False
        self.ready: deque[asyncio.Handle] = deque()
        self.fuses: list[tuple[int, int, Callable[[], None]]] = []
        self._lit = 0

    def after(self, turns: int, happens: Callable[[], None]) -> None:
        """Let something happen so many turns from now, between two awaits of whatever runs then."""
        self._lit += 1
        heapq.heappush(self.fuses, (self.turns + turns, self._lit, happens))

    def kill(self) -> None:
        """Never run again; what it had sent is on its way."""
        self.dead = True
        self.ready.clear()


_OF: ContextVar[Process | None] = ContextVar("process", default=None)


class VirtualLoop(asyncio.BaseEventLoop):
    """The loop. What belongs to nobody is `outside`: the database, the network and whoever plays."""

    def __init__(self, random: Random) -> None:
        super().__init__()
        self._random = random
        self._now_s = 0.0
        self._busy: list[Process] = []
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._set = 0
        self.outside = Process("outside")
        self.turns = 0
        self.errors: list[str] = []
        self.set_exception_handler(lambda _loop, _said: None)

    def time(self) -> float:
        """Return the virtual time, in seconds from 0."""
        return self._now_s

    def spawn(self, process: Process, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start a task that belongs to a process, with all that it starts."""
        task = self.context_of(process).run(lambda: self.create_task(work))
        task.add_done_callback(self._ended)
        return task

    def context_of(self, process: Process) -> Context:
        """Return a context: what is made in it belongs to the process."""
        context = copy_context()
        context.run(_OF.set, process)
        return context

    def thaw(self, process: Process) -> None:
        """Let a frozen process go on with what has become due meanwhile."""
        process.frozen = False
        self._wake(process)

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:  # fmt: skip
        """See `asyncio.loop.call_soon`."""
        handle = asyncio.Handle(callback, args, self, context)
        self._put(handle)
        return handle

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """See `asyncio.loop.call_at`."""
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._set += 1
        heapq.heappush(self._timers, (when, self._set, handle))
        return handle

    def clear(self) -> None:
        """Forget whatever was to happen."""
        self._busy.clear()
        self._timers.clear()

    def _put(self, handle: asyncio.Handle) -> None:
        process = handle._context.get(_OF) or self.outside  # type: ignore[attr-defined]
        if not process.dead:
            process.ready.append(handle)
            self._wake(process)

    def _wake(self, process: Process) -> None:
        if process.ready and not (process.busy or process.frozen or process.dead):
            process.busy = True
            self._busy.append(process)

    def _run_once(self) -> None:
        busy = self._busy
        while busy and not self._stopping:  # type: ignore[attr-defined]
            index = self._random.randrange(len(busy)) if len(busy) > 1 else 0
            process = busy[index]
            if process.dead or process.frozen or not process.ready:
                process.busy = False
                busy.pop(index)
                continue
            handle = process.ready.popleft()
            if not handle.cancelled():
                self._turn(process, handle)
        if not busy and not self._stopping:  # type: ignore[attr-defined]
            self._next_time()

    def _turn(self, process: Process, handle: asyncio.Handle) -> None:
        self.turns += 1
        if self.turns > MOST:
            raise Spinning(f"{MOST} callbacks, and no end")
        process.turns += 1
        handle._run()
        while process.fuses and process.fuses[0][0] <= process.turns and not process.dead:
            heapq.heappop(process.fuses)[2]()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.errors.append(f"{task.get_name()}: {innermost(error)!r}")

    def _next_time(self) -> None:
        """Go to the next moment at which anything is due."""
        timers = self._timers
        while timers and timers[0][2].cancelled():
            heapq.heappop(timers)
        if not timers:
            raise Spinning("nobody is busy, and nothing is due: the history cannot end")
        self._now_s = max(self._now_s, timers[0][0])
        while timers and timers[0][0] <= self._now_s:
            handle = heapq.heappop(timers)[2]
            if not handle.cancelled():
                self._put(handle)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass  # it is skipped when its time comes

    def _write_to_self(self) -> None:
        pass  # there is one thread

    def _process_events(self, event_list: Any) -> None:
        pass
