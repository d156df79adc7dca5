"""A process that has loaded everything and forks children on demand: one that is to be killed then costs a fork, not a start of
Python.

It reads lines of JSON from its standard input and answers each with one: `["spawn", environment]` with the pid of a child
forked into it, `["ended", pid]` with how that child ended, or null, and `["kill", pid]` with the same, the child told to end if
it has not. It dies with its parent, and its children with it.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from durable_agent.cli.processes import dying_with


class Nursery:
    """The parent's side. `main` is what a child runs, as `module:function`; it is given the names of the `modules`.

    `log` takes what the children write; without it that is this process's standard error. `prefix` are the words before the
    command, for a process that another program starts.
    """

    def __init__(
        self, main: str, modules: Sequence[str], environment: Mapping[str, str], *, log: Path | None = None,
        prefix: Sequence[str] = (),
    ) -> None:  # fmt: skip
        errors = log.open("ab") if log is not None else None
        try:
            self._process = subprocess.Popen(
                [*prefix, sys.executable, "-m", "durable_agent.testing.nursery", main, *modules], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=errors, env={**os.environ, **environment}, start_new_session=True,
                preexec_fn=dying_with(os.getpid()), text=True,
            )  # fmt: skip
        finally:
            if errors is not None:
                errors.close()
        self._lock = threading.Lock()

    def spawn(self, environment: Mapping[str, str]) -> int:
        """Return the pid of a new child, in the nursery's environment with this one over it."""
        return int(self._ask("spawn", dict(environment)))

    def ended(self, pid: int) -> int | None:
        """Return how a child ended (a signal as a negative number), None while it runs. Its pid is its own until then."""
        code: int | None = self._ask("ended", pid)
        return code

    def kill(self, pid: int) -> None:
        """Kill a child, if it runs still; it is gone when this returns."""
        # The nursery sends the signal: nobody else can be sure that a child which ends by itself just then still has its pid.
        code: int | None = self._ask("kill", pid)
        while code is None:
            time.sleep(0.001)
            code = self.ended(pid)

    def close(self) -> None:
        """End the nursery and with it every child."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def _ask(self, what: str, of: Any) -> Any:
        asked, told = self._process.stdin, self._process.stdout
        assert asked is not None
        assert told is not None
        line = ""
        with self._lock, suppress(BrokenPipeError):
            asked.write(json.dumps([what, of]) + "\n")
            asked.flush()
            line = told.readline()
        if not line:
            raise RuntimeError(f"the process that forks workers has ended with {self._process.wait()}")
        return json.loads(line)


def main() -> None:
    """Fork until the parent closes the pipe."""
    module, _, function = sys.argv[1].partition(":")
    run, modules = getattr(importlib.import_module(module), function), sys.argv[2:]
    for name in modules:
        importlib.import_module(name)
    codes: dict[int, int] = {}
    signal.signal(signal.SIGCHLD, lambda *_: _bury(codes))
    for line in sys.stdin:
        what, of = json.loads(line)
        if what == "kill":
            _kill(of, codes)
        answer = _fork(run, modules, of, codes) if what == "spawn" else codes.get(of)
        print(json.dumps(answer), flush=True)


def _bury(codes: dict[int, int]) -> None:
    """Take the dead at once: whoever looks for a pid that is gone must not find it."""
    with suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            codes[found[0]] = os.waitstatus_to_exitcode(found[1])


def _kill(pid: int, codes: dict[int, int]) -> None:
    """Kill a child that is not buried: while none is, a pid is its own, if only as a zombie's."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGCHLD,))
    if pid not in codes:
        os.kill(pid, signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGCHLD,))


def _fork(
    run: Callable[[list[str]], None], modules: list[str], environment: Mapping[str, str], codes: dict[int, int]
) -> int:
    parent = os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGCHLD,))
    if pid := os.fork():
        codes.pop(pid, None)  # another's, long ago
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGCHLD,))
        return pid
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGCHLD,))
        dying_with(parent)()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)
        os.environ.update(environment)
        run(modules)
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


if __name__ == "__main__":
    main()
