"""Calls of a tool server as it is now."""

from __future__ import annotations

import sys
from typing import Any

from durable_agent.agents.mcp import Server, Sessions

STDIO = Server("ours", command=(sys.executable, "-m", "tests.support.mcp_servers", "stdio"), env={"PYTHONPATH": "."})


async def call(
    sessions: Sessions, server: Server, tool: str, arguments: Any = None, *, timeout_s: float = 20.0, **more: Any
) -> Any:
    """Call a tool of a server pinned as it is now."""
    pinned = more.pop("pinned", None) or (await sessions.offered(server)).digest
    given = {} if arguments is None else arguments
    return await sessions.call(server, tool, given, pinned=pinned, key="key-1", timeout_s=timeout_s, **more)
