"""Play one seed: make its world, let it come to rest, and hold what happened to the protocol's invariants."""

from __future__ import annotations

import asyncio
import logging
import random as global_random
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from random import Random
from types import SimpleNamespace
from typing import Any

import structlog

from durable_agent.core.records import DEFAULT_TENANT, Lease, RunId, Token
from durable_agent.testing.history import Checker, ExportedRun
from durable_agent.testing.history.report import Report, Violation
from durable_agent.testing.simulation.loop import VirtualLoop
from durable_agent.testing.simulation.mutants import Mutant
from durable_agent.testing.simulation.store import key_of
from durable_agent.testing.simulation.trace import Trace
from durable_agent.testing.simulation.world import World
from durable_agent.worker import loop as worker_loop

OWN = {"succeeded", "failed", "released", "suspended", "indoubt"}
ENDED_BY = {"step.succeeded", "step.failed", "step.released", "step.waiting"}


@dataclass(frozen=True, slots=True)
class Played:
    """What one seed came to. `digest` is the same whenever and wherever the seed is played."""

    seed: int
    violations: tuple[str, ...]
    figures: dict[str, int]
    faults: dict[str, int]
    virtual_s: float
    turns: int
    digest: str
    trace: list[str] = field(default_factory=list)


def play(
    seed: int,
    *,
    mutant: Mutant | None = None,
    faults: bool = True,
    trace: bool = False,
) -> Played:
    """Play a seed and return what it came to."""
    random = Random(seed)
    loop = VirtualLoop(random)
    kept = Trace(keep=trace)
    found: list[str] = []
    with _alone(loop, seed):
        world = World(loop, random, mutant, faults, kept)
        try:
            loop.run_until_complete(world.play())
        except Exception as error:
            found.append(f"harness: {type(error).__name__}: {error}")
        virtual_s = loop.time()
        found += [f"harness: {one}" for one in loop.errors]
        _bury(loop)
    report = check(world)
    found += world.breaches + [str(one) for one in report.violations if not told_twice(one)]
    digest = Trace()
    digest.note(virtual_s, kept.digest, " ".join(run.chain.hex() for run in world.store.runs.values()))
    return Played(
        seed, tuple(found), report.figures | {"violations": len(found)}, dict(+world.weather.landed), virtual_s, loop.turns, digest.digest, kept.lines
    )  # fmt: skip


def check(world: World) -> Report:
    """Hold the histories of a world at rest to the invariants."""
    runs = world.store.runs.values()
    nobody = Token(next(iter(world.store.runs))) if world.store.runs else None
    keys = {
        (str(run.id), step.no): key_of(Lease(DEFAULT_TENANT, RunId(run.id), step.no, 0, nobody))
        for run in runs for step in run.steps if nobody is not None
    }  # fmt: skip
    checker = Checker(own_keys=keys)
    budgets: list[dict[str, Any]] = []
    for run in runs:
        exported = run.exported()
        checker.add(exported)
        asked_again(exported, checker.report)
        budgets += run.budget_rows()
    return checker.compare(client=world.client.log, receiver=world.receiver.log, budgets=budgets)


def told_twice(found: Violation) -> bool:
    """Whether one doubt was told by two claims: a redriven step doubts the same call again, and nothing ended it twice."""
    return "ends more often" in found.message and all(one.get("type") == "effect.unknown" for one in found.excerpt)


def asked_again(found: ExportedRun, report: Report) -> None:
    """R8: who asks again about what was settled hears `already`, until another claim of the step ends or its run does."""
    ended: dict[int | None, int | None] = {}
    lost: dict[int | None, int | None] = {}
    for event in found.events:
        no, claim_no = event.step_no, event.claim_no
        if event.type in ENDED_BY and lost.get(no) != claim_no:
            ended[no] = claim_no
        elif event.type in ("step.lease_lost", "step.cancelled", "step.redriven"):
            ended.pop(no, None)
            lost[no] = claim_no
        elif event.type == "step.fenced" and event.data.get("what") in OWN and ended.get(no, -1) == claim_no:
            report.found("R8", found.id, "it was settled, and who asked again was told `lost`", event)


@contextmanager
def _alone(loop: VirtualLoop, seed: int) -> Iterator[None]:
    """Let the loop's time be the worker's, and the seed the only source of chance."""
    state, configured = global_random.getstate(), structlog.get_config()
    hook = sys.unraisablehook
    quiet = structlog.make_filtering_bound_logger(logging.CRITICAL)
    structlog.configure(wrapper_class=quiet)
    vars(worker_loop)["time"] = SimpleNamespace(monotonic=loop.time)
    global_random.seed(seed)
    sys.unraisablehook = lambda unraisable: None
    try:
        with warnings.catch_warnings():
            # What was killed before its first turn is never awaited.
            warnings.filterwarnings("ignore", message="coroutine .* was never awaited", category=RuntimeWarning)
            yield
    finally:
        vars(worker_loop)["time"], sys.unraisablehook = time, hook
        global_random.setstate(state)
        structlog.configure(**configured)


def _bury(loop: VirtualLoop) -> None:
    """End what was killed or is still under way, without letting it do anything."""
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        with suppress(BaseException):
            task.get_coro().close()
    loop.clear()
    loop.close()


def total(played: Iterator[Played] | list[Played]) -> tuple[Counter[str], Counter[str]]:
    """Return the sums of figures and of faults that landed."""
    figures: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    for one in played:
        figures.update(one.figures)
        faults.update(one.faults)
    return figures, faults
