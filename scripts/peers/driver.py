"""What every system is measured by: the same shapes, the same clock, worker processes of its own.

A module `on_NAME.py` beside this one says how one system is prepared, worked, given work and asked what is left; it runs in
that system's own environment, so nothing is imported here but the standard library and psycopg.

    python on_NAME.py W1 --count 5000        prints one line of JSON

Where the database is comes by PEER_URL and PEER_ADMIN_URL. A drain is timed from the moment the warm, stopped workers are
let go on until the driver sees everything finished; each execution of a step is counted by the process that ran it, and a
drain in which fewer ran than were asked for is an error, not a figure.
"""

from __future__ import annotations

import abc
import argparse
import asyncio
import ctypes
import importlib
import importlib.metadata
import json
import mmap
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final

import psycopg

PROCESSES: Final = 2
SLOTS: Final = 50
LENGTH: Final = 10
WIDTH: Final = 50
CLIENTS: Final = 16
BATCH: Final = 1000
HOLD_S: Final = 3.0
RECOVERY_LIMIT_S: Final = 40.0
SETTLE_S: Final = 1.0
_POLL_S: Final = 0.005
_MODULE: Final = Path(sys.argv[0]).resolve()
_STEPS: Final = {"one": 1, "chain": LENGTH, "fan": WIDTH + 2, "long": 1}
_DRAINS: Final = {"W1": "one", "W2": "chain", "W3": "fan"}


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What is told of a system beside its figures.

    `packages`: whose versions are told. `settings`: those that are not the defaults, or worth saying. `stores`: what it writes
    for a step, which is what its figures pay for; `keeps`: whether a step's result is among it. `absent`: shapes for which it
    has no notion, with the reason (`bulk`: no batches in W5). `notes`: what a reader must know of a shape's figure.
    """

    name: str
    packages: tuple[str, ...]
    settings: tuple[str, ...]
    stores: str
    keeps: bool = True
    absent: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)


class Peer(abc.ABC):
    """One system: the driver's side and, in other processes, the workers' side."""

    about: ClassVar[About]

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = os.environ["PEER_URL"]
        self._ticks: mmap.mmap | None = None

    @abc.abstractmethod
    async def prepare(self) -> None:
        """Make the schema, and start what the system needs beside PostgreSQL."""

    @abc.abstractmethod
    async def work(self, worker: str) -> None:
        """Be a worker until killed; `self.ready` is called as soon as work would be taken."""

    def serve(self, worker: str) -> None:
        """Be a worker process: `work` on a loop of the system's choice."""
        asyncio.run(self.work(worker))

    @abc.abstractmethod
    async def open(self) -> None:
        """Connect the driver's side."""

    @abc.abstractmethod
    async def submit(self, work: str, count: int) -> None:
        """Give work: so many `one`, `chain`, `fan` or `long`, as fast as the system takes it."""

    @abc.abstractmethod
    async def submit_one(self) -> None:
        """Give one `one`, durably taken when this returns."""

    @abc.abstractmethod
    async def left(self) -> bool:
        """Tell whether any of the given work is not finished."""

    @abc.abstractmethod
    async def run_one(self) -> None:
        """Give one `one` and wait for its end in the way the system offers."""

    async def ballast(self, count: int) -> None:
        """Add so many steps of other runs: a third finished, the others due tomorrow."""
        raise NotImplementedError

    async def close(self) -> None:  # noqa: B027
        """End what `prepare` and `open` started; none by default."""

    @classmethod
    def versions(cls) -> dict[str, str]:
        """Return the versions that really ran."""
        return {name: importlib.metadata.version(name) for name in cls.about.packages}

    def ready(self, worker: str) -> None:
        """Tell the driver that this worker takes work."""
        (self.folder / f"ready.{worker}").touch()

    def tick(self) -> None:
        """Count one execution of a step in this process."""
        if self._ticks is None:
            file = self.folder / f"ticks.{os.getpid()}"
            file.write_bytes(bytes(8))
            with file.open("r+b") as opened:
                self._ticks = mmap.mmap(opened.fileno(), 8)
        self._ticks[:] = (int.from_bytes(self._ticks, "little") + 1).to_bytes(8, "little")

    def executed(self) -> int:
        """Return how many executions all processes counted."""
        return sum(int.from_bytes(file.read_bytes(), "little") for file in self.folder.glob("ticks.*"))

    async def hold(self) -> None:
        """Be the long step: note the process that started it, and take a time."""
        with (self.folder / "starts").open("a") as starts:
            starts.write(f"{os.getpid()} {time.time()}\n")
        await asyncio.sleep(HOLD_S)

    def starts(self) -> list[tuple[int, float]]:
        """Return the processes and times at which long steps started."""
        file = self.folder / "starts"
        lines = file.read_text().splitlines() if file.exists() else []
        return [(int(pid), float(at)) for pid, at in (line.split() for line in lines)]


