"""The engine as an MCP server: an agent elsewhere starts durable runs, watches them and answers what they wait for.

It speaks on standard input and output, or on a loopback port, and reaches the engine by its HTTP API only, with the
rights of one API key.
"""

from __future__ import annotations

import functools
import hmac
import os
import socket
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Annotated, Any, Literal
from uuid import UUID

import anyio
import httpx2
import orjson
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations
from pydantic import Field

from durable_agent import __version__
from durable_agent.cli.client import Unreachable, headers, refusal
from durable_agent.core.records import WaitKind
from durable_agent.core.states import RunEvent, RunStatus, StepEvent
from durable_agent.errors import DurableAgentError, StepError
from durable_agent.tls import trusted_by

INSTRUCTIONS = """Runs are durable: once submitted, a run survives crashes and restarts and goes on without you.
Submit with an idempotency_key, keep the run's id, and watch it; a watch that times out changes nothing.
A run may wait for a person: show the person what list_waits says, and answer only with what they decided."""
STANDALONE = ("web_search", "read_url", "calculator")
MAX_WATCH_S = 600.0

READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
ADDS = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=True)
DECIDES = ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=False, open_world_hint=True)
ENDS = ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False)

Run = Annotated[UUID, Field(description="The run's id.")]
Reason = Annotated[str | None, Field(max_length=2000, description="Why; it is recorded.")]


def command(url: str, *, tools: bool, http: int | None) -> None:
    """Serve the engine at a URL, or the built-in tools, until the other side is gone or a signal comes."""
    serve(tools_server() if tools else engine_server(url), os.environ.get("DURABLE_AGENT_API_KEY"), http_port=http)


def serve(server: MCPServer[Any], key: str | None, *, http_port: int | None = None) -> None:
    """Serve until the other side is gone. On a port, who calls must show the key, when there is one."""
    if http_port is None:
        server.run("stdio")
        return
    import uvicorn

    # Bound to loopback, the library refuses foreign Host and Origin headers by itself.
    app = guarded(server.streamable_http_app(host="127.0.0.1"), key)
    with socket.create_server(("127.0.0.1", http_port)) as listening:
        print(f"MCP on http://127.0.0.1:{http_port}/mcp", file=sys.stderr, flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])


Scope = MutableMapping[str, Any]
App = Callable[[Scope, Any, Any], Awaitable[None]]


