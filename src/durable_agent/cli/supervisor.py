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
import socket
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import httpx2

from durable_agent import migrate
from durable_agent.api.console import built
from durable_agent.cli.processes import DEMO, checkpoint_tables, dying_with, until_registered
from durable_agent.embedded import EmbeddedPostgres
from durable_agent.errors import DurableAgentError, InvalidRequest, OutsideError
from durable_agent.hosting import bound, default_data_dir, without_libpq_variables
from durable_agent.settings import Settings
from durable_agent.tasks import ended
from durable_agent.telemetry import logger
from durable_agent.tls import trusted_by
from durable_agent.vault import secret_beside

log = logger("up")

READY_TIMEOUT_S = 60.0
# PostgreSQL needs this long at most to end; the workers' grace comes on top.
KILL_AFTER_S = 10.0
# A child that lived so long had started well: its next end counts as the first.
SETTLED_S = 10.0
# So often a child may end before the system is ready: a handler's module that does not compile never will be.
EARLY_FAILURES = 3
_LINE_LIMIT_BYTES = 65_536
# What a child ends with that its settings or modules let not start (see `cli.main`); starting it again changes nothing.
_USAGE = 2


@dataclass(slots=True)
class Child:
    """One supervised process; what it says is passed on line by line, with its name before it when `prefixed`."""

    name: str
    arguments: tuple[str, ...]
    environment: dict[str, str]
    prefixed: bool = True
    process: asyncio.subprocess.Process | None = None
    failures: int = 0
    last_line: bytes = b""
    inherits: tuple[int, ...] = ()
    _voice: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        alive = self.process is not None and self.process.returncode is None
        return self.process.pid if alive and self.process is not None else None

    async def start(self) -> None:
        """Start the process."""
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "durable_agent", *self.arguments, env={**os.environ, **self.environment},
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            preexec_fn=dying_with(os.getpid()), start_new_session=True, pass_fds=self.inherits,
        )  # fmt: skip
        assert self.process.stdout is not None
        self._voice = asyncio.create_task(self._pass_on(self.process.stdout))

    async def wait(self) -> int:
        """Return its exit code once it ended and everything it said was passed on."""
        assert self.process is not None
        code = await self.process.wait()
        if self._voice is not None:
            # A process of its own may still hold the pipe for a moment.
            await asyncio.wait([self._voice], timeout=1.0)
        return code

    async def end(self, timeout_s: float) -> None:
        """Ask it to end, and kill it when it has not within the time."""
        process = self.process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        ended = asyncio.create_task(self.wait())
        if not (await asyncio.wait([ended], timeout=timeout_s))[0]:
            log.warning("killed", name=self.name, after_s=timeout_s)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await ended

    async def _pass_on(self, voice: asyncio.StreamReader) -> None:
        rest = b""
        while chunk := await voice.read(_LINE_LIMIT_BYTES):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._say(line)
            if len(rest) > _LINE_LIMIT_BYTES:
                self._say(rest)
                rest = b""
        if rest:
            self._say(rest)

    def _say(self, line: bytes) -> None:
        self.last_line = line
        prefix = f"{self.name:<9}| ".encode() if self.prefixed else b""
        # A closed terminal must not end the system.
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.buffer.write(prefix + line + b"\n")
            sys.stderr.buffer.flush()


@dataclass(slots=True)
class Stack:
    """A running system."""

    settings: Settings
    url: str
    database_url: str
    postgres: EmbeddedPostgres | None
    api: Child
    workers: list[Child]
    _hopeless: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def console_url(self) -> str | None:
        """Where the console is, without a slash at the end; None where it is not built."""
        return f"{self.url}{self.settings.root_path}" if built() else None

    async def start(self) -> None:
        """Return when the API is ready and every worker is registered. Raises DurableAgentError when that cannot be."""
        self._tasks = [asyncio.create_task(self._keep(child)) for child in (self.api, *self.workers)]
        if self.postgres is not None:
            self._tasks.append(asyncio.create_task(self._keep_postgres(self.postgres)))
        ready = asyncio.create_task(self._until_ready())
        try:
            await asyncio.wait([ready, self._hopeless], return_when=asyncio.FIRST_COMPLETED)
            await (self._hopeless if self._hopeless.done() else ready)
        finally:
            await ended([ready])
            self._hopeless.cancel()

    async def _keep(self, child: Child) -> None:
        """Start a child, and again whenever it ended, until cancelled."""
        while True:
            started_s = time.monotonic()
            try:
                await child.start()
                code = await child.wait()
                how = ending(code)
            except Exception as error:
                # No process is to be had, or no descriptor: who gave up here would leave it dead for ever.
                code, how = 1, f"not started: {error}"
            child.failures = 0 if time.monotonic() - started_s > SETTLED_S else child.failures + 1
            if not self._hopeless.done() and (code == _USAGE or child.failures >= EARLY_FAILURES):
                self._hopeless.set_exception(_hopeless(child, code, how))
                return
            pause_s = 0.0 if child.failures == 0 else min(10.0, 0.25 * 2.0**child.failures)
            log.warning("child_ended", name=child.name, how=how, restart_in_s=pause_s)
            await asyncio.sleep(pause_s)

    async def _keep_postgres(self, postgres: EmbeddedPostgres) -> None:
        """Start PostgreSQL again whenever it died, until cancelled."""
        while True:
            await asyncio.sleep(0.5)
            try:
                if await asyncio.to_thread(postgres.ensure):
                    log.warning("postgres_restarted")
            except Exception as error:  # as above: whatever it was, it may have passed at the next look
                log.warning("postgres_down", error=str(error) or type(error).__name__)

    async def _until_ready(self) -> None:
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                await _until_answered(self.url)
                await until_registered(self.database_url, lambda: [child.pid for child in self.workers])
        except TimeoutError:
            text = f"the system was not ready after {READY_TIMEOUT_S:.0f} s; the log lines above say why"
            raise OutsideError(text) from None

    async def end(self) -> None:
        """Drain the workers, then end the API."""
        await ended(self._tasks[: 1 + len(self.workers)])  # PostgreSQL is kept until the last is done
        await asyncio.gather(*(child.end(self.settings.drain_grace_s + KILL_AFTER_S) for child in self.workers))
        await self.api.end(KILL_AFTER_S)
        await ended(self._tasks)


