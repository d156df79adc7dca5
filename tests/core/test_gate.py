"""Gates as rules: rates over time, holds, the breaker and its single probe."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from durable_agent.core.gate import FAILURES, PROBE_S, BreakerState, Gate, Heard, hear, pass_through


@given(
    rate=st.integers(1, 6000),
    asks=st.lists(st.tuples(st.floats(0, 5), st.integers(1, 40)), min_size=1, max_size=40),
)
def test_no_second_and_no_minute_sees_more_than_the_rate(rate: int, asks: list[tuple[float, int]]) -> None:
    gate, now, starts = Gate(requests_per_minute=rate), 1000.0, list[float]()
    for pause, count in asks:
        now += pause
        gate, done = pass_through(gate, now, [1] * count, who="w", free=None)
        starts += [now + start for start in done.starts]
    for first in starts:
        assert sum(first <= one < first + 60.0 for one in starts) <= rate
        assert sum(first <= one < first + 1.0 for one in starts) <= max(1, rate / 60.0 + 1)


def test_tokens_are_a_rate_of_their_own_and_a_large_call_is_followed_by_a_pause() -> None:
    gate = Gate(tokens_per_minute=6000)
    gate, first = pass_through(gate, 0.0, [6000, 1], who="w", free=None)
    assert first.starts == (0.0,)
    assert 60.0 < first.wait_s < 70.0
    gate, later = pass_through(gate, 67.0, [1], who="w", free=None)
    assert later.starts == (0.0,)


def test_no_more_are_let_through_than_slots_are_free() -> None:
    _, done = pass_through(Gate(concurrency=5), 0.0, [1] * 9, who="w", free=3)
    assert (len(done.starts), done.why) == (3, "busy")


def test_a_passage_moves_only_what_is_limited_and_a_refusal_nothing() -> None:
    slots = Gate(concurrency=5)
    assert pass_through(slots, 1.0, [1] * 9, who="w", free=3)[0] == slots
    moved, done = pass_through(Gate(requests_per_minute=60), 1.0, [1], who="w", free=None)
    assert (moved.tokens_at, done.paced) == (None, True)
    assert pass_through(moved, 1.1, [1], who="w", free=None)[0] == moved


def test_a_hold_keeps_everybody_away_until_its_time_and_a_shorter_one_does_not_end_it() -> None:
    gate = hear(Gate(), 100.0, Heard.HELD, who="w", wait_s=30.0, jitter=0.5)
    gate = hear(gate, 101.0, Heard.HELD, who="v", wait_s=1.0, jitter=0.0)
    _, done = pass_through(gate, 129.0, [1], who="v", free=None)
    assert (done.starts, done.why) == ((), "held")
    _, done = pass_through(gate, 131.6, [1], who="v", free=None)
    assert done.starts == (0.0,)


def opened(now: float) -> Gate:
    gate = Gate()
    for _ in range(FAILURES):
        gate = hear(gate, now, Heard.FAILED, who="w", wait_s=None, jitter=0.0)
    return gate


def test_failures_in_a_row_open_the_breaker_and_a_success_between_counts_anew() -> None:
    gate = Gate()
    for _ in range(FAILURES - 1):
        gate = hear(gate, 0.0, Heard.FAILED, who="w", wait_s=None, jitter=0.0)
    gate = hear(gate, 0.0, Heard.WORKED, who="w", wait_s=None, jitter=0.0)
    gate = hear(gate, 0.0, Heard.FAILED, who="w", wait_s=None, jitter=0.0)
    assert gate.state is BreakerState.CLOSED
    assert opened(0.0).state is BreakerState.OPEN


def test_one_probe_is_let_through_and_its_end_decides() -> None:
    gate = opened(0.0)
    assert pass_through(gate, 5.0, [1, 1], who="w", free=None)[1].starts == ()
    gate, first = pass_through(gate, 11.0, [1, 1, 1], who="w", free=None)
    assert first.starts == (0.0,)
    assert pass_through(gate, 11.1, [1], who="v", free=None)[1].starts == ()
    failed = hear(gate, 12.0, Heard.FAILED, who="w", wait_s=None, jitter=0.0)
    assert failed.state is BreakerState.OPEN
    assert pass_through(failed, 23.0, [1], who="v", free=None)[1].starts == ()  # for longer than the first time
    closed = hear(gate, 12.0, Heard.WORKED, who="w", wait_s=None, jitter=0.0)
    assert closed == replace(gate, state=BreakerState.CLOSED, failures=0, retry_at=None, probe=None)


def test_a_probe_that_is_never_heard_of_is_given_to_another() -> None:
    gate, _ = pass_through(opened(0.0), 11.0, [1], who="w", free=None)
    gate, again = pass_through(gate, 11.0 + PROBE_S + 0.1, [1], who="v", free=None)
    assert again.starts == (0.0,)
    assert gate.probe == "v"


def test_a_failure_that_was_under_way_when_it_opened_does_not_end_the_probe() -> None:
    gate, _ = pass_through(opened(0.0), 11.0, [1], who="w", free=None)
    assert hear(gate, 11.5, Heard.FAILED, who="v", wait_s=None, jitter=0.0).state is BreakerState.HALF_OPEN
