"""Commands about agents, budgets and tool servers against a running system."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.system import Answer, System, command, started
from tests.support.postgres import Database


@pytest.fixture(scope="module")
def system(ground: Database) -> Iterator[System]:
    """A system on it, with the examples."""
    modules = ("--import", "durable_agent.flow.demo", "--import", "workers.examples.research_swarm")
    with started("up", "--workers", "1", *modules, DATABASE_URL=ground.url, PYTHONPATH=str(Path.cwd())) as made:
        assert made.url
        yield made


@pytest.fixture
def say(system: System) -> Any:
    """Run a command against the system."""

    def run(*arguments: str, given: str = "", **variables: str) -> Answer:
        return command(*arguments, given=given, DURABLE_AGENT_URL=system.url, **variables)

    return run


def test_an_agent_is_created_changed_run_spoken_to_and_forgotten(say: Any) -> None:
    given = {"name": "counter", "tools": ["calculator"], "budget": {"tokens": 50_000}}
    assert say("agents", "create", "-", given=json.dumps(given)).out == "counter version 1\n"
    assert (
        say("agents", "create", "-", given=json.dumps({**given, "system": "You count."})).out == "counter version 2\n"
    )
    run = say("agents", "run", "counter", "What is 17*23?").out.strip()
    assert say("tail", run).code == 0
    again = say("agents", "say", run, "And 2+2?").out.strip()
    assert say("tail", again).code == 0
    shown = json.loads(say("runs", "show", again, "--json").out)
    assert '"result":4' in shown["steps"][0]["output"]["text"]
    listed = say("agents", "list").out
    assert "counter" in listed
    assert json.loads(say("agents", "show", "counter").out)["system"] == "You count."
    spent = say("runs", "budget", again).out
    assert "50000" in spent
    assert say("agents", "delete", "counter").code == 0
    missing = say("agents", "show", "counter")
    assert (missing.code, "counter" in missing.err) == (3, True)


def test_a_file_that_is_no_agent_is_the_callers_mistake(say: Any) -> None:
    for given in ("", "[]", '{"name": "a b"}', '{"name": "a", "max_steps": 0}'):
        answer = say("agents", "create", "-", given=given)
        assert (answer.code, "Traceback" in answer.err) == (2, False)


def test_the_research_swarm_is_told_to_its_end_and_its_budget_shown(say: Any) -> None:
    answer = say("run", "research-swarm", "--input", '{"topic": "mediasoup vs LiveKit in 2026"}')
    assert answer.code == 0, answer
    lines = answer.out.splitlines()
    assert lines[-1] == "[step] summarise=ok"
    assert [line for line in lines if line.startswith("[step] analyse.swarm.branch")]


def test_a_tool_server_that_leads_inside_is_registered_and_not_asked(say: Any) -> None:
    answer = say("tool-servers", "add", "inside", "http://127.0.0.1:9/mcp", "--token-env", "NO_SUCH_TOKEN")
    assert (answer.code, "NO_SUCH_TOKEN" in answer.err) == (2, True)
    answer = say("tool-servers", "add", "inside", "http://127.0.0.1:9/mcp")
    assert (answer.code, "127.0.0.1" in answer.err) == (1, True)
    assert "unreachable" in say("tool-servers", "list").out
    assert say("tool-servers", "delete", "inside").code == 0
    assert say("tool-servers", "list").out == "no tool servers\n"
