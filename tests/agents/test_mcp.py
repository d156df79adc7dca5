"""MCP servers as tools, against real ones: what is pinned, what a failure means, what a person is asked."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from mcp_types import CallToolResult, ToolAnnotations

from durable_agent import Context, step, tool
from durable_agent.agents.mcp import (
    Discovery,
    Drifted,
    InputRequired,
    RemoteTool,
    Server,
    Sessions,
    TaskPending,
    digest_of,
    discover,
    effect_of,
)
from durable_agent.core.records import EffectState
from durable_agent.egress import Egress
from durable_agent.errors import FatalError, RateLimited, RetryableError, UnknownOutcome
from durable_agent.flow.steps import Step
from durable_agent.testing import run_in_memory
from tests.support.mcp_servers import World, a_tool, everything, free_port, offering, ours, reference, serving

STDIO = Server("ours", command=(sys.executable, "-m", "tests.support.mcp_servers", "stdio"), env={"PYTHONPATH": "."})


@pytest.fixture
async def sessions() -> AsyncIterator[Sessions]:
    """The connections of one worker that may reach this machine's ports and start commands."""
    async with Sessions(egress=Egress(allow=["127.0.0.0/8"]), allow_stdio=True) as made:
        yield made


async def call(
    sessions: Sessions, server: Server, tool: str, arguments: Any = None, *, timeout_s: float = 20.0, **more: Any
) -> Any:
    """Call a tool of a server pinned as it is now."""
    pinned = more.pop("pinned", None) or (await sessions.offered(server)).digest
    given = {} if arguments is None else arguments
    return await sessions.call(server, tool, given, pinned=pinned, key="key-1", timeout_s=timeout_s, **more)


@pytest.mark.parametrize(
    ("annotations", "effect"),
    [
        (None, "manual"),
        (ToolAnnotations(), "manual"),
        (ToolAnnotations(read_only_hint=True), "safe"),
        (ToolAnnotations(read_only_hint=True, destructive_hint=True), "safe"),
        (ToolAnnotations(idempotent_hint=True, destructive_hint=False), "idempotent"),
        (ToolAnnotations(idempotent_hint=True), "manual"),
        (ToolAnnotations(idempotent_hint=True, destructive_hint=True), "manual"),
        (ToolAnnotations(read_only_hint=False, idempotent_hint=False, destructive_hint=False), "manual"),
    ],
)
def test_what_a_repeated_call_may_do_is_the_servers_word(annotations: ToolAnnotations | None, effect: str) -> None:
    assert effect_of(annotations) == effect


def test_the_digest_covers_names_descriptions_schemas_and_annotations_but_no_order() -> None:
    first, other = RemoteTool("a", "A", {"type": "object"}, "safe"), RemoteTool("b", "B", {}, "manual")
    assert digest_of([first, other]) == digest_of([other, first])
    different = [
        RemoteTool("c", "A", {"type": "object"}, "safe"),
        RemoteTool("a", "A.", {"type": "object"}, "safe"),
        RemoteTool("a", "A", {"type": "object", "x": 1}, "safe"),
        RemoteTool("a", "A", {"type": "object"}, "safe", {"read_only_hint": True}),
    ]
    assert len({digest_of([one, other]) for one in [first, *different]}) == 5
    assert len({one.digest for one in [first, *different]}) == 5


async def test_a_server_is_discovered_with_its_effects_and_the_new_protocol(sessions: Sessions) -> None:
    async with serving() as running:
        server = Server("depot", running.url, token="secret")
        found = await discover(server, egress=Egress(allow=["127.0.0.1"]))
        effects = {tool.name: tool.effect for tool in found.tools}
        assert (effects["read"], effects["put"], effects["wipe"]) == ("safe", "idempotent", "manual")
        assert (found.title, found.version, found.protocol) == ("Depot", "1.2", "2026-07-28")
        assert found.digest == digest_of(found.tools) == (await sessions.offered(server)).digest
        assert running.world.tokens == {"Bearer secret"}
        assert "secret" not in repr(server)


