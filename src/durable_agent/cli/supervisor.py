"""The supervisor behind `up`: embedded PostgreSQL, one API, N workers, as one thing that starts and ends whole.

Children are processes of their own; one that dies is started again, with a growing pause. SIGTERM drains: workers
first, then the API, then PostgreSQL. If the supervisor itself is killed, the kernel ends its children and the
watchdog ends PostgreSQL.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from durable_agent import migrate
from durable_agent.cli.processes import DEMO, die_with_parent
from durable_agent.embedded import EmbeddedPostgres, default_data_dir
from durable_agent.errors import OutsideError
from durable_agent.settings import Settings
from durable_agent.telemetry import logger

log = logger("up")

READY_TIMEOUT_S = 60.0
# PostgreSQL needs this long at most to end; the workers' grace comes on top.
KILL_AFTER_S = 10.0


@dataclass(slots=True)
class Child:
    """One supervised process."""

    name: str
    arguments: tuple[str, ...]
    environment: dict[str, str]
    process: asyncio.subprocess.Process | None = None
    failures: int = 0

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        alive = self.process is not None and self.process.returncode is None
        return self.process.pid if alive and self.process is not None else None

    async def start(self) -> None:
        """Start the process."""
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "durable_agent", *self.arguments, env={**os.environ, **self.environment},
            preexec_fn=die_with_parent, start_new_session=True,
        )  # fmt: skip

    async def end(self, timeout_s: float) -> None:
        """Ask it to end, and kill it when it has not within the time."""
        process = self.process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(timeout_s):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


@dataclass(slots=True)
class Stack:
    """A running system."""

    settings: Settings
    url: str
    database_url: str
    postgres: EmbeddedPostgres | None
    api: Child
    workers: list[Child]
    stopping: bool = False
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def keep(self, child: Child) -> None:
        """Start a child, and again whenever it ends, until the stack stops."""
        while not self.stopping:
            started_s = time.monotonic()
            await child.start()
            assert child.process is not None
            code = await child.process.wait()
            if self.stopping:
                return
            child.failures = 0 if time.monotonic() - started_s > 10.0 else child.failures + 1
            pause_s = 0.0 if child.failures == 0 else min(10.0, 0.25 * 2.0**child.failures)
            log.warning("child_ended", name=child.name, code=code, restart_in_s=pause_s)
            await asyncio.sleep(pause_s)

    async def keep_postgres(self) -> None:
        """Start PostgreSQL again whenever it died, until the stack stops."""
        while not self.stopping and self.postgres is not None:
            await asyncio.sleep(0.5)
            try:
                if not self.stopping and await asyncio.to_thread(self.postgres.ensure):
                    log.warning("postgres_restarted")
            except OutsideError as error:
                log.warning("postgres_down", error=error.message)

    async def until_ready(self) -> None:
        """Return when the API is ready and every worker has registered. Raises OutsideError after a minute."""
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        async with httpx2.AsyncClient(base_url=self.url, timeout=2.0, trust_env=False) as client:
            while time.monotonic() < deadline_s:
                with contextlib.suppress(httpx2.HTTPError):
                    if (await client.get("/readyz")).status_code == 200:
                        health = (await client.get("/healthz")).json()
                        if health["active"] >= len(self.workers):
                            return
                await asyncio.sleep(0.05)
        raise OutsideError(f"the system was not ready after {READY_TIMEOUT_S:.0f} s; the log lines above say why")


@contextlib.asynccontextmanager
async def stack(
    settings: Settings, *, workers: int, modules: Sequence[str] = (), data_dir: Path | None = None
) -> AsyncIterator[Stack]:
    """Yield a running system; on leaving it is drained and ended. Raises DurableAgentError when it cannot start."""
    postgres: EmbeddedPostgres | None = None
    if settings.database_url is None:
        postgres = EmbeddedPostgres(data_dir or settings.data_dir or default_data_dir())
        urls = await asyncio.to_thread(postgres.start)
        database_url = direct_url = urls.url
    else:
        database_url, direct_url = settings.database_url, settings.direct_url or settings.database_url
    try:
        await asyncio.to_thread(migrate.upgrade, direct_url)
        made = _make(settings, database_url, direct_url, postgres, workers, modules)
        try:
            loops = [made.keep(made.api), *(made.keep(child) for child in made.workers)]
            made._tasks.extend(asyncio.create_task(loop) for loop in loops)
            if postgres is not None:
                made._tasks.append(asyncio.create_task(made.keep_postgres()))
            await made.until_ready()
            yield made
        finally:
            await _end(made)
    finally:
        if postgres is not None:
            await asyncio.to_thread(postgres.stop)


def _make(
    settings: Settings, database_url: str, direct_url: str, postgres: EmbeddedPostgres | None, workers: int,
    modules: Sequence[str],
) -> Stack:  # fmt: skip
    shared = {"DATABASE_URL": database_url, "DATABASE_DIRECT_URL": direct_url}
    own = {
        "DURABLE_AGENT_HOST": settings.host, "PORT": str(settings.port), "DURABLE_AGENT_LOG_LEVEL": settings.log_level,
        "MAX_CONCURRENT_TASKS": str(settings.max_concurrent_tasks),
    }  # fmt: skip
    api = Child("api", ("api",), {**shared, **own})
    made = [
        Child(f"worker-{n}", ("worker", *(modules or [DEMO])), {**shared, **own, "WORKER_ID": f"worker-{n}"})
        for n in range(1, workers + 1)
    ]
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::", "localhost") else settings.host
    return Stack(settings, f"http://{host}:{settings.port}", database_url, postgres, api, made)


async def _end(made: Stack) -> None:
    made.stopping = True
    grace_s = made.settings.drain_grace_s + KILL_AFTER_S
    async with asyncio.TaskGroup() as group:
        for child in made.workers:
            group.create_task(child.end(grace_s))
    await made.api.end(KILL_AFTER_S)
    for task in made._tasks:
        task.cancel()
    await asyncio.gather(*made._tasks, return_exceptions=True)


async def up(settings: Settings, *, workers: int, modules: Sequence[str], data_dir: Path | None) -> None:
    """Run the whole system until SIGTERM or Ctrl-C; a second one ends it at once."""
    stop = asyncio.Event()
    main = asyncio.current_task()
    assert main is not None

    def asked() -> None:
        if stop.is_set():
            os._exit(1)  # the kernel and the watchdog end the rest
        stop.set()
        if not started.is_set():
            main.cancel()

    started = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, asked)
    try:
        async with stack(settings, workers=workers, modules=modules, data_dir=data_dir) as running:
            started.set()
            print(f"ready {running.url}", flush=True)
            await stop.wait()
            log.info("draining")
    except asyncio.CancelledError:
        if not stop.is_set():
            raise
