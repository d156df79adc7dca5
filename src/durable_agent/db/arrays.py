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
    if len(kinds) == 1 and (whole := _WHOLE.get(next(iter(kinds)))) is not None:
        return whole(column)
    # Some are None, of several kinds of numbers, or of an enumeration, which is of texts.
    kind = next((kind for kind in kinds if kind in _ONE), str)
    one = _ONE[kind]
    return "{" + ",".join(["null" if value is None else one(value) for value in column]) + "}"


def _texts(column: Sequence[str]) -> str:
    joined = _SEPARATOR.join(column)
    if joined.count(_SEPARATOR) == len(column) - 1:
        return '{"' + _escaped(joined).replace(_SEPARATOR, '","') + '"}'
    return "{" + ",".join(map(_text, column)) + "}"


def _text(value: str) -> str:
    return '"' + _escaped(value) + '"'


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')


def _numbers(column: Sequence[float]) -> str:
    return "{" + ",".join(map(repr, column)) + "}"


_WHOLE: Final[dict[type, Callable[[Sequence[Any]], str]]] = {
    NoneType: lambda _: "{}",
    int: _numbers,
    float: _numbers,
    bool: _numbers,
    str: _texts,
    UUID: lambda column: "{" + ",".join([value.bytes.hex() for value in column]) + "}",
    bytes: lambda column: '{"\\\\x' + '","\\\\x'.join(map(bytes.hex, column)) + '"}',
}
_ONE: Final[dict[type, Callable[[Any], str]]] = {
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