async def test_a_call_carries_its_key_and_returns_structured_content(sessions: Sessions) -> None:
    async with serving() as running:
        assert await call(sessions, Server("depot", running.url), "read", {"what": "tea"}) == {"what": "tea"}
        assert running.world.calls == [("read", {"what": "tea"})]
        assert running.world.keys == ["key-1"]


@pytest.mark.parametrize("old", [False, True])
async def test_tools_that_changed_between_connections_are_not_called(sessions: Sessions, old: bool) -> None:
    port = free_port()
    server = Server("depot", f"http://127.0.0.1:{port}/mcp")
    async with serving(World(old=old), port=port):
        pinned = await sessions.offered(server)
    world = World(old=old)
    async with serving(world, port=port) as running:
        await call(sessions, Server("other", running.url), "change", {"name": "wipe_more"})
        world.calls.clear()
        known = {tool.name: tool.digest for tool in pinned.tools} | {"read": "0" * 64, "gone": "0" * 64}
        async with Sessions(egress=Egress(allow=["127.0.0.1"])) as anew:
            with pytest.raises(Drifted) as caught:
                await call(anew, server, "read", {"what": "tea"}, pinned=pinned.digest, known=known)
        now = (await sessions.offered(Server("other", running.url))).digest
        assert (caught.value.pinned, caught.value.found) == (pinned.digest, now)
        assert caught.value.changes == "added: wipe_more; removed: gone; changed: read"
        assert world.calls == []


@pytest.mark.parametrize("old", [False, True])
async def test_a_change_that_the_server_tells_of_stops_the_next_call(sessions: Sessions, old: bool) -> None:
    async with serving(World(old=old)) as running:
        server = Server("depot", running.url)
        pinned = (await sessions.offered(server)).digest
        await call(sessions, server, "change", {"name": "wipe_more"}, pinned=pinned)
        while (await sessions.offered(server)).digest == pinned:  # noqa: ASYNC110  # it is not asked again until it tells
            await asyncio.sleep(0)
        with pytest.raises(Drifted):
            await call(sessions, server, "read", {"what": "tea"}, pinned=pinned)
        assert [tool for tool, _ in running.world.calls] == ["change"]


async def test_what_a_server_offers_is_looked_at_again_when_it_is_too_old() -> None:
    world = World(old=True)  # tells only who asked for the change
    async with serving(world) as running, Sessions(egress=Egress(allow=["127.0.0.1"]), recheck_s=0) as hasty:
        server = Server("depot", running.url)
        pinned = (await hasty.offered(server)).digest
        async with Sessions(egress=Egress(allow=["127.0.0.1"])) as other:
            await call(other, server, "change", {"name": "wipe_more"})
        with pytest.raises(Drifted, match="not recorded"):
            await call(hasty, server, "read", {"what": "tea"}, pinned=pinned)


@pytest.mark.parametrize(
    ("hidden", "shown", "where"),
    [
        ("\U000e0041", "U+E0041", "description"), ("\x1b[8m", "U+001B", "description"), ("\x00", "U+0000", "description"),
        ("\u200b", "U+200B", "parameter"), ("\u202e", "U+202E", "name of a parameter"), ("\xad", "U+00AD", "annotation"),
    ],
)  # fmt: skip
async def test_a_tool_that_hides_characters_is_refused(sessions: Sessions, hidden: str, shown: str, where: str) -> None:
    tool = a_tool(
        description=f"Reads.{hidden}" if where == "description" else "Reads.",
        field=f"what{hidden}" if where == "name of a parameter" else "what",
        text=f"The{hidden} thing" if where == "parameter" else "The thing",
        title=f"Read{hidden}" if where == "annotation" else "Read",
    )
    async with offering(tool) as running:
        with pytest.raises(FatalError) as caught:
            await sessions.offered(Server("depot", running))
    assert shown in str(caught.value)
    assert hidden not in str(caught.value)


@pytest.mark.parametrize("name", ["", "a b", "wіpe", "a/b", "x" * 129, "wipe\u200b", "../x;"])
async def test_a_tool_whose_name_is_none_is_refused(sessions: Sessions, name: str) -> None:
    async with offering(a_tool(name=name)) as running:
        with pytest.raises(FatalError, match="is refused"):
            await sessions.offered(Server("depot", running))


