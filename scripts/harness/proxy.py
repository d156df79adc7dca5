"""The fault proxy between the engine's processes and PostgreSQL, as a campaign holds it; `relay` is its process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from durable_agent.cli.processes import dying_with


class Proxy:
    """The parent's side. Every call returns when the proxy has done it."""

    def __init__(self, log: Path) -> None:
        self.ports: dict[str, int] = {}
        self._guard = threading.Lock()
        env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "harness.relay"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=errors, env=env, preexec_fn=dying_with(os.getpid()),
            )  # fmt: skip

    def _do(self, what: str, route: str, **given: Any) -> dict[str, int]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._guard:
            self._process.stdin.write(json.dumps({"do": what, "route": route, **given}).encode() + b"\n")
            self._process.stdin.flush()
            answer: dict[str, int] = json.loads(self._process.stdout.readline())
        return answer

    def open(self, route: str, port: int, *, host: str = "127.0.0.1") -> int:
        """Return the port, on `host`, of a new route to a port of this machine."""
        self.ports[route] = self._do("open", route, port=port, host=host)["port"]
        return self.ports[route]

    def hold(self, route: str, *, up: bool = False, down: bool = False, delay_s: float = 0.0) -> None:
        """Stop directions (`up` is to the server) and delay the rest, for old connections and new ones."""
        self._do("hold", route, up=up, down=down, delay_s=delay_s)

    def heal(self, route: str) -> dict[str, int]:
        """Let everything through again, also what was held; return `held` bytes and `delayed` chunks since the last count."""
        self._do("hold", route, up=False, down=False, delay_s=0.0)
        return self.counts(route)

    def sever(self, route: str, *, reset: bool) -> int:
        """End every connection of a route; return how many."""
        return self._do("sever", route, reset=reset)["links"]

    def arm(self, route: str, commits: int) -> None:
        """Withhold the answers to the next so many COMMITs, and reset their connections."""
        self._do("arm", route, commits=commits)

    def counts(self, route: str) -> dict[str, int]:
        """Return what landed on a route since the last time."""
        return self._do("counts", route)

    def aim(self, route: str, port: int) -> None:
        """Lead new connections of a route elsewhere; sever it to move the old ones."""
        self._do("aim", route, port=port)

    def close(self) -> None:
        """End the proxy and every connection."""
        self._process.kill()
        self._process.wait()
