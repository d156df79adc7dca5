"""What every campaign runs on: PostgreSQL, an API, workers from a zygote, a counting receiver, and a load."""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import psycopg

from durable_agent.cli.processes import dying_with
from durable_agent.db.pool import Database
from durable_agent.embedded import EmbeddedPostgres
from durable_agent.migrate import upgrade
from harness.broken import mutated
from harness.faults import Faults
from harness.history import Report
from harness.load import Load
from harness.receiver import receiver
from harness.zygote import Zygote

WORKERS = 6
# Process ids come again: one that never began may have that of a worker long gone.
_WORKED = """
select 1 from workers where os_pid = %s and started_at > clock_timestamp() - make_interval(secs => %s) limit 1
"""
API_PORT = 4199

# Short leases, so that faults follow each other quickly; the rules do not depend on the lengths.
SHORT = {
    "DURABLE_AGENT_LEASE_TTL_S": "1.5", "DURABLE_AGENT_BEAT_S": "0.3", "DURABLE_AGENT_TICK_S": "0.2",
    "DURABLE_AGENT_POLL_S": "1", "DURABLE_AGENT_DRAIN_GRACE_S": "1", "MAX_CONCURRENT_TASKS": "8",
    "DURABLE_AGENT_LOG_LEVEL": "warning", "DURABLE_AGENT_MAX_CRASHES": "100000",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Place:
    """Where PostgreSQL is: `url` for the API and workers, `load_url` for who submits, `admin_url` straight for a superuser.

    `own_url` is straight, too: the person, and the checks. `workers`: other URLs of some workers, pooled and direct.
    """

    url: str
    own_url: str
    admin_url: str
    postgres: EmbeddedPostgres | None = None
    direct_url: str | None = None
    load_url: str | None = None
    workers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def embedded(
    directory: Path, exits: ExitStack, postgres: EmbeddedPostgres | None = None
) -> tuple[EmbeddedPostgres, Place]:
    """Return a running server of one's own with the schema, and the place that leads straight to it."""
    server = postgres or EmbeddedPostgres(directory / "postgres")
    urls = exits.enter_context(server).urls
    upgrade(urls.url)
    return server, Place(urls.url, urls.url, in_database(urls.admin_url), server)


def in_database(url: str, name: str = "durable_agent") -> str:
    """Return the URL of another database of the same server: the engine's."""
    place, _, query = url.partition("?")
    return f"{place.rpartition('/')[0]}/{name}?{query}"


def at_port(url: str, port: int) -> str:
    """Return a URL of loopback with another port."""
    head, _, rest = url.rpartition("@127.0.0.1:")
    return f"{head}@127.0.0.1:{port}/{rest.partition('/')[2]}"


class Stack:
    """The running parts of a campaign."""

    def __init__(
        self, given: argparse.Namespace, directory: Path, exits: ExitStack, place: Place, modules: Sequence[str]
    ) -> None:
        self.given, self.directory, self.exits, self.place = given, directory, exits, place
        self.rng = random.Random(given.seed)
        self.world = exits.enter_context(receiver(directory / "receiver.log"))
        self.environment = {
            **SHORT, "DATABASE_URL": place.url, "DATABASE_DIRECT_URL": place.direct_url or place.url,
            "CHAOS_RECEIVER": f"127.0.0.1:{self.world.port}",
        }  # fmt: skip
        self.source = mutated(directory, given.mutant) if given.mutant else None
        self.zygotes: dict[str, Zygote] = {}
        self._modules = modules
        self._zygote: Zygote | None = None
        self.workers: dict[str, int] = {}
        self.faults = Faults(self.rng, self.spawn, place.admin_url, place.postgres, self.workers)
        self.ended: Counter[str] = Counter()
        self.clock_is_sane = True
        self._born_s: dict[int, float] = {}
        self.load = Load(given.seed, place, self.faults, self.world, API_PORT)
        self.version = postgres_version(place.admin_url)

    def zygote(self, environment: Mapping[str, str] | None = None, prefix: Sequence[str] = ()) -> Zygote:
        """Return a new zygote: in another environment, or started by another program."""
        made = Zygote(
            self._modules, {**self.environment, **(environment or {})}, self.directory / "workers.log", self.source,
            prefix,
        )  # fmt: skip
        made.urls.update(self.place.workers)
        self.exits.callback(made.close)
        return made

    def spawn(self, name: str) -> int:
        """Return the pid of a new worker of that name, of its own zygote if it has one."""
        if name not in self.zygotes:
            self._zygote = self._zygote or self.zygote()
            self.zygotes[name] = self._zygote
        pid = self.zygotes[name].spawn(name)
        self._born_s[pid] = time.monotonic()
        return pid

    async def supervise(self) -> None:
        """Start workers again that ended by themselves, until the load has ended; who was at work should not have (R13)."""
        gone: set[int] = set()
        while not self.load.ended.is_set():
            missing = {pid for pid in self.workers.values() if not self.faults.signal(pid, 0)}
            for pid in missing & gone:
                # One that finds no database when it starts says so and ends: that is its supervisor's business.
                age_s = time.monotonic() - self._born_s[pid] + 1.0 if self.clock_is_sane else 1e9
                self.ended["at work" if await self.faults.query(_WORKED, pid, age_s) else "at the start"] += 1
                self.faults.replace(pid)
            gone = missing
            await asyncio.sleep(0.3)

    def hire(self, count: int = WORKERS) -> None:
        """Start the API and the workers."""
        self.exits.enter_context(self._api())
        self.workers.update({f"w{n}": self.spawn(f"w{n}") for n in range(count)})

    @contextmanager
    def _api(self) -> Iterator[None]:
        path = {"PYTHONPATH": str(self.source)} if self.source else {}
        with (self.directory / "api.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "durable_agent", "api", "--port", str(API_PORT)],
                env={**os.environ, **self.environment, **path}, stdout=log, stderr=log,
                preexec_fn=dying_with(os.getpid()),
            )  # fmt: skip
            try:
                yield
            finally:
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()


class Campaign:
    """Where a campaign's PostgreSQL is, which faults it lets loose, and what must have landed for it to mean anything."""

    modules: ClassVar[Sequence[str]] = ("harness.tools",)
    must_land: ClassVar[Sequence[str]] = ("sigkill", "zombie")
    mutants: ClassVar[Sequence[str]] = ()
    resend = False
    # Whether the database's clock can tell how long something took.
    clock_is_sane = True

    def __init__(self, given: argparse.Namespace, directory: Path, exits: ExitStack) -> None:
        self.given, self.directory, self.exits = given, directory, exits

    def missing(self) -> str:
        """Return what this machine lacks for the campaign, or nothing."""
        return ""

    def place(self) -> Place:
        """Return where PostgreSQL is, running and with the schema."""
        if self.given.database_url:
            upgrade(self.given.database_url)
            return Place(self.given.database_url, self.given.database_url, self.given.database_url)
        return embedded(self.directory, self.exits)[1]

    def hire(self, stack: Stack) -> None:
        """Start what works."""
        stack.hire()

    async def rage(self, stack: Stack, db: Database) -> None:
        """Let the faults loose beside the load for the campaign's time."""
        raise NotImplementedError

    async def calm(self, stack: Stack) -> None:
        """Undo what is left of the faults: everything must end now."""

    def crashes(self, server: EmbeddedPostgres) -> list[str]:
        """Return what the server's log tells of faults that the campaign is not the cause of."""
        return server.crashes()

    async def checked(self, stack: Stack, db: Database) -> Report:
        """Return what the history checker says of every run that was acknowledged."""
        return await stack.load.checked(db)

    def figures(self, stack: Stack, report: Report) -> dict[str, Any]:
        """Return what this campaign counts besides what landed; may add violations to the report."""
        return {}


def postgres_version(admin_url: str) -> str:
    """Return the server's version."""
    with psycopg.connect(admin_url, connect_timeout=10) as conn:
        row = conn.execute("show server_version").fetchone()
    return str(row[0]) if row else "unknown"
