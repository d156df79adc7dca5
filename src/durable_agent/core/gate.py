"""Gates: what a provider's credential or a tool lets through, for the whole fleet: so many requests and tokens a minute, so
many at once, nothing before the time it asked for, and one probe when it did not work.

Rates are kept as theoretical arrival times: each passage moves the time of the next one on. Source: the generic cell rate
algorithm, ITU-T I.371; the breaker of M. Nygard, "Release It!", 2007.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

# A passage is used a moment after its time; so much of a rate is left unused that no second holds more than it allows.
MARGIN: Final = 0.9
# How far ahead passages are given: what comes later asks again, and hears of a hold before it is sent.
AHEAD_S: Final = 0.25
# So many failures in a row open the breaker, for so long at first and at most.
FAILURES: Final = 5
OPEN_S: Final = 10.0
OPEN_CAP_S: Final = 120.0
# A probe that nobody hears of again is given to somebody else.
PROBE_S: Final = 60.0
LOOK_S: Final = 0.5


class BreakerState(StrEnum):
    """Whether calls are let through: all, none until a time, or a single probe."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class Gate:
    """A gate as it stands. Times in seconds since the epoch; None: never."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None
    requests_at: float | None = None
    tokens_at: float | None = None
    held_until: float | None = None
    state: BreakerState = BreakerState.CLOSED
    failures: int = 0
    retry_at: float | None = None
    probe: str | None = None

    @property
    def paced(self) -> bool:
        """Whether a passage has its time."""
        return self.requests_per_minute is not None or self.tokens_per_minute is not None

    @property
    def limits(self) -> bool:
        """Whether a passage must be asked for."""
        return self.paced or self.concurrency is not None


@dataclass(frozen=True, slots=True)
class Passing:
    """What became of some asks: the first of them may start after so many seconds each; the others wait that long and ask again.

    `why` names what holds them: rate, held, open, busy or nothing. `counted`: slots are limited, and the session's count.
    `paced`: a start has its time, and later is somebody else's.
    """

    starts: tuple[float, ...]
    wait_s: float = 0.0
    why: str = ""
    limits: bool = False
    careful: bool = False
    counted: bool = False
    paced: bool = False


class Heard(StrEnum):
    """How a call behind a gate ended."""

    WORKED = "worked"
    FAILED = "failed"
    HELD = "held"


def pass_through(gate: Gate, now: float, tokens: Sequence[int], *, who: str, free: int | None) -> tuple[Gate, Passing]:
    """Let the first of some asks through, each of so many tokens; `free` are the slots left where they are limited."""
    blocked = until(gate, now)
    if blocked > now:
        why = "open" if gate.state is not BreakerState.CLOSED else "held"
        probed = gate.state is BreakerState.HALF_OPEN  # its answer may come at any moment
        return gate, Passing(
            (), min(blocked - now, LOOK_S) if probed else blocked - now, why, gate.limits, careful=True
        )
    if gate.state is not BreakerState.CLOSED:
        probing = replace(gate, state=BreakerState.HALF_OPEN, probe=who, retry_at=now + PROBE_S)
        return probing, Passing((0.0,), LOOK_S, "open", gate.limits, careful=True)
    starts: list[float] = []
    requests_at, tokens_at = max(gate.requests_at or now, now), max(gate.tokens_at or now, now)
    for asked in tokens[: len(tokens) if free is None else free]:
        start = max(requests_at, tokens_at)
        if start > now + AHEAD_S:
            break
        starts.append(start - now)
        if gate.requests_per_minute is not None:
            requests_at = start + 60.0 / (gate.requests_per_minute * MARGIN)
        if gate.tokens_per_minute is not None:
            tokens_at = start + 60.0 * asked / (gate.tokens_per_minute * MARGIN)
    moved = gate if not starts else replace(
        gate, requests_at=requests_at if gate.requests_per_minute is not None else gate.requests_at,
        tokens_at=tokens_at if gate.tokens_per_minute is not None else gate.tokens_at,
    )  # fmt: skip
    busy = free is not None and len(starts) == free < len(tokens)
    wait_s = AHEAD_S / 2 if busy else max(0.0, max(requests_at, tokens_at) - now - AHEAD_S)
    left = len(starts) < len(tokens)
    why = ("busy" if busy else "rate") if left else ""
    careful = gate.failures > 0
    return moved, Passing(tuple(starts), wait_s if left else 0.0, why, gate.limits, careful, paced=gate.paced)


def until(gate: Gate, now: float) -> float:
    """Return the time before which nothing passes; now when something does."""
    times = [gate.held_until or now]
    if gate.state is not BreakerState.CLOSED:
        times.append(gate.retry_at or now)
    return max(now, *times)


def hear(gate: Gate, now: float, heard: Heard, *, who: str, wait_s: float | None, jitter: float) -> Gate:
    """Return the gate after a call ended; `wait_s` is the Retry-After it was told, `jitter` a random number in [0, 1)."""
    match heard:
        case Heard.HELD:
            # All who wait would come in the same instant: they are spread over the tenth after it.
            asked = now + (wait_s if wait_s is not None else 1.0) * (1.0 + 0.1 * jitter)
            return replace(gate, held_until=max(gate.held_until or 0.0, asked))
        case Heard.WORKED:
            return replace(gate, state=BreakerState.CLOSED, failures=0, retry_at=None, probe=None)
        case Heard.FAILED:
            failures = gate.failures + 1
            probed = gate.state is BreakerState.HALF_OPEN and gate.probe == who
            if failures < FAILURES and not probed:
                return replace(gate, failures=failures)
            if gate.state is not BreakerState.CLOSED and not probed:
                return replace(gate, failures=failures)  # one that was under way when it opened
            open_s = min(OPEN_CAP_S, OPEN_S * 2.0 ** max(0, failures - FAILURES)) * (1.0 + 0.1 * jitter)
            return replace(gate, state=BreakerState.OPEN, failures=failures, retry_at=now + open_s, probe=None)
