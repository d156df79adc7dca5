"""The soak's arithmetic: a drift is seen, a wait is counted from when a step was ready, one still waiting is not left out."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"
NOW_S = 200.0


@pytest.fixture
def soak(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("soak")


def events(run: str, *told: tuple[str, float]) -> list[tuple[Any, ...]]:
    return [(run, seq, kind, at_s, NOW_S) for seq, (kind, at_s) in enumerate(told)]


def samples(soak: ModuleType, rates: list[float], *, p99_ms: float = 10.0, grows_mb: float = 0.0) -> list[Any]:
    return [
        soak.Sample(
            float(n), rate, 1.0, p99_ms, 5, {"queue": n}, {"queue": 1000 * n}, {"worker 0": 60.0 + n * grows_mb}
        )
        for n, rate in enumerate(rates)
    ]


def test_a_drift_is_the_part_of_the_mean_that_is_lost_from_end_to_end(soak: ModuleType):
    assert soak.drift([(0, 110.0), (1, 100.0), (2, 90.0)]) == pytest.approx(-0.2)
    assert soak.drift([(0, 100.0), (1, 100.0), (2, 100.0)]) == 0


def test_a_step_waits_from_its_run_or_from_the_step_before(soak: ModuleType):
    told = events(
        "a", ("run.created", 100.0), ("step.claimed", 100.5), ("step.succeeded", 101.0), ("step.claimed", 101.25),
        ("step.succeeded", 102.0),
    )  # fmt: skip
    assert soak.waits_ms(told, 2) == [500.0, 250.0]


def test_a_step_that_is_not_claimed_yet_has_waited_until_now(soak: ModuleType):
    told = [
        *events("a", ("run.created", 199.0)),
        *events("b", ("run.created", 190.0), ("step.claimed", 190.0), ("step.succeeded", 195.0)),
    ]
    assert sorted(soak.waits_ms(told, 2)) == [0.0, 1000.0, 5000.0]


def test_a_steady_system_meets_the_goals(soak: ModuleType):
    assert all(soak.summary(samples(soak, [100.0] * 10))["goals"].values())


@pytest.mark.parametrize(
    ("goal", "rates", "more"),
    [
        ("throughput falls", [100.0 - n for n in range(10)], {}),
        ("claim p99", [100.0] * 10, {"p99_ms": 101.0}),
        ("memory", [100.0] * 10, {"grows_mb": 1.0}),
    ],
)
def test_a_goal_that_is_missed_is_said_to_be(soak: ModuleType, goal: str, rates: list[float], more: dict[str, float]):
    goals = soak.summary(samples(soak, rates, **more))["goals"]
    assert [name for name, met in goals.items() if not met] == [name for name in goals if name.startswith(goal)]