async def test_a_schema_that_is_none_or_leads_elsewhere_is_refused(sessions: Sessions) -> None:
    async with serving() as elsewhere:
        for schema in ({"type": "nonsense"}, {"$ref": elsewhere.url}):
            async with offering(a_tool(schema={"type": "object", "properties": {"x": schema}})) as running:
                with pytest.raises(FatalError, match="schema of its arguments is none"):
                    await sessions.offered(Server("depot", running))
        assert elsewhere.world.requests == 0


async def test_two_tools_of_one_name_are_refused_and_plain_words_of_any_language_are_not(sessions: Sessions) -> None:
    async with offering(a_tool(), a_tool(description="Another.")) as running:
        with pytest.raises(FatalError, match="two tools of one name"):
            await sessions.offered(Server("depot", running))
    async with offering(a_tool(description="读取 «данные» – déjà vu ✅ ⚠️\n\tनमस्ते")) as running:
        (tool,) = (await sessions.offered(Server("depot", running))).tools
        assert tool.parameters["properties"]["what"]["description"] == "The thing"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [({}, "'name'"), ({"name": "a", "amount": "many"}, "'amount'"), ({"name": "a", "amount": 1, "tags": [1]}, "'tags'"),
     ({"name": "a", "amount": 1.5}, "'amount'"), ([], "not list"), (None, "not NoneType")],
)  # fmt: skip
async def test_arguments_that_do_not_fit_name_the_field_and_nothing_is_called(
    sessions: Sessions, arguments: Any, named: str
) -> None:
    async with serving() as running:
        server = Server("depot", running.url)
        pinned = (await sessions.offered(server)).digest
        with pytest.raises(FatalError, match=named):
            await sessions.call(server, "put", arguments, pinned=pinned, key="k", timeout_s=5)
        with pytest.raises(FatalError, match="offers no tool 'putt'"):
            await sessions.call(server, "putt", {}, pinned=pinned, key="k", timeout_s=5)
        assert running.world.calls == []
        assert await call(sessions, server, "put", {"name": "a", "amount": 1}) == {"result": "a: 1"}


async def test_an_error_of_the_tools_own_is_final_and_says_what_it_says(sessions: Sessions) -> None:
    async with serving() as running:
        with pytest.raises(FatalError, match="the disk is full"):
            await call(sessions, Server("depot", running.url), "fail")


@pytest.mark.parametrize("old", [False, True])
async def test_a_call_that_takes_too_long_has_an_unknown_outcome(sessions: Sessions, old: bool) -> None:
    async with serving(World(old=old)) as running:
        server = Server("depot", running.url)
        with pytest.raises(UnknownOutcome, match="timed out"):
            await call(sessions, server, "hang", timeout_s=0.2)
        assert running.world.calls == [("hang", {})]
        assert await call(sessions, server, "read", {"what": "tea"}) == {"what": "tea"}


async def test_a_server_killed_in_the_middle_leaves_an_unknown_outcome_and_then_cannot_be_reached(
    sessions: Sessions,
) -> None:
    port = free_port()
    server = Server("depot", f"http://127.0.0.1:{port}/mcp")
    with ours(port) as process:
        pinned = (await sessions.offered(server)).digest
        calling = asyncio.create_task(call(sessions, server, "hang", pinned=pinned))
        await asyncio.to_thread(process.until, "hanging")
        process.kill()
        with pytest.raises(UnknownOutcome):
            await calling
        with pytest.raises(RetryableError, match="cannot be reached"):
            await call(sessions, server, "read", {"what": "tea"}, pinned=pinned)
    with ours(port):
        assert await call(sessions, server, "read", {"what": "tea"}, pinned=pinned) == {"what": "tea"}


