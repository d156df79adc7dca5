"""The protocol's reference server, as a command and over HTTP."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from durable_agent.agents.mcp import Discovery, Server, Sessions
from durable_agent.errors import FatalError, UnknownOutcome
from tests.support.mcp_calls import call
from tests.support.mcp_processes import everything, free_port, reference


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
