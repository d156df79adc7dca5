"""MCP servers as tools. What a server offers is pinned by a digest, and it is called only while that holds.

A call is an outside effect like any other: its failure says whether it may have happened. What the server asks a person
on the way (`InputRequired`) and work that goes on after the answer (`TaskPending`) end the call; both are data that a
caller can store, so that waiting for them takes no worker and survives one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from typing import Any, cast

import anyio
import mcp_types as types

from durable_agent.agents.mcp_connection import Connection, Server
from durable_agent.agents.mcp_offer import (
    Discovery,
    Drifted,
    RemoteTool,
    changes,
    check,
    digest_of,
    effect_of,
    named,
)
from durable_agent.agents.mcp_pause import TASKS, InputRequired, TaskPending
from durable_agent.agents.mcp_result import MAX_RESULT_BYTES, Unusable, content
from durable_agent.agents.mcp_wire import Forgotten
from durable_agent.egress import Egress
from durable_agent.errors import FatalError, RetryableError, UnknownOutcome, innermost
from durable_agent.telemetry import logger

__all__ = [
    "KEY",
    "TASKS",
    "Discovery",
    "Drifted",
    "InputRequired",
    "RemoteTool",
    "Server",
    "Sessions",
    "TaskPending",
    "digest_of",
    "discover",
    "effect_of",
]

KEY = "durable-agent/idempotency-key"

log = logger("mcp")


async def discover(
    server: Server, *, egress: Egress | None = None, timeout_s: float = 30.0, allow_stdio: bool = False
) -> Discovery:
    """Return what a server offers now.

    Raises FatalError (refused, not MCP, or a tool whose description hides characters), RetryableError, RateLimited.
    """
    async with Sessions(egress=egress, timeout_s=timeout_s, allow_stdio=allow_stdio) as sessions:
        return await sessions.offered(server)


class Sessions:
    """The connections of one worker to MCP servers: opened when needed, opened again when lost, closed on exit.

    Each is entered and left by a task of its own. `egress` judges where HTTP goes (default: public addresses only);
    a server's `command` is started only with `allow_stdio`. What a server offers is looked at again when it says that
    it has changed, and in any case after `recheck_s`.
    """

    def __init__(
        self, *, egress: Egress | None = None, allow_stdio: bool = False, timeout_s: float = 30.0, recheck_s: float = 60.0,
        idle_s: float = 300.0, max_result_bytes: int = MAX_RESULT_BYTES,
    ) -> None:  # fmt: skip
        self._egress = egress or Egress()
        self._allow_stdio = allow_stdio
        self._timeout_s = timeout_s
        self._recheck_s = recheck_s
        self._idle_s = idle_s
        self._max_result_bytes = max_result_bytes
        self._open: dict[tuple[object, ...], Connection] = {}
        self._tasks = asyncio.TaskGroup()

    async def __aenter__(self) -> Sessions:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        for connection in list(self._open.values()):
            connection.end()
        # Told of no error, the group waits for its tasks and wraps nothing.
        await self._tasks.__aexit__(None, None, None)

    async def offered(self, server: Server) -> Discovery:
        """Return what a server offers now. Raises as `discover`."""
        async with self._using(server) as connection:
            return await connection.look(self._recheck_s)

    async def call(
        self, server: Server, tool: str, arguments: Any, *, pinned: str, key: str, timeout_s: float,
        known: Mapping[str, str] | None = None, answers: Sequence[Mapping[str, Any]] = (),
    ) -> Any:  # fmt: skip
        """Return what a tool returns: its structured content, else its text, at most `max_result_bytes` of it. What was
        done and cannot be used comes as `{"unusable": why}`.

        `key` goes with the call as its idempotency key. `known` are the digests of the pinned tools by name, to say what
        has changed. `answers` are given in order to what the server asks on the way: `{"action": "accept", "content":
        {…}}`, or the action "decline" or "cancel"; the call is made from its beginning each time. `timeout_s` is for each
        round.

        Raises Drifted; InputRequired; TaskPending; FatalError (arguments that do not fit, an error of the tool's own,
        credentials refused); RetryableError (it was not sent); RateLimited; UnknownOutcome (it was sent, and its end is
        not known).
        """
        for again in (True, False):
            async with self._using(server, calling=True) as connection:
                try:
                    offer = await connection.look(self._recheck_s)
                    if offer.digest != pinned:
                        raise Drifted(server.name, pinned, offer.digest, changes(known, offer.tools))
                    check(named(offer, tool), arguments)
                    meta = cast(types.RequestParamsMeta, {KEY: key})
                    return await self._told(server, connection.call(tool, arguments, meta, timeout_s, answers))
                except Forgotten:
                    connection.retire()
                    if not again:
                        raise
        raise AssertionError("unreachable")

    async def poll(
        self, server: Server, task_id: str, *, timeout_s: float = 30.0,
        answers: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Any:  # fmt: skip
        """Return what a task came to, as `call` does. `answers` are by the `key` of what the task asked.

        Raises TaskPending, InputRequired, FatalError (it failed, was cancelled, or is not known), RetryableError.
        """
        async with self._using(server) as connection:
            try:
                return await self._told(server, connection.poll(task_id, timeout_s, answers or {}))
            except UnknownOutcome as error:  # asking changes nothing
                raise RetryableError(str(error)) from error

    async def _told(self, server: Server, answer: Awaitable[types.CallToolResult]) -> Any:
        """Return what an answer says; an error in place of an unusable one would say that nothing was done."""
        try:
            return content(await answer, server.name, self._max_result_bytes)
        except Unusable as error:
            return {"unusable": str(error)}

    @asynccontextmanager
    async def _using(self, server: Server, *, calling: bool = False) -> AsyncIterator[Connection]:
        """Yield an open connection, which is not closed for idleness meanwhile, when it is one's turn to call. Raises as
        `discover`."""
        while True:
            connection = self._connection(server)
            connection.take()
            try:
                await asyncio.shield(connection.opened)
                async with connection.turn if calling else nullcontext():
                    if not connection.over.is_set():
                        yield connection
                        return
            finally:
                connection.release(self._idle_s)

    def _connection(self, server: Server) -> Connection:
        if server.url is None and not self._allow_stdio:
            raise FatalError(f"MCP server {server.name!r} is a command; only an operator's worker may start one")
        place = (server.name, server.url, server.command, server.token, *sorted(server.env.items()))
        found = self._open.get(place)
        if found is None:
            found = self._open[place] = Connection(server.name, lambda: self._open.pop(place))
            found.owner = self._tasks.create_task(self._own(server, found))
        return found

    async def _own(self, server: Server, connection: Connection) -> None:
        """Open a connection, keep it until it is over, and close it: what is entered is left by the same task."""
        try:
            async with AsyncExitStack() as stack:
                await connection.enter(stack, server, self._egress, self._timeout_s)
                connection.opened.set_result(None)
                async with anyio.create_task_group() as group:
                    group.start_soon(connection.listen)
                    await connection.over.wait()
                    group.cancel_scope.cancel()
        except Exception as error:
            if not connection.opened.done():
                connection.opened.set_exception(connection.unopened(innermost(error)))
                connection.opened.exception()  # whoever asked may be gone
            else:
                log.warning("tool_server_lost", server=server.name, error=f"{type(error).__name__}: {innermost(error)}")
        finally:
            connection.end()
            if not connection.opened.done():
                connection.opened.set_exception(RetryableError(connection.why_unopened))
                connection.opened.exception()
