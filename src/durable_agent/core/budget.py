"""Budgets by reservation: what a call may cost at most is held before it is made, and what it did cost is charged after.

A run's whole tree spends one budget, and its agent's beside it; each has meters, each meter a cap. A call is admitted only
when every meter can hold its upper bound, so that no number of parallel calls, whenever they are killed, overshoots.
Source: escrow counters, O'Neil, "The Escrow Transactional Method", ACM TODS 11(4), 1986.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

TOKENS, MICROUSD, TOOLS, WALL_CLOCK = "tokens", "microusd", "tools", "wall_clock_s"
TOOL_PREFIX: Final = "tool:"
# A rolling window is kept in so many slices; the oldest leaves the sum when it is wholly outside.
SLICES: Final = 60


@dataclass(slots=True)
class Budget:
    """One meter of a run's tree or of an agent, under its row's lock. `window_s` 0: over the whole life."""

    scope: str
    meter: str
    window_s: int
    cap: int
    spent: int
    reserved: int
    on_limit: str

    @property
    def free(self) -> int:
        """What may still be reserved."""
        return max(0, self.cap - self.spent - self.reserved)


@dataclass(frozen=True, slots=True)
class Exceeded:
    """The budget that does not hold what a call may cost."""

    budget: Budget
    wanted: int

    def facts(self) -> dict[str, Any]:
        """Return what events and errors say of it."""
        one = self.budget
        facts: dict[str, Any] = {
            "scope": one.scope, "meter": one.meter, "cap": one.cap, "spent": one.spent, "reserved": one.reserved,
            "wanted": self.wanted,
        }  # fmt: skip
        return {"budget": facts | ({"window_s": one.window_s} if one.window_s else {})}


@dataclass(frozen=True, slots=True)
class Unbounded:
    """A meter that is limited, and of which nobody can say what the call costs at most."""

    meter: str


def counts(meter: str) -> bool:
    """Whether a meter counts calls: then what is reserved is what is spent."""
    return meter == TOOLS or meter.startswith(TOOL_PREFIX)


def of_tool(name: str) -> dict[str, int]:
    """Return what the call of a tool takes of a budget."""
    return {TOOLS: 1, TOOL_PREFIX + name: 1}


def admit(
    budgets: Iterable[Budget], wanted: Mapping[str, int | None], *, force: bool = False
) -> Exceeded | Unbounded | None:
    """Reserve what is wanted from every budget that meters it, or from none; None when it is admitted.

    With `force` nothing is refused: what has no bound is charged when it is known.
    """
    touched: list[tuple[Budget, int]] = []
    for budget in budgets:
        if budget.meter not in wanted:
            continue
        amount = wanted[budget.meter]
        if not force and amount is None:
            return Unbounded(budget.meter)
        if not force and amount is not None and amount > budget.free:
            return Exceeded(budget, amount)
        touched.append((budget, amount or 0))
    for budget, amount in touched:
        if counts(budget.meter):
            budget.spent += amount
        else:
            budget.reserved += amount
    return None


def charge(budget: Budget, *, reserved: int, spent: int) -> None:
    """End a reservation with what was spent in truth. A meter that came later than the reservation held none of it."""
    budget.reserved = max(0, budget.reserved - reserved)
    budget.spent = max(0, budget.spent + spent)


def slice_of(now_s: float, window_s: int) -> int:
    """Return the number of the slice of a rolling window that a time (seconds since the epoch) falls into.

    One that is partly outside the window still counts whole, so the sum is never too low.
    """
    return int(now_s * SLICES // window_s)
