"""Values too large for a row: what stands for them there. Their content is in the artifact store, which the engine cannot read."""

from __future__ import annotations

from typing import Any, Final

KEY: Final = "$artifact"


def is_reference(value: Any) -> bool:
    """Whether a value stands for a larger one."""
    return isinstance(value, dict) and set(value) == {KEY, "bytes"} and isinstance(value[KEY], str)
