"""MCP servers to call: our own in the test's event loop, the same as a process, and the protocol's reference server.

Run as a module it is our own server: `python -m tests.support.mcp_servers stdio|stdio-old|PORT`.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import mcp_types as types
import orjson
import uvicorn
from mcp.server import Server
from mcp.server.extension import Extension, MethodBinding
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.resolve import Elicit, Resolve
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolRequestParams, GetTaskRequestParams, InputResponses, ToolAnnotations
from pydantic import BaseModel

from durable_agent.agents.mcp import KEY, TASKS


@dataclass(slots=True)
class World:
    """What reached a server, and how it answers HTTP requests."""

    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    requests: int = 0
    gates: dict[str, asyncio.Event] = field(default_factory=lambda: defaultdict(asyncio.Event))
    begun: dict[str, asyncio.Event] = field(default_factory=lambda: defaultdict(asyncio.Event))
    old: bool = False  # speaks 2025-11-25 only
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    # What a tools/call gets in place of its answer: status, headers, body.
    refusal: tuple[int, dict[str, str], bytes] | None = None
    sent_bytes: int = 0  # of refusals, as far as the client took them
    sessions: int = 0  # opened by clients that speak 2025-11-25
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    def note(self, ctx: Context[Any, Any], tool: str, **arguments: Any) -> None:
        """Keep a call."""
        meta: Any = ctx.request_context.meta or {}
        self.calls.append((tool, arguments))
        self.keys.append(meta.get(KEY))
        self.begun[tool].set()


class Confirmation(BaseModel):
    """What a person says."""

    sure: bool
    reason: str = ""


class Window(BaseModel):
    """When."""

    hour: int


async def sure(target: str) -> Elicit[Confirmation]:
    """Ask whether to go on."""
    return Elicit(f"Deploy to {target}?", Confirmation)


async def when(answer: Annotated[Confirmation, Resolve(sure)]) -> Elicit[Window]:
    """Ask when, once the first answer is there."""
    return Elicit(f"When ({answer.reason})?", Window)


def made(world: World) -> MCPServer[Any]:
    """Return a server that keeps what reaches it."""

    async def as_of_old(ctx: Any, call_next: Any) -> Any:
        if world.old and ctx.method == "server/discover":
            raise MCPError(types.METHOD_NOT_FOUND, "what?")
        return await call_next(ctx)

    server: MCPServer[Any] = MCPServer(
        "Depot", version="1.2", log_level="CRITICAL", extensions=[Slow(world)], middleware=[as_of_old]
    )

    @server.tool(annotations=ToolAnnotations(read_only_hint=True))
    async def read(ctx: Context[Any, Any], what: str) -> dict[str, str]:
        """Read a thing."""
        world.note(ctx, "read", what=what)
        return {"what": what}

    @server.tool(annotations=ToolAnnotations(idempotent_hint=True, destructive_hint=False))
    async def put(ctx: Context[Any, Any], name: str, amount: int, tags: list[str] | None = None) -> str:
        """Put a thing where it belongs."""
        world.note(ctx, "put", name=name, amount=amount)
        return f"{name}: {amount}"

    @server.tool()
    async def wipe(ctx: Context[Any, Any]) -> str:
        """Wipe it all."""
        world.note(ctx, "wipe")
        return "gone"

    @server.tool()
    async def fail(ctx: Context[Any, Any]) -> str:
        """Fail."""
        world.note(ctx, "fail")
        raise ToolError("the disk is full")

    @server.tool()
    async def hang(ctx: Context[Any, Any]) -> str:
        """Wait until the gate opens."""
        world.note(ctx, "hang")
        print("hanging", flush=True, file=sys.stderr)
        tell_that_it_hangs()
        await world.gates["hang"].wait()
        return "done"

    @server.tool(structured_output=False)
    async def much(ctx: Context[Any, Any], size: int) -> str:
        """Return so many characters."""
        world.note(ctx, "much", size=size)
        return "é" * size

    @server.tool()
    async def deploy(
        ctx: Context[Any, Any], target: str, answer: Annotated[Confirmation, Resolve(sure)],
        window: Annotated[Window, Resolve(when)],
    ) -> str:  # fmt: skip
        """Deploy when a person is sure."""
        world.note(ctx, "deploy", target=target)
        return f"deployed to {target} at {window.hour}: {answer.sure}"

    @server.tool()
    async def research(topic: str) -> str:
        """Look for long."""
        raise AssertionError("it is always made a task")

    @server.tool()
    async def change(ctx: Context[Any, Any], name: str) -> str:
        """Offer one tool more, and say so."""
        world.note(ctx, "change", name=name)

        def added() -> str:
            return name

        server.add_tool(added, name=name, description="New here.")
        await ctx.notify_tools_changed()
        if ctx.protocol_version != "2026-07-28":
            await ctx.session.send_tool_list_changed()
        return name

    return server


class Answered(GetTaskRequestParams):
    """What `tasks/update` brings."""

    input_responses: InputResponses


class Slow(Extension):
    """Makes a task of every call of `research`."""

    identifier = TASKS

    def __init__(self, world: World) -> None:
        self.world = world

    async def intercept_tool_call(self, params: CallToolRequestParams, ctx: Any, call_next: Any) -> Any:
        """Answer with a task."""
        if params.name != "research":
            return await call_next(ctx)
        task_id = f"task-{len(self.world.tasks)}"
        self.world.tasks[task_id] = {"status": "working"}
        return {"resultType": "task", "taskId": task_id, "status": "working", "createdAt": "2026-11-21T00:00:00Z",
                "lastUpdatedAt": "2026-11-21T00:00:00Z", "ttlMs": None, "pollIntervalMs": 1500}  # fmt: skip

    def methods(self) -> list[MethodBinding]:
        """What asks for a task, and what answers its questions."""
        return [
            MethodBinding("tasks/get", GetTaskRequestParams, self.get),
            MethodBinding("tasks/update", Answered, self.update),
        ]

    async def get(self, ctx: Any, params: GetTaskRequestParams) -> Any:
        """Tell how a task stands."""
        if params.task_id not in self.world.tasks:
            raise MCPError(types.INVALID_PARAMS, f"task {params.task_id} is not known")
        return {"resultType": "complete", "taskId": params.task_id, "createdAt": "2026-11-21T00:00:00Z",
                "lastUpdatedAt": "2026-11-21T00:00:00Z", "ttlMs": None, **self.world.tasks[params.task_id]}  # fmt: skip

    async def update(self, ctx: Any, params: Answered) -> Any:
        """Take answers."""
        found = {key: one.model_dump(mode="json") for key, one in params.input_responses.items()}
        self.world.tasks[params.task_id] = {"status": "working", "answers": found}
        return {"resultType": "complete"}


@dataclass(slots=True)
class Running:
    """A server on a loopback port."""

    url: str
    world: World


class Brief(uvicorn.Server):
    """Says when it is up, and ends when it is told rather than when it looks next."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up, self.enough = asyncio.Event(), asyncio.Event()

    async def main_loop(self) -> None:
        """Return when it is enough."""
        await self.on_tick(0)
        self.up.set()
        await self.enough.wait()


