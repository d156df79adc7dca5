"""Runs of mixed shape, from a seed."""

from __future__ import annotations

import random
from typing import Any

from durable_agent.core.records import Dependency, RetryPolicy, RunSpec, StepKind, StepSpec

# Faults come often enough to spend any sane number of attempts; what is tested is that none is lost.
_PATIENT = RetryPolicy(max_attempts=10_000, base_s=0.05, factor=1.5, cap_s=0.5)


def step(name: str, *parents: str, tool: str = "work", input_: Any = None) -> StepSpec:
    """Return a patient step."""
    return StepSpec(
        name, StepKind.TOOL_CALL, tool, input_, tuple(Dependency(p) for p in parents), retry=_PATIENT, max_crashes=100_000
    )  # fmt: skip


def mixed(rng: random.Random) -> RunSpec:
    """Return a run: a chain, a diamond, a wide fan-in, flaky steps or long ones."""

    def quick() -> dict[str, Any]:
        return {"delay_s": rng.uniform(0.0, 0.2), "failure_rate": rng.choice([0.0, 0.0, 0.4])}

    def slow() -> dict[str, Any]:
        return {"delay_s": rng.uniform(2.0, 4.0), "failure_rate": 0.0}

    match rng.choice(["chain", "diamond", "fan", "flaky", "long", "long", "errands"]):
        case "chain":
            names = [f"c{i}" for i in range(rng.randint(3, 8))]
            steps = [step(n, *([names[i - 1]] if i else []), input_=quick()) for i, n in enumerate(names)]
        case "diamond":
            steps = [step("top", input_=quick()), step("left", "top", input_=quick()), step("right", "top", input_=quick()),
                     step("bottom", "left", "right", input_=quick())]  # fmt: skip
        case "fan":
            width = rng.randint(8, 24)
            steps = [step("scatter", input_=quick())]
            steps += [step(f"leaf{i}", "scatter", input_=quick()) for i in range(width)]
            steps.append(step("gather", *(f"leaf{i}" for i in range(width)), input_=quick()))
        case "flaky":
            steps = [step(f"f{i}", input_={"delay_s": 0.05, "failure_rate": 0.4}) for i in range(5)]
        case "errands":
            steps = errands(rng.random() < 0.5)
        case _:
            steps = [
                step("before", input_=quick()),
                step("long", "before", input_=slow()),
                step("after", "long", input_=quick()),
            ]
    return RunSpec(steps=tuple(steps), goal="chaos")


def errands(approve: bool) -> list[StepSpec]:
    """Return three steps: an errand of recorded calls, a call that is a step of its own, another errand."""
    return [
        step("errand", tool="errand", input_={"approve": approve}),
        step("alone", "errand", tool="send", input_={"n": 9}),
        step("again", "alone", tool="errand", input_={}),
    ]
