"""The built-in tools as steps of a run: what they record, ask and store."""

from __future__ import annotations

import inspect
from typing import Any
from uuid import UUID

import pytest

from durable_agent.agents.tools import WebTools, built_in, create_text_artifact
from durable_agent.core.outcomes import Failed, Stored, Succeeded, Suspended
from durable_agent.core.records import Claim, Lease, RunId, StepKind, Tenant, Token
from durable_agent.flow.registry import Registry
from durable_agent.worker.attempt import run_attempt
from tests.support.alone import Alone
from tests.support.sites import Site

pytestmark = pytest.mark.usefixtures("inside")


async def attempt(name: str, given: dict[str, Any]) -> tuple[Any, list[Any]]:
    """Run the tool as a step of its own; return its outcome and what it told."""
    registry = Registry(built_in({}))
    link = Kept(registry)
    lease = Lease(Tenant(1), RunId(UUID(int=1)), 0, 1, Token(UUID(int=2)))
    claim = Claim(lease, "s", StepKind.TOOL_CALL, name, given, None, None, {}, 1, 0, None, 60.0, "the-key")
    return await run_attempt(claim, registry, link, limit_bytes=262_144), link.told


class Kept(Alone):
    """Keeps files as well."""

    async def put(self, content: bytes) -> str:
        return str(len(content))


def test_every_tool_is_named_described_and_may_be_run_again() -> None:
    tools = built_in({})
    expected = ["calculator", "read_url", "web_search", "request_human_input", "create_text_artifact"]
    assert [one.name for one in tools] == expected
    for one in tools:
        assert one.effect == "safe"
        assert len((inspect.getdoc(one.function) or "").split("\n\n")[0]) > 40
        schema = one.arguments.model_json_schema()
        assert all("type" in given or "anyOf" in given for given in schema["properties"].values())
    assert {one.name for one in tools if one.orchestrates} == {"request_human_input"}
    assert "self" not in str([one.accepts for one in tools])


async def test_as_steps_they_give_their_results() -> None:
    outcome, _ = await attempt("calculator", {"expression": "6 * 7"})
    assert isinstance(outcome, Succeeded)
    assert outcome.output == b'{"expression":"6 * 7","result":42}'
    outcome, _ = await attempt("web_search", {"query": "x", "limit": 2})
    assert isinstance(outcome, Succeeded)
    outcome, _ = await attempt("read_url", {"url": "http://127.0.0.1:1/"})
    assert isinstance(outcome, Failed)
    assert (outcome.failure.value, outcome.error_type) == ("invalid_input", "Blocked")


async def test_a_question_waits_for_a_person() -> None:
    outcome, _ = await attempt("request_human_input", {"question": "Which?", "schema": {"type": "string"}})
    assert isinstance(outcome, Suspended)
    assert (outcome.name, outcome.request) == ("question", {"prompt": "Which?", "schema": {"type": "string"}})


async def test_a_text_becomes_a_file_of_the_run() -> None:
    outcome, told = await attempt("create_text_artifact", {"name": "report.md", "content": "# Done €"})
    assert isinstance(outcome, Succeeded)
    stored = next(one for one in told if isinstance(one, Stored))
    assert stored.name == "report.md"
    assert "text/markdown" in str(stored)


@pytest.mark.parametrize(
    "media_type", ["image/png", "image/svg+xml", "application/octet-stream", "", "text", "text/html\r\nX: y"]
)
async def test_only_a_text_can_be_stored_as_one(media_type: str) -> None:
    outcome, told = await attempt("create_text_artifact", {"name": "x", "content": "x", "media_type": media_type})
    assert isinstance(outcome, Failed)
    assert outcome.failure.value == "invalid_input"
    assert told == []


async def test_the_function_stays_callable(home: Site, web: WebTools) -> None:
    read = web.tools()[0]
    assert (await read(url=home.says("/", "<p>x")))["text"] == "x"
    assert create_text_artifact.takes_context == "ctx"