def guarded(app: App, key: str | None) -> App:
    """Return the app, closed to whoever does not show the key: it acts with that key's rights."""

    async def guard(scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and key is not None:
            shown = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(shown, f"Bearer {key}".encode()):
                headers = [(b"www-authenticate", b"Bearer"), (b"content-length", b"0")]
                await send({"type": "http.response.start", "status": 401, "headers": headers})
                await send({"type": "http.response.body", "body": b""})
                return
        await app(scope, receive, send)

    return guard


class Engine:
    """The API of an engine, as the tools of an MCP server. An error of ours is told to the client in its own words."""

    def __init__(self, url: str) -> None:
        self._url = url
        # Any number may watch at once, each over a connection of its own.
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=20)
        try:
            self._http = httpx2.AsyncClient(
                base_url=url,
                headers=headers(),
                timeout=30.0,
                limits=limits,
                trust_env=False,
                verify=trusted_by(url),
            )
        except httpx2.InvalidURL as error:
            raise Unreachable(url, error) from None

    @asynccontextmanager
    async def reached(self, _: MCPServer[Any]) -> AsyncIterator[None]:
        """Hold the connections as long as the server runs."""
        async with self._http:
            yield

    async def submit_run(
        self,
        goal: Annotated[str | None, Field(description="What the run is for.")] = None,
        steps: Annotated[
            list[dict[str, Any]] | None,
            Field(description="Steps: name, tool, input, depends_on (names), when; or give `graph`."),
        ] = None,
        graph: Annotated[str | None, Field(description="The name of a registered graph, in place of steps.")] = None,
        input: Annotated[Any, Field(description="The run's input, any JSON.")] = None,
        metadata: Annotated[dict[str, Any] | None, Field(description="Kept with the run.")] = None,
        idempotency_key: Annotated[
            str | None, Field(min_length=1, max_length=255, description="The same key and run start it once.")
        ] = None,
    ) -> dict[str, Any]:
        """Start a durable run and return its id. It goes on by itself; watch_run tells how it ends."""
        given = {"goal": goal, "steps": steps, "graph": graph, "input": input, "metadata": metadata}
        key = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        body = {name: value for name, value in given.items() if value is not None}
        return await self._ask("POST", "/runs", json=body, headers=key)

    async def get_run(self, run_id: Run) -> dict[str, Any]:
        """Return a run and every step as it stands: status, attempt, output, error."""
        return await self._ask("GET", f"/runs/{run_id}")

    async def watch_run(
        self,
        ctx: Context[Any, Any],
        run_id: Run,
        timeout_s: Annotated[float, Field(ge=0, le=MAX_WATCH_S, description="How long to wait at most.")] = 60.0,
    ) -> dict[str, Any]:
        """Wait until a run ends or needs a person, at most so long, and return it as it then stands.

        `ended` says whether it did, `waits` what a person is asked. Nothing is lost when the time is up: watch again.
        """
        told = Told(ctx)
        with anyio.move_on_after(timeout_s):
            while True:
                found = await self._standing(run_id)
                await told.run(found["run"])
                if found["ended"] or found["waits"]:
                    return found
                async with aclosing(self._events(run_id, found["run"]["last_seq"])) as events:
                    async for event in events:
                        await told.event(found["run"], event)
                        if event["type"] in _NEWS or _asks(event):
                            break
        return await self._standing(run_id)

    async def explain_run(self, run_id: Run) -> dict[str, Any]:
        """Say for each unfinished step why it is not moving."""
        return await self._ask("GET", f"/runs/{run_id}/explain")

    async def list_waits(
        self,
        run_id: Annotated[UUID | None, Field(description="Only of this run.")] = None,
        state: Annotated[Literal["open", "answered", "cancelled", "all"], Field(description="Which.")] = "open",
        limit: Annotated[int, Field(ge=1, le=200)] = 50,
    ) -> dict[str, Any]:
        """List what people are asked: approvals, questions, calls whose outcome nobody knows; the oldest first."""
        given = {"state": state, "limit": limit} | ({"run_id": str(run_id)} if run_id else {})
        return await self._ask("GET", "/waits", params=given)

    async def answer_wait(
        self,
        wait_id: Annotated[UUID, Field(description="The wait's id, from list_waits.")],
        decision: Annotated[
            Literal["approve", "reject", "respond"],
            Field(description="approve or reject an approval; respond to a question with `value`, or reject it."),
        ],
        value: Annotated[Any, Field(description="The answer, any JSON; with respond only.")] = None,
        reason: Reason = None,
    ) -> dict[str, Any]:
        """Give a person's decision. An approval holds for exactly the call that was shown, once."""
        if decision != "respond" and value is not None:
            raise ToolError(f"`value` belongs to respond, not to {decision}; give a `reason` instead")
        body = {"reason": reason} | ({"value": value} if decision == "respond" else {})
        return await self._ask("POST", f"/waits/{wait_id}/{decision}", json=body)

    async def cancel_run(self, run_id: Run, reason: Reason = None) -> dict[str, Any]:
        """Cancel a run; what it is doing is stopped, what it has done stays done or is compensated."""
        return await self._ask("POST", f"/runs/{run_id}/cancel", json={"reason": reason})

    async def _standing(self, run_id: UUID) -> dict[str, Any]:
        run = await self.get_run(run_id)
        ended = RunStatus(run["status"]).final
        waits = [] if ended else (await self.list_waits(run_id))["items"]
        return {"run": run, "ended": ended, "waits": waits}

    async def _ask(self, method: str, path: str, **given: Any) -> dict[str, Any]:
        with self._reaching():
            answer = await self._http.request(method, path, **given)
        if not answer.is_success:
            raise ToolError(refusal(answer).message)
        found: dict[str, Any] = orjson.loads(answer.content)
        return found

    async def _events(self, run_id: UUID, after: int) -> AsyncGenerator[dict[str, Any], None]:
        """Yield a run's events as they happen, until its end; a stream that breaks ends, too."""
        place = f"/runs/{run_id}/events?after={after}"
        with self._reaching():
            try:
                async with self._http.sse(place, timeout=httpx2.Timeout(30.0)) as stream:
                    if not stream.response.is_success:
                        await stream.response.aread()
                        raise ToolError(refusal(stream.response).message)
                    async for sent in stream:
                        if sent.data:  # else it says only how to reconnect
                            yield orjson.loads(sent.data)
            except httpx2.SSEError as error:
                raise ToolError(str(error)) from None
            except (httpx2.ReadError, httpx2.RemoteProtocolError, httpx2.ReadTimeout):
                return

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except (httpx2.TransportError, httpx2.InvalidURL) as error:
            raise ToolError(Unreachable(self._url, error).message) from None


