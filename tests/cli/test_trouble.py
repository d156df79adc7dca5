"""Trouble that is to be expected ends a command with one line and its exit code, and never takes what was there."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from durable_agent.cli import demo
from durable_agent.cli.replays import _save
from durable_agent.errors import InvalidRequest
from tests.cli.system import COMMAND, System, command, environment, started
from tests.support.postgres import Database

# A command line that is itself in the background hands on that Ctrl-C is not heard.
PRESSED = """import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.raise_signal(signal.SIGINT)
"""


@pytest.fixture(scope="module")
def system(ground: Database) -> Iterator[System]:
    """A system on it, whose workers have a tool that stores files."""
    with started("up", "--workers", "1", "--import", "tests.cli.files", DATABASE_URL=ground.url,
                 PYTHONPATH=os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])) as made:  # fmt: skip
        assert made.url
        yield made


def start(system: System, run: object) -> str:
    """Start a run and return its id."""
    answer = httpx2.post(f"{system.url}/runs", json=run, trust_env=False)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def test_files_of_the_same_name_are_all_saved_and_none_is_written_over(system: System, tmp_path: Path) -> None:
    run = start(system, {"steps": [{"name": "a", "tool": "leave"}, {"name": "b", "tool": "leave", "dependsOn": ["a"]}]})
    assert command("tail", run, "--url", system.url).code == 0
    kept = tmp_path / "a" / "report.txt"
    kept.parent.mkdir()
    kept.write_text("mine")
    for _ in range(2):  # the second time there is nothing left to do
        saved = command("runs", "artifacts", run, "--save", str(tmp_path), "--json", "--url", system.url)
        assert saved.code == 0, saved.err
    assert kept.read_text() == "mine"
    assert (tmp_path / "b" / "report.txt").read_text() == "by b"
    (beside,) = tmp_path.glob("a/*-report.txt")
    assert beside.read_text() == "by a"
    refused = command("runs", "artifacts", run, "--save", str(kept), "--url", system.url)
    assert (refused.code, "Traceback" in refused.err) == (2, False)


@pytest.mark.parametrize("name", ["..", ".", "../../out", "/etc/passwd", "a\\b", "x" * 500, "\0"])
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    _save(tmp_path / "in", {"id": str(uuid4()), "name": name}, b"content")
    (file,) = (tmp_path / "in").iterdir()
    assert file.read_bytes() == b"content"
    assert [one.name for one in tmp_path.iterdir()] == ["in"]


def test_what_happens_at_a_limit_is_set_alone(system: System) -> None:
    run = start(system, {"steps": [{"name": "approval.go", "input": {}}], "budget": {"tokens": 5, "on_limit": "pause"}})
    bare = start(system, {"steps": [{"name": "approval.go", "input": {}}]})
    assert command("runs", "budget", run, "--on-limit", "fail", "--url", system.url).code == 0
    (limit,) = httpx2.get(f"{system.url}/runs/{run}/budget", trust_env=False).json()["limits"]
    assert (limit["cap"], limit["on_limit"]) == (5, "fail")
    assert command("runs", "budget", bare, "--on-limit", "fail", "--url", system.url).code == 2


def test_a_reader_that_goes_and_a_terminal_that_knows_no_letters_are_no_faults(system: System) -> None:
    run = start(system, {"steps": [{"name": f"noop.{n}", "tool": "noop"} for n in range(20)]})
    assert command("tail", run, "--url", system.url).code == 0
    for more in ((), ("--json",)):
        with subprocess.Popen(
            [*COMMAND, "tail", run, "--url", system.url, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environment(),
        ) as tail:  # fmt: skip
            assert tail.stdout is not None
            assert tail.stderr is not None
            tail.stdout.close()
            assert tail.stderr.read() == ""
    named = start(
        system, {"goal": "größer", "steps": [{"name": "noop", "tool": "noop"}, {"name": "ö", "tool": "noop"}]}
    )
    plain = subprocess.run(
        [*COMMAND, "tail", named, "--url", system.url], capture_output=True, text=True, check=False,
        env=environment(PYTHONIOENCODING="ascii"),
    )  # fmt: skip
    assert (plain.returncode, plain.stderr) == (0, "")
    assert "\\xf6" in plain.stdout


def test_artifacts_that_can_be_nowhere_and_a_data_directory_that_cannot_be_are_one_line_each(ground: Database) -> None:
    for what in (("api", "--port", "0"), ("worker",)):
        refused = command(*what, DATABASE_URL=ground.url, DURABLE_AGENT_ARTIFACTS="ftp://host/folder")
        assert (refused.code, len(refused.err.splitlines())) == (2, 1), refused.err
    refused = command("up", "--port", "0", "--data-dir", "/proc/durable-agent")
    assert (refused.code, "Traceback" in refused.err) == (4, False)


def test_new_code_is_not_checked_against_a_database_without_runs_tables(admin_url: str) -> None:
    refused = command("check-deploy", "durable_agent.flow.demo", "--database-url", admin_url)
    assert (refused.code, "run `durable-agent migrate`" in refused.err) == (4, True)


def test_the_demo_kills_nobody_but_its_own_worker(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, signum: killed.append(pid))
    child: Any = SimpleNamespace(name="worker-1", pid=os.getpid())
    running: Any = SimpleNamespace(url=system.url, workers=[child])
    seen = [{"type": "step.claimed", "step": demo.VICTIM_STEP, "data": {"worker": "worker-1", "claim_no": 1}}]
    assert (demo._kill(running, seen), killed) == ("", [])  # that worker-1 is another system's
    child.pid = system.pid_of("durable_agent worker")
    assert (demo._kill(running, seen), killed) == (f"worker-1 (pid {child.pid})", [child.pid])


def test_files_that_are_others_already_are_said(tmp_path: Path) -> None:
    one = {"id": "id", "name": "n"}
    for content in (b"1", b"2"):
        _save(tmp_path, one, content)
    with pytest.raises(InvalidRequest, match="choose another --save"):
        _save(tmp_path, one, b"3")


def test_ctrl_c_while_a_command_is_loaded_ends_it_in_silence(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text(PRESSED)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [*COMMAND, "--help"], env=environment(PYTHONPATH=path), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
