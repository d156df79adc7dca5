"""What becomes of a step when the steps it waits for are resolved.

An edge is *taken* when its parent succeeded and its condition, if it has one, holds. A step is decided once every edge
into it is resolved: none taken, it is skipped; its own condition false, it is skipped; else it is ready. So a join
behind a branch that was not taken runs with what was. Spawned steps follow the same rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from durable_agent.core.conditions import ConditionError, holds, refuse_large
from durable_agent.core.graph import Graph, Watch
from durable_agent.core.records import StepSpec


class Outcome(Enum):
    """How a parent was resolved."""

    SUCCEEDED = "succeeded"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class ParentResolution:
    """A parent that was resolved, its output, and the condition of the edge from it."""

    no: int
    name: str
    outcome: Outcome
    output: Any = None
    when: str | None = None


@dataclass(frozen=True, slots=True)
class ChildState:
    """A pending step: how many edges are unresolved, how many were taken, and its own condition."""

    no: int
    name: str
    deps_left: int
    taken: int
    when: str | None = None


@dataclass(frozen=True, slots=True)
class StillPending:
    """Some parent is not resolved yet."""

    deps_left: int
    taken: int


@dataclass(frozen=True, slots=True)
class Ready:
    """The step may run."""

    taken: int


@dataclass(frozen=True, slots=True)
class Skipped:
    """The step will not run: `why` is `no_edge_taken` or `condition`."""

    why: str
    taken: int = 0


@dataclass(frozen=True, slots=True)
class ConditionFailed:
    """A condition could not be decided; that is an error, never a silent false. `late`: there was no time left to try."""

    expression: str
    message: str
    taken: int = 0
    late: bool = False


Verdict = StillPending | Ready | Skipped | ConditionFailed


def resolve(
    child: ChildState, resolved: Sequence[ParentResolution], run_input: Any, *, outputs: Mapping[str, Any],
    watch: Watch | None = None,
) -> Verdict:  # fmt: skip
    """Return what becomes of the child now that these parents are resolved, each counted once.

    `outputs` are the outputs of all its succeeded parents so far by name; only its own condition looks at them.
    """
    taken = child.taken
    for parent in resolved:
        if parent.outcome is Outcome.SKIPPED:
            continue
        if parent.when is not None:
            try:
                refuse_large(parent.when, "output", {parent.name: parent.output})
                taken += holds(parent.when, output=parent.output, input=run_input)
            except ConditionError as error:
                return ConditionFailed(parent.when, str(error), taken)
            if watch is not None:
                watch(child.name)
        else:
            taken += 1
    deps_left = child.deps_left - len(resolved)
    if deps_left > 0:
        return StillPending(deps_left, taken)
    if taken == 0:
        return Skipped("no_edge_taken")
    return own_condition(child.when, taken, outputs, run_input)


def own_condition(when: str | None, taken: int, outputs: Mapping[str, Any], run_input: Any) -> Verdict:
    """Return what a step's own condition makes of it when every edge into it is resolved, or it has none."""
    if when is None:
        return Ready(taken)
    try:
        refuse_large(when, "outputs", outputs)
        return Ready(taken) if holds(when, outputs=dict(outputs), input=run_input) else Skipped("condition", taken)
    except ConditionError as error:
        return ConditionFailed(when, str(error), taken)


def spawn_prefix(step: str, name: str) -> str:
    """Return what stands before the names of the steps that a step spawns under a name, so that they are unique in the run."""
    return f"{step}.{name}."


def as_written(outputs: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the outputs by the names that a spawned step's condition knows them by: those its author gave."""
    return {name.removeprefix(prefix): output for name, output in outputs.items()}


@dataclass(frozen=True, slots=True)
class RootFailed:
    """A root whose condition cannot be decided."""

    no: int
    message: str


@dataclass(slots=True)
class Roots:
    """What new steps start with: those ready, those skipped already, and what the others still wait for.

    `skipped` says why, each after what it followed from.
    """

    ready: set[int] = field(default_factory=set)
    skipped: dict[int, str] = field(default_factory=dict)
    deps_left: dict[int, int] = field(default_factory=dict)
    failed: RootFailed | None = None


def decide_roots(steps: Sequence[StepSpec], graph: Graph, run_input: Any, watch: Watch | None = None) -> Roots:
    """Return what the roots' conditions make of new steps; skipping goes on through the graph."""
    roots = Roots()
    wave: list[tuple[int, str]] = []
    for no in graph.roots:
        verdict = own_condition(steps[no].when, 0, {}, run_input)
        if watch is not None and steps[no].when is not None:
            watch(steps[no].name)
        match verdict:
            case Ready():
                roots.ready.add(no)
            case ConditionFailed(expression, message):
                roots.failed = RootFailed(no, f"the condition {expression!r} cannot be decided: {message}")
            case _:
                wave.append((no, "condition"))
    if roots.failed is not None:
        roots.ready.clear()
        return roots
    while wave:
        no, why = wave.pop()
        roots.skipped[no] = why
        for child in graph.children[no]:
            left = roots.deps_left.get(child, len(graph.parents[child])) - 1
            roots.deps_left[child] = left
            if left == 0:
                wave.append((child, "no_edge_taken"))
    return roots
