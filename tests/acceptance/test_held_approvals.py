"""A hundred approvals are held while everything is killed; each is answered afterwards, and every run completes."""

from __future__ import annotations

import signal

import httpx2
import pytest

from tests.cli.system import System, folder, started, until_gone
from tests.support.postgres import bin_dir

pytestmark = pytest.mark.skipif(bin_dir() is not None, reason="the embedded PostgreSQL is part of what is tested")

RUNS = 100
RUN = {
    "steps": [
        {"name": "approval.go", "input": {"tool": "echo", "arguments": {"n": 1}, "expires_s": 86_400}},
        {"name": "echo", "input": {"n": 1}, "dependsOn": ["approval.go"]},
    ]
}


def client(system: System) -> httpx2.Client:
    """Return a client of a system's API, once that is ready."""
    return httpx2.Client(base_url=system.url, trust_env=False, timeout=60)


def waits(http: httpx2.Client) -> list[str]:
    """Return the ids of all open waits."""
    found: list[str] = []
    cursor: str | None = None
    while True:
        params = {"limit": 200, **({"cursor": cursor} if cursor else {})}
        page = http.get("/waits", params=params).json()
        found += [wait["id"] for wait in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            return found


def told(http: httpx2.Client, run: str, event: str) -> bool:
    """Follow a run until an event of this type; tell whether it came before the end."""
    with http.stream("GET", f"/runs/{run}/events", headers={"Accept": "text/event-stream"}) as lines:
        return any(line == f"event: {event}" or event in line for line in lines.iter_lines())


def test_a_hundred_approvals_survive_the_death_of_everything() -> None:
    with folder() as data:
        with started("up", data_dir=data) as system, client(system) as http:
            answer = http.post("/runs/batch", json={"runs": [RUN] * RUNS})
            assert answer.status_code == 201, answer.text
            runs = [item["id"] for item in answer.json()["items"]]
            # The last one to wait has all the others before it; following it needs no guess at a time.
            for run in runs:
                assert told(http, run, "run.waiting_for_approval")
            held = waits(http)
            left = list(system.pids())
            assert system.end(signal.SIGKILL) == -signal.SIGKILL
            until_gone(left)
        with started("up", data_dir=data) as again, client(again) as http:
            assert waits(http) == held
            assert len(held) == RUNS
            for wait in held:
                done = http.post(f"/waits/{wait}/approve", json={})
                assert done.status_code == 202, done.text
            for run in runs:
                assert told(http, run, "run.completed")
            assert waits(http) == []
