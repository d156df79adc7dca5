"""The vendor onboarding of the examples, as its reader runs it: blocked, the system restarted, approved, decided."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.cli.system import COMMAND, WAIT_S, command, environment, folder, started
from tests.support.postgres import bin_dir

pytestmark = pytest.mark.skipif(bin_dir() is not None, reason="the embedded PostgreSQL is part of what is tested")

ROOT = str(Path(__file__).parents[2])
UP = ("up", "--import", "workers.examples.vendor_onboarding")


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_the_onboarding_is_blocked_survives_a_restart_and_is_decided() -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with folder() as data:
        with started(*UP, data_dir=data, port=port, PYTHONPATH=ROOT) as system:
            system.until("ready http")
            with subprocess.Popen(
                [*COMMAND, "run", "vendor-onboarding", "--goal", "vendor onboarding review", "--url", url],
                stdout=subprocess.PIPE, text=True, env=environment(), cwd="/",
            ) as told:  # fmt: skip
                assert told.stdout is not None
                lines = []
                for line in told.stdout:
                    lines.append(line.rstrip("\n"))
                    if line.startswith("[wait]"):
                        break
                wait = lines[-1].split()[1]
                assert system.end(signal.SIGTERM) == 0
                with started(*UP, data_dir=data, port=port, PYTHONPATH=ROOT) as again:
                    again.until("ready http")
                    listed = json.loads(command("waits", "list", "--json", "--url", url).out)
                    assert [item["id"] for item in listed["items"]] == [wait]
                    done = command("waits", "approve", wait, "--reason", "with controls", "--url", url)
                    assert done.code == 0, done.err
                    lines += [line.rstrip("\n") for line in told.stdout]
                    assert told.wait(WAIT_S) == 0
                    run = lines[0].split("=")[1].split()[0]
                    saved = command("runs", "artifacts", run, "--save", str(data / "files"), "--url", url)
                    assert saved.code == 0, saved.err
                    replayed = command("runs", "replay", run, "--url", url)
                    assert replayed.code == 0, replayed.out + replayed.err
        decision = json.loads((data / "files/onboarding_decision.json").read_text())
    assert lines == [
        f"[workflow] id={run} started",
        "[step] docs_collect=ok",
        "[step] policy_screen=blocked(manual approval)",
        f"[wait] {wait} `durable-agent waits approve {wait}`",
        "[resume] approval_received",
        "[step] policy_screen=approved",
        "[step] final_decision=approved_with_controls",
        "[artifact] onboarding_decision.json",
    ]
    assert decision["decision"] == "approved_with_controls"
    assert decision["screening"]["reason"] == "with controls"
