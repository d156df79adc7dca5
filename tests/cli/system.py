"""Whole systems as processes: started as a user starts them, watched by their lines, counted by a mark they inherit."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from tests.cli import warm
from tests.support.clusters import copied
from tests.support.postgres import place

COMMAND = (sys.executable, "-m", "durable_agent")
MARK = "DURABLE_AGENT_TEST_MARK"
WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """How a command ended."""

    code: int
    out: str
    err: str


def environment(**given: str) -> dict[str, str]:
    """Return the environment without what would change a command, plus what is given."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("DURABLE_AGENT_") and name not in ("DATABASE_URL", "DATABASE_DIRECT_URL", "PORT")
    }
    return {**kept, **given}


def command(*arguments: str, given: str = "", **variables: str) -> Answer:
    """Run a command to its end."""
    return Answer(*warm.run(arguments, given, environment(**variables), within_s=WAIT_S))


@dataclass(slots=True)
class System:
    """A running `up` or `demo` with all that belongs to it."""

    data_dir: Path | None
    process: subprocess.Popen[str]
    mark: str
    lines: list[str] = field(default_factory=list)
    _news: threading.Condition = field(default_factory=threading.Condition)
    _ended: bool = False

    def listen(self) -> None:
        """Take in its lines until it has ended."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self.lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def until(self, *words: str, times: int = 1) -> str:
        """Return the line that holds all the words, the so-manieth, once it was said."""

        def said() -> list[str]:
            return [line for line in self.lines if all(word in line for word in words)]

        with self._news:
            self._news.wait_for(lambda: len(said()) >= times or self._ended, WAIT_S)
            assert len(said()) >= times, "\n".join(self.lines)
            return said()[times - 1]

    @property
    def url(self) -> str:
        """The API's URL, once it is ready."""
        return self.until("ready http").split()[1].rstrip(":")

    def pids(self) -> dict[int, str]:
        """Return the command lines of all that belongs to it, PostgreSQL included, by process id."""
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                ours = self.mark.encode() in (entry / "environ").read_bytes()
                if line and (ours or (self.data_dir is not None and f" {self.data_dir}/" in line)):
                    found[int(entry.name)] = line
        return found

    def pid_of(self, *words: str) -> int:
        """Return the process whose command line holds the words."""
        (pid,) = [pid for pid, line in self.pids().items() if all(word in line for word in words)]
        return pid

    def end(self, signum: int) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(signum)
        return self.process.wait(WAIT_S)


def until_gone(pids: Sequence[int]) -> None:
    """Return when none of the processes is left; the kernel tells."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            watched = os.pidfd_open(pid)
            try:
                poll = select.poll()
                poll.register(watched, select.POLLIN)
                assert poll.poll(WAIT_S * 1000), f"process {pid} is still there"
            finally:
                os.close(watched)


@contextlib.contextmanager
def folder(*, empty: bool = False) -> Iterator[Path]:
    """Yield a temporary folder that PostgreSQL's user may enter, too: a data directory, or one that is to be made of it."""
    with tempfile.TemporaryDirectory(prefix="durable-agent-test-", dir=place(), ignore_cleanup_errors=True) as made:
        Path(made).chmod(0o755)
        if not empty:
            copied(Path(made))
        yield Path(made)


@contextlib.contextmanager
def started(*arguments: str, data_dir: Path | None = None, port: int = 0, **variables: str) -> Iterator[System]:
    """Yield a system that was just started; whatever is left of it afterwards is killed."""
    mark = uuid4().hex
    place = ("--data-dir", str(data_dir)) if data_dir is not None else ()
    process = subprocess.Popen(
        [*COMMAND, *arguments, "--port", str(port), *place], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, env=environment(**{MARK: mark}, **variables), cwd="/", start_new_session=True,
    )  # fmt: skip
    made = System(data_dir, process, mark)
    listening = threading.Thread(target=made.listen)
    listening.start()
    try:
        yield made
    finally:
        for pid in made.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        process.wait(WAIT_S)
        listening.join(WAIT_S)
        until_gone(list(made.pids()))