def _hopeless(child: Child, code: int, how: str) -> DurableAgentError:
    said = child.last_line.decode(errors="replace").removeprefix("durable-agent: ")
    if code == _USAGE:
        return InvalidRequest(f"{child.name} cannot start: {said}")
    return DurableAgentError(f"{child.name} ended {child.failures} times while starting ({how}): {said}")


async def _until_answered(url: str) -> None:
    async with httpx2.AsyncClient(base_url=url, timeout=2.0, trust_env=False, verify=trusted_by(url)) as client:
        while True:
            with contextlib.suppress(httpx2.HTTPError):
                if (await client.get("/readyz")).is_success:
                    return
            await asyncio.sleep(0.05)


def ending(code: int) -> str:
    """Return how a process ended, in words."""
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


@contextlib.asynccontextmanager
async def stack(settings: Settings, *, workers: int, modules: Sequence[str] = ()) -> AsyncIterator[Stack]:
    """Yield a running system; on leaving it is drained and ended. Raises DurableAgentError when it cannot start.

    The API's port is taken before anything else is done, and handed down to every API process: whoever answers there is ours.
    """
    with bound(settings.host, settings.port) as sock:
        async with _stack(settings, sock, workers, modules) as running:
            yield running


@contextlib.asynccontextmanager
async def _stack(
    settings: Settings, sock: socket.socket, workers: int, modules: Sequence[str]
) -> AsyncIterator[Stack]:  # fmt: skip
    postgres = None
    if settings.database_url is None:
        without_libpq_variables()
        postgres = EmbeddedPostgres(settings.data_dir or default_data_dir())
    try:
        if postgres is not None:
            database_url = direct_url = (await asyncio.to_thread(postgres.start)).url
        else:
            database_url, direct_url = settings.database_url or "", settings.direct_url or ""
        await asyncio.to_thread(migrate.upgrade, direct_url)
        await checkpoint_tables(direct_url)
        made = _make(settings, sock, database_url, direct_url, postgres, workers, modules)
        try:
            await made.start()
            yield made
        finally:
            await made.end()
    finally:
        if postgres is not None:
            await asyncio.to_thread(postgres.stop)


def _make(
    settings: Settings, sock: socket.socket, database_url: str, direct_url: str, postgres: EmbeddedPostgres | None,
    workers: int, modules: Sequence[str],
) -> Stack:  # fmt: skip
    port = int(sock.getsockname()[1])
    given = {
        "DATABASE_URL": database_url, "DATABASE_DIRECT_URL": direct_url, "DURABLE_AGENT_HOST": settings.host,
        "PORT": str(port), "DURABLE_AGENT_LOG_LEVEL": settings.log_level, "DURABLE_AGENT_LOG_FORMAT": settings.log_format,
        "MAX_CONCURRENT_TASKS": str(settings.max_concurrent_tasks), "DURABLE_AGENT_ARTIFACTS": settings.artifacts_place,
        "DURABLE_AGENT_SECRET_KEY": settings.secret_key,
    }  # fmt: skip
    if postgres is not None and not settings.secret_key:
        given["DURABLE_AGENT_SECRET_KEY"] = secret_beside(settings.data_dir or default_data_dir())
    prefixed = settings.log_format == "console"
    api = Child("api", ("api", "--fd", str(sock.fileno())), given, prefixed, inherits=(sock.fileno(),))
    made = [
        Child(name, ("worker", *(modules or [DEMO])), {**given, "WORKER_ID": name}, prefixed)
        for name in (f"worker-{n}" for n in range(1, workers + 1))
    ]
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::", "localhost") else settings.host
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    return Stack(settings, url, database_url, postgres, api, made)


class Stop:
    """SIGTERM, Ctrl-C or a closed terminal: the first cancels the task that made this, the second ends everything at once."""

    def __init__(self) -> None:
        self.asked = False
        self._work = asyncio.current_task()
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(signum) is not signal.SIG_IGN:  # nohup
                asyncio.get_running_loop().add_signal_handler(signum, self._ask)

    def _ask(self) -> None:
        if self.asked:
            os._exit(1)  # the kernel ends the children, the watchdog PostgreSQL
        self.asked = True
        log.info("draining")
        if self._work is not None:
            self._work.cancel()


async def up(settings: Settings, *, workers: int, modules: Sequence[str]) -> None:
    """Run the whole system until SIGTERM or Ctrl-C; a second one ends it at once."""
    stop = Stop()
    try:
        async with stack(settings, workers=workers, modules=modules) as running:
            print(f"ready {running.url}", flush=True)
            if running.console_url is not None:
                print(f"console {running.console_url}/", flush=True)
            await asyncio.Event().wait()
    except asyncio.CancelledError:
        if not stop.asked:
            raise
