"""The budgets of runs in the simulated store: reserved with the intent, charged with the result or the lost lease."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from uuid import UUID

from durable_agent.core import budget
from durable_agent.core.budget import Exceeded, Unbounded
from durable_agent.core.outcomes import Used, Verdict
from durable_agent.core.states import RunEvent
from durable_agent.testing.simulation.clock import Moment
from durable_agent.testing.simulation.mutants import Mutant
from durable_agent.testing.simulation.rows import RunRow


@dataclass(slots=True)
class Purse:
    """What one transaction does to budgets; `exhausted` are the runs that ended by it."""

    at: Moment
    mutant: Mutant | None
    exhausted: dict[UUID, Exceeded] = field(default_factory=dict)
    paused: list[RunRow] = field(default_factory=list)

    def afford(self, run: RunRow, wanted: Mapping[str, int | None]) -> Verdict | None:
        """Reserve what a call may cost; the verdict that refuses it when a budget does not hold that."""
        if run.id in self.exhausted:
            return Verdict.EXHAUSTED
        late = self.mutant is Mutant.CHECK_THEN_SPEND
        match budget.admit([replace(b) for b in run.budgets] if late else run.budgets, wanted):
            case None:
                return None
            case Unbounded():
                return Verdict.UNBOUNDED
            case Exceeded() as found if found.budget.on_limit == "pause":
                run.move(self.at.us, RunEvent.PAUSED, by="engine", reason="budget", **found.facts())
                self.paused.append(run)
                return Verdict.PAUSED
            case Exceeded() as found:
                self.exhausted[run.id] = found
                return Verdict.EXHAUSTED

    def end(self, run: RunRow, reserved: Mapping[str, int | None], used: Used | None) -> None:
        """End a reservation and charge what was used."""
        spent = used.spent if used is not None else {}
        for one in run.budgets:
            if not budget.counts(one.meter):
                budget.charge(one, reserved=reserved.get(one.meter) or 0, spent=spent.get(one.meter) or 0)

    def late(self, run: RunRow, name: str) -> None:
        """The mutant's charge for a call, after it."""
        if self.mutant is Mutant.CHECK_THEN_SPEND:
            for one in run.budgets:
                if one.meter in budget.of_tool(name):
                    one.spent += 1

    def charge(self, run: RunRow, steps: Iterable[int] | None) -> None:
        """Charge what the leases of some steps that ended (of all, for a run that did) still held."""
        own = None if steps is None else set(steps)
        if not any(one.reserved for one in run.budgets):
            return
        for row in run.effects.values():
            if row.reserved is None or (own is not None and row.step not in own):
                continue
            for one in run.budgets:
                amount = row.reserved.get(one.meter) or 0
                budget.charge(one, reserved=amount, spent=amount)
            row.reserved = None
