"""Crash everywhere: a run is made once for each commit of its worker, whose process is killed there, and made whole again.

Each point is a real process, a real SIGKILL and a real PostgreSQL. A point lies before a commit (nothing of it is
written) or after it (everything is, and the worker never hears so). Source: the idea of exhaustive fault injection at
durability boundaries, as in SQLite's crash tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson

from durable_agent.core.records import DEFAULT_TENANT, RunSpec
from durable_agent.core.states import RunStatus
from durable_agent.core.waits import Decision
from durable_agent.db import reads
from durable_agent.db.doorbell import Bell
from durable_agent.db.pool import Database
from durable_agent.embedded import EmbeddedPostgres
from durable_agent.engine.answer import answer
from durable_agent.engine.answer import signal as signal_run
from durable_agent.engine.health import check_history
from durable_agent.engine.reap import Upkeep
from durable_agent.engine.submit import Submission, submit
from durable_agent.errors import Conflict, NotFound
from durable_agent.flow.steps import Step
from durable_agent.migrate import upgrade
from durable_agent.tasks import ended
from durable_agent.testing.nursery import Nursery

# A run that stands still for so long is told of as stuck.
PATIENCE_S = 60.0
_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Happening:
    """What became of the run at one point: where its worker was killed (0: nowhere), its end, what `observe` saw."""

    commit: int
    side: str
    run_id: UUID
    status: str
    outputs: Mapping[str, Any]
    faults: Sequence[str]
    seen: Any = None


@dataclass(slots=True)
class CrashReport:
    """All points: `baseline` is the run nobody disturbed, `different` says where another ended otherwise."""

    baseline: Happening
    points: list[Happening] = field(default_factory=list)

    @property
    def different(self) -> list[str]:
        """What is not as in the undisturbed run, a sentence each; empty when every crash was survived."""
        found: list[str] = []
        for one in self.points:
            where = f"killed {one.side} commit {one.commit}"
            found += [f"{where}: {fault}" for fault in one.faults]
            if one.status != self.baseline.status:
                found.append(f"{where}: the run ended as {one.status}, not {self.baseline.status}")
            elif one.outputs != self.baseline.outputs:
                found.append(f"{where}: the outputs are {one.outputs}, not {self.baseline.outputs}")
            if one.seen != self.baseline.seen:
                found.append(f"{where}: observed {one.seen}, not {self.baseline.seen}")
        return found


Answers = Callable[[dict[str, Any]], Awaitable[tuple[Decision, Any] | None]]


async def crash_everywhere(
    steps: Sequence[Step], modules: Sequence[str], *, input: Any = None, goal: str | None = None,
    database_url: str | None = None, answers: Answers | None = None,
    observe: Callable[[UUID], Awaitable[Any]] | None = None, ignore: Sequence[str] = (),
    environment: Mapping[str, str] | None = None, abreast: int = 2, most: int = 400,
) -> CrashReport:  # fmt: skip
    """Run the steps once undisturbed and once for each commit of a worker, before and after it; return how each ended.

    `modules` have the tools. `answers` is asked about each open wait for a person or a signal and returns what to
    answer, or None to leave it. `observe` looks at the outside world when a run has ended: what it returns must be the
    same at every point. `ignore` names steps whose outputs may differ. Without a `database_url` an embedded
    PostgreSQL is started. At most `most` points are made, `abreast` at a time.
    """
    async with (
        _database(database_url) as url,
        Database.open(url, size=4) as db,
        _workers(modules, url, environment) as nursery,
    ):
        stage = _Stage(db, url, steps, RunSpec((), goal, input), answers, observe, set(ignore), nursery)
        upkeep = Upkeep(db, Bell(db, enabled=True), 30.0, 0.05, suspicion_s=0.1)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(upkeep.run()), group.create_task(upkeep.bell.run())]
            report = CrashReport(await stage.play(0, "nowhere"))
            for side in ("before", "after"):
                await _points(stage, report, side, abreast, most)
            await ended(tasks)
    return report


async def _points(stage: _Stage, report: CrashReport, side: str, abreast: int, most: int) -> None:
    """Go on from commit to commit until a run ends with its worker alive: there was no such commit any more."""
    commit = 1
    while len(report.points) < most:
        async with asyncio.TaskGroup() as group:  # when one fails, the others end before their nursery does
            batch = [group.create_task(stage.play(number, side)) for number in range(commit, commit + abreast)]
        played = [task.result() for task in batch]
        report.points += [one for one in played if one.commit]
        if any(one.commit == 0 for one in played):
            return
        commit += abreast


@contextlib.asynccontextmanager
async def _database(url: str | None) -> AsyncIterator[str]:
    if url is not None:
        yield url
        return
    with tempfile.TemporaryDirectory(prefix="durable-agent-crash-", dir="/var/tmp") as made:
        os.chmod(made, 0o755)
        with EmbeddedPostgres(Path(made) / "data") as postgres:
            await asyncio.to_thread(upgrade, postgres.urls.url)
            yield postgres.urls.url


@contextlib.asynccontextmanager
async def _workers(modules: Sequence[str], url: str, environment: Mapping[str, str] | None) -> AsyncIterator[Nursery]:
    given = {"DATABASE_URL": url, "DATABASE_DIRECT_URL": url, "DURABLE_AGENT_LOG_LEVEL": "error", **(environment or {})}
    nursery = Nursery("durable_agent.testing.doomed:main", modules, given)
    try:
        yield nursery
    finally:
        nursery.close()


@dataclass(slots=True)
class _Stage:
    """Where one run after another is played."""

    db: Database
    url: str
    steps: Sequence[Step]
    spec: RunSpec
    answers: Answers | None
    observe: Callable[[UUID], Awaitable[Any]] | None
    ignore: set[str]
    nursery: Nursery

    async def play(self, commit: int, side: str) -> Happening:
        """Play the run with a worker that is killed at a commit (0: never), then with one that is not."""
        queue = f"crash-{side}-{commit}"
        specs = tuple(self._on(step, queue) for step in self.steps)
        spec = RunSpec(specs, self.spec.goal, self.spec.input)
        (submitted,) = await submit(self.db, DEFAULT_TENANT, [Submission(spec)])
        run_id = submitted.run_id
        doomed = self._worker(queue, commit, side)
        try:
            killed = await self._until(run_id, doomed)
        finally:
            self.nursery.kill(doomed)
        heir = self._worker(queue, 0, side)
        try:
            await self._until(run_id, None)
        finally:
            self.nursery.kill(heir)
        return await self._look(run_id, commit if killed else 0, side)

    def _on(self, step: Step, queue: str) -> Any:
        from dataclasses import replace

        return replace(step.spec(), queue=queue, max_crashes=100)

    def _worker(self, queue: str, commit: int, side: str) -> int:
        return self.nursery.spawn({"DURABLE_AGENT_QUEUES": queue, "DURABLE_AGENT_CRASH": f"{commit}:{side}"})

    async def _until(self, run_id: UUID, doomed: int | None) -> bool:
        """Return when the run has ended, or (True) when the doomed worker is dead; answer what is asked meanwhile."""
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        while asyncio.get_running_loop().time() < deadline:
            if doomed is not None and (code := self.nursery.ended(doomed)) is not None:
                if code != -signal.SIGKILL:
                    raise RuntimeError(f"the worker ended with {code} instead of being killed")
                return True
            async with self.db.reading() as conn:
                run = await reads.run(conn, DEFAULT_TENANT, run_id)
                waits = await reads.rows(conn, reads.WAITS.list_waits, _OPEN | {"run": run_id}) if self.answers else []
            if run is None or RunStatus(run["status"]).final:
                return False
            for wait in waits:
                if wait["kind"] in ("approval", "input", "unknown_effect", "signal"):
                    await self._answer(wait)
            await asyncio.sleep(_POLL_S)
        raise TimeoutError(f"run {run_id} did not end within {PATIENCE_S:g} s")

    async def _answer(self, wait: dict[str, Any]) -> None:
        said = await self.answers(wait) if self.answers is not None else None
        if said is not None:
            decision, value = said
            with contextlib.suppress(Conflict, NotFound):
                if decision is Decision.SIGNALLED:
                    # Its key makes it one signal, however often it is looked at before it is heard.
                    await signal_run(
                        self.db,
                        DEFAULT_TENANT,
                        wait["run_id"],
                        wait["name"],
                        value,
                        key=str(wait["id"]),
                        by="crash_everywhere",
                    )
                else:
                    await answer(self.db, DEFAULT_TENANT, wait["id"], decision, by="crash_everywhere", value=value)
            await asyncio.to_thread(_ring, self.url)

    async def _look(self, run_id: UUID, commit: int, side: str) -> Happening:
        async with self.db.reading() as conn:
            run = await reads.run(conn, DEFAULT_TENANT, run_id)
            steps = await reads.steps(conn, DEFAULT_TENANT, run_id)
            faults = await check_history(conn, DEFAULT_TENANT, run_id)
        outputs = {s["name"]: orjson.loads(orjson.dumps(s["output"])) for s in steps if s["name"] not in self.ignore}
        seen = await self.observe(run_id) if self.observe is not None else None
        return Happening(commit, side, run_id, run["status"] if run else "gone", outputs, list(faults), seen)


_OPEN = {"tenant": DEFAULT_TENANT, "state": "open", "kind": None, "people": False, "after": None, "limit": 100}


def _ring(url: str) -> None:
    import psycopg

    from durable_agent.db.doorbell import READY

    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("select pg_notify(%s, '')", (READY,))
