"""Every command against a running system: what it prints, what `--json` prints, and its exit code."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from tests.cli.system import Answer, System, command, started
from tests.support.postgres import Database

HELLO = {
    "goal": "Say hello",
    "steps": [{"name": "echo", "input": {"text": "hello"}}, {"name": "noop", "dependsOn": ["echo"]}],
}
DOOMED = {"steps": [{"name": "charge", "tool": "echo", "input": {"failure_rate": 1}, "retry": {"maxAttempts": 1}}]}
STUCK = {"steps": [{"name": "nobody_offers_this"}]}
UNKNOWN = "018f0000-0000-7000-8000-000000000000"


@pytest.fixture(scope="module")
def system(ground: Database) -> Iterator[System]:
    """A system on it."""
    with started("up", "--workers", "1", DATABASE_URL=ground.url) as made:
        assert made.url
        yield made


@pytest.fixture
def say(system: System) -> Any:
    """Run a command against the system."""

    def run(*arguments: str, given: str = "") -> Answer:
        return command(*arguments, given=given, DURABLE_AGENT_URL=system.url)

    return run


def start(system: System, run: object) -> str:
    """Start a run and return its id."""
    answer = httpx2.post(f"{system.url}/runs", json=run, trust_env=False)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def test_run_starts_a_file_and_watches_it_to_its_end(say: Any, tmp_path: Path) -> None:
    file, payload = tmp_path / "run.json", tmp_path / "input.json"
    file.write_text(json.dumps(HELLO))
    payload.write_text('{"topic": "tea"}')
    answer = say("run", str(file), "--goal", "Say it", "--input", f"@{payload}", "--watch")
    assert answer.code == 0, answer.err
    run, *lines = answer.out.splitlines()
    assert [line.split()[2] for line in lines][-1] == "run.completed"
    shown = json.loads(say("runs", "show", run, "--json").out)
    assert (shown["goal"], shown["input"], shown["status"]) == ("Say it", {"topic": "tea"}, "completed")


def test_a_run_that_fails_is_exit_code_1_when_watched(say: Any) -> None:
    answer = say("run", "-", "--watch", given=json.dumps(DOOMED))
    assert answer.code == 1
    assert "step.dead_letter" in answer.out


def test_the_same_key_starts_one_run(say: Any) -> None:
    key = uuid4().hex
    first, again = (say("run", "-", "--idempotency-key", key, given=json.dumps(HELLO)) for _ in range(2))
    other = say("run", "-", "--idempotency-key", key, given=json.dumps(STUCK))
    assert first.out == again.out
    assert (first.code, again.code, other.code) == (0, 0, 2)


def test_a_tool_that_nobody_offers_is_a_warning_on_stderr(say: Any) -> None:
    answer = say("run", "-", given=json.dumps(STUCK))
    assert answer.code == 0
    assert "nobody_offers_this" in answer.err
    assert re.fullmatch(r"[0-9a-f-]{36}\n", answer.out)
    say("runs", "cancel", answer.out.strip())


@pytest.mark.parametrize(
    "given", ["", "no json", "[1]", '{"steps": []}', '{"steps": [{"name": "a", "dependsOn": ["b"]}]}']
)
def test_a_file_that_is_no_run_is_the_callers_mistake(say: Any, given: str) -> None:
    answer = say("run", "-", given=given)
    assert answer.code == 2, answer
    assert answer.err.startswith("durable-agent: ")
    assert "Traceback" not in answer.err


def test_runs_are_listed_shown_and_their_events_told(say: Any, system: System) -> None:
    run = start(system, HELLO)
    assert say("tail", run).code == 0
    assert run in say("runs", "list", "--status", "completed", "--search", "say HELLO").out
    assert run in [item["id"] for item in json.loads(say("runs", "list", "--json").out)["items"]]
    shown = say("runs", "show", run).out
    assert '{"text":"hello"}' in shown
    assert "1/5" in shown
    events = json.loads(say("runs", "events", run, "--json").out)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert "run.completed" in say("runs", "events", run, "--after", str(len(events) - 1)).out
    assert "the run has ended: completed" in say("runs", "explain", run).out


def test_an_export_goes_through_a_pipe_and_verifies(say: Any, system: System) -> None:
    run = start(system, HELLO)
    assert say("tail", run).code == 0
    exported = say("runs", "export", run)
    assert exported.code == 0
    answer = say("runs", "verify", "-", given=exported.out)
    assert (answer.code, run in answer.out) == (0, True)


def test_tail_follows_after_a_number_and_as_json(say: Any, system: System) -> None:
    run = start(system, HELLO)
    assert say("tail", run).code == 0
    lines = say("tail", run, "--after", "3", "--json").out.splitlines()
    assert [json.loads(line)["seq"] for line in lines] == list(range(4, 4 + len(lines)))


def test_tail_reads_the_database_itself_when_told(say: Any, system: System, ground: Database) -> None:
    run = start(system, HELLO)
    assert say("tail", run).code == 0
    direct = command("tail", run, "--database-url", ground.url)
    assert direct.code == 0
    assert direct.out == say("tail", run).out


def test_a_run_is_explained_paused_resumed_and_cancelled(say: Any, system: System) -> None:
    run = start(system, STUCK)
    assert "[no_worker_offers]" in say("runs", "explain", run).out
    assert say("runs", "pause", run, "--reason", "lunch").out == "paused\n"
    (step,) = json.loads(say("runs", "explain", run, "--json").out)["steps"]
    assert step["reason"] == "paused"
    assert say("runs", "resume", run).out == "running\n"
    assert say("runs", "cancel", run).out == "cancelled\n"
    assert say("tail", run).code == 1


def test_a_verb_that_the_state_forbids_is_exit_code_1(say: Any, system: System) -> None:
    run = start(system, STUCK)
    say("runs", "cancel", run)
    answer = say("runs", "cancel", run)
    assert (answer.code, "cancelled" in answer.err) == (1, True)


def test_dead_letters_are_listed_and_redriven(say: Any, system: System) -> None:
    run = start(system, DOOMED)
    assert say("tail", run).code == 1
    listed = say("dead-letters", "list", "--run", run)
    assert "attempts_exhausted" in listed.out
    assert json.loads(say("dead-letters", "list", "--run", run, "--json").out)["items"][0]["step"] == "charge"
    assert say("dead-letters", "redrive", run).out == f"{run}  charge\n1 redriven\n"
    assert say("dead-letters", "redrive").code == 2
    assert say("tail", run).code == 1


def test_workers_are_listed(say: Any) -> None:
    assert "worker-1" in say("workers").out
    (worker,) = json.loads(say("workers", "--json").out)["items"]
    assert worker["state"] == "active"


def test_keys_are_made_listed_and_revoked(ground: Database) -> None:
    made = command("keys", "create", "ci", "--scopes", "read", "--days", "3", "--database-url", ground.url)
    assert made.code == 0
    public = made.out.split(".")[0].removeprefix("da_")
    listed = command("keys", "list", "--database-url", ground.url)
    assert re.search(rf"{public}\s+active\s+read\s+ci", listed.out)
    assert made.out.strip().split(".")[1] not in listed.out
    assert command("keys", "revoke", public, "--database-url", ground.url).code == 0
    assert "revoked" in command("keys", "list", "--database-url", ground.url).out
    assert command("keys", "revoke", "nothing", "--database-url", ground.url).code == 3
    assert command("keys", "create", "x", "--scopes", "root", "--database-url", ground.url).code == 2
    ground.execute("delete from api_keys")


def test_doctor_ends_with_1_when_something_fails(ground: Database) -> None:
    answer = command("doctor", "--database-url", ground.url)
    assert answer.code == 1  # the suite's server runs without fsync
    assert re.search(r"^fail  durability: .*\n +→ ", answer.out, re.MULTILINE)
    levels = {f["check"]: f["level"] for f in json.loads(command("doctor", "--database-url", ground.url, "--json").out)}
    assert levels["histories"] == "ok"


def test_the_version_is_the_packages() -> None:
    done = command("--version")
    assert (done.code, done.out) == (0, f"durable-agent {version('durable-agent')}\n")


def test_migrate_says_where_the_schema_is(ground: Database) -> None:
    assert re.fullmatch(r"schema \d+\n", command("migrate", "--database-url", ground.url).out)


@pytest.mark.parametrize(
    "arguments",
    [
        ("runs", "show"),
        ("runs", "events"),
        ("runs", "export"),
        ("runs", "explain"),
        ("runs", "cancel"),
        ("runs", "pause"),
        ("tail",),
    ],
)
def test_an_unknown_run_is_exit_code_3(say: Any, arguments: tuple[str, ...]) -> None:
    answer = say(*arguments, UNKNOWN)
    assert answer.code == 3, answer
    assert UNKNOWN in answer.err


@pytest.mark.parametrize("arguments", [("runs", "list"), ("workers",), ("tail", UNKNOWN), ("run", "-")])
def test_no_api_is_exit_code_4_and_says_what_to_do(arguments: tuple[str, ...]) -> None:
    answer = command(*arguments, "--url", "http://127.0.0.1:1", given='{"steps":[]}')
    assert answer.code == 4, answer
    assert "durable-agent up" in answer.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("runs", "show", "no-uuid"),
        ("runs", "list", "--status", "happy"),
        ("run", "no-such-file.json"),
        ("up", "--port", "70000"),
        ("doctor", "--database-url", "postgresql://x", "--data-dir", "/nowhere"),
        ("doctor", "--data-dir", "/nowhere"),
        ("worker",),
        ("nonsense",),
    ],
)
def test_a_wrong_call_is_exit_code_2(arguments: tuple[str, ...]) -> None:
    answer = command(*arguments)
    assert answer.code == 2, answer
    assert "Traceback" not in answer.err


def test_a_database_that_cannot_be_reached_is_exit_code_4() -> None:
    for arguments in (("doctor",), ("migrate",), ("keys", "list"), ("worker",), ("api",), ("up",), ("tail", UNKNOWN)):
        answer = command(*arguments, "--database-url", "postgresql://nobody@127.0.0.1:1/nothing")
        assert answer.code == 4, (arguments, answer)
        assert "Traceback" not in answer.err, arguments


def test_a_database_without_our_schema_is_said_to_be_one(admin_url: str) -> None:
    for arguments in (("keys", "list"), ("worker",), ("api",), ("tail", UNKNOWN)):
        answer = command(*arguments, "--database-url", admin_url)
        assert answer.code == 4, (arguments, answer)
        assert "the schema is missing" in answer.err, arguments
        assert "run `durable-agent migrate`" in answer.err, arguments
        assert "Traceback" not in answer.err, arguments


@pytest.mark.parametrize("process", ["api", "worker"])
def test_a_process_whose_loop_ends_by_an_error_ends_and_says_why(database: Database, process: str) -> None:
    database.execute("drop table ws_tickets")
    answer = command(process, DATABASE_URL=database.url, PORT="0")
    assert answer.code == 1, answer
    assert 'relation "ws_tickets" does not exist' in answer.err


def test_an_api_that_cannot_start_ends_and_says_why() -> None:
    answer = command("api", PORT="0")
    assert answer.code == 2, answer
    assert "set DATABASE_URL" in answer.err


def test_a_key_is_asked_for_and_named_when_missing(system: System, ground: Database) -> None:
    key = command("keys", "create", "me", "--scopes", "read", "--database-url", ground.url).out.strip()
    try:
        # Whether any key exists is remembered for a moment by the API; a wrong key is never taken.
        wrong = command("runs", "list", "--url", system.url, DURABLE_AGENT_API_KEY="da_wrong.key")
        right = command("runs", "list", "--url", system.url, DURABLE_AGENT_API_KEY=key)
        assert (wrong.code, right.code) == (2, 0)
        assert "DURABLE_AGENT_API_KEY" in wrong.err
    finally:
        ground.execute("delete from api_keys")


def test_help_needs_neither_the_server_nor_the_migrations() -> None:
    answer = command("--help")
    assert answer.code == 0
    import subprocess
    import sys

    code = "import sys, durable_agent.cli; print([m for m in ('fastapi', 'alembic', 'uvicorn') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def asked(system: System, say: Any, run: str) -> dict[str, Any]:
    """Return the run's open wait, once there is one: the stream tells when."""
    with httpx2.stream(
        "GET", f"{system.url}/runs/{run}/events", headers={"Accept": "text/event-stream"}, trust_env=False, timeout=60
    ) as stream:
        assert any("step.waiting" in line for line in stream.iter_lines())
    (wait,) = json.loads(say("waits", "list", "--run", run, "--json").out)["items"]
    return dict(wait)