# After these a run may have ended, or may need a person.
_NEWS = frozenset(kind.value for kind in RunEvent) - {RunEvent.CREATED.value, RunEvent.STARTED.value}


_PEOPLE = frozenset({WaitKind.APPROVAL.value, WaitKind.INPUT.value, WaitKind.UNKNOWN_EFFECT.value})


def _asks(event: dict[str, Any]) -> bool:
    """Tell whether a step began to wait for a person; the run may go on with others."""
    return event["type"] == StepEvent.WAITING and event["data"]["kind"] in _PEOPLE


class Told:
    """The progress of one watch, in steps that have ended: it only ever grows, as the protocol asks."""

    def __init__(self, ctx: Context[Any, Any]) -> None:
        self._ctx = ctx
        self._shown = 0

    async def run(self, run: dict[str, Any]) -> None:
        """Tell how far a run is."""
        await self._show(run["steps_total"] - run["steps_left"], run["steps_total"], f"run: {run['status']}")

    async def event(self, run: dict[str, Any], event: dict[str, Any]) -> None:
        """Tell of a step that has ended since."""
        if event["type"] in ("step.succeeded", "step.skipped", "step.dead_letter"):
            await self._show(self._shown + 1, run["steps_total"], f"{event['step']}: {event['type']}")

    async def _show(self, done: int, total: int, message: str) -> None:
        if done > self._shown:
            self._shown = done
            await self._ctx.report_progress(done, total, message)


def engine_server(url: str) -> MCPServer[Any]:
    """Return the server that offers an engine's runs and waits. Raises Unreachable for a URL that is none."""
    engine = Engine(url)
    server = _server("durable-agent", INSTRUCTIONS, engine.reached)
    offered: list[tuple[Callable[..., Any], ToolAnnotations]] = [
        (engine.submit_run, ADDS), (engine.get_run, READS), (engine.watch_run, READS), (engine.explain_run, READS),
        (engine.list_waits, READS), (engine.answer_wait, DECIDES), (engine.cancel_run, ENDS),
    ]  # fmt: skip
    for function, hints in offered:
        server.add_tool(function, annotations=hints)
    return server


def tools_server() -> MCPServer[Any]:
    """Return the server that offers the built-in tools which need no run: a search, a page, arithmetic."""
    from durable_agent.agents.tools import built_in

    server = _server("durable-agent-tools")
    found = {tool.name: tool for tool in built_in(os.environ)}
    for name in STANDALONE:
        tool = found[name]
        reads = ToolAnnotations(read_only_hint=tool.effect == "safe", open_world_hint=name != "calculator")
        server.add_tool(_told(tool.function), name=name, annotations=reads)
    return server


def _server(name: str, instructions: str | None = None, lifespan: Any = None) -> MCPServer[Any]:
    return MCPServer(name, instructions=instructions, version=__version__, log_level="WARNING", lifespan=lifespan)


def _told(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function; what it raises on purpose reaches the client in its own words."""

    @functools.wraps(function)
    async def call(*args: Any, **given: Any) -> Any:
        try:
            return await function(*args, **given)
        except (StepError, DurableAgentError) as error:
            raise ToolError(str(error)) from None

    return call
