"""A process that has loaded everything and forks workers on demand: a kill then costs a fork, not a start of Python.

It reads `spawn NAME [URL [DIRECT_URL]]` from its standard input, answers with the child's pid, and dies with its parent, as do its
children with it.
"""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

# Loaded here so that no child has to.
from durable_agent.cli.processes import dying_with, worker_process
from durable_agent.settings import read_settings


class Zygote:
    """The parent's side."""

    def __init__(
        self, modules: Sequence[str], environment: Mapping[str, str], log: Path, source: Path | None = None,
        prefix: Sequence[str] = (),
    ) -> None:  # fmt: skip
        # A worker's own way to PostgreSQL: its URL, and the one without a pooler if that is another.
        self.urls: dict[str, tuple[str, ...]] = {}
        paths = [str(source)] if source else []
        env = {**os.environ, **environment, "PYTHONPATH": os.pathsep.join([*paths, str(Path(__file__).parents[1])])}
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [*prefix, sys.executable, "-m", "harness.zygote", *modules], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=errors, env=env, start_new_session=True, preexec_fn=dying_with(os.getpid()),
            )  # fmt: skip

    def spawn(self, name: str) -> int:
        """Return the pid of a new worker of that name."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(" ".join(["spawn", name, *self.urls.get(name, ())]).encode() + b"\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """End the zygote and with it every worker."""
        self._process.kill()
        self._process.wait()


def main() -> None:
    """Fork until the parent closes the pipe."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for module in sys.argv[1:]:
        importlib.import_module(module)
    for line in sys.stdin:
        name, *urls = line.split()[1:]
        ways = dict(zip(("database_url", "database_direct_url"), urls, strict=False))
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            dying_with(parent)()
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(2, 1)
            try:
                worker_process(read_settings(worker_id=name, **ways), sys.argv[1:])
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        print(pid, flush=True)


if __name__ == "__main__":
    main()
