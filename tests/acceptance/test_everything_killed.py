"""The system as a user starts it: everything is killed in turn while 200 runs are under way, and nothing is lost."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest
from harness.receiver import receiver

from durable_agent.embedded import EmbeddedPostgres
from durable_agent.engine.export import verify_export
from tests.cli.system import folder

pytestmark = pytest.mark.usefixtures("listen")

SCRIPTS = Path(__file__).parents[2] / "scripts"
TTL = {"DURABLE_AGENT_LEASE_TTL_S": "2", "DURABLE_AGENT_BEAT_S": "0.4", "DURABLE_AGENT_MAX_CRASHES": "1000"}
RUN = {
    "steps": [
        {"name": "a", "tool": "work", "input": {"delay_s": 0.1}},
        {"name": "b", "tool": "work", "input": {"delay_s": 0.1}, "dependsOn": ["a"]},
        {"name": "c", "tool": "work", "input": {"delay_s": 0.1}, "dependsOn": ["a"]},
        {"name": "d", "tool": "work", "input": {"delay_s": 0.1}, "dependsOn": ["b", "c"]},
    ]
}


class Up:
    """`durable-agent up` as a process, and what it said."""

    def __init__(self, data_dir: Path, port: int, environment: dict[str, str]) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "durable_agent", "up", "--port", str(port), "--data-dir", str(data_dir),
             "--import", "harness.tools"],
            env={**os.environ, **TTL, **environment, "PYTHONPATH": str(SCRIPTS)}, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __enter__(self) -> Up:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave no process behind, whatever the test did."""
        self.process.terminate()
        self.process.wait(60)

    def ready(self) -> None:
        """Return once it said so."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("ready "):
                # Drain what follows, so that it never blocks on a full pipe.
                threading.Thread(target=self.process.stdout.read, daemon=True).start()
                return
        raise AssertionError("`up` ended without being ready")

    def children(self, *words: str) -> list[int]:
        """Return the processes it started whose command line has the words."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError, IndexError):
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                line = (entry / "cmdline").read_bytes().decode().split("\0")
                if parent == self.process.pid and all(word in line for word in words):
                    found.append(int(entry.name))
        return found


@pytest.fixture
def data_dir() -> Iterator[Path]:
    with folder() as made:
        yield made


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def poll(look: Callable[[], Any], wanted: Callable[[Any], bool]) -> Any:
    """Return what a look gives once it is what is wanted; the test's own time limit ends it otherwise."""
    signal_ = threading.Event()
    while True:
        with contextlib.suppress(httpx2.HTTPError, psycopg.Error, ValueError):
            seen = look()
            if wanted(seen):
                return seen
        signal_.wait(0.1)


def test_api_workers_and_postgres_are_killed_in_turn_and_every_run_completes(data_dir: Path, tmp_path: Path) -> None:
    port = free_port()
    with (
        receiver(tmp_path / "receiver.log") as world,
        httpx2.Client(trust_env=False, timeout=10) as client,
        contextlib.ExitStack() as stack,
    ):
        environment = {"CHAOS_RECEIVER": f"127.0.0.1:{world.port}"}
        first = stack.enter_context(Up(data_dir, port, environment))
        first.ready()
        answer = client.post(f"{first.url}/runs/batch", json={"runs": [RUN] * 200})
        assert answer.status_code == 201
        ids = [item["id"] for item in answer.json()["items"]]

        def open_runs() -> int:
            answer = client.get(f"{first.url}/healthz")
            if answer.status_code != 200:
                raise httpx2.TransportError("the API cannot reach its database yet")
            page = answer.json()
            return int(page["ready"] + page["leased"] + page["scheduled"])

        def answers(_: int) -> bool:
            return True  # a quick machine may have run everything while another part was away

        assert open_runs() > 0
        for victim in (first.children("api"), first.children("worker")):
            assert victim
            for pid in victim:
                os.kill(pid, signal.SIGKILL)
            poll(open_runs, answers)
        postmaster = EmbeddedPostgres(data_dir).pid
        assert postmaster is not None
        os.kill(postmaster, signal.SIGKILL)
        poll(open_runs, answers)
        first.process.kill()
        first.process.wait()

        second = stack.enter_context(Up(data_dir, port, environment))
        second.ready()
        poll(open_runs, lambda count: count == 0)
        for run_id in ids:
            export = client.get(f"{second.url}/runs/{run_id}/export").content
            assert str(verify_export(export.splitlines())[0]) == run_id
        statuses = {client.get(f"{second.url}/runs/{run_id}").json()["status"] for run_id in ids}
        assert statuses == {"completed"}
        second.process.terminate()
        assert second.process.wait(60) == 0
        assert second.children() == []
    assert len(world.results) == 800
