"""What forks children on demand tells how each ended, and leaves none behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from durable_agent.testing.nursery import Nursery

CHILD = """
import os, signal, sys, time

def main(modules):
    print(modules, os.environ["HOW"], flush=True)
    match os.environ["HOW"]:
        case "killed": os.kill(os.getpid(), signal.SIGKILL)
        case "told": sys.exit(3)
        case "wrong": raise ValueError("what went wrong")
        case "stays": signal.pause()
"""


def begun(kind: type[Nursery], path: Path) -> Nursery:
    (path / "child.py").write_text(CHILD)
    return kind("child:main", ["json"], {"PYTHONPATH": str(path)}, log=path / "log")


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[Nursery]:
    with closing(begun(Nursery, tmp_path)) as made:
        yield made


def code_of(nursery: Nursery, pid: int) -> int:
    deadline = time.monotonic() + 20
    while (code := nursery.ended(pid)) is None:
        assert time.monotonic() < deadline
    return code


@pytest.mark.parametrize(("how", "code"), [("killed", -signal.SIGKILL), ("told", 3), ("wrong", 1), ("nothing", 0)])
def test_it_is_told_how_a_child_ended(nursery: Nursery, tmp_path: Path, how: str, code: int) -> None:
    assert code_of(nursery, nursery.spawn({"HOW": how})) == code
    said = (tmp_path / "log").read_text()
    assert f"['json'] {how}\n" in said
    assert "RuntimeWarning" not in said
    assert ("ValueError: what went wrong" in said) is (how == "wrong")


def test_a_killed_child_is_gone_and_those_left_end_with_the_nursery(nursery: Nursery) -> None:
    killed, left = nursery.spawn({"HOW": "stays"}), nursery.spawn({"HOW": "stays"})
    nursery.kill(killed)
    nursery.kill(killed)
    assert not Path(f"/proc/{killed}").exists()
    assert nursery.ended(left) is None
    watching = os.pidfd_open(left)
    nursery.close()
    assert subprocess.run(
        [sys.executable, "-c", f"import select; select.select([{watching}], [], [], 20)"], pass_fds=[watching], check=True, timeout=30
    )  # fmt: skip
    with pytest.raises(ValueError, match="closed file"):
        nursery.spawn({})


def test_a_child_that_cannot_be_loaded_is_said(tmp_path: Path) -> None:
    made = Nursery("no_such_module:main", [], {}, log=tmp_path / "log")
    with pytest.raises(RuntimeError, match="has ended with 1"):
        made.spawn({})
    made.close()
    assert "No module named 'no_such_module'" in (tmp_path / "log").read_text()


class DiesAfterALook(Nursery):
    """One whose children end as soon as they were seen running."""

    def ended(self, pid: int) -> int | None:
        told = super().ended(pid)
        if told is None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            while super().ended(pid) is None:
                pass
        return told


def test_a_child_may_end_by_itself_while_it_is_killed(tmp_path: Path) -> None:
    with closing(begun(DiesAfterALook, tmp_path)) as nursery:
        nursery.kill(nursery.spawn({"HOW": "stays"}))
