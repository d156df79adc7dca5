"""Values too large for a row, and values too large together.

What stands for a large one in a row is told here; its content is in the artifact store, which the engine cannot read.
"""

from __future__ import annotations

import re
from typing import Any, Final

KEY: Final = "$artifact"
# What a step is handed at once is read at once, into one process, and written in one transaction, which has seconds. PostgreSQL
# itself makes no value of 1 GB.
MOST_TOGETHER_BYTES: Final = 134_217_728
_DIGEST: Final = re.compile("[0-9a-f]{64}")


def is_reference(value: Any) -> bool:
    """Whether a value stands for a larger one: exactly as the store makes them, and nothing that only resembles it."""
    if not (isinstance(value, dict) and value.keys() == {KEY, "bytes"}):
        return False
    digest, size = value[KEY], value["bytes"]
    return type(size) is int and isinstance(digest, str) and _DIGEST.fullmatch(digest) is not None


def too_much(what: str, size: int) -> str:
    """Return why a step cannot be handed values that have so many bytes together."""
    return (
        f"{what} have {size:,} bytes together, more than the {MOST_TOGETHER_BYTES:,} that a step can be handed; return less, or"
        " keep what is large with ctx.artifact and return its name"
    )
