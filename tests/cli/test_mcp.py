"""The engine as an MCP server: a real client over its pipes, a real API and worker behind it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp_types import TextContent

from durable_agent.agents.mcp import Server, Sessions
from durable_agent.cli.database import create_key
from durable_agent.settings import Settings
from tests.cli.system import command, environment
from tests.support.mcp_processes import free_port
from tests.support.server import Api, serving, working

COMMAND = ("-m", "durable_agent", "mcp")
HELLO = [{"name": "echo", "input": {"text": "hello"}}, {"name": "add", "input": {"a": 2}, "depends_on": ["echo"]}]
ASKING = [{"name": "approval.ship", "input": {"prompt": "Ship it?"}}, {"name": "noop", "depends_on": ["approval.ship"]}]
Say = Callable[..., Awaitable[dict[str, Any]]]


@pytest.fixture
async def api(settings: Settings) -> AsyncIterator[Api]:
    """An API and a worker."""
    async with serving(settings) as made, working(settings):
        yield made


@asynccontextmanager
async def client(*arguments: str, **variables: str) -> AsyncIterator[Client]:
    """Yield an MCP client of the command, started as a process."""
    given = StdioServerParameters(command=sys.executable, args=[*COMMAND, *arguments], env=environment(**variables))
    async with Client(given, read_timeout_seconds=50) as made:
        yield made


@asynccontextmanager
async def engine(api: Api, **variables: str) -> AsyncIterator[Say]:
    """Yield what calls a tool of the engine's server and returns what it says."""
    async with client("--url", f"http://127.0.0.1:{api.port}", **variables) as made:
        yield saying(made)


def saying(made: Client) -> Say:
    """Return what calls a tool and returns its result, or its error as a text."""

    async def say(tool: str, progress: Any = None, **arguments: Any) -> Any:
        answer = await made.call_tool(tool, arguments, progress_callback=progress)
        if answer.is_error:
            (part,) = answer.content
            assert isinstance(part, TextContent)
            return part.text
        return answer.structured_content

    return say


async def test_a_client_starts_a_run_and_watches_it_end(api: Api) -> None:
    async with engine(api) as say:
        key = uuid4().hex
        run = await say("submit_run", goal="Say hello", steps=HELLO, idempotency_key=key, metadata={"by": "a client"})
        again = await say("submit_run", goal="Say hello", steps=HELLO, idempotency_key=key, metadata={"by": "a client"})
        assert again["id"] == run["id"]
        ended = await say("watch_run", run_id=run["id"])
        assert (ended["ended"], ended["waits"], ended["run"]["status"]) == (True, [], "completed")
        shown = await say("get_run", run_id=run["id"])
        assert [step["status"] for step in shown["steps"]] == ["succeeded", "succeeded"]
        assert shown["steps"][1]["output"] == 3
        assert (await say("explain_run", run_id=run["id"]))["status"] == "completed"


async def test_a_watch_tells_of_each_step_that_ends(api: Api) -> None:
    told: list[tuple[float, float | None, str | None]] = []

    async def progress(done: float, total: float | None, message: str | None) -> None:
        told.append((done, total, message))

    async with engine(api) as say:
        run = (await say("submit_run", steps=[{"name": "sleep", "input": {"seconds": 0.3}}, *HELLO]))["id"]
        assert (await say("watch_run", progress=progress, run_id=run))["run"]["status"] == "completed"
    assert told[-1][:2] == (3, 3)
    assert [done for done, _, _ in told] == sorted({done for done, _, _ in told})


async def test_a_watch_returns_when_a_person_is_needed_and_the_answer_moves_the_run_on(api: Api) -> None:
    async with engine(api) as say:
        run = (await say("submit_run", steps=ASKING))["id"]
        asked = await say("watch_run", run_id=run)
        assert (asked["ended"], asked["waits"][0]["request"]["prompt"]) == (False, "Ship it?")
        assert (await say("list_waits", run_id=run))["items"] == asked["waits"]
        wait = asked["waits"][0]["id"]
        assert "belongs to respond" in str(await say("answer_wait", wait_id=wait, decision="approve", value=1))
        given = await say("answer_wait", wait_id=wait, decision="approve", reason="tested")
        assert given["decision"] == "approved"
        assert (await say("watch_run", run_id=run))["run"]["status"] == "completed"
        again = await say("answer_wait", wait_id=wait, decision="reject")
        assert "is closed: approved by" in str(again)


async def test_a_watch_returns_when_a_person_is_needed_while_other_steps_go_on(api: Api) -> None:
    async with engine(api) as say:
        steps = [
            {"name": "forever"}, {"name": "sleep", "input": {"seconds": 0.5}},
            {"name": "approval.ship", "input": {"prompt": "Ship it?"}, "depends_on": ["sleep"]},
        ]  # fmt: skip
        run = (await say("submit_run", steps=steps))["id"]
        asked = await say("watch_run", run_id=run, timeout_s=600)
        assert (asked["run"]["status"], asked["waits"][0]["request"]["prompt"]) == ("running", "Ship it?")
        await say("cancel_run", run_id=run)


