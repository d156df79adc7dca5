"""The outside world: who takes calls, with or without knowing their keys, and logs each before it answers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from random import Random
from typing import Any

from durable_agent.errors import RateLimited, RetryableError, UnknownOutcome


@dataclass(slots=True)
class Receiver:
    """A receiver. `faulty_until_s`: until then it may refuse, or take a call and not answer."""

    random: Random
    faulty_until_s: float
    log: list[dict[str, Any]] = field(default_factory=list)
    known: dict[str, Any] = field(default_factory=dict)
    times: int = 0

    async def call(self, key: str, kind: str, run: str, step: str) -> Any:
        """Take a call and return its result. Raises what a client of it meets."""
        chance, calm = self.random.random(), asyncio.get_running_loop().time() >= self.faulty_until_s
        if not calm and chance < 0.08:
            raise RateLimited("come back", retry_after_s=1.0) if chance < 0.03 else RetryableError("not now")
        self.times += 1
        # Who knows keys gives the first result again; manual and verified calls go to one that does not.
        keeps = kind == "idempotent"
        result = self.known[key] if keeps and key in self.known else {"no": self.times}
        self.known.setdefault(key, result)
        line = {"key": key, "class": kind, "run": run, "step": step, "result": result}
        self.log.append(line)
        await asyncio.sleep(self.random.choice((0.001, 0.01, 0.2, 1.5)) * (0.5 + self.random.random()))
        if not calm and chance > 0.93:
            raise UnknownOutcome("it was sent and not answered")
        return result

    async def look_up(self, key: str) -> Any:
        """Return the result of the call with that key, or None if there was none."""
        await asyncio.sleep(self.random.choice((0.005, 1.0)) * (0.5 + self.random.random()))
        return self.known.get(key)
