"""I6 from the rule's side: each step became ready, was skipped or died of its condition because it had to.

The verdict is asked of `core.promotion`, with the outputs and conditions that the export holds. What is resolved by the
transaction that creates a run or a fork is numbered by step, not by cause: it is looked at when that transaction is over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from durable_agent.core.promotion import (
    ChildState,
    ConditionFailed,
    Outcome,
    ParentResolution,
    Ready,
    Skipped,
    Verdict,
    as_written,
    own_condition,
    resolve,
    spawn_prefix,
)
from durable_agent.core.states import StepEvent, StepStatus
from durable_agent.testing.history.documents import Document, Event, ExportedRun
from durable_agent.testing.history.life import Life
from durable_agent.testing.history.report import Report

_RESOLVED = {
    StepStatus.SUCCEEDED: Outcome.SUCCEEDED, StepStatus.COMPENSATED: Outcome.SUCCEEDED, StepStatus.SKIPPED: Outcome.SKIPPED,
}  # fmt: skip


class Promotions:
    """The promotions of one run, each compared with what the rule makes of the step's parents."""

    def __init__(self, found: ExportedRun, report: Report, lives: Mapping[int, Life]) -> None:
        self._found, self._report, self._lives = found, report, lives
        self._created_at = found.events[0].at if found.events else ""
        self._waiting: list[tuple[int, StepEvent, Event]] = []
        self._asked: dict[int, str] = {}
        self._prefixes: dict[int, str] = {}

    def arrive(self, event: Event) -> None:
        """Look at what the creating transaction promoted, when an event of another one comes."""
        if self._waiting and event.at != self._created_at:
            self.finish()
        if event.type == StepEvent.WAITING and event.step_no is not None:
            self._asked[event.step_no] = str(event.data.get("name"))

    def born(self, no: int, row: Document) -> None:
        """Take note of a new step: who adds steps has just said under which name."""
        spawner = row.get("spawned_by")
        if spawner in self._asked and spawner in self._lives:
            self._prefixes[no] = spawn_prefix(self._lives[spawner].row["name"], self._asked[spawner])

    def promoted(self, no: int, kind: StepEvent, event: Event) -> None:
        """Look at one promotion, now or when its transaction is over."""
        if event.at == self._created_at:
            self._waiting.append((no, kind, event))
        else:
            self._look(no, kind, event)

    def finish(self) -> None:
        """Look at what is left."""
        waiting, self._waiting = self._waiting, []
        for no, kind, event in waiting:
            self._look(no, kind, event)

    def _look(self, no: int, kind: StepEvent, event: Event) -> None:
        row = self._lives[no].row
        parents = [self._lives[p] for p in row.get("parents", ()) if p in self._lives]
        unresolved = [one for one in parents if one.status not in _RESOLVED]
        if unresolved:
            names = ", ".join(one.name for one in unresolved)
            text = f"{self._lives[no].name}: {event.type}, and {names} is not resolved"
            self._told(text, *(one.last for one in unresolved), event)
            return
        if kind is StepEvent.SKIPPED and event.data.get("why") == "recorded":
            return  # in a fork: it was skipped in the run it descends from
        if kind is StepEvent.DEAD_LETTER and event.data.get("why") == "late":
            return  # there was no time to decide it; with time, it may be decided
        verdict = self._verdict(no, parents)
        said = _said(verdict)
        why = verdict.why if isinstance(verdict, Skipped) and event.at != self._created_at else None
        if said != kind or (why is not None and why != event.data.get("why")):
            text = f"{self._lives[no].name}: {event.type}, and its parents and conditions make it {said}"
            self._told(text, *(one.last for one in parents), event)

    def _told(self, text: str, *excerpt: Event | None) -> None:
        self._report.found("I6", self._found.id, text, *(one for one in excerpt if one is not None))

    def _verdict(self, no: int, parents: list[Life]) -> Verdict:
        row, given = self._lives[no].row, self._found.run.get("input")
        if not parents:
            return own_condition(row.get("condition"), 0, {}, given)
        edges = row.get("edge_conditions") or {}
        facts = [
            ParentResolution(p.no, p.row["name"], _RESOLVED[p.status], p.row["output"], edges.get(str(p.no)))
            for p in parents
        ]
        outputs: dict[str, Any] = {one.name: one.output for one in facts if one.outcome is Outcome.SUCCEEDED}
        outputs = as_written(outputs, self._prefixes.get(no, ""))
        child = ChildState(no, row["name"], len(facts), 0, row.get("condition"))
        return resolve(child, facts, given, outputs=outputs)


def _said(verdict: Verdict) -> StepEvent | None:
    match verdict:
        case Ready():
            return StepEvent.READY
        case Skipped():
            return StepEvent.SKIPPED
        case ConditionFailed():
            return StepEvent.DEAD_LETTER
        case _:
            return None
