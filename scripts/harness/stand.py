"""One server, workers that come and go, an API: what the bench measures on."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from durable_agent.cli.processes import dying_with
from durable_agent.core.records import DEFAULT_TENANT, Dependency, RunSpec, StepKind, StepSpec
from durable_agent.db.pool import Database
from durable_agent.embedded import EmbeddedPostgres
from durable_agent.engine.submit import Memory, Submission, submit
from durable_agent.migrate import upgrade
from harness.zygote import Zygote

API_PORT = 4198
WORKERS, SLOTS = 2, 50


def step(name: str, *parents: str, tool: str = "noop", **given: Any) -> StepSpec:
    """Return a step that does nothing."""
    return StepSpec(name, StepKind.TOOL_CALL, tool, depends_on=tuple(map(Dependency, parents)), **given)


def chain(length: int) -> RunSpec:
    """Return a chain."""
    return RunSpec(tuple(step(f"s{n}", *([f"s{n - 1}"] if n else [])) for n in range(length)))


def fan(width: int) -> RunSpec:
    """Return a scatter and gather."""
    leaves = [f"m{n}" for n in range(width)]
    return RunSpec((step("a"), *(step(leaf, "a") for leaf in leaves), step("z", *leaves)))


class Bench:
    """One server, and workers that come and go."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.postgres = EmbeddedPostgres(directory / "postgres")
        stack.enter_context(self.postgres)
        stack.callback(self._sound)
        self.url = self.postgres.urls.url
        self.admin_url = make_conninfo(self.postgres.urls.admin_url, dbname="durable_agent")
        upgrade(self.url)
        self.environment = {
            "DATABASE_URL": self.url, "DATABASE_DIRECT_URL": self.url, "DURABLE_AGENT_LOG_LEVEL": "warning",
        }  # fmt: skip
        self.directory = directory
        self.wal_bytes = 0.0
        self._stack = stack

    def _sound(self) -> None:
        if found := self.postgres.crashes():
            raise RuntimeError(
                f"PostgreSQL ended by a fault of its own, and what was measured is worth nothing: {found}"
            )

    def zygote(self, slots: int = SLOTS) -> Zygote:
        """Return a zygote whose workers have so many slots."""
        made = Zygote(
            ["harness.tools"], {**self.environment, "MAX_CONCURRENT_TASKS": str(slots)}, self.directory / "workers.log"
        )
        self._stack.callback(made.close)
        return made

    def closing(self, close: Callable[[], None]) -> None:
        """Call it when the bench ends."""
        self._stack.callback(close)

    def query(self, query: str, *params: Any) -> list[Any]:
        """Return rows."""
        with psycopg.connect(self.admin_url, autocommit=True) as conn:
            cursor = conn.execute(query.encode(), params or None)
            return cursor.fetchall() if cursor.description else []

    def until(self, query: str, wanted: Any, timeout_s: float = 120.0, every_s: float = 0.05) -> None:
        """Return when the query gives what is wanted."""
        deadline_s = time.monotonic() + timeout_s
        with psycopg.connect(self.admin_url, autocommit=True) as conn:
            while True:
                row = conn.execute(query.encode()).fetchone()
                if row is not None and row[0] == wanted:
                    return
                if time.monotonic() > deadline_s:
                    raise RuntimeError(f"{query} is {row}, not {wanted}, after {timeout_s} s")
                time.sleep(every_s)

    @contextmanager
    def workers(self, zygote: Zygote, count: int = WORKERS) -> Iterator[list[int]]:
        """Yield running workers; they are drained afterwards."""
        pids = [zygote.spawn(f"bench-{n}") for n in range(count)]
        try:
            yield pids
        finally:
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGTERM)
                except ProcessLookupError:
                    continue
            self.until(
                "select count(*)::int from workers where state in ('active', 'draining') and lease_until > now()", 0
            )

    def clean(self) -> None:
        """Empty every table."""
        self.query(
            "truncate runs, steps, queue, events, effects, waits, signals, dead_letters, workers, idempotency_keys, budgets, deltas"
        )
        self.settle()

    def settle(self) -> None:
        """Leave nothing to be done later that the next measurement would pay for."""
        self.query("vacuum analyze")
        self.query("checkpoint")

    def drain(self, zygote: Zygote, specs: Sequence[RunSpec], *, keep: bool = False) -> float:
        """Return steps a second from the first claim to the last success, of workers that are warm when the work is there.

        They run a little of the same kind, are stopped (SIGSTOP) while the work is submitted, and go on. `wal_bytes` is then
        what a step wrote to the log ahead, without its submission.
        """
        if not keep:
            self.clean()
        steps = sum(len(spec.steps) for spec in specs)
        ended = "select count(*)::int from runs where status in ('pending', 'running') and lane = ''"
        with self.workers(zygote) as pids:
            self.until("select count(*)::int from workers where state = 'active' and lease_until > now()", len(pids))
            run(self.fill([*[chain(1)] * 400, *specs[:20]]))
            self.until(ended, 0)
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            run(self.fill(specs))
            mark, lsn = self.query("select clock_timestamp(), pg_current_wal_insert_lsn()")[0]
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
            self.until(ended, 0, every_s=0.5)  # the events say when; who looks often takes what is measured
            ((written,),) = self.query("select (pg_current_wal_insert_lsn() - %s::pg_lsn)::float8", lsn)
            self.wal_bytes = written / steps
        ((low, high),) = self.query(
            "select min(at) filter (where type = 'step.claimed'), max(at) filter (where type = 'step.succeeded') "
            "from events where at > %s",
            mark,
        )
        return float(steps / (high - low).total_seconds())

    async def fill(self, specs: Sequence[RunSpec]) -> None:
        """Submit the runs, 500 a transaction."""
        memory = Memory()
        async with Database.open(self.url, size=2) as db:
            for start in range(0, len(specs), 500):
                await submit(db, DEFAULT_TENANT, [Submission(s) for s in specs[start : start + 500]], memory=memory)

    @contextmanager
    def api(self) -> Iterator[int]:
        """Yield the pid of a running API."""
        with (self.directory / "api.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "durable_agent", "api", "--port", str(API_PORT)],
                env={**os.environ, **self.environment}, stdout=log, stderr=log, preexec_fn=dying_with(os.getpid()),
            )  # fmt: skip
            try:
                run(_answering(API_PORT))
                yield process.pid
            finally:
                process.terminate()
                process.wait(20)


def run(main: Coroutine[Any, Any, Any]) -> Any:
    """Run on the loop the product uses."""
    import uvloop

    return uvloop.run(main)


async def _answering(port: int) -> None:
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        except OSError:
            await asyncio.sleep(0.05)
