"""What a check of a history comes to: figures, and violations each with the shortest excerpt that shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from durable_agent.testing.history.documents import Document, Event

# The names of the protocol's invariants; STATES is what the tables of `core.states` refuse and no other name covers.
STATES: Final = "states"
INVARIANTS: Final[Mapping[str, str]] = {
    "I1": "at most one success a step",
    "I2": "no success by a lease that was released, expired or cancelled before",
    "I3": "claim numbers 1, 2, 3",
    "I4": "between two claims of a step a release of the first",
    "I5": "final states absorb, save redrive",
    "I6": "a step is promoted once, when its parents are resolved, claimed only then, and never left behind",
    "I7": "one decision an approval, and what runs is what was approved, once",
    "I8": "schedules fire as their policy says, each instant at most once",
    "I9": "events of a run are 1..n and every watcher gets each once, in order",
    "I10": "equal idempotency key, equal run",
    "I11": "every external call has a committed intent with its key",
    "I12": "spent and reserved never exceed the limit, and nothing is reserved at rest",
    "I13": "the recomputed chain is the stored chain, and what lies outside of it has the digests it holds",
    "I14": "no row of another tenant",
    "P1": "when faults stop every run ends or waits for a named cause; none that was acknowledged is gone",
    "P2": "a step that kills its worker is sealed after max_crashes",
    "P3": "a ready step is claimed within one poll",
    "P4": "no deadlock",
    STATES: "what the machines' tables do not have does not happen, and rows are what their events say",
}


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant that a history breaks. `excerpt` are the events and log lines that show it, and no others."""

    invariant: str
    run: str | None
    message: str
    excerpt: tuple[Document, ...] = ()

    def __str__(self) -> str:
        return f"{self.invariant}: {f'run {self.run}: ' if self.run else ''}{self.message}"

    def lines(self) -> list[str]:
        """Return the excerpt, one line of JSON each."""
        return [orjson.dumps(dict(one), default=str).decode() for one in self.excerpt]


@dataclass(slots=True)
class Report:
    """What was checked and what was found.

    `unknown` counts outcomes that nobody knows: submissions without an answer, effects in state `unknown`. `untold` names
    the invariants that these documents say nothing about, and why.
    """

    runs: int = 0
    steps: int = 0
    events: int = 0
    effects: int = 0
    calls: int = 0
    frames: int = 0
    unknown: int = 0
    lost: int = 0
    double: int = 0
    fenced: int = 0
    leases_lost: int = 0
    violations: list[Violation] = field(default_factory=list)
    untold: dict[str, str] = field(default_factory=dict)

    def found(self, invariant: str, run: str | None, message: str, *excerpt: Event | Document) -> None:
        """Add a violation; the same one is told once."""
        shown = tuple(one.shown() if isinstance(one, Event) else dict(one) for one in excerpt)
        violation = Violation(invariant, run, message, shown)
        if violation not in self.violations[-20:]:
            self.violations.append(violation)

    @property
    def figures(self) -> dict[str, int]:
        """The counts by name."""
        return {
            "runs": self.runs, "steps": self.steps, "events": self.events, "effects": self.effects, "calls": self.calls,
            "frames": self.frames, "unknown outcomes": self.unknown, "lost": self.lost, "double committed": self.double,
            "fenced writes": self.fenced, "leases lost": self.leases_lost, "violations": len(self.violations),
        }  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "figures": self.figures,
            "violations": [
                {"invariant": v.invariant, "run": v.run, "message": v.message, "excerpt": list(v.excerpt)}
                for v in self.violations
            ],
            "untold": dict(self.untold),
        }
