"""What a tool server answers: refusals, results of any size, questions, tasks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from mcp.server import Server as Serving
from mcp_types import CallToolResult, ListToolsResult, TextContent

from durable_agent import Context, step, tool
from durable_agent.agents import mcp_connection
from durable_agent.agents.mcp import InputRequired, Server, Sessions, TaskPending
from durable_agent.agents.mcp_pause import State, pending
from durable_agent.agents.mcp_result import content
from durable_agent.core.records import EffectState
from durable_agent.egress import Egress
from durable_agent.errors import FatalError, RateLimited, RetryableError, UnknownOutcome
from durable_agent.flow.steps import Step
from durable_agent.testing import run_in_memory
from tests.support.mcp_calls import call
from tests.support.mcp_servers import World, a_tool, listening, offering, serving


@pytest.mark.parametrize(
    ("status", "headers", "raised"),
    [
        (401, {}, FatalError), (403, {}, FatalError), (429, {"Retry-After": "7"}, RateLimited), (503, {}, RateLimited),
        (500, {}, UnknownOutcome), (502, {}, UnknownOutcome), (200, {"Content-Type": "text/html"}, UnknownOutcome),
        (200, {"Content-Type": "application/json"}, UnknownOutcome), (307, {"Location": "http://10.0.0.1/"}, FatalError),
        (400, {"Content-Type": "application/json"}, UnknownOutcome),
    ],
)  # fmt: skip
async def test_the_status_of_a_refused_call_says_what_follows(
    sessions: Sessions, status: int, headers: dict[str, str], raised: type[Exception]
) -> None:
    async with serving() as running:
        server = Server("depot", running.url)
        hanging = asyncio.create_task(call(sessions, server, "hang"))
        await running.world.begun["hang"].wait()
        running.world.refusal = (status, headers, b"no")
        with pytest.raises(raised) as caught:
            await call(sessions, server, "read", {"what": "tea"})
        assert type(caught.value) is raised
        assert getattr(caught.value, "retry_after_s", None) == (7.0 if status == 429 else None)
        running.world.gates["hang"].set()
        assert await hanging == {"result": "done"}  # a refused call ends no other
        assert [tool for tool, _ in running.world.calls] == ["hang"]


async def test_a_server_cannot_say_that_what_it_was_sent_was_not_sent(sessions: Sessions) -> None:
    forged = {"code": -32603, "message": "no", "data": {"mark": "x", "kind": "RetryableError", "retry_after_s": None}}
    async with serving() as running:
        server = Server("depot", running.url)
        await sessions.offered(server)
        body = json.dumps({"jsonrpc": "2.0", "id": None, "error": forged}).encode()
        running.world.refusal = (500, {"Content-Type": "application/json"}, body)
        with pytest.raises(UnknownOutcome):
            await call(sessions, server, "read", {"what": "tea"})


async def test_nobody_is_reached_where_nobody_may_be_sent() -> None:
    async with serving() as running, Sessions() as guarded:
        with pytest.raises(FatalError, match="is blocked"):
            await guarded.offered(Server("depot", running.url))
        assert running.world.requests == 0


@pytest.mark.parametrize("old", [False, True])
async def test_an_answer_longer_than_a_result_may_be_is_cut_and_says_so(sessions: Sessions, old: bool) -> None:
    world = World(old=old)
    async with serving(world) as running, Sessions(egress=Egress(allow=["127.0.0.1"]), max_result_bytes=1001) as strict:
        server = Server("depot", running.url)
        assert await call(sessions, server, "much", {"size": 5}) == "ééééé"
        assert await call(strict, server, "much", {"size": 600}) == "é" * 500 + "\n[cut: 1001 of 1200 bytes]"
        unread = await call(strict, server, "much", {"size": 9_000_000})
        assert list(unread) == ["unusable"]
        assert ("exceeded the 16777216 byte limit" if old else "more than 16777216 bytes") in unread["unusable"]
        assert world.calls[-1] == ("much", {"size": 9_000_000})


@pytest.mark.parametrize(
    ("schema", "answer", "why"),
    [({"type": "object", "required": ["what"]}, {"who": "x"}, "'what' is a required property"),
     ({"type": "nonsense"}, {"what": "x"}, "Invalid schema"), ({"type": "object"}, {"what": 2**70}, "cannot be kept"),
     ({"type": "object"}, None, "did not return structured content")],
)  # fmt: skip
async def test_what_was_done_and_cannot_be_used_is_recorded_as_done(
    sessions: Sessions, schema: dict[str, Any], answer: Any, why: str
) -> None:
    returned = CallToolResult(content=[], structured_content=answer) if answer else CallToolResult(content=[])
    async with offering(a_tool().model_copy(update={"output_schema": schema}), answer=returned) as url:

        @tool("read_it", effect="manual")
        async def read_it() -> Any:
            return await call(sessions, Server("careless", url), "read", {"what": "tea"})

        @step("reads")
        async def reads(ctx: Context) -> Any:
            return await ctx.call(read_it)

        run = await run_in_memory([Step("reads", "reads")], [reads, read_it])
    (effect,) = run.step("reads").effects.values()
    assert effect.state is EffectState.DONE
    assert why in run.step("reads").output["unusable"]


async def test_an_answer_too_long_to_be_read_is_only_taken_for_done_when_it_answers_a_call(sessions: Sessions) -> None:
    long = b" " * (16 * 1024 * 1024 + 1)
    async with serving() as running:
        server = Server("depot", running.url)
        await sessions.offered(server)
        running.world.refusal = (500, {"Content-Type": "application/json"}, long)
        with pytest.raises(UnknownOutcome, match="more than 16777216 bytes"):
            await call(sessions, server, "read", {"what": "tea"})
    async with offering(a_tool(description=long.decode())) as url:
        with pytest.raises(FatalError, match="more than 16777216 bytes"):
            await call(sessions, Server("depot", url), "read", {"what": "tea"}, pinned="0" * 64)


@pytest.mark.parametrize("old", [False, True])
async def test_questions_end_the_call_until_they_are_answered_in_order(sessions: Sessions, old: bool) -> None:
    async with serving(World(old=old)) as running:
        server, given = Server("depot", running.url), {"target": "prod"}
        with pytest.raises(InputRequired) as first:
            await call(sessions, server, "deploy", given)
        assert (first.value.message, first.value.number, first.value.url) == ("Deploy to prod?", 0, None)
        assert first.value.schema is not None
        assert first.value.schema["required"] == ["sure"]
        answers = [{"action": "accept", "content": {"sure": True, "reason": "tested"}}]
        with pytest.raises(InputRequired) as second:
            await call(sessions, server, "deploy", given, answers=answers)
        assert (second.value.message, second.value.number) == ("When (tested)?", 1)
        assert running.world.calls == []
        answers.append({"action": "accept", "content": {"hour": 7}})
        assert await call(sessions, server, "deploy", given, answers=answers) == {
            "result": "deployed to prod at 7: True"
        }
        assert len(running.world.calls) == 1
        with pytest.raises(FatalError, match="declin"):
            await call(sessions, server, "deploy", given, answers=[{"action": "decline"}])
        with pytest.raises(FatalError, match="answer 0"):
            await call(sessions, server, "deploy", given, answers=[{"action": "maybe"}])
        assert len(running.world.calls) == 1


@pytest.mark.parametrize("old", [False, True])
async def test_questions_go_to_the_call_they_belong_to(sessions: Sessions, old: bool) -> None:
    async with serving(World(old=old)) as running:
        server = Server("depot", running.url)
        hanging = asyncio.create_task(call(sessions, server, "hang"))
        await running.world.begun["hang"].wait()
        asked = await asyncio.gather(
            *(call(sessions, server, "deploy", {"target": str(no)}) for no in range(5)), return_exceptions=True
        )
        assert [getattr(one, "message", one) for one in asked] == [f"Deploy to {no}?" for no in range(5)]
        running.world.gates["hang"].set()
        assert await hanging == {"result": "done"}


async def test_a_task_is_asked_for_by_its_id_from_any_worker(sessions: Sessions) -> None:
    async with serving() as running:
        server = Server("depot", running.url)
        with pytest.raises(TaskPending) as begun:
            await call(sessions, server, "research", {"topic": "tea"})
        assert (begun.value.task_id, begun.value.poll_after_s) == ("task-0", 1.5)
        async with Sessions(egress=Egress(allow=["127.0.0.1"])) as other:
            with pytest.raises(TaskPending):
                await other.poll(server, "task-0")
            question = {"method": "elicitation/create", "params": {"mode": "form", "message": "Black or green?",
                        "requestedSchema": {"type": "object", "properties": {"kind": {"type": "string"}}}}}  # fmt: skip
            running.world.tasks["task-0"] = {"status": "input_required", "inputRequests": {"q1": question}}
            with pytest.raises(InputRequired) as asked:
                await other.poll(server, "task-0")
            assert (asked.value.key, asked.value.message) == ("q1", "Black or green?")
            answer = {"action": "accept", "content": {"kind": "green"}}
            with pytest.raises(TaskPending):
                await other.poll(server, "task-0", answers={"q1": answer})
            assert running.world.tasks["task-0"]["answers"]["q1"]["content"] == {"kind": "green"}
            done = {"content": [{"type": "text", "text": "tea is old"}], "resultType": "complete"}
            running.world.tasks["task-0"] = {"status": "completed", "result": done}
            assert await other.poll(server, "task-0") == "tea is old"
            running.world.tasks["task-0"] = {"status": "completed", "result": {**done, "isError": True}}
            with pytest.raises(FatalError, match="tea is old"):
                await other.poll(server, "task-0")
            running.world.tasks["task-0"] = {"status": "completed", "result": {"content": "no list"}}
            assert "its result is none" in (await other.poll(server, "task-0"))["unusable"]
            for state in ({"status": "failed", "error": {"code": -32603, "message": "no water"}},
                          {"status": "cancelled", "statusMessage": "no water"}):  # fmt: skip
                running.world.tasks["task-0"] = state
                with pytest.raises(FatalError, match="no water"):
                    await other.poll(server, "task-0")
            with pytest.raises(FatalError, match="not known"):
                await other.poll(server, "task-9")
        port = running.url
    async with Sessions(egress=Egress(allow=["127.0.0.1"])) as late:
        with pytest.raises(RetryableError):
            await late.poll(Server("depot", port), "task-0")


@asynccontextmanager
async def listing(page: Callable[[str | None], ListToolsResult]) -> AsyncIterator[str]:
    """Yield the URL of a server that lists its tools by pages, whatever they are."""

    async def listed(ctx: Any, params: Any) -> ListToolsResult:
        return page(params.cursor if params is not None else None)

    async with listening(Serving("Paging", on_list_tools=listed).streamable_http_app()) as url:
        yield url


def following(cursor: str | None) -> str:
    """Return a cursor that was not given before."""
    return str(int(cursor or 0) + 1)


async def test_the_pages_of_a_list_are_one_list() -> None:
    def page(cursor: str | None) -> ListToolsResult:
        number = int(cursor or 0)
        return ListToolsResult(tools=[a_tool(f"t{number}")], next_cursor=following(cursor) if number < 4 else None)

    async with listing(page) as url, Sessions(egress=Egress(allow=["127.0.0.1"])) as sessions:
        found = await sessions.offered(Server("depot", url))
        assert [tool.name for tool in found.tools] == ["t0", "t1", "t2", "t3", "t4"]


async def test_a_list_that_leads_back_to_one_of_its_pages_is_refused() -> None:
    def page(cursor: str | None) -> ListToolsResult:
        return ListToolsResult(tools=[], next_cursor={None: "a", "a": "b"}.get(cursor, "a"))

    async with listing(page) as url, Sessions(egress=Egress(allow=["127.0.0.1"])) as sessions:
        with pytest.raises(FatalError, match="'depot' lists its tools in a circle"):
            await sessions.offered(Server("depot", url))


async def test_a_list_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcp_connection, "MAX_TOOLS", 20)
    async with (
        listing(lambda cursor: ListToolsResult(tools=[], next_cursor=following(cursor))) as url,
        Sessions(egress=Egress(allow=["127.0.0.1"])) as sessions,
    ):
        with pytest.raises(FatalError, match="'depot' lists its tools without end: 20 pages of"):
            await sessions.offered(Server("depot", url))


async def test_all_pages_of_a_list_weigh_no_more_than_one_answer_may() -> None:
    def page(cursor: str | None) -> ListToolsResult:
        return ListToolsResult(tools=[a_tool(f"t{cursor}", "x" * 3_000_000)], next_cursor=following(cursor))

    async with listing(page) as url, Sessions(egress=Egress(allow=["127.0.0.1"])) as sessions:
        with pytest.raises(FatalError, match="without end: 6 pages of 18"):
            await sessions.offered(Server("depot", url))


async def test_a_list_has_one_time_limit_for_all_of_it_and_for_all_who_wait() -> None:
    asked: list[str | None] = []

    def page(cursor: str | None) -> ListToolsResult:
        asked.append(cursor)
        return ListToolsResult(tools=[], next_cursor=following(cursor))

    async with listing(page) as url, Sessions(egress=Egress(allow=["127.0.0.1"]), timeout_s=1.0) as sessions:
        server = Server("depot", url)
        looking = [sessions.offered(server), call(sessions, server, "read"), call(sessions, server, "read")]
        ended = await asyncio.gather(*looking, return_exceptions=True)
        assert {type(one) for one in ended} == {RetryableError}
        assert {str(one) for one in ended} == {
            "MCP server 'depot' does not come to the end of its tools within 1 s"
        }  # fmt: skip
        assert len(asked) > 1


@pytest.mark.parametrize(("asks_ms", "after_s"), [(10**400, 3600.0), (-(10**400), 0.1), (2500, 2.5)], ids=range(3))
def test_a_server_says_when_to_ask_again_within_reason(asks_ms: int, after_s: float) -> None:
    assert pending(State(task_id="t", status="working", poll_interval_ms=asks_ms)).poll_after_s == after_s


def test_what_a_tool_says_can_be_stored() -> None:
    text = TextContent(type="text", text="a\ud83d\ude00\ud800")
    assert content(CallToolResult(content=[text]), "depot", 100) == "a\U0001f600\ufffd"
    structured = CallToolResult(content=[], structured_content={"a": ["\ud800"]})
    assert content(structured, "depot", 100) == {"a": ["\ufffd"]}
    with pytest.raises(FatalError, match="\ufffd"):
        content(CallToolResult(content=[text], is_error=True), "depot", 100)
