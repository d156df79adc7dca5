"""Columns as array literals.

The driver adapts a list element by element; a batch has thousands. A column of one type joined into one text costs a
tenth of that, and the statement's cast (`::int[]`, `::uuid[]`, …) says what it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID


def literal(column: Sequence[Any]) -> str:
    """Return a column of int, float, bool, str, UUID, bytes or None as the text of a PostgreSQL array."""
    kind = next((type(value) for value in column if value is not None), None)
    if kind is UUID:
        texts = ["null" if value is None else f"{value.int:032x}" for value in column]
    elif kind is bytes:
        texts = ["null" if value is None else '"\\\\x' + value.hex() + '"' for value in column]
    elif kind is not None and issubclass(kind, str):
        texts = ["null" if value is None else '"' + _escaped(value) + '"' for value in column]
    else:
        texts = ["null" if value is None else repr(value) for value in column]
    return "{" + ",".join(texts) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')


def literals(columns: Sequence[str], rows: Iterable[tuple[Any, ...]]) -> dict[str, str]:
    """Return rows as parameters: each column's name with its literal."""
    return dict(zip(columns, map(literal, zip(*rows, strict=True)), strict=True))


def ints(values: Iterable[int]) -> str:
    """Return integers as the text of a PostgreSQL array."""
    return "{" + ",".join(map(str, values)) + "}"
