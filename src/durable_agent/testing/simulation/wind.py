"""How a transaction of the simulated store is wound up: children promoted, waits opened, runs ended, others told."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

import orjson

from durable_agent.core.events import inputs_digest
from durable_agent.core.graph import Graph, plan
from durable_agent.core.outcomes import Suspended
from durable_agent.core.promotion import (
    ChildState,
    ConditionFailed,
    Outcome,
    ParentResolution,
    Ready,
    Skipped,
    StillPending,
    as_written,
    decide_roots,
    resolve,
    spawn_prefix,
)
from durable_agent.core.records import FailureClass, StepSpec, WaitKind
from durable_agent.core.states import WAITING_RUN, RunEvent, RunStatus, StepEvent
from durable_agent.core.waits import Decision, answer_of, run_waits
from durable_agent.testing.simulation.clock import Moment
from durable_agent.testing.simulation.mutants import Mutant
from durable_agent.testing.simulation.rows import Place, RunRow, StepRow, WaitRow
from durable_agent.testing.simulation.settle import Settlement


@dataclass(slots=True)
class Winding:
    """The end of one transaction; `closed` are the steps that ended in it, by run."""

    settlement: Settlement
    closed: dict[UUID, set[int]] = field(default_factory=lambda: defaultdict(set))
    ready: list[tuple[RunRow, StepRow]] = field(default_factory=list)

    @property
    def at(self) -> Moment:
        """The transaction's moment."""
        return self.settlement.at

    def wind_up(self) -> None:
        """Do all that follows from what was settled, in the engine's order."""
        settlement = self.settlement
        runs = settlement.runs
        self._promote([(run, step, True) for run, step in settlement.resolutions])
        for run, step in self.ready:
            if run.id in settlement.failing:
                step.status, step.place = "pending", None
            else:
                self._enqueue(run, step)
        for run, wait, asked in settlement.opening:
            if asked.kind is WaitKind.STEPS:
                wait.steps_left = self._spawn(run, wait, asked.steps)
        for run, wait, asked in settlement.opening:
            if asked.kind is WaitKind.SIGNAL:
                self._early(run, wait, asked)
        for run, wait, asked in settlement.opening:
            if asked.kind is WaitKind.STEPS and wait.steps_left == 0:
                end_spawned(self.at, run, wait)
        for run_id, (name, reason) in settlement.failing.items():
            self._fail(runs[run_id], name, reason)
        for run in {run.id: run for run, _ in settlement.resolutions}.values():
            if run.steps_left == 0 and not run.final:
                run.move(self.at.us, RunEvent.COMPLETED)
        for (run_id, no), ended in settlement.arrived.items():
            self._arrive(runs[run_id], no, ended)

    def _promote(self, resolved: list[tuple[RunRow, StepRow, bool]]) -> None:
        wave = resolved
        while wave:
            by_child: dict[tuple[UUID, int], list[tuple[RunRow, StepRow, bool]]] = defaultdict(list)
            for run, step, succeeded in wave:
                for no in step.children:
                    by_child[run.id, no].append((run, step, succeeded))
            wave = []
            for (run_id, no), parents in sorted(by_child.items(), key=lambda item: (item[0][0].bytes, item[0][1])):
                run = self.settlement.runs[run_id]
                child = run.steps[no]
                if child.status != "pending":
                    continue
                if self._lost_count(child, parents):
                    continue
                wave += self._decide(run, child, parents)

    def _lost_count(self, child: StepRow, parents: list[tuple[RunRow, StepRow, bool]]) -> bool:
        """Whether the mutant loses the count: another parent's transaction was under way, and this one saw none of it."""
        beside, child.counted_s = self.at.s - child.counted_s < 0.1, self.at.s
        return self.settlement.mutant is Mutant.STALE_JOIN and (beside or len(parents) > 1)

    def _decide(
        self, run: RunRow, child: StepRow, parents: list[tuple[RunRow, StepRow, bool]]
    ) -> list[tuple[RunRow, StepRow, bool]]:
        known = {
            run.steps[p].spec.name: _value(run.steps[p]) for p in child.parents if run.steps[p].status == "succeeded"
        }
        facts = [
            ParentResolution(
                parent.no, parent.spec.name, Outcome.SUCCEEDED if ok else Outcome.SKIPPED,
                _value(parent), child.edges.get(parent.no),
            )
            for _, parent, ok in parents
        ]  # fmt: skip
        if child.spawned_by is not None:
            asked = max((w for w in run.waits.values() if w.step == child.spawned_by), key=lambda w: w.no)
            known = as_written(known, spawn_prefix(run.steps[child.spawned_by].spec.name, asked.name))
        state = ChildState(child.no, child.spec.name, child.deps_left, child.taken, child.spec.when)
        match resolve(state, facts, run.spec.input, outputs=known):
            case StillPending(deps_left, taken):
                child.deps_left, child.taken = deps_left, taken
            case Ready(taken):
                child.deps_left, child.taken, child.status = 0, taken, "queued"
                self.ready.append((run, child))
            case Skipped() as verdict:
                child.deps_left, child.status = 0, "skipped"
                run.append(self.at.us, StepEvent.SKIPPED, child.no, why=verdict.why)
                run.steps_left -= 1
                if child.spawned_by is not None:
                    self.settlement.arrived[run.id, child.spawned_by] += 1
                return [(run, child, False)]
            case ConditionFailed(expression, message):
                self._bury(run, child, f"the condition {expression!r} cannot be decided: {message}")
                self.settlement.failing[run.id] = (child.spec.name, "condition_error")
        return []

    def _enqueue(self, run: RunRow, step: StepRow) -> None:
        step.status = "queued"
        step.place = Place("held" if run.status is RunStatus.PAUSED else "ready")
        run.append(self.at.us, StepEvent.READY, step.no)

    def _spawn(self, run: RunRow, wait: WaitRow, specs: tuple[StepSpec, ...]) -> int:
        """Add the steps; return how many are yet to end."""
        first = len(run.steps)
        graph = plan(specs, max_steps=len(specs))
        added = rows_of(specs, graph, first)
        for index, row in enumerate(added):
            row.spawned_by, row.spawn_index = wait.step, index
        run.steps += added
        run.steps_left += len(added)
        told = Graph(
            graph.names, tuple(row.parents for row in added), (), (),
            {(p, row.no): when for row in added for p, when in row.edges.items()},
        )  # fmt: skip
        inputs = inputs_digest(None, [spec.input for spec in specs])
        facts = {"first": first, "steps": len(added), "graph_sha256": told.digest(), "inputs_sha256": inputs}
        run.append(self.at.us, RunEvent.EXTENDED, None, **facts)
        roots = decide_roots(specs, graph, run.spec.input)
        for index, why in roots.skipped.items():
            run.append(self.at.us, StepEvent.SKIPPED, first + index, why=why)
            added[index].status, added[index].deps_left = "skipped", 0
            run.steps_left -= 1
        for index, row in enumerate(added):
            if index in roots.ready:
                self._enqueue(run, row)
            elif index not in roots.skipped:
                row.deps_left = roots.deps_left.get(index, row.deps_left)
        if roots.failed is not None:
            self._bury(run, added[roots.failed.no], roots.failed.message)
            self.settlement.failing.setdefault(run.id, (added[roots.failed.no].spec.name, "condition_error"))
        return len(added) - len(roots.skipped)

    def _bury(self, run: RunRow, step: StepRow, message: str) -> None:
        step.deps_left, step.status, step.dead = 0, "dead_letter", "condition_error"
        step.error = {"reason": "condition_error", "message": message}
        facts = {"reason": "condition_error", "failure": FailureClass.INVALID_INPUT.value}
        run.append(self.at.us, StepEvent.DEAD_LETTER, step.no, {"message": message}, **facts)
        run.steps_left -= 1

    def _early(self, run: RunRow, wait: WaitRow, asked: Suspended) -> None:
        kept = next((s for s in run.signals if s["name"] == asked.name and not s["taken"]), None)
        if kept is not None:
            kept["taken"] = True
            told = answer_of(Decision.SIGNALLED, by=kept["by"], reason=None, value=kept["payload"])
            end_wait(self.at, run, wait, told)

    def _fail(self, run: RunRow, name: str, reason: str) -> None:
        ending = RunEvent.BUDGET_EXCEEDED if reason == "budget" else RunEvent.FAILED
        close_open_steps(self.at, run, why="budget_exceeded" if reason == "budget" else "run_failed")
        exhausted = self.settlement.purse.exhausted.get(run.id)
        facts: dict[str, Any] = exhausted.facts() if exhausted is not None else {}
        run.error = {"step": name, "reason": reason, **facts}
        run.move(self.at.us, ending, step=name, reason=reason, **facts)

    def _arrive(self, run: RunRow, no: int, ended: int) -> None:
        wait = next((w for w in run.waits.values() if w.step == no and w.kind == "steps" and w.state == "open"), None)
        if wait is None or run.final:
            return
        wait.steps_left -= ended
        if wait.steps_left == 0:
            end_spawned(self.at, run, wait)


