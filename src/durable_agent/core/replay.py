"""Replay and comparison: which steps a fork makes again, and where two results first differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from durable_agent.core.events import dumps
from durable_agent.core.graph import children_of


def made_again(parents: Sequence[Sequence[int]], first: Iterable[int]) -> set[int]:
    """Return the steps a fork makes again: the first ones, and all that follows from them."""
    again = set(first)
    children = children_of(parents)
    wave = list(again)
    while wave:
        for child in children[wave.pop()]:
            if child not in again:
                again.add(child)
                wave.append(child)
    return again


def first_difference(recorded: bytes | None, now: bytes | None) -> str:
    """Return where two JSON texts first differ and what stands there, as a phrase."""
    if recorded is None or now is None:
        return "as there is none" if now is None else "as none was recorded"
    path, old, new = _differ("", orjson.loads(recorded), orjson.loads(now)) or ("", None, None)
    return f"at {path or 'the top'}: recorded {_shown(old)}, now {_shown(new)}"


def _differ(path: str, old: Any, new: Any) -> tuple[str, Any, Any] | None:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            if key not in old or key not in new:
                return f"{path}.{key}", old.get(key), new.get(key)
            found = _differ(f"{path}.{key}", old[key], new[key])
            if found:
                return found
        return None
    if isinstance(old, list) and isinstance(new, list):
        for index, (one, other) in enumerate(zip(old, new, strict=False)):
            found = _differ(f"{path}[{index}]", one, other)
            if found:
                return found
        return None if len(old) == len(new) else (f"{path}.length", len(old), len(new))
    return None if type(old) is type(new) and old == new else (path, old, new)


def _shown(value: Any) -> str:
    text = orjson.dumps(value).decode()
    return text if len(text) <= 200 else text[:197] + "..."


@dataclass(frozen=True, slots=True)
class Side:
    """One run's part of a comparison: how a step ended, in how many seconds, at which attempt, what its models cost."""

    status: str
    output: Any
    seconds: float | None
    attempts: int
    tokens: int = 0
    microusd: int = 0


def compare(ours: Mapping[str, Side], theirs: Mapping[str, Side]) -> dict[str, Any]:
    """Return two runs' steps side by side, in the first one's order, and the first that differs in status or output."""
    rows: list[dict[str, Any]] = []
    first: dict[str, Any] | None = None
    for name in [*ours, *(name for name in theirs if name not in ours)]:
        one, other = ours.get(name), theirs.get(name)
        difference = _difference(one, other)
        if difference is not None and first is None:
            first = {"step": name, "difference": difference}
        rows.append(
            {"step": name, "same": difference is None, "difference": difference, "a": _told(one), "b": _told(other)}
        )
    return {"same": first is None, "first": first, "steps": rows}


def _difference(one: Side | None, other: Side | None) -> str | None:
    if one is None or other is None:
        return "only in the second run" if one is None else "only in the first run"
    if one.status != other.status:
        return f"{one.status} in the first run, {other.status} in the second"
    if dumps(one.output) != dumps(other.output):
        return f"the outputs differ {first_difference(dumps(one.output), dumps(other.output))}"
    return None


def _told(side: Side | None) -> dict[str, Any] | None:
    return None if side is None else asdict(side)
