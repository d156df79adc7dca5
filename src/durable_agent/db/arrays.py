"""Columns as array literals.

The driver adapts a list element by element; a batch has thousands. A column of one type joined into one text costs a
tenth of that, and the statement's cast (`::int[]`, `::uuid[]`, …) says what it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import NoneType
from typing import Any, Final
from uuid import UUID

# Parts texts while they are escaped together; no JSON has it as such.
_SEPARATOR: Final = "\x1f"


def literal(column: Sequence[Any]) -> str:
    """Return a column of int, float, bool, str, UUID, bytes or None as the text of a PostgreSQL array.

    One of nothing but None is the empty array: `unnest` fills it up beside a longer one.
    """
    kinds = set(map(type, column))
    nulls = NoneType in kinds
    kinds.discard(NoneType)
    if not kinds:
        return "{}"
    # Numbers of several kinds look alike, and what has no rendering of its own is an enumeration of texts.
    kind = kinds.pop()
    if kind is str and not nulls:
        return _texts(column)
    one = _RENDERINGS.get(kind, _text)
    texts = ["null" if value is None else one(value) for value in column] if nulls else map(one, column)
    return "{" + ",".join(texts) + "}"


def _texts(column: Sequence[str]) -> str:
    joined = _SEPARATOR.join(column)
    if joined.count(_SEPARATOR) == len(column) - 1:
        return '{"' + _escaped(joined).replace(_SEPARATOR, '","') + '"}'
    return "{" + ",".join(map(_text, column)) + "}"


def _text(value: str) -> str:
    return '"' + _escaped(value) + '"'


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')


_RENDERINGS: Final[dict[type, Callable[[Any], str]]] = {
    int: repr,
    float: repr,
    bool: repr,
    str: _text,
    UUID: lambda value: value.bytes.hex(),
    bytes: lambda value: f'"\\\\x{value.hex()}"',
}


def literals(columns: Sequence[str], rows: Iterable[tuple[Any, ...]]) -> dict[str, str]:
    """Return rows as parameters: each column's name with its literal."""
    return dict(zip(columns, map(literal, zip(*rows, strict=True)), strict=True))


def ints(values: Iterable[int]) -> str:
    """Return integers as the text of a PostgreSQL array."""
    return "{" + ",".join(map(str, values)) + "}"
