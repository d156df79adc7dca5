"""`up` and `demo` as a user has them: real processes, real signals, and nothing left behind."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import socket
from pathlib import Path

import httpx2
import pytest

from durable_agent.api.console import built
from durable_agent.cli.supervisor import Child, Stack
from durable_agent.errors import DurableAgentError
from durable_agent.settings import Settings
from tests.cli.system import System, command, folder, started, until_gone
from tests.support.postgres import bin_dir

pytestmark = [
    pytest.mark.skipif(bin_dir() is not None, reason="the embedded PostgreSQL is part of what is tested"),
    pytest.mark.skipif(not Path("/proc").exists(), reason="processes are counted in /proc"),
]

# Where no second worker is needed, none is started: most of what these tests take is the start of Python.
ONE = ("--workers", "1")
SLOW = {
    "steps": [{"name": "fetch_data", "input": {"delay_s": 2.0}}, {"name": "transform", "dependsOn": ["fetch_data"]}]
}


def start_run(system: System, run: object = SLOW) -> str:
    """Start a run and return its id."""
    answer = httpx2.post(f"{system.url}/runs", json=run, trust_env=False)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def completes(system: System, run: str) -> bool:
    """Follow a run to its end and tell whether it completed."""
    return command("tail", run, "--url", system.url).code == 0


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_drains_everything_and_exits_0(signum: signal.Signals) -> None:
    with folder(empty=True) as data, started("up", data_dir=data) as system:
        start_run(system)
        system.until("worker_started", times=2)
        assert len([line for line in system.pids().values() if "durable_agent worker" in line]) == 2
        assert system.end(signum) == 0
        assert system.pids() == {}
        said = "\n".join(system.lines)
        assert said.index("worker_stopped") < said.rindex("worker_stopped")
        assert "Traceback" not in said


def test_a_killed_supervisor_leaves_no_process() -> None:
    with folder() as data, started("up", data_dir=data) as system:
        start_run(system)
        left = list(system.pids())
        assert len(left) >= 6  # supervisor, API, two workers, PostgreSQL, its watchdog
        assert system.end(signal.SIGKILL) == -signal.SIGKILL
        until_gone(left)
        assert system.pids() == {}


def test_a_second_ctrl_c_does_not_wait_for_steps() -> None:
    with folder() as data, started("up", *ONE, data_dir=data) as system:
        run = start_run(system, {"steps": [{"name": "fetch_data", "input": {"delay_s": 3600}}]})
        events = f"{system.url}/runs/{run}/events"
        with httpx2.stream("GET", events, headers={"Accept": "text/event-stream"}, trust_env=False) as stream:
            assert next(line for line in stream.iter_lines() if "step.emitted" in line)
        left = list(system.pids())
        system.process.send_signal(signal.SIGINT)
        system.until("draining")
        assert system.end(signal.SIGINT) == 1
        until_gone(left)


def test_a_second_start_resumes_what_was_running() -> None:
    # A lease outlives its server: nobody knows whether its worker lives, until its time is over.
    ttl = {"DURABLE_AGENT_LEASE_TTL_S": "2", "DURABLE_AGENT_BEAT_S": "0.4"}
    with folder() as data:
        with started("up", *ONE, data_dir=data, **ttl) as first:
            run = start_run(first, {"steps": [{"name": "fetch_data", "input": {"delay_s": 1.5}}]})
            left = list(first.pids())
            first.end(signal.SIGKILL)
            until_gone(left)
        with started("up", *ONE, data_dir=data, **ttl) as second:
            assert completes(second, run)
            assert second.end(signal.SIGTERM) == 0


def test_what_dies_is_started_again_and_the_run_completes() -> None:
    with folder() as data, started("up", data_dir=data) as system:
        run = start_run(system)
        os.kill(min(p for p, line in system.pids().items() if "durable_agent worker" in line), signal.SIGKILL)
        system.until("child_ended", "SIGKILL")
        system.until("worker_started", times=3)
        assert completes(system, run)
        run = start_run(system)
        os.kill(system.pid_of("durable_agent api"), signal.SIGKILL)
        system.until("child_ended", "name=api")
        system.until("listening", times=2)
        assert completes(system, run)
        run = start_run(system)
        os.kill(system.pid_of("/postgres -D"), signal.SIGKILL)
        system.until("postgres_restarted")
        assert completes(system, run)
        start_run(system)
        assert system.end(signal.SIGTERM) == 0
        assert system.pids() == {}


def test_a_start_that_can_never_succeed_ends_at_once_with_its_reason() -> None:
    with folder() as data, started("up", *ONE, "--import", "no.such.module", data_dir=data) as system:
        assert system.process.wait(60) == 2
        system.until("durable-agent: worker-", "cannot start", "'no.such.module'")
        assert system.pids() == {}


async def test_a_child_that_cannot_be_started_ends_the_start_with_its_reason() -> None:
    settings = Settings(_env_file=None, database_url="postgresql://nobody@127.0.0.1:1/nothing")
    child = Child("api", ("no\0argument",), {})
    made = Stack(settings, "http://127.0.0.1:1", str(settings.database_url), None, child, [])
    with pytest.raises(DurableAgentError, match="not started: embedded null byte"):
        await made.start()


def test_a_data_directory_has_one_owner() -> None:
    with folder() as data, started("up", *ONE, data_dir=data) as first:
        assert first.url
        # Not by option: the helper would count the first one's PostgreSQL as the second's.
        with started("up", DURABLE_AGENT_DATA_DIR=str(data)) as second:
            assert second.process.wait(60) == 4
            second.until("is in use by process", str(first.process.pid))
        assert httpx2.get(f"{first.url}/readyz", trust_env=False).status_code == 200


def test_doctor_and_tail_work_beside_a_running_system_and_without_one() -> None:
    with folder() as data:
        with started("up", *ONE, data_dir=data) as system:
            run = start_run(system, {"steps": [{"name": "noop"}]})
            assert completes(system, run)
            beside = command("doctor", "--data-dir", str(data), "--all", "--json")
            assert system.end(signal.SIGTERM) == 0
        alone = command("doctor", "--data-dir", str(data), "--all", "--json")
        for answer in (beside, alone):
            assert answer.code == 0, answer.err + answer.out
            assert {finding["level"] for finding in json.loads(answer.out)} == {"ok"}
        tail = command("tail", run, "--data-dir", str(data), "--json")
        assert tail.code == 0, tail.err
        assert json.loads(tail.out.splitlines()[-1])["type"] == "run.completed"


def test_the_demo_kills_a_worker_and_its_run_completes() -> None:
    with started("demo") as system:
        assert system.process.wait(60) == 0
        said = "\n".join(system.lines)
        assert "kill -9 worker-" in said
        assert "step.lease_lost" in said
        assert "The run is completed" in said
        assert "; another attempt finished it." in said
        assert bool(re.search(r"^console  http://\S+/runs/[0-9a-f-]{36}$", said, re.MULTILINE)) is built()
        assert system.pids() == {}


def test_a_taken_port_is_refused_before_anything_is_started() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, folder(empty=True) as data:
        port = taken.getsockname()[1]
        for what in ("up", "demo"):
            with started(what, data_dir=data, port=port) as system:
                assert system.process.wait(60) == 2
                system.until(f"durable-agent: port {port}", "choose another --port")
        assert list(data.iterdir()) == []


def test_a_shortage_of_descriptors_passes_and_what_died_meanwhile_is_started_again() -> None:
    with folder() as data, started("up", *ONE, data_dir=data) as system:
        run, pid = start_run(system), system.process.pid
        system.until("worker_started")
        postgres = system.pid_of("/postgres -D")
        worker = system.pid_of("durable_agent worker")
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE, (8, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        for victim in (worker, postgres):
            os.kill(victim, signal.SIGKILL)
        system.until("postgres_down")
        system.until("child_ended", "not started")
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        system.until("postgres_restarted")
        system.until("worker_started", times=2)
        assert completes(system, run)
        assert system.end(signal.SIGTERM) == 0


def test_the_shells_variables_about_another_server_are_not_the_systems() -> None:
    others = {
        "PGSERVICE": "elsewhere", "PGSSLMODE": "require", "PGHOSTADDR": "192.0.2.1", "PGTZ": "Nowhere/AtAll",
        "PGREQUIREAUTH": "none", "PGCLIENTENCODING": "LATIN1",
    }  # fmt: skip
    with folder() as data, started("up", *ONE, data_dir=data, **others) as system:
        assert completes(system, start_run(system, {"steps": [{"name": "noop"}]}))
        doctor = command("doctor", "--data-dir", str(data), "--json", **others)
        assert doctor.code == 0, doctor.err + doctor.out
        assert system.end(signal.SIGTERM) == 0
