"""Values too large for a row: what stands for them there. Their content is in the artifact store, which the engine cannot read."""

from __future__ import annotations

import re
from typing import Any, Final

KEY: Final = "$artifact"
_DIGEST: Final = re.compile("[0-9a-f]{64}")


def is_reference(value: Any) -> bool:
    """Whether a value stands for a larger one: exactly as the store makes them, and nothing that only resembles it."""
    if not (isinstance(value, dict) and value.keys() == {KEY, "bytes"}):
        return False
    digest, size = value[KEY], value["bytes"]
    return type(size) is int and isinstance(digest, str) and _DIGEST.fullmatch(digest) is not None