@pytest.mark.parametrize("old", [False, True])
async def test_a_command_killed_in_the_middle_leaves_an_unknown_outcome_and_is_started_again(
    sessions: Sessions, tmp_path: Path, old: bool
) -> None:
    os.mkfifo(tmp_path / "hanging")
    place = (*STDIO.command[:-1], "stdio-old" if old else "stdio")
    server = Server("ours", command=place, env={**STDIO.env, "TEST_HANGING": str(tmp_path / "hanging")})
    offer = await sessions.offered(server)
    assert offer.protocol == ("2025-11-25" if old else "2026-07-28")
    before = children()
    calling = asyncio.create_task(call(sessions, server, "hang", pinned=offer.digest))
    assert await asyncio.to_thread((tmp_path / "hanging").read_text) == "hanging"
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(UnknownOutcome):
        await calling
    assert await call(sessions, server, "read", {"what": "tea"}, pinned=offer.digest) == {"what": "tea"}
    assert not children() & before
    assert children()


@pytest.mark.parametrize("how", ["timed out", "cancelled", "asked"])
async def test_over_one_pipe_no_answer_goes_to_a_question_of_a_call_that_was_given_up(
    sessions: Sessions, tmp_path: Path, how: str
) -> None:
    os.mkfifo(tmp_path / "hanging")
    place = (*STDIO.command[:-1], "stdio-old")
    server = Server("ours", command=place, env={**STDIO.env, "TEST_HANGING": str(tmp_path / "hanging")})
    pinned = (await sessions.offered(server)).digest
    ending = call(sessions, server, "ask" if how == "asked" else "hang", pinned=pinned, timeout_s=2)
    first = asyncio.create_task(ending)
    answers = [{"action": "accept", "content": {"sure": True}}]
    others = [
        asyncio.create_task(call(sessions, server, "read", {"what": str(no)}, pinned=pinned, answers=answers))
        for no in range(3)
    ]
    if how != "asked":
        assert await asyncio.to_thread((tmp_path / "hanging").read_text) == "hanging"
    if how == "cancelled":
        first.cancel()
    with pytest.raises({"timed out": UnknownOutcome, "cancelled": asyncio.CancelledError, "asked": InputRequired}[how]):
        await first
    assert await asyncio.gather(*others) == [{"what": str(no)} for no in range(3)]


@pytest.mark.parametrize("how", ["timed out", "cancelled"])
async def test_a_call_that_was_given_up_holds_no_request_of_an_old_server_open(sessions: Sessions, how: str) -> None:
    async with serving(World(old=True)) as running:
        server, world = Server("depot", running.url), running.world
        staying = asyncio.create_task(call(sessions, server, "hang"))
        await world.begun["hang"].wait()
        world.begun["hang"].clear()
        leaving = asyncio.create_task(call(sessions, server, "hang", timeout_s=0.2 if how == "timed out" else 20))
        await world.begun["hang"].wait()
        if how == "cancelled":
            leaving.cancel()
        with pytest.raises(UnknownOutcome if how == "timed out" else asyncio.CancelledError):
            await leaving
        assert await call(sessions, server, "read", {"what": "tea"}) == {"what": "tea"}
        assert world.sessions == 2
        assert not world.closed.is_set()
        world.gates["hang"].set()
        assert await staying == {"result": "done"}
        await world.closed.wait()


@pytest.mark.parametrize("kind", ["text/html", "text/event-stream"])
async def test_what_comes_with_a_redirect_is_not_read(sessions: Sessions, kind: str) -> None:
    async with serving() as running:
        server = Server("depot", running.url)
        await sessions.offered(server)
        running.world.refusal = (307, {"Content-Type": kind, "Location": running.url}, b"x" * 64 * 1024 * 1024)
        with pytest.raises(FatalError, match="Redirect"):
            await call(sessions, server, "read", {"what": "tea"})
        assert running.world.sent_bytes < 20 * 64 * 1024 * 1024 / 2


async def test_commands_are_ended_with_the_sessions_and_are_for_operators_only() -> None:
    before = children()
    async with Sessions(allow_stdio=True) as sessions:
        await sessions.offered(STDIO)
        mine = children() - before
        assert len(mine) == 1
    assert not children() & mine
    async with Sessions() as sessions:
        with pytest.raises(FatalError, match="only an operator"):
            await sessions.offered(STDIO)
    with pytest.raises(FatalError, match="only an operator"):
        await discover(STDIO)
    assert children() == before
    with pytest.raises(FatalError, match="cannot be used"):
        await discover(Server("x", command=("/nowhere/to/be/found",)), allow_stdio=True)
    for command in (("/bin/false",), ("/bin/sh", "-c", "exit 3")):
        with pytest.raises(RetryableError, match="ended before it could be used"):
            await discover(Server("x", command=command), allow_stdio=True)


