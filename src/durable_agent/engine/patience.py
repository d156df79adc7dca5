"""How much of a process's time the conditions of one request may take."""

from __future__ import annotations

import time
from typing import Final

from durable_agent.errors import InvalidRequest

DECIDING_S: Final = 2.0
# What has as few steps, and no condition, is done faster than a thread is woken.
FEW_STEPS: Final = 200


class Patience:
    """Counts the processor time of the thread that made it. One condition is bounded by the language's own limits; all that a
    request brings, by this."""

    def __init__(self) -> None:
        self._until_s = time.thread_time() + DECIDING_S

    def __call__(self, step: str) -> None:
        """Return if there is time left after the compilation or evaluation of a step's condition. Raises InvalidRequest naming the step."""
        if time.thread_time() > self._until_s:
            raise InvalidRequest(
                f"the conditions take more than {DECIDING_S:g} s to compile and decide, which was reached at step {step!r};"
                " make them simpler, or what they go through smaller",
                field="steps",
                step=step,
            )
