"""What goes wrong between a process and the database, and the way there: a message may be lost, or only its answer."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

from durable_agent.errors import DatabaseUnavailable

T = TypeVar("T")


@dataclass(slots=True)
class Weather:
    """How likely each fault is, until `calm_s`; `landed` counts those that took place, and no others."""

    random: Random
    calm_s: float
    lost: float = 0.0
    unheard: float = 0.0
    slow: float = 0.0
    slow_s: float = 0.0
    deaf: float = 0.0
    twice: float = 0.0
    aimed: float = 0.0
    outages: list[tuple[float, float]] = field(default_factory=list)
    landed: Counter[str] = field(default_factory=Counter)

    @classmethod
    def drawn(cls, random: Random, calm_s: float, *, ttl_s: float) -> Weather:
        """Return one weather: most seeds have some faults, some have all of them, a few have none."""

        def some(most: float) -> float:
            return random.choice((0.0, random.random() * most))

        made = cls(
            random, calm_s, lost=some(0.1), unheard=some(0.15), slow=some(0.1), slow_s=random.random() * 1.5 * ttl_s,
            deaf=some(0.9), twice=some(0.5), aimed=some(0.8),
        )  # fmt: skip
        for _ in range(random.choice((0, 0, 1, 2))):
            begin_s = random.random() * calm_s
            made.outages.append((begin_s, min(calm_s, begin_s + random.random() * 2.0 * ttl_s)))
        return made

    def away(self, now_s: float) -> bool:
        """Whether the database is away."""
        return any(begin <= now_s < end for begin, end in self.outages)

    def strikes(self, chance: float, now_s: float) -> bool:
        """Whether a fault of that chance strikes now."""
        return now_s < self.calm_s and chance > 0.0 and self.random.random() < chance

    def delay_s(self, now_s: float) -> float:
        """Return how long a message takes."""
        if self.strikes(self.slow, now_s):
            self.landed["message delayed"] += 1
            return self.random.random() * self.slow_s
        return 0.0005 + self.random.random() * 0.002


@dataclass(slots=True)
class Wire:
    """A process's way to the database. What was sent takes place, whatever becomes of the sender meanwhile."""

    loop: asyncio.AbstractEventLoop
    weather: Weather
    outside: Context

    @property
    def now_s(self) -> float:
        """The process's own clock."""
        return self.loop.time()

    async def ask(self, act: Callable[[], T]) -> T:
        """Return what the database says. Raises DatabaseUnavailable: before the command, or after it."""
        future: asyncio.Future[T] = self.loop.create_future()
        own, now_s = copy_context(), self.loop.time()
        lost = self.weather.strikes(self.weather.lost, now_s)
        delay_s = self.weather.delay_s(now_s)

        def tell(result: T | None, error: Exception | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type]

        def arrive() -> None:
            now_s, result = self.loop.time(), None
            error: Exception | None = None
            if lost or self.weather.away(now_s):
                self.weather.landed["message lost" if lost else "database away"] += 1
                error = DatabaseUnavailable("it was not reached")
            else:
                try:
                    result = act()
                except Exception as told:
                    error = told
                if self.weather.strikes(self.weather.unheard, now_s):
                    self.weather.landed["answer lost"] += 1
                    result, error = None, DatabaseUnavailable("nobody knows whether it took place")
            self.loop.call_later(self.weather.delay_s(now_s), tell, result, error, context=own)

        self.loop.call_later(delay_s, arrive, context=self.outside)
        return await future
