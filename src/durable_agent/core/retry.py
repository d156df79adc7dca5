"""Whether and when a failed attempt is made again.

Exponential back-off with full jitter (Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog,
2015); a Retry-After from the other side wins over it. Three counters answer three questions and are never mixed: the
claim number fences, `failures` belongs to this policy, `crashes` ends a poison pill.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from durable_agent.core.records import FailureClass, RetryPolicy, StepKind

# No Retry-After keeps a step away for longer than this.
RETRY_AFTER_CAP_S: Final = 3600.0

NEVER_RETRIED: Final = frozenset(
    {
        FailureClass.BUDGET,
        FailureClass.INVALID_INPUT,
        FailureClass.CANCELLED,
        FailureClass.DIVERGED,
        FailureClass.UNKNOWN_EFFECT,
    }
)


@dataclass(frozen=True, slots=True)
class RetryAt:
    """Try again after `delay_s` seconds."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The step is dead: `reason` is `non_retryable` or `attempts_exhausted`."""

    reason: str


@dataclass(frozen=True, slots=True)
class Requeue:
    """A lost lease: the step may be claimed again."""


@dataclass(frozen=True, slots=True)
class Seal:
    """A lost lease too many: the step is taken for a poison pill."""


def decide(
    policy: RetryPolicy, *, failures: int, failure: FailureClass, retry_after_s: float | None, jitter: float
) -> RetryAt | GiveUp:
    """Return what follows the attempt that made it `failures` (from 1); `jitter` is a random number in [0, 1)."""
    if failure in NEVER_RETRIED or failure in policy.non_retryable:
        return GiveUp("non_retryable")
    if failures >= policy.max_attempts:
        return GiveUp("attempts_exhausted")
    if retry_after_s is not None:
        # Spread those who were told the same moment over the tenth after it.
        wait_s = min(max(retry_after_s, 0.0), RETRY_AFTER_CAP_S)
        return RetryAt(wait_s * (1.0 + 0.1 * jitter))
    # The exponent is bounded so that no policy overflows a float.
    return RetryAt(jitter * min(policy.cap_s, policy.base_s * policy.factor ** min(failures - 1, 100)))


def crash(crashes: int, max_crashes: int) -> Requeue | Seal:
    """Return what follows the lost lease that made it `crashes`."""
    return Requeue() if crashes < max_crashes else Seal()


def default_policy(kind: StepKind) -> RetryPolicy:
    """Return the policy of a step that brings none."""
    match kind:
        case StepKind.LLM_CALL | StepKind.AGENT:
            return RetryPolicy(max_attempts=5, base_s=2.0)
        case StepKind.TOOL_CALL:
            return RetryPolicy(max_attempts=5, base_s=1.0)
        case _:
            return RetryPolicy(max_attempts=3, base_s=1.0)
