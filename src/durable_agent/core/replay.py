"""Replay and comparison: which steps a fork makes again, and where two results first differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson


def made_again(parents: Sequence[Sequence[int]], start: int, unfinished: Sequence[int]) -> set[int]:
    """Return the steps a fork makes again: the start, all that follows from it, and all that never finished."""
    again = {start, *unfinished}
    children: list[list[int]] = [[] for _ in parents]
    for no, own in enumerate(parents):
        for parent in own:
            children[parent].append(no)
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
