"""Columns as array literals.

The driver adapts a list element by element; a batch has thousands. A column of one type joined into one text costs a
tenth of that, and the statement's cast (`::int[]`, `::uuid[]`, …) says what it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any
from uuid import UUID


def literal(column: Sequence[Any]) -> str:
    """Return a column of int, float, bool, str, UUID, bytes or None as the text of a PostgreSQL array."""
    if None in column:
        return "{" + ",".join(["null" if value is None else _writer(value)(value) for value in column]) + "}"
    return "{" + ",".join(map(_writer(column[0]), column)) + "}" if column else "{}"


def _writer(value: Any) -> Callable[[Any], str]:
    """Return what writes values of this one's type; a column has one type."""
    if isinstance(value, str):
        return _text
    return _WRITERS.get(type(value), repr)


def _text(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


_WRITERS: dict[type, Callable[[Any], str]] = {
    UUID: lambda value: f"{value.int:032x}",
    bytes: lambda value: '"\\\\x' + value.hex() + '"',
}


def literals(columns: Iterable[str], rows: Iterable[tuple[Any, ...]]) -> dict[str, str]:
    """Return rows as parameters: each column's name with its literal."""
    return dict(zip(columns, map(literal, zip(*rows, strict=True)), strict=True))