class Workers(AbstractContextManager["Workers"]):
    """The worker processes of a peer. They die with the driver."""

    def __init__(self, peer: Peer, module: Path) -> None:
        self.peer, self.module = peer, module
        self.processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Workers:
        for _ in range(PROCESSES):
            self.spawn()
        time.sleep(SETTLE_S)  # for what a worker still does after it said that it was ready
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()

    def spawn(self) -> None:
        """Start one more, and return when it takes work."""
        worker = f"w{len(list(self.peer.folder.glob('ready.*')))}"
        with (self.peer.folder / "workers.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, str(self.module), "worker", "--folder", str(self.peer.folder), "--name", worker],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=dying_with_parent,
            )  # fmt: skip
        self.processes.append(process)
        until_s = time.monotonic() + 60
        while not (self.peer.folder / f"ready.{worker}").exists():
            if process.poll() is not None or time.monotonic() > until_s:
                raise RuntimeError(f"a worker did not start: {self.tail()}")
            time.sleep(0.02)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all."""
        for process in self.processes:
            process.send_signal(number)

    def tail(self) -> str:
        """Return the end of what the workers said."""
        log = self.peer.folder / "workers.log"
        return " | ".join(log.read_text(errors="replace").splitlines()[-4:]) if log.exists() else ""


def dying_with_parent() -> None:
    """Have the kernel kill this process when its parent ends (Linux; elsewhere the runner ends the group)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


