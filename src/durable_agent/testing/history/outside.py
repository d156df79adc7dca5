"""What the logs from outside say about the runs: I9 for watchers, I10 and P1 for clients, I11 for receivers, I12, P4.

An outcome that nobody knows stays unknown: a submission whose answer was lost may have made a run or none, both are
right. What was acknowledged is held to its word.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from durable_agent.testing.history.calls import Calls
from durable_agent.testing.history.documents import Document, Event, ExportedRun
from durable_agent.testing.history.report import Report

Key: TypeAlias = str
# What a receiver cannot take twice in silence: here a second call needs a person's word.
_ONCE = frozenset({"manual", "verify"})
_TOOL = "tool_call"


@dataclass(slots=True)
class _Known:
    """What is kept of a run when its events have been walked."""

    started: bool
    last_seq: int
    named: dict[str, int]
    frames: dict[int, Event]


@dataclass(slots=True)
class _Intent:
    """A key that a call may show: who intended it, how often, and how often a person said `send again`."""

    run: str
    step: int
    effect: str | None
    times: int
    resends: int
    shown: Event
    row: Document | None


@dataclass(slots=True)
class Outside:
    """What is kept of every run for the logs to be compared with; `watched` are the runs whose frames are needed."""

    report: Report
    watched: frozenset[str] = frozenset()
    own_keys: Mapping[tuple[str, int], Key] | None = None
    runs: dict[str, _Known] = field(default_factory=dict)
    intents: dict[Key, _Intent] = field(default_factory=dict)
    own: dict[tuple[str, str], _Intent] = field(default_factory=dict)
    undone: set[str | None] = field(default_factory=set)

    def know(self, found: ExportedRun, calls: Calls) -> None:
        """Keep of a run what the logs are compared with."""
        run, id_ = found.run, found.id
        if id_ in self.runs:
            self.report.found("I10", id_, "the run is exported twice: two runs with one id, or one file given twice")
        named = {step["name"]: step["no"] for step in found.steps}
        frames = {event.seq: event for event in found.events} if id_ in self.watched else {}
        started = run.get("parent_run") is not None or run.get("origin") is not None
        self.runs[id_] = _Known(started, run["last_seq"], named, frames)
        if any(event.type == "run.compensating" for event in found.events):
            self.undone |= {id_, run.get("root"), run.get("agent")}
        rows = {(one["step_no"], one["no"]): one for one in found.effects}
        for (step_no, no), events in calls.intents.items():
            if not events or step_no is None:
                continue
            kind, resends = events[0].data.get("class"), calls.resends[step_no, no]
            self._intent(
                str(events[0].data.get("key")),
                _Intent(id_, step_no, kind, len(events), resends, events[0], rows.get((step_no, no))),
            )
        self._steps(found, calls)

    def _steps(self, found: ExportedRun, calls: Calls) -> None:
        """Keep the claims of the steps that are tools: what such a step calls is intended by its claim."""
        claims: dict[int | None, list[Event]] = defaultdict(list)
        for event in found.events:
            if event.type == "step.claimed":
                claims[event.step_no].append(event)
        for step in found.steps:
            no, own = step["no"], claims[step["no"]]
            if step["kind"] != _TOOL or not own:
                continue
            intent = _Intent(found.id, no, None, len(own), calls.resends[no, 0], own[0], None)
            if self.own_keys is None:
                self.own[found.id, step["name"]] = intent
            elif (found.id, no) in self.own_keys:
                self._intent(self.own_keys[found.id, no], intent)

    def _intent(self, key: Key, intent: _Intent) -> None:
        other = self.intents.get(key)
        if other is not None and (other.run, other.step) != (intent.run, intent.step):
            self.report.found("I11", intent.run, f"two calls show one key, {key}", other.shown, intent.shown)
        self.intents[key] = intent

    def clients(self, log: Iterable[Document]) -> None:
        """Compare with what clients asked; the log is whole: a run that nobody asked for is told of."""
        by_key: dict[Key, list[Document]] = defaultdict(list)
        asked: dict[str, Document] = {}
        unknown = 0
        for number, line in enumerate(log):
            key = line["key"] if line["key"] is not None else f"(none, line {number})"
            by_key[key].append(line)
            if line["answer"] == "ok":
                asked.setdefault(line["run_id"], line)
        for key, lines in by_key.items():
            unknown += self._asked(key, lines)
        for run_id, line in asked.items():
            if run_id not in self.runs:
                self.report.lost += 1
                self.report.found("P1", run_id, "it was acknowledged, and it is gone", line)
        nobody = [id_ for id_, run in self.runs.items() if not run.started and id_ not in asked]
        if by_key and len(nobody) > unknown:
            text = f"{len(nobody)} runs were acknowledged to nobody, and {unknown} submissions have no known outcome"
            self.report.found("I10", nobody[0], text, *({"run_id": one} for one in nobody[:5]))

    def _asked(self, key: Key, lines: list[Document]) -> int:
        """Return 1 when nobody knows whether the key has a run."""
        acknowledged = [line for line in lines if line["answer"] == "ok"]
        unknown = not acknowledged and any(line["answer"] == "unknown" for line in lines)
        self.report.unknown += unknown
        for line in acknowledged[1:]:
            first = acknowledged[0]
            if line["run_id"] != first["run_id"]:
                self.report.found("I10", line["run_id"], f"key {key!r} has two runs", first, line)
            elif line.get("body") != first.get("body"):
                self.report.found("I10", line["run_id"], f"key {key!r} was accepted with two bodies", first, line)
        return int(unknown)

    def receivers(self, log: Iterable[Document]) -> None:
        """Compare with the calls that a receiver took: each shows a committed intent's key, and no more often."""
        calls: dict[Key, list[Document]] = defaultdict(list)
        for line in log:
            calls[line["key"]].append(line)
            self.report.calls += 1
        for key, lines in calls.items():
            intent = self.intents.get(key) or self._own(key, lines[0])
            if intent is None:
                self.report.found(
                    "I11", lines[0].get("run"), f"a call came with key {key}, which no intent has", lines[0]
                )
                continue
            self._often(key, lines, intent)
            if intent.row is not None and intent.row["state"] == "done" and "result" in lines[0]:
                given = [line["result"] for line in lines]
                if intent.row["result"] not in given:
                    text = (
                        f"the result of effect {intent.row['no']} of step {intent.step} is none that the receiver gave"
                    )
                    self.report.found("I11", intent.run, text, intent.shown, intent.row, *lines[:1])

    def _own(self, key: Key, line: Document) -> _Intent | None:
        """A tool that is a step has no intent of its own but its claim; where its key cannot be told, the first is it."""
        made = self.own.pop((str(line.get("run")), str(line.get("step"))), None)
        if made is not None:
            self._intent(key, made)
        return made

    def _often(self, key: Key, lines: list[Document], intent: _Intent) -> None:
        if intent.effect is not None and len(lines) > intent.times:
            text = f"the receiver was called {len(lines)} times with key {key}, and {intent.times} were intended"
            self.report.found("I11", intent.run, text, intent.shown, *lines)
            return
        kind = lines[0].get("class") or intent.effect
        if kind in _ONCE and len(lines) > 1 + intent.resends:
            text = f"the receiver was called {len(lines)} times for one {kind} effect, key {key}"
            self.report.found("I11", intent.run, text, intent.shown, *lines)

    def watchers(self, log: Iterable[Document]) -> None:
        """Compare with the frames that watchers got: each event once, in order, as it is in the record (I9)."""
        by_watcher: dict[tuple[str, str], list[Document]] = defaultdict(list)
        for line in log:
            by_watcher[line["watcher"], line["run_id"]].append(line)
        for (watcher, run_id), lines in by_watcher.items():
            self._watcher(watcher, run_id, lines)

    def _watcher(self, watcher: str, run_id: str, lines: list[Document]) -> None:
        run, expected = self.runs.get(run_id), 1
        before: Document | None = None
        for line in lines:
            if "after" in line:
                expected, before = line["after"] + 1, line
            elif line.get("ended"):
                if run is not None and expected != run.last_seq + 1:
                    text = f"watcher {watcher} saw the end after event {expected - 1} of {run.last_seq}"
                    self.report.found("I9", run_id, text, *_both(before, line))
            else:
                self.report.frames += 1
                if line["seq"] != expected:
                    text = f"watcher {watcher} got event {line['seq']} for {expected}"
                    self.report.found("I9", run_id, text, *_both(before, line))
                self._frame(watcher, run_id, line)
                expected, before = line["seq"] + 1, line

    def _frame(self, watcher: str, run_id: str, line: Document) -> None:
        run = self.runs.get(run_id)
        event = run.frames.get(line["seq"]) if run is not None else None
        if run is None or event is None:
            self.report.found("I9", run_id, f"watcher {watcher} got an event that is in no record", line)
            return
        names = {no: name for name, no in run.named.items()}
        step = names.get(event.step_no) if event.step_no is not None else None
        kept = {name: value for name, value in event.data.items() if name != "detail_sha256"}
        same = all(line["data"].get(name) == value for name, value in kept.items())
        if (line["type"], line["step"]) != (event.type, step) or not same:
            text = f"watcher {watcher} got another event {event.seq} than the one in the record"
            self.report.found("I9", run_id, text, event, line)

    def budgets(self, rows: Iterable[Document]) -> None:
        """Look at budgets as they stood when all was at rest (I12)."""
        for row in rows:
            name = f"budget {row['meter']} of {row['owner']}"
            # What undoes a run is never refused: it may spend more than the run had.
            if row["spent"] + row["reserved"] > row["cap"] and row["owner"] not in self.undone:
                text = f"{name}: {row['spent']} spent and {row['reserved']} reserved of {row['cap']}"
                self.report.found("I12", row["owner"], text, row)
            if row["reserved"]:
                self.report.found("I12", row["owner"], f"{name} holds {row['reserved']} when all is at rest", row)


def _both(before: Document | None, line: Document) -> tuple[Document, ...]:
    return (line,) if before is None else (before, line)