@asynccontextmanager
async def listening(app: Any, port: int = 0) -> AsyncIterator[str]:
    """Yield an app's URL on a loopback port, served in this event loop."""
    # Only of a socket that says its protocol does the loop take Nagle's delay away: 40 ms for every answer.
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    given = uvicorn.Config(
        app, loop="none", log_config=None, access_log=False, lifespan="on", timeout_graceful_shutdown=0
    )
    server = Brief(given)
    task = asyncio.create_task(server._serve([sock]))
    await server.up.wait()
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}/mcp"
    finally:
        server.enough.set()
        await task


@asynccontextmanager
async def serving(world: World | None = None, *, port: int = 0) -> AsyncIterator[Running]:
    """Yield our own server, in this event loop."""
    kept = world or World()
    async with listening(_gate(made(kept).streamable_http_app(), kept), port) as url:
        try:
            yield Running(url, kept)
        finally:
            for gate in kept.gates.values():
                gate.set()


def a_tool(
    name: str = "read", description: str = "Reads.", *, field: str = "what", text: str = "The thing", title: str = "Read",
    schema: dict[str, Any] | None = None,
) -> types.Tool:  # fmt: skip
    """Return a tool as a server may describe it."""
    properties = {field: {"type": "string", "description": text}}
    given = schema or {"type": "object", "properties": properties}
    return types.Tool(name=name, description=description, input_schema=given, annotations=ToolAnnotations(title=title))