def test_a_question_is_listed_and_answered(system: System, say: Any) -> None:
    run = start(system, {"steps": [{"name": "input.who", "input": {"prompt": "Who?\x1b[31m"}}]})
    wait = asked(system, say, run)
    listed = say("waits", "list", "--run", run)
    assert "Who?\\x1b[31m" in listed.out
    assert "\x1b" not in listed.out
    assert say("waits", "respond", wait["id"], '{"name": "Ada"}', "--reason", "I know her").code == 0
    assert say("tail", run).code == 0
    assert json.loads(say("runs", "show", run, "--json").out)["steps"][0]["output"] == {"name": "Ada"}
    again = say("waits", "approve", wait["id"])
    assert (again.code, "responded by local" in again.err) == (1, True)


def test_a_rejection_fails_the_run(system: System, say: Any) -> None:
    run = start(system, {"steps": [{"name": "approval.go", "input": {}}]})
    assert say("waits", "reject", asked(system, say, run)["id"], "--reason", "no").code == 0
    assert say("tail", run).code == 1
    assert "rejected" in say("dead-letters", "list", "--run", run).out


def test_a_signal_is_delivered_once_a_key(system: System, say: Any) -> None:
    run = start(system, {"steps": [{"name": "signal.go", "input": {}}]})
    assert say("runs", "signal", run, "go", '{"n": 1}', "--idempotency-key", "k").out == "delivered\n"
    assert say("tail", run).code == 0
    assert say("runs", "signal", run, "go", "2").code == 1


