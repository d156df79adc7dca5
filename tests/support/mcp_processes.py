"""Tool servers in processes of their own: ours, to be killed and hung, and the protocol's reference server."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

EVERYTHING = "@modelcontextprotocol/server-everything"


EVERYTHING_VERSION = "2026.8.31"


def everything() -> Path:
    """Return the reference server's program; it is installed once for all runs. Skips the test without npm."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is missing: the reference server cannot be installed")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "durable-agent-tests" / f"server-everything-{EVERYTHING_VERSION}"
    program = folder / "node_modules" / EVERYTHING / "dist" / "index.js"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            given = ["install", "--no-audit", "--no-fund", "--prefix", str(folder)]
            subprocess.run([npm, *given, f"{EVERYTHING}@{EVERYTHING_VERSION}"], check=True, capture_output=True)
            (folder / "complete").touch()
    return program


def free_port() -> int:
    """Return a port that nobody has at the moment."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@dataclass(slots=True)
class Process:
    """A server as a process, and what it says."""

    url: str
    process: subprocess.Popen[str]

    def until(self, words: str) -> None:
        """Return when it has said so."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if words in line:
                return
        raise AssertionError(f"the server ended without saying {words!r}")

    def kill(self) -> None:
        """Kill it in the middle of whatever it does."""
        self.process.kill()
        self.process.wait(10)


@contextmanager
def started(*command: str, port: int, ready: str, **variables: str) -> Iterator[Process]:
    """Yield a server that was started as a process and is ready."""
    process = subprocess.Popen(
        command, env={**os.environ, **variables}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    found = Process(f"http://127.0.0.1:{port}/mcp", process)
    try:
        found.until(ready)
        yield found
    finally:
        found.kill()
        if process.stderr is not None:
            process.stderr.close()


@contextmanager
def ours(port: int) -> Iterator[Process]:
    """Yield our own server as a process."""
    with started(sys.executable, "-m", "tests.support.mcp_servers", str(port), port=port, ready="running on") as found:
        yield found


@contextmanager
def reference(port: int) -> Iterator[Process]:
    """Yield the reference server on a port."""
    node = shutil.which("node") or "node"
    program = str(everything())
    with started(node, program, "streamableHttp", port=port, ready="listening on", PORT=str(port)) as found:
        yield found