@asynccontextmanager
async def offering(*tools: types.Tool, answer: types.CallToolResult | None = None) -> AsyncIterator[str]:
    """Yield the URL of a server that lists these tools, whatever they are, does nothing and gives every call one answer."""

    async def listed(ctx: Any, params: Any) -> types.ListToolsResult:
        return types.ListToolsResult(tools=list(tools))

    async def called(ctx: Any, params: CallToolRequestParams) -> types.CallToolResult:
        return answer or types.CallToolResult(content=[])

    server = Server("Hostile", on_list_tools=listed, on_call_tool=called)
    async with listening(server.streamable_http_app()) as url:
        yield url


def _gate(app: Any, world: World) -> Any:
    """Put before an app what sees every request, and refuses some."""

    async def gated(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        world.requests += 1
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        world.tokens.add(headers.get("authorization"))
        body = b""
        while scope["method"] == "POST":
            part = await receive()
            body += part.get("body", b"")
            if not part.get("more_body"):
                break
        method = orjson.loads(body).get("method") if body else None
        world.sessions += method == "initialize"
        if scope["method"] == "DELETE":
            world.closed.set()
        if world.refusal and method == "tools/call":
            await _refuse(world, receive, send)
        else:
            given = iter([{"type": "http.request", "body": body}] if scope["method"] == "POST" else [])
            await app(scope, lambda: _next(given, receive), send)

    return gated


async def _next(given: Iterator[Any], receive: Any) -> Any:
    for one in given:
        return one
    return await receive()


async def _refuse(world: World, receive: Any, send: Any) -> None:
    assert world.refusal is not None
    status, headers, body = world.refusal
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    gone = asyncio.create_task(receive())
    for start in range(0, len(body), 65_536):
        await send({"type": "http.response.body", "body": body[start : start + 65_536], "more_body": True})
        await asyncio.sleep(0)
        if gone.done():
            break
        world.sent_bytes += 65_536
    gone.cancel()
    await send({"type": "http.response.body"})


def tell_that_it_hangs() -> None:
    """Write to the pipe that the environment names, if it does."""
    if told := os.environ.get("TEST_HANGING"):
        Path(told).write_text("hanging")


def old_fashioned() -> None:
    """Speak 2025-11-25 on standard input and output: the library's own server takes up whatever it is offered first.

    It works on at a call that was given up: in the middle of the next one it asks a person about it.
    """
    listed = [
        a_tool(name).model_dump(mode="json", by_alias=True, exclude_none=True) for name in ("read", "hang", "ask")
    ]
    given_up = False
    for line in sys.stdin:
        asked = orjson.loads(line)
        answer: dict[str, Any] = {"error": {"code": types.METHOD_NOT_FOUND, "message": "what?"}}
        match asked["method"]:
            case "initialize":
                about = {"name": "Old", "version": "1"}
                answer = {
                    "result": {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": about}
                }
            case "tools/list":
                answer = {"result": {"tools": listed}}
            case "tools/call" if given_up:
                answer = {"result": {"content": [], "structuredContent": {"wiped": ask_a_person("Wipe it all?")}}}
            case "tools/call" if asked["params"]["name"] in ("hang", "ask"):
                if asked["params"]["name"] == "ask":
                    ask_a_person("Sure?")
                tell_that_it_hangs()
                given_up = True
                continue
            case "tools/call":
                answer = {"result": {"content": [], "structuredContent": asked["params"]["arguments"]}}
        if "id" in asked:
            print(orjson.dumps({"jsonrpc": "2.0", "id": asked["id"], **answer}).decode(), flush=True)


def ask_a_person(message: str) -> Any:
    """Return what the client answers, or that it does not; what else it says meanwhile is not heard."""
    schema = {"type": "object", "properties": {"sure": {"type": "boolean"}}}
    given = {"mode": "form", "message": message, "requestedSchema": schema}
    question = {"jsonrpc": "2.0", "id": message, "method": "elicitation/create", "params": given}
    print(orjson.dumps(question).decode(), flush=True)
    for line in sys.stdin:
        if (heard := orjson.loads(line)).get("id") == message:
            return heard.get("result")
    return None


if __name__ == "__main__":
    if sys.argv[1] == "stdio":
        made(World()).run("stdio")
    elif sys.argv[1] == "stdio-old":
        old_fashioned()
    else:
        uvicorn.run(made(World()).streamable_http_app(), host="127.0.0.1", port=int(sys.argv[1]), log_level="info")