def rows_of(specs: Iterable[StepSpec], graph: Graph, first: int) -> list[StepRow]:
    """Return the rows of new steps, numbered from `first`; none is ready yet."""
    return [
        StepRow(
            first + no, spec, tuple(first + p for p in graph.parents[no]),
            tuple(first + c for c in graph.children[no]),
            {first + p: graph.edge_conditions[p, no] for p in graph.parents[no] if (p, no) in graph.edge_conditions},
            len(graph.parents[no]), spec.retry.max_attempts, spec.max_crashes,
        )
        for no, spec in enumerate(specs)
    ]  # fmt: skip


def spawned_for(run: RunRow, wait: WaitRow) -> list[StepRow]:
    """Return the steps that a step added last."""
    mine = [one for one in run.steps if one.spawned_by == wait.step]
    first = max(one.no for one in mine if one.spawn_index == 0)
    return [one for one in mine if one.no >= first]


def end_spawned(at: Moment, run: RunRow, wait: WaitRow) -> None:
    """Answer an open wait for steps, all of which have ended, with what they came to."""
    value = [{"name": one.spec.name, "status": one.shown, "output": _value(one)} for one in spawned_for(run, wait)]
    end_wait(at, run, wait, answer_of(Decision.FINISHED, by=None, reason=None, value=value))


