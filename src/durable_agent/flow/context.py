"""What a handler knows about the attempt it is part of, and what it may say while it runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from uuid import UUID

from durable_agent.core.records import Claim

Emit = Callable[[str, Any], Awaitable[None]]


class Context:
    """One attempt of one step, as its handler sees it."""

    def __init__(self, claim: Claim, emit: Emit) -> None:
        self._claim = claim
        self._emit = emit

    @property
    def run_id(self) -> UUID:
        """The run's id."""
        return self._claim.lease.run_id

    @property
    def step(self) -> str:
        """The step's name."""
        return self._claim.name

    @property
    def attempt(self) -> int:
        """Which try this is, from 1; a lost lease does not count."""
        return self._claim.attempt

    @property
    def idempotency_key(self) -> str:
        """A key for the outside world: the same at every attempt of this step, another for every other step."""
        return self._claim.idempotency_key

    @property
    def goal(self) -> str | None:
        """The run's goal, if it has one."""
        return self._claim.goal

    @property
    def run_input(self) -> Any:
        """The run's input."""
        return self._claim.run_input

    @property
    def input(self) -> Any:
        """The step's input as submitted."""
        return self._claim.input

    @property
    def parents(self) -> Mapping[str, Any]:
        """The outputs of the succeeded steps this one waited for, by name."""
        return self._claim.parents

    async def emit(self, type: str, data: Any = None) -> None:
        """Record an event of the author's own; it reaches watchers once committed, and only while the lease is held.

        Raises LeaseLost (which an `except Exception` does not catch).
        """
        await self._emit(type, data)

    async def progress(self, fraction: float, text: str = "") -> None:
        """Tell watchers how far the step is: a fraction from 0 to 1 and a word to it."""
        await self._emit("progress", {"fraction": min(1.0, max(0.0, float(fraction))), "text": text})