@dataclass(slots=True)
class Measure:
    """One measurement of one peer."""

    peer: Peer
    module: Path
    count: int

    async def shape(self, name: str) -> dict[str, float | int | None]:
        """Return the figures of a shape by name."""
        match name:
            case "W1" | "W2" | "W3":
                return await self.drain(_DRAINS[name])
            case "W4":
                return await self.one_at_a_time()
            case "W5":
                return await self.submissions()
            case "W6":
                return await self.recovery()
            case "W7":
                return await self.beside_others()
            case _:
                raise SystemExit(f"there is no shape {name}")

    async def drain(self, work: str, count: int = 0) -> dict[str, float | int | None]:
        """Return steps a second of two warm workers."""
        count = count or self.count
        with Workers(self.peer, self.module) as workers:
            await self.peer.submit(work, max(2, min(count // 10, 100)))
            await self._finished(workers)
            workers.signal(signal.SIGSTOP)
            await self.peer.submit(work, count)
            self._settle()
            before = self.peer.executed()
            began_s = time.monotonic()
            workers.signal(signal.SIGCONT)
            steps = count * _STEPS[work]
            while self.peer.executed() - before < steps:  # the database is not asked before there is a point in it
                await self._pause(workers)
            await self._finished(workers)
            took_s = time.monotonic() - began_s
        return {"steps/s": steps / took_s, "steps": steps, "executed": self.peer.executed() - before}

    async def one_at_a_time(self) -> dict[str, float | int | None]:
        """Return the quantiles of the time from giving a run to having its result."""
        found: list[float] = []
        with Workers(self.peer, self.module):
            for n in range(self.count + 20):
                began_s = time.perf_counter()
                await self.peer.run_one()
                if n >= 20:
                    found.append((time.perf_counter() - began_s) * 1000)
                await asyncio.sleep(0.01)
        found.sort()
        return {"p50 ms": statistics.median(found), "p99 ms": found[min(len(found) - 1, int(len(found) * 0.99))]}

    async def submissions(self) -> dict[str, float | int | None]:
        """Return runs a second: one by one by 16 clients, and in batches of 1,000 where there is such a thing."""
        each = max(1, self.count // CLIENTS)

        async def client() -> None:
            for _ in range(each):
                await self.peer.submit_one()

        await asyncio.gather(*(self.peer.submit_one() for _ in range(CLIENTS)))
        began_s = time.monotonic()
        await asyncio.gather(*(client() for _ in range(CLIENTS)))
        single = each * CLIENTS / (time.monotonic() - began_s)
        if "bulk" in self.peer.about.absent:
            return {"single/s": single, "bulk/s": None}
        batches = max(1, self.count // BATCH)
        await self.peer.submit("one", BATCH)
        began_s = time.monotonic()
        for _ in range(batches):
            await self.peer.submit("one", BATCH)
        return {"single/s": single, "bulk/s": batches * BATCH / (time.monotonic() - began_s)}

    async def recovery(self) -> dict[str, float | int | None]:
        """Return the median seconds from SIGKILL of a worker in a step to that step running in another process."""
        found: list[float] = []
        with Workers(self.peer, self.module) as workers:
            await self.peer.submit("one", 20)
            await self._finished(workers)
            for _ in range(self.count):
                known = len(self.peer.starts())
                await self.peer.submit("long", 1)
                pid, _ = await self._start_after(known, workers)
                killed_at = time.time()
                os.kill(pid, signal.SIGKILL)
                _, at = await self._start_after(known + 1, workers)
                found.append(at - killed_at)
                await self._finished(workers)
                for process in [p for p in workers.processes if p.pid == pid]:
                    process.wait()
                    workers.processes.remove(process)
                    workers.spawn()
                # Who has just started judges nobody yet, here as elsewhere; what is killed is one of two that have been there.
                await asyncio.sleep(SETTLE_S)
        return {"s": statistics.median(found), "max s": max(found), "kills": len(found)}

    async def beside_others(self) -> dict[str, float | int | None]:
        """Return the rate beside 200,000 steps of others, and its ratio to the rate without."""
        alone = (await self.drain("one"))["steps/s"]
        await self.peer.ballast(OTHERS)
        beside = (await self.drain("one"))["steps/s"]
        assert alone is not None
        assert beside is not None
        return {"ratio": beside / alone, "steps/s": beside, "others": OTHERS}

    async def _start_after(self, known: int, workers: Workers) -> tuple[int, float]:
        until_s = time.monotonic() + RECOVERY_LIMIT_S
        while len(starts := self.peer.starts()) <= known:
            if time.monotonic() > until_s:
                raise RuntimeError(f"the step did not start within {RECOVERY_LIMIT_S:g} s: {workers.tail()}")
            await asyncio.sleep(0.01)
        return starts[known]

    async def _finished(self, workers: Workers) -> None:
        while await self.peer.left():
            await self._pause(workers)

    async def _pause(self, workers: Workers) -> None:
        if gone := [p for p in workers.processes if p.poll() not in (None, -signal.SIGKILL)]:
            raise RuntimeError(f"a worker ended by itself with {gone[0].returncode}: {workers.tail()}")
        await asyncio.sleep(_POLL_S)

    def _settle(self) -> None:
        """Give every system the statistics that autovacuum would, and no checkpoint of what was before."""
        with psycopg.connect(os.environ["PEER_ADMIN_URL"], autocommit=True) as conn:
            conn.execute("vacuum analyze")
            conn.execute("checkpoint")


OTHERS = 200_000


def fast_loop() -> None:
    """Have every loop of this process be uvloop's, as the engine's are: it is installed for all."""
    asyncio.set_event_loop_policy(importlib.import_module("uvloop").EventLoopPolicy())


async def until(done: Callable[[], Awaitable[bool]], pause_s: float = _POLL_S) -> None:
    """Return when something is so."""
    while not await done():  # noqa: ASYNC110 (it is others that are waited for)
        await asyncio.sleep(pause_s)


async def _measured(made: type[Peer], shape: str, count: int, folder: Path) -> dict[str, Any]:
    peer = made(folder)
    try:
        await peer.prepare()
        await peer.open()
        values = await Measure(peer, _MODULE, count).shape(shape)
    except BaseException:
        with suppress(Exception):  # what went wrong before is what is told
            await peer.close()
        raise
    await peer.close()
    return values


def main(made: type[Peer]) -> None:
    """Measure one shape and print a line of JSON, or be a worker."""
    global OTHERS
    parser = argparse.ArgumentParser(description=sys.modules[made.__module__].__doc__)
    parser.add_argument("shape", help="W1 … W7, or `worker`")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--others", type=int, default=OTHERS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--name", help=argparse.SUPPRESS)
    given = parser.parse_args()
    OTHERS = given.others
    fast_loop()
    os.environ.setdefault("PEER_SHAPE", given.shape)
    if given.shape == "worker":
        made(given.folder).serve(given.name)
        return
    about = made.about
    line: dict[str, Any] = {
        "peer": about.name, "shape": given.shape, "versions": made.versions(), "settings": about.settings, "stores": about.stores,
        "keeps": about.keeps, "note": about.notes.get(given.shape), "count": given.count,
    }  # fmt: skip
    if reason := about.absent.get(given.shape):
        line["absent"] = reason
    else:
        with tempfile.TemporaryDirectory(prefix="peer-", ignore_cleanup_errors=True) as folder:
            line["values"] = asyncio.run(_measured(made, given.shape, given.count, Path(folder)))
    print(json.dumps(line), flush=True)