def wait_on(at: Moment, run: RunRow) -> None:
    """Let the redriven steps that had added steps wait on for them: they go on, too."""
    last = {wait.step: wait for wait in sorted(run.waits.values(), key=lambda w: w.no)}
    for no in sorted(last):
        wait, place = last[no], run.steps[no].place
        if wait.kind != "steps" or wait.state != "cancelled" or place is None or place.state != "ready":
            continue
        wait.state, wait.steps_left = "open", sum(one.open for one in spawned_for(run, wait))
        run.steps[no].place = replace(place, state="waiting")
        run.waiting += 1
        run.append(
            at.us, StepEvent.WAITING, no, {"request": wait.request}, kind=wait.kind.value, name=wait.name,
            wait=str(wait.id), request_sha256=wait.sha, claim_no=run.steps[no].claim_no,
        )  # fmt: skip
        if wait.steps_left == 0:
            end_spawned(at, run, wait)


def end_wait(at: Moment, run: RunRow, wait: WaitRow, told: dict[str, Any]) -> None:
    """Answer an open wait and make its step ready again."""
    wait.state, wait.answer = "answered", told
    place = run.steps[wait.step].place
    if place is not None and place.state == "waiting":
        last = place.last_token
        state = "held" if run.status is RunStatus.PAUSED else "ready"
        run.steps[wait.step].place = Place(state, effect=place.effect, last_token=last)
    run.waiting -= 1
    value = None if told["decision"] == Decision.FINISHED else told["value"]
    run.append(
        at.us, StepEvent.ANSWERED, wait.step, {"reason": told["reason"], "value": value}, wait=str(wait.id),
        decision=told["decision"], by=told["by"],
    )  # fmt: skip


def close_open_steps(at: Moment, run: RunRow, *, why: str) -> None:
    """Cancel every open step, what it had begun to call, and what it waits for."""
    cut: set[int] = set()
    for step in run.steps:
        if not step.open:
            continue
        place = step.place
        leased = place is not None and place.state == "leased"
        run.append(at.us, StepEvent.CANCELLED, step.no, why=why, **({"claim_no": step.claim_no} if leased else {}))
        if place is not None and place.effect is not None:
            cut.add(step.no)
            if leased:
                run.append(at.us, StepEvent.EFFECT_UNKNOWN, step.no, effect=0, name=step.spec.tool)
        step.status, step.in_doubt, step.place = "cancelled", place.effect if place is not None else None, None
    for key in sorted(run.effects):
        row = run.effects[key]
        if row.state == "intent":
            run.append(at.us, StepEvent.EFFECT_UNKNOWN, row.step, effect=row.no, name=row.name)
            row.state = "unknown"
    for wait in run.waits.values():
        if wait.state == "open":
            wait.state = "cancelled"
        elif wait.step in cut and wait.kind == "unknown_effect" and wait.effect == 0 and wait.consumed is None:
            wait.consumed = str(at.us)
    run.waiting = run.steps_left = 0


def settle_waiting(at: Moment, run: RunRow) -> None:
    """Give a run with waits the status that fits: waiting when no step can move, and for whom; else running."""
    if run.status not in (RunStatus.RUNNING, *WAITING_RUN) or not (run.waiting or run.status in WAITING_RUN):
        return
    active = any(one.place is not None and one.place.state != "waiting" for one in run.steps)
    kinds = {wait.kind for wait in run.waits.values() if wait.state == "open"}
    if active or not kinds:
        if run.status in WAITING_RUN:
            run.move(at.us, RunEvent.CONTINUED)
        return
    event = run_waits(kinds)
    if run.status.value != event.value.removeprefix("run."):
        run.move(at.us, event)


def hold(run: RunRow) -> None:
    """Take a paused run's ready and scheduled steps off the claim."""
    for step in run.steps:
        if step.place is not None and step.place.state in ("ready", "scheduled"):
            step.place = replace(step.place, state="held")


def unhold(run: RunRow, now_s: float) -> None:
    """Give a resumed run's held steps back; one whose retry is not due yet waits on."""
    for step in run.steps:
        if step.place is not None and step.place.state == "held":
            due = step.place.due_s is not None and step.place.due_s > now_s
            state, due_s = ("scheduled", step.place.due_s) if due else ("ready", None)
            step.place = replace(step.place, state=state, due_s=due_s)


def _value(step: StepRow) -> Any:
    return orjson.loads(step.output) if step.output is not None else None