def children() -> set[int]:
    """Return this process's children that are our own servers."""
    found = set()
    for task in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{task}/children") as file:
            found |= {int(pid) for pid in file.read().split()}
    return {pid for pid in found if b"mcp_servers" in Path(f"/proc/{pid}/cmdline").read_bytes()}


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


async def test_the_reference_server_as_a_command(sessions: Sessions) -> None:
    server = Server("everything", command=("node", str(everything()), "stdio"))
    found = await sessions.offered(server)
    assert found.protocol == "2025-11-25"
    assert {tool.name: tool.effect for tool in found.tools}["echo"] == "safe"
    await check_reference(sessions, server, found)


async def test_the_reference_server_over_http(sessions: Sessions) -> None:
    port = free_port()
    server = Server("everything", f"http://127.0.0.1:{port}/mcp")
    with reference(port):
        found = await sessions.offered(server)
        await check_reference(sessions, server, found)


async def check_reference(sessions: Sessions, server: Server, found: Discovery) -> None:
    """Call what the reference server offers."""

    async def given(tool: str, arguments: Any = None, **more: Any) -> Any:
        return await call(sessions, server, tool, arguments, pinned=found.digest, **more)

    assert "The sum of 2 and 3 is 5" in await given("get-sum", {"a": 2, "b": 3})
    with pytest.raises(FatalError, match="argument 'b'"):
        await given("get-sum", {"a": 2, "b": "3"})
    weather = await given("get-structured-content", {"location": "New York"})
    assert weather["temperature"] == 33
    assert "[image image/png, " in await given("get-tiny-image")
    assert "[resource demo://resource/" in await given("get-resource-links", {"count": 2})
    with pytest.raises(UnknownOutcome):
        await given("trigger-long-running-operation", {"duration": 30, "steps": 1}, timeout_s=0.3)
    with pytest.raises(FatalError):
        await given("simulate-research-query", {"topic": "tea"})
    asked = await asyncio.gather(*(given("trigger-elicitation-request") for _ in range(2)), return_exceptions=True)
    assert [getattr(one, "message", one) for one in asked] == ["Please provide inputs for the following fields:"] * 2
    answer = {"action": "accept", "content": {"name": "Ada Lovelace", "check": True}}
    assert "Ada Lovelace" in await given("trigger-elicitation-request", answers=[answer])
    assert "declined" in await given("trigger-elicitation-request", answers=[{"action": "decline"}])


async def test_a_session_that_the_server_has_forgotten_is_opened_anew(sessions: Sessions) -> None:
    port = free_port()
    server = Server("depot", f"http://127.0.0.1:{port}/mcp")
    async with serving(World(old=True), port=port):
        pinned = (await sessions.offered(server)).digest
        assert await call(sessions, server, "read", {"what": "tea"}, pinned=pinned) == {"what": "tea"}
    async with serving(World(old=True), port=port) as again:
        assert await call(sessions, server, "read", {"what": "tea"}, pinned=pinned) == {"what": "tea"}
        assert len(again.world.calls) == 1


async def test_many_calls_share_one_connection_and_an_idle_one_is_closed() -> None:
    async with serving(World(old=True)) as running, Sessions(egress=Egress(allow=["127.0.0.1"]), idle_s=0) as brief:
        server = Server("depot", running.url)
        found = await asyncio.gather(*(call(brief, server, "read", {"what": str(no)}) for no in range(20)))
        assert [one["what"] for one in found] == [str(no) for no in range(20)]
        assert running.world.sessions == 1
        await running.world.closed.wait()
        assert await call(brief, server, "read", {"what": "tea"}) == {"what": "tea"}
        assert running.world.sessions == 2
