"""Values on their way into the record: canonical JSON, or a final refusal that says what is wrong with them."""

from __future__ import annotations

from typing import Any, Final

import orjson
from pydantic import BaseModel

from durable_agent.errors import FatalError

# A value that is handed on (in an answer, an input, a history) is nested deeper there. Encoded within so many lists, one that would be
# too deep for that is refused where it is made: orjson takes 254 levels.
DEEPEST: Final = 200
_AROUND: Final = 254 - DEEPEST
_OPTIONS = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS


class Unencodable:
    """What stands for a result that was refused already, where it was made: encoding it says the same."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


def encode(value: Any, limit_bytes: int) -> bytes:
    """Return a value as canonical JSON. Raises FatalError for what JSON, Unicode or a limit refuses."""
    if isinstance(value, Unencodable):
        raise FatalError(value.reason)
    try:
        if isinstance(value, BaseModel):
            value = value.model_dump(mode="json")
        for _ in range(_AROUND):
            value = [value]
        text = orjson.dumps(value, option=_OPTIONS, default=_plain)[_AROUND:-_AROUND]
    except (TypeError, ValueError, RecursionError) as error:
        if "Recursion limit" in str(error):
            raise FatalError(f"the result is nested more than {DEEPEST} levels deep, or within itself") from None
        raise FatalError(f"the result cannot be stored: {error}; return plain JSON values") from None
    if len(text) > limit_bytes:
        raise FatalError(f"the result has {len(text)} bytes, more than the {limit_bytes} a step may return")
    return text


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"Type is not JSON serializable: {type(value).__name__}")
