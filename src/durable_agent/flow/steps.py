"""Steps as an author writes them down: for a graph, or to be added to a run that is under way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from durable_agent.core import retry
from durable_agent.core.records import Dependency, RetryPolicy, StepKind, StepSpec
from durable_agent.errors import InvalidRequest

# As the API takes it: a week.
LONGEST_ATTEMPT_S: Final = 604_800
CENTURY_S: Final = 100 * 365.25 * 86_400


@dataclass(frozen=True, slots=True)
class Step:
    """One step. `tool` is taken from the name when not given; `depends_on` are names, or (name, condition).

    Without a `queue` it goes where the step goes that adds it, else to `default`.
    """

    name: str
    tool: str | None = None
    input: Any = None
    kind: StepKind = StepKind.TOOL_CALL
    depends_on: Sequence[str | tuple[str, str]] = ()
    when: str | None = None
    retry: RetryPolicy | None = None
    timeout_s: float | None = None
    deadline_s: float = 3600.0
    queue: str = ""
    priority: int = 0
    max_crashes: int = 3
    compensate: str | None = None

    def spec(self) -> StepSpec:
        """Return the step as the engine takes it. Raises InvalidRequest for a time limit that is none."""
        for field_name, limit_s in (("timeout_s", self.timeout_s), ("deadline_s", self.deadline_s)):
            if limit_s is not None and not 0 < limit_s <= LONGEST_ATTEMPT_S:
                message = f"step {self.name!r}: {field_name} must be above 0 and at most {LONGEST_ATTEMPT_S:,} s, not {limit_s}"
                raise InvalidRequest(message, field=field_name)
        tool = self.tool or (self.name if self.kind is StepKind.TOOL_CALL else self.kind.value)
        return StepSpec(
            self.name, self.kind, tool, self.input,
            tuple(Dependency(d) if isinstance(d, str) else Dependency(*d) for d in self.depends_on), self.when,
            self.retry or retry.default_policy(self.kind), self.timeout_s, self.deadline_s, self.queue, self.priority,
            self.max_crashes, self.compensate,
        )  # fmt: skip


def step_specs(steps: Sequence[Step | Mapping[str, Any]]) -> tuple[StepSpec, ...]:
    """Return steps given as Step or as a mapping of its fields. Raises InvalidRequest naming what is no such field."""
    found: list[StepSpec] = []
    for one in steps:
        if isinstance(one, Step):
            found.append(one.spec())
            continue
        try:
            kind = StepKind(one.get("kind", StepKind.TOOL_CALL))
            found.append(Step(**{**one, "kind": kind}).spec())
        except (TypeError, ValueError) as error:
            raise InvalidRequest(f"step {one.get('name', '?')!r}: {error}", field="steps") from None
    return tuple(found)


def mapped(tool: str, items: Sequence[Any], *, concurrency: int, name: str, argument: str, **fields: Any) -> list[Step]:
    """Return a step for each item, in order; of any `concurrency` + 1 in a row the last waits for the first.

    So no more than that many run at once, and a slow item holds back only those behind it in its lane.
    """
    if concurrency < 1:
        raise InvalidRequest(f"concurrency must be at least 1, not {concurrency}", field="concurrency")
    return [
        Step(
            f"{name}.{index}", tool, item if isinstance(item, Mapping) and argument == "" else {argument or "item": item},
            depends_on=(f"{name}.{index - concurrency}",) if index >= concurrency else (), **fields,
        )
        for index, item in enumerate(items)
    ]  # fmt: skip


def seconds(given: timedelta | float | None) -> float | None:
    """Return a duration in seconds, at most a century. Raises InvalidRequest for a negative one, and for none at all (NaN)."""
    value = given.total_seconds() if isinstance(given, timedelta) else given
    if value is None:
        return None
    if not value >= 0:
        raise InvalidRequest(f"a duration must not be negative: {value} s", field="duration")
    return min(value, CENTURY_S)


@dataclass(frozen=True, slots=True)
class Approval:
    """An approval that was given or not: pass it to `ctx.call` to use it, once, for exactly the call it names."""

    approved: bool
    by: str | None
    reason: str | None
    wait_id: Any = field(repr=False)
