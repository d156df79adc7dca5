"""The shape of a run: steps numbered in the order submitted, edges between them, and why a submission has none."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import orjson

from durable_agent.core.conditions import check
from durable_agent.core.records import StepSpec
from durable_agent.errors import ConditionInvalid, GraphInvalid, Problem

MAX_PROBLEMS: Final = 50
# Told of each condition that was compiled or evaluated, by its step's name; it may raise to end what takes too long.
Watch = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Graph:
    """A sound graph. A step's number is its index; parents and children are sorted."""

    names: tuple[str, ...]
    parents: tuple[tuple[int, ...], ...]
    children: tuple[tuple[int, ...], ...]
    roots: tuple[int, ...]
    edge_conditions: Mapping[tuple[int, int], str]

    def digest(self) -> str:
        """Return the SHA-256 of names, edges and edge conditions as hex."""
        conditions = sorted((*edge, when) for edge, when in self.edge_conditions.items())
        return hashlib.sha256(orjson.dumps([self.names, self.parents, conditions])).hexdigest()


def plan(steps: Sequence[StepSpec], *, max_steps: int, watch: Watch | None = None) -> Graph:
    """Return the graph of the steps, in O(V + E). Raises GraphInvalid with every problem found (50 at most)."""
    problems: list[Problem] = []
    if not steps:
        raise GraphInvalid((Problem("", "empty", "a run needs at least one step; give `steps`"),))
    if len(steps) > max_steps:
        text = f"the run has {len(steps)} steps, more than the {max_steps} allowed; split it into several runs"
        raise GraphInvalid((Problem(steps[max_steps].name, "too_many_steps", text),))
    numbers = _number(steps, problems)
    parents, conditions = _edges(steps, numbers, problems, watch)
    for step in steps:
        problems.extend(_condition_problem(step.name, step.when, ("outputs", "input"), watch))
    children = children_of(parents)
    if not problems:
        problems.extend(_cycle(steps, parents, children))
    if problems:
        raise GraphInvalid(tuple(problems[:MAX_PROBLEMS]))
    return Graph(
        tuple(step.name for step in steps),
        tuple(map(tuple, parents)),
        tuple(map(tuple, children)),
        tuple(no for no, own in enumerate(parents) if not own),
        conditions,
    )


def _number(steps: Sequence[StepSpec], problems: list[Problem]) -> dict[str, int]:
    numbers: dict[str, int] = {}
    for no, step in enumerate(steps):
        if numbers.setdefault(step.name, no) != no:
            text = f"step {step.name!r} is given twice (steps {numbers[step.name]} and {no}); names are unique in a run"
            problems.append(Problem(step.name, "duplicate_step", text))
    return numbers


def _edges(
    steps: Sequence[StepSpec], numbers: Mapping[str, int], problems: list[Problem], watch: Watch | None
) -> tuple[list[list[int]], dict[tuple[int, int], str]]:
    parents: list[list[int]] = []
    conditions: dict[tuple[int, int], str] = {}
    for no, step in enumerate(steps):
        own: set[int] = set()
        for dependency in step.depends_on:
            parent = numbers.get(dependency.step)
            if parent is None:
                problems.append(_unknown(step.name, dependency.step, numbers, hint=len(problems) < MAX_PROBLEMS))
            elif dependency.step == step.name:
                text = f"step {step.name!r} depends on itself; remove {step.name!r} from its dependsOn"
                problems.append(Problem(step.name, "self_dependency", text))
            elif parent in own:
                text = f"step {step.name!r} names {dependency.step!r} twice in its dependsOn"
                problems.append(Problem(step.name, "duplicate_dependency", text))
            else:
                own.add(parent)
                if dependency.when is not None:
                    conditions[parent, no] = dependency.when
                    problems.extend(_condition_problem(step.name, dependency.when, ("output", "input"), watch))
        parents.append(sorted(own))
    return parents, conditions


def _unknown(step: str, missing: str, numbers: Mapping[str, int], *, hint: bool) -> Problem:
    close = difflib.get_close_matches(missing, list(numbers)[:1000], n=1) if hint else []
    meant = f"; did you mean {close[0]!r}?" if close else ""
    return Problem(
        step, "unknown_dependency", f"step {step!r} depends on {missing!r}, which is no step of this run{meant}"
    )


def _condition_problem(step: str, when: str | None, names: tuple[str, ...], watch: Watch | None) -> Iterator[Problem]:
    if when is None:
        return
    try:
        check(when, names)
    except ConditionInvalid as error:
        yield Problem(
            step, "condition_invalid", f"step {step!r}: the condition {when!r} does not compile: {error.message}"
        )
    if watch is not None:
        watch(step)


def children_of(parents: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return for each step those that wait for it."""
    children: list[list[int]] = [[] for _ in parents]
    for no, own in enumerate(parents):
        for parent in own:
            children[parent].append(no)
    return children


def _cycle(
    steps: Sequence[StepSpec], parents: Sequence[Sequence[int]], children: Sequence[Sequence[int]]
) -> Iterator[Problem]:
    """Yield the problem of one cycle, if there is any: what Kahn's algorithm cannot take away."""
    left = [len(own) for own in parents]
    free = [no for no, count in enumerate(left) if count == 0]
    while free:
        for child in children[free.pop()]:
            left[child] -= 1
            if left[child] == 0:
                free.append(child)
    stuck = next((no for no, count in enumerate(left) if count > 0), None)
    if stuck is None:
        return
    # Each stuck step has a stuck parent, so walking up must come round.
    path, seen = [stuck], {stuck: 0}
    while True:
        above = next(parent for parent in parents[path[-1]] if left[parent] > 0)
        if above in seen:
            names = [steps[no].name for no in reversed([*path[seen[above] :], above])]
            text = f"the steps wait for each other in a circle: {' → '.join(names)}; remove one of these dependencies"
            yield Problem(names[0], "cycle", text)
            return
        seen[above] = len(path)
        path.append(above)
