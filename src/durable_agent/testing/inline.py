"""A worker in the test's own process, on the engine in memory."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

from durable_agent.agents.kinds import AGENT_KINDS
from durable_agent.agents.models import WorkerModels
from durable_agent.artifacts import Artifacts
from durable_agent.core.records import Limit, RunSpec
from durable_agent.flow.builder import Graph
from durable_agent.flow.kinds import KINDS
from durable_agent.flow.model import ChatModel
from durable_agent.flow.registry import Registry
from durable_agent.flow.steps import Step, step_specs
from durable_agent.flow.tools import Tool
from durable_agent.telemetry import Counters
from durable_agent.testing.memory import FakeBackend
from durable_agent.testing.state import FakeRun, FakeWait
from durable_agent.worker.loop import Worker

Answers = Callable[[FakeBackend, FakeWait], None]


async def run_in_memory(
    work: Graph | Sequence[Step], tools: Sequence[Tool] | ModuleType, *, input: Any = None, goal: str | None = None,
    answers: Answers | None = None, backend: FakeBackend | None = None, models: Mapping[str, ChatModel] | None = None,
    budget: Sequence[Limit] | None = None,
) -> FakeRun:  # fmt: skip
    """Run a graph to its end with these tools, and return it. The clock jumps to whatever is due next.

    A graph brings its predicates and its budget with it; another `budget` takes the place of that one. `models` are the models by name that it finds beside the offline one; "default" is what is asked for by default.
    `answers` is called with the backend and each wait that only a person or a signal can end; it answers by the
    backend's `answer` or `signal`. Raises RuntimeError for a run that waits for what nobody answers, and for one that
    its budget has paused.
    """
    engine = backend or FakeBackend()
    offered = [v for v in vars(tools).values() if isinstance(v, Tool)] if isinstance(tools, ModuleType) else tools
    graph = work if isinstance(work, Graph) else None
    found = Registry([*offered, *(graph.predicates if graph is not None else ())])
    specs = work.specs() if isinstance(work, Graph) else step_specs(work)
    limits = budget if budget is not None else graph.limits if graph is not None else ()
    run_id = engine.submit(RunSpec(specs, goal, input, budget=tuple(limits)))
    with tempfile.TemporaryDirectory(prefix="durable-agent-memory-") as place:
        worker = Worker(
            engine, found.including((*KINDS, *AGENT_KINDS)), 10, poll_s=lambda: 3600.0, grace_s=0.0, payload_limit_bytes=262_144,
            artifact_limit_bytes=67_108_864, artifacts=Artifacts(place), lease_s=1e12, counters=Counters(),
            models=WorkerModels.from_env({}, models),
        )  # fmt: skip
        worker.beat(time.monotonic(), frozenset())
        working = asyncio.create_task(worker.run())
        try:
            while engine.runs[run_id].status in ("running", "compensating", "paused") and not working.done():
                await _quiet(worker, engine)
                _move_on(engine, run_id, answers)
                worker.ready()
        finally:
            worker.drain()
            await working
    return engine.runs[run_id]


async def _quiet(worker: Worker, engine: FakeBackend) -> None:
    """Return when the worker has nothing to do any more: what happens next must come from outside."""
    idle = 0
    while idle < 3:
        await asyncio.sleep(0)
        ready = any(
            s.status == "ready" and s.due_s <= engine.now_s
            for r in engine.runs.values() if r.status != "paused" for s in r.steps
        )  # fmt: skip
        busy = bool(worker.running) or worker.has_outcomes or ready
        if busy:
            worker.ready()
            await asyncio.sleep(0.001)
        idle = 0 if busy else idle + 1


def _move_on(engine: FakeBackend, run_id: Any, answers: Answers | None) -> None:
    """Answer what is asked, or move the clock to what is due next."""
    run = engine.runs[run_id]
    if run.status == "paused":
        raise RuntimeError(f"the run is paused: {_spent(run)}")
    if run.status not in ("running", "compensating"):
        return
    before = [wait for wait in engine.open_waits() if not wait.spawned and wait.child is None]
    for wait in before if answers is not None else ():
        if wait.open and answers is not None:
            answers(engine, wait)
    if any(not wait.open for wait in before):
        return
    due = [w.due_s for w in engine.open_waits() if w.due_s is not None]
    due += [s.due_s for r in engine.runs.values() for s in r.steps if s.status == "ready" and s.due_s > engine.now_s]
    if not due and any(one.status == "paused" for one in engine.runs.values() if one.top is run.top):
        raise RuntimeError(f"a run it started is paused: {_spent(run)}")
    if not due:
        waiting = ", ".join(f"{w.asked.kind.value} {w.asked.name!r}" for w in before) or "nothing"
        raise RuntimeError(f"the run waits for {waiting}, and nobody answers: give `answers`")
    engine.advance(min(due) - engine.now_s)


def _spent(run: FakeRun) -> str:
    limits = ", ".join(f"{one.meter} {one.spent} of {one.cap}" for one in run.top.budgets)
    return f"its budget does not hold what it wants to do next ({limits})"
