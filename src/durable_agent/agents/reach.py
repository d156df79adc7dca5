"""A worker's way to tool servers: the connections are opened when the first call needs one, by a task of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from durable_agent.egress import Egress

if TYPE_CHECKING:
    from durable_agent.agents.mcp import Sessions


class Reach:
    """The one `agents.mcp.Sessions` of a worker. `run` is owned by the worker's task group: connections are entered and left by one task."""

    def __init__(self, *, allow: Sequence[str] = (), allow_stdio: bool = False) -> None:
        self._allow = allow
        self._allow_stdio = allow_stdio
        self._wanted = asyncio.Event()
        self._opened: asyncio.Future[Sessions] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Hold the connections until cancelled. The library is loaded when it is needed: it is heavy."""
        await self._wanted.wait()
        from durable_agent.agents.mcp import Sessions

        async with Sessions(egress=Egress(allow=self._allow), allow_stdio=self._allow_stdio) as sessions:
            self._opened.set_result(sessions)
            await asyncio.Event().wait()

    async def opened(self) -> Sessions:
        """Return the connections, which this opens if nobody asked for them before."""
        self._wanted.set()
        return await asyncio.shield(self._opened)
