"""Text from outside: what a program said may hold what PostgreSQL and UTF-8 do not."""

from __future__ import annotations

from typing import Any, Final

import orjson

MESSAGE_LIMIT: Final = 2000


def plain(text: str, limit: int | None = MESSAGE_LIMIT) -> str:
    """Return the text as it can be stored, at most `limit` characters of it: without NUL and without halves of surrogate pairs."""
    return text[:limit].encode("utf-8", "replace").decode().replace("\x00", "\ufffd")


def said(error: BaseException, limit: int | None = MESSAGE_LIMIT) -> str:
    """Return what an exception says, as `plain` does; of one that cannot say it, its name."""
    try:
        text = str(error)
    except Exception:
        text = f"{type(error).__name__}, which has no text"
    return plain(text, limit)


def whole(text: str) -> str:
    """Return the text with halves of surrogate pairs that belong together joined, and those that are alone replaced."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def storable(value: Any) -> Any:
    """Return a JSON value whose texts can be stored, if it is nothing but texts that stands in the way."""
    try:
        orjson.dumps(value)
    except TypeError:
        try:
            return _storable(value)
        except RecursionError:
            return value  # refused where it is encoded
    return value


def _storable(value: Any) -> Any:
    match value:
        case str():
            return whole(value)
        case list():
            return [_storable(one) for one in value]
        case dict():
            return {whole(key) if isinstance(key, str) else key: _storable(one) for key, one in value.items()}
        case _:
            return value
