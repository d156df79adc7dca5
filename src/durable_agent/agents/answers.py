"""Calls of a model's choice: tried again a few times while the failure may pass; what fails then is an answer, too."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final

from durable_agent.core import retry
from durable_agent.core.records import FailureClass, RetryPolicy
from durable_agent.errors import RateLimited, RetryableError, UnknownOutcome
from durable_agent.flow.tools import Tool

PATIENCE: Final = RetryPolicy(max_attempts=3, base_s=0.5, cap_s=20.0)


def patient(tool: Tool, call: Callable[[int, str], Awaitable[Any]]) -> Callable[[int, str], Awaitable[Any]]:
    """Return the call as one that is made again after what passes, by the tool's own policy; it raises the last failure.

    What may have happened and must not happen twice is left to a person.
    """
    policy = tool.retry or PATIENCE

    async def make(effect: int, key: str) -> Any:
        failures = 0
        while True:
            try:
                return await call(effect, key)
            except (RetryableError, RateLimited, UnknownOutcome) as error:
                if isinstance(error, UnknownOutcome) and tool.effect == "manual":
                    raise
                failures += 1
                decided = retry.decide(
                    policy, failures=failures, failure=FailureClass(error.failure_class),
                    retry_after_s=error.retry_after_s, jitter=random.random(),
                )  # fmt: skip
                if not isinstance(decided, retry.RetryAt) or decided.delay_s > PATIENCE.cap_s:
                    raise
            await asyncio.sleep(decided.delay_s)

    return make
