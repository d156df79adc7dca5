"""Commands in processes that are forked from one which has loaded them: most of what a command takes is the start of Python.

How a command starts from nothing is seen where whole systems are (`tests.cli.system.started`).
"""

from __future__ import annotations

import json
import os
import select
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from durable_agent.cli import main
from durable_agent.testing.nursery import Nursery

ORDER = "DURABLE_AGENT_TEST_ORDER"
LOADED = [
    "durable_agent.api.app", "durable_agent.migrate", "durable_agent.engine.health", "durable_agent.engine.export", "uvicorn",
    *(f"durable_agent.cli.{name}" for name in ("client", "database", "demo", "mcp", "processes", "replays", "supervisor", "tree")),
]  # fmt: skip


@cache
def nursery() -> Nursery:
    """Return the process that forks, the same for all tests of this one; it dies with it."""
    # Behind what the tests themselves were given: it says which sources are tested.
    path = [*filter(None, [os.environ.get("PYTHONPATH")]), str(Path(__file__).parents[2])]
    return Nursery("tests.cli.warm:child", LOADED, {"PYTHONPATH": os.pathsep.join(path)})


def run(
    arguments: Sequence[str], given: str, environment: Mapping[str, str], *, within_s: float
) -> tuple[int, str, str]:
    """Run a command to its end; return its exit code and what it wrote. Raises TimeoutError when it takes longer."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "in").write_text(given, encoding="utf-8")
        order = {"arguments": list(arguments), "environment": dict(environment), "folder": folder}
        pid = nursery().spawn({ORDER: json.dumps(order)})
        if not _gone(pid, within_s):
            nursery().kill(pid)
            raise TimeoutError(f"{arguments} takes longer than {within_s} s")
        while (code := nursery().ended(pid)) is None:
            continue  # it is dead, and about to be buried
        out, err = (Path(folder, name).read_text(encoding="utf-8") for name in ("out", "err"))
    return code, out, err


def _gone(pid: int, within_s: float) -> bool:
    with suppress(ProcessLookupError):
        watched = os.pidfd_open(pid)
        try:
            poll = select.poll()
            poll.register(watched, select.POLLIN)
            return bool(poll.poll(within_s * 1000))
        finally:
            os.close(watched)
    return True


def child(_loaded: Sequence[str]) -> None:
    """Be the command that the order names."""
    order = json.loads(os.environ[ORDER])
    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(order["folder"])
    for number, (name, flags) in enumerate((("in", "r"), ("out", "w"), ("err", "w"))):
        with open(name, flags) as file:
            os.dup2(file.fileno(), number)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115  # they last as long as it does
    os.chdir("/")
    sys.path[:0] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))  # as its start would have
    sys.argv = ["durable-agent", *order["arguments"]]
    try:
        main()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
