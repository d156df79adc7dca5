"""MCP servers as tools, against real ones: what is pinned, what a failure means, what a person is asked."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from mcp_types import ToolAnnotations

from durable_agent.agents.mcp import (
    Drifted,
    InputRequired,
    RemoteTool,
    Server,
    Sessions,
    digest_of,
    discover,
    effect_of,
)
from durable_agent.egress import Egress
from durable_agent.errors import FatalError, RetryableError, UnknownOutcome
from tests.support.mcp_calls import STDIO, call
from tests.support.mcp_processes import free_port, ours
from tests.support.mcp_servers import World, a_tool, offering, serving


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