def test_settle_and_unknown_waits_are_refused_clearly(say: Any) -> None:
    assert say("waits", "settle", UNKNOWN, "perhaps").code == 2
    assert say("waits", "settle", UNKNOWN, "fail").code == 3
    assert say("waits", "list", "--run", UNKNOWN).out == "nothing waits for a person\n"


def test_a_graph_in_a_file_is_run_and_made_again(system: System, say: Any, tmp_path: Path) -> None:
    file = tmp_path / "hello.py"
    file.write_text(
        "from durable_agent import Graph\n"
        "hello = Graph('hello').node('echo', input={'text': 'hi'}).node('noop').edge('echo', 'noop')\n"
    )
    run = say("run", str(file)).out.strip()
    assert say("tail", run).code == 0
    replayed = say("runs", "replay", run)
    assert (replayed.code, "no step differs" in replayed.out) == (0, True), replayed.out + replayed.err
    edited = say("runs", "replay", run, "--live", "--from", "noop", "--edits", '{"echo": {"output": 1}}')
    assert (edited.code, "first difference: echo" in edited.out) == (1, True), edited.out + edited.err


def test_a_graph_that_is_not_registered_is_named(say: Any) -> None:
    answer = say("run", "nobody")
    assert (answer.code, "'nobody'" in answer.err) == (3, True)