async def test_a_question_is_answered_with_a_value_and_an_approval_can_be_refused(api: Api) -> None:
    async with engine(api) as say:
        run = (await say("submit_run", steps=[{"name": "input.colour", "input": {"prompt": "Which colour?"}}]))["id"]
        (wait,) = (await say("watch_run", run_id=run))["waits"]
        await say("answer_wait", wait_id=wait["id"], decision="respond", value={"colour": "green"})
        ended = await say("watch_run", run_id=run)
        assert ended["run"]["steps"][0]["output"] == {"colour": "green"}
        run = (await say("submit_run", steps=ASKING))["id"]
        (wait,) = (await say("watch_run", run_id=run))["waits"]
        await say("answer_wait", wait_id=wait["id"], decision="reject", reason="too early")
        ended = await say("watch_run", run_id=run)
        assert ended["ended"]
        assert ended["run"]["status"] != "completed"


async def test_a_watch_ends_when_its_time_is_up_and_a_run_can_be_cancelled(api: Api) -> None:
    async with engine(api) as say:
        run = await say("submit_run", steps=[{"name": "nobody_offers_this"}])
        assert run["warnings"]
        watched = await say("watch_run", run_id=run["id"], timeout_s=0.2)
        assert (watched["ended"], watched["waits"]) == (False, [])
        assert (await say("explain_run", run_id=run["id"]))["steps"][0]["reason"] == "no_worker_offers"
        await say("cancel_run", run_id=run["id"], reason="nobody comes")
        assert (await say("watch_run", run_id=run["id"]))["run"]["status"] == "cancelled"


async def test_what_goes_wrong_is_told_in_the_apis_words(api: Api) -> None:
    nobody = str(uuid4())
    async with engine(api) as say:
        for tool in ("get_run", "watch_run", "explain_run", "cancel_run"):
            assert f"run {nobody} does not exist" in str(await say(tool, run_id=nobody))
        assert f"wait {nobody}" in str(await say("answer_wait", wait_id=nobody, decision="approve"))
        assert "needs `steps`" in str(await say("submit_run", goal="nothing"))
        assert "run_id" in str(await say("get_run", run_id="no id"))
    async with client("--url", f"http://127.0.0.1:{free_port()}") as lonely:
        assert "nothing answers at" in str(await saying(lonely)("get_run", run_id=nobody))


def test_a_url_that_is_none_ends_the_command() -> None:
    ended = command("mcp", "--url", "http://a:b:c")
    assert (ended.code, "nothing answers at http://a:b:c" in ended.err) == (4, True)


async def test_the_key_of_the_environment_is_the_one_that_acts(settings: Settings) -> None:
    reader = await asyncio.to_thread(create_key, settings, "reader", ["read"], None)
    async with serving(settings) as api:
        async with engine(api, DURABLE_AGENT_API_KEY=reader) as say:
            assert "scope" in str(await say("submit_run", steps=HELLO))
            assert (await say("list_waits"))["items"] == []
        async with engine(api) as say:
            assert "DURABLE_AGENT_API_KEY" in str(await say("list_waits"))


async def test_what_each_tool_does_to_the_world_is_declared() -> None:
    place = (sys.executable, *COMMAND)
    async with Sessions(allow_stdio=True) as sessions:
        offered = await sessions.offered(Server("engine", command=place))
        effects = {tool.name: tool.effect for tool in offered.tools}
        assert effects == {
            "submit_run": "manual", "get_run": "safe", "watch_run": "safe", "explain_run": "safe", "list_waits": "safe",
            "answer_wait": "manual", "cancel_run": "manual",
        }  # fmt: skip
        assert all(tool.description for tool in offered.tools)
        decisions = next(tool for tool in offered.tools if tool.name == "answer_wait").parameters["properties"][
            "decision"
        ]
        assert decisions["enum"] == ["approve", "reject", "respond"]


async def test_on_a_port_only_who_shows_the_key_is_served_and_no_foreign_page(settings: Settings) -> None:
    key = await asyncio.to_thread(create_key, settings, "client", ["read"], None)
    http = httpx2.AsyncClient(headers={"Authorization": f"Bearer {key}"}, trust_env=False)
    async with serving(settings) as api, on_a_port(api, key) as url, http:
        async with Client(streamable_http_client(url, http_client=http)) as made:
            assert (await saying(made)("list_waits"))["items"] == []
        foreign = await http.post(url, json={}, headers={"Origin": "https://evil.example"})
        assert foreign.status_code == 403
        for shown in ("", f"Bearer {key}x", f"Basic {key}"):
            refused = await http.post(url, json={}, headers={"Authorization": shown})
            assert refused.status_code == 401


@asynccontextmanager
async def on_a_port(api: Api, key: str) -> AsyncIterator[str]:
    """Yield the URL at which the command serves an engine, as a process."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable, *COMMAND, "--url", f"http://127.0.0.1:{api.port}", "--http", str(port),
        env=environment(DURABLE_AGENT_API_KEY=key), stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        while b"http://127.0.0.1" not in (line := await process.stderr.readline()):
            assert line, "it ended before it served"
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.terminate()
        await process.wait()


async def test_the_built_in_tools_are_served_without_an_engine() -> None:
    async with client("--tools", DURABLE_AGENT_WEB_SEARCH="offline") as made:
        tools = {tool.name: tool for tool in (await made.list_tools()).tools}
        assert set(tools) == {"web_search", "read_url", "calculator"}
        assert all(tool.annotations and tool.annotations.read_only_hint for tool in tools.values())
        say = saying(made)
        assert "42" in str(await say("calculator", expression="6 * 7"))
        assert await say("web_search", query="tea", limit=2)
        assert "is blocked" in str(await say("read_url", url="http://127.0.0.1:1/"))
