"""A step takes more memory than its worker may have, and the kernel ends the worker: again and again, until it is sealed.

    python scripts/chaos.py --campaign memory --minutes 1 --seed 1

Each worker is in a memory cgroup of its own (version 1 or 2, whichever can be written here), so it is the kernel's OOM
killer that ends it. Where there is none, the limit is RLIMIT_AS: the allocation fails, and the step ends its process
itself. A step that does so is sealed after exactly three lost leases (P2), and its siblings succeed.
"""

from __future__ import annotations

import asyncio
import os
import random
import resource
from pathlib import Path
from typing import Any, Final

from durable_agent.core.records import Dependency, RunSpec, StepKind, StepSpec
from durable_agent.db.pool import Database
from harness.history import Report
from harness.stack import Campaign, Place, Stack
from harness.workload import mixed, step

_LIMIT_BYTES: Final = 220_000_000
_SPACE_BYTES: Final = 3_000_000_000
_CRASHES: Final = 3
_SEALED = """
select s.run_id, s.status, s.crashes, s.claim_no from steps s where s.tool = 'hog' and s.status not in ('pending', 'skipped')
"""
# A run that fails cancels what of it has not ended; that is no harm done by the kernel.
_SIBLINGS = """
select count(*)::int, (count(*) filter (where s.status = 'succeeded'))::int,
       (count(*) filter (where s.status not in ('succeeded', 'cancelled')))::int from steps s
where s.name like 'sibling%' and exists (select from steps h where h.run_id = s.run_id and h.tool = 'hog')
"""


class Run(Campaign):
    """The campaign of the greedy step."""

    modules = ("harness.tools", "harness.hungry")
    must_land = ("out of memory",)
    mutants = ("crashes-uncounted",)

    def place(self) -> Place:
        """Choose how memory is limited."""
        self.home = self._cgroup()
        self.how = "RLIMIT_AS" if self.home is None else f"cgroup v{1 if 'memory' in self.home.parts else 2}"
        self.replacing: asyncio.Task[None] | None = None
        self.sealed: list[tuple[Any, ...]] = []
        self.siblings = (0, 0, 0)
        return super().place()

    def _cgroup(self) -> Path | None:
        """Return a writable memory cgroup of one's own."""
        for base, limit in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
            home = Path(base) / f"chaos-{os.getpid()}"
            try:
                home.mkdir()
                if (home / limit).exists():
                    self.exits.callback(self._remove, home)
                    return home
                home.rmdir()
            except OSError:
                continue
        return None

    def _remove(self, home: Path) -> None:
        for path in (*home.glob("w*"), home):
            if path.is_dir():
                path.rmdir()

    def hire(self, stack: Stack) -> None:
        """Start workers, each under its limit."""
        self.spawn = stack.spawn
        stack.faults.spawn = self._limited
        stack.exits.callback(self._end, stack)
        super().hire(stack)
        for name, pid in stack.workers.items():
            self._limit(name, pid)

    def _limited(self, name: str) -> int:
        pid = self.spawn(name)
        self._limit(name, pid)
        return pid

    def _limit(self, name: str, pid: int) -> None:
        if self.home is None:
            resource.prlimit(pid, resource.RLIMIT_AS, (_SPACE_BYTES, _SPACE_BYTES))
            return
        group = self.home / name
        group.mkdir(exist_ok=True)
        limit = "memory.limit_in_bytes" if self.how == "cgroup v1" else "memory.max"
        (group / limit).write_text(str(_LIMIT_BYTES))
        (group / "cgroup.procs").write_text(str(pid))

    def _kills(self) -> int:
        """Return what the kernel counted."""
        files = [*self.home.glob("w*/memory.oom_control"), *self.home.glob("w*/memory.events")] if self.home else []
        lines = [line.split() for path in files for line in path.read_text().splitlines()]
        return sum(int(line[1]) for line in lines if line[0] == "oom_kill")

    def _end(self, stack: Stack) -> None:
        for pid in stack.workers.values():
            stack.faults.signal(pid, 9)

    async def rage(self, stack: Stack, db: Database) -> None:
        """Submit greedy steps among the others, and replace who died of them."""
        await stack.load.during([self._replace(stack)], self.given.minutes * 60, _greedy)

    async def _replace(self, stack: Stack) -> None:
        """Watch the workers; it goes on until everything has ended."""
        self.replacing = asyncio.create_task(self._watch(stack))
        await stack.faults.over.wait()

    async def _watch(self, stack: Stack) -> None:
        while not stack.load.ended.is_set():
            for pid in list(stack.workers.values()):
                if not stack.faults.signal(pid, 0):
                    stack.faults.landed["out of memory"] += 1
                    stack.faults.replace(pid)
            await asyncio.sleep(0.1)

    async def checked(self, stack: Stack, db: Database) -> Report:
        """Check also that each greedy step was sealed after its third crash, and what became of its siblings."""
        if self.replacing is not None:
            await self.replacing
        report = await super().checked(stack, db)
        self.sealed = await stack.faults.query(_SEALED)
        for run, status, crashes, claims in self.sealed:
            if (status, crashes) != ("dead_letter", _CRASHES):
                report.violations.append(
                    f"P2: run {run}: its greedy step is {status} after {crashes} crashes, {claims} claims"
                )
        self.siblings = (await stack.faults.query(_SIBLINGS))[0]
        if self.siblings[2]:
            report.violations.append(
                f"P2: {self.siblings[2]} of {self.siblings[0]} siblings ended as the greedy step did"
            )
        return report

    def figures(self, stack: Stack, report: Report) -> dict[str, Any]:
        """Return how it was limited and what was sealed."""
        return {
            "memory limited by": self.how, "greedy steps sealed after 3 crashes": len(self.sealed),
            "their siblings": self.siblings[0], "their siblings that succeeded": self.siblings[1],
            "OOM kills by the kernel": self._kills(),
        }  # fmt: skip


def _greedy(rng: random.Random) -> RunSpec:
    """Return now and then a run with a step that takes too much, beside siblings that do not."""
    if rng.random() > 0.08:
        return mixed(rng)
    hog = StepSpec("hog", StepKind.TOOL_CALL, "hog", {}, (Dependency("first"),), max_crashes=_CRASHES)
    siblings = [step(f"sibling{n}", "first", input_={"delay_s": rng.uniform(0.0, 2.0)}) for n in range(4)]
    return RunSpec((step("first"), hog, *siblings), goal="chaos")
