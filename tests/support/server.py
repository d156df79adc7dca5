"""A real API on a loopback port, in the test's own event loop, and a worker beside it when asked."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import orjson
import uvicorn
from websockets.asyncio.client import connect

from durable_agent.api.app import create_app
from durable_agent.cli.processes import worker
from durable_agent.settings import Settings
from durable_agent.tls import trusted_by


@dataclass(slots=True)
class Api:
    """A running API."""

    port: int
    http: httpx2.AsyncClient
    server: uvicorn.Server

    async def start(self, *steps: dict[str, Any], **more: Any) -> str:
        """Return the id of a new run."""
        answer = await self.http.post("/runs", json={"steps": list(steps), **more})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    async def watch(self, run_id: str, after: int = 0) -> list[dict[str, Any]]:
        """Return the events a WebSocket sends until it closes by itself with 1000."""
        async with connect(f"ws://127.0.0.1:{self.port}/ws/{run_id}?after={after}", proxy=None) as ws:
            found = [orjson.loads(text) async for text in ws]
            assert ws.close_code == 1000
        return found

    def socket(self, path: str, **headers: str) -> Any:
        """Return a WebSocket to be entered."""
        return connect(f"ws://127.0.0.1:{self.port}{path}", proxy=None, additional_headers=headers)


@asynccontextmanager
async def serving(settings: Settings, port: int = 0) -> AsyncIterator[Api]:
    """Yield a running API, on a port that another such API may have left."""
    # Named by its protocol: else asyncio leaves Nagle on, and every answer takes 40 ms.
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    config = uvicorn.Config(
        create_app(settings), loop="none", log_config=None, access_log=False, ws="websockets-sansio", lifespan="on",
        timeout_graceful_shutdown=1,
    )  # fmt: skip
    server = uvicorn.Server(config)
    task = asyncio.create_task(server._serve([sock]))
    port = sock.getsockname()[1]
    async with httpx2.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20, verify=trusted_by("http:")
    ) as http:
        # The port is bound already: the request waits until the app has started.
        while not server.started and not task.done():  # noqa: ASYNC110  # the server has no event to wait for
            await asyncio.sleep(0)
        try:
            yield Api(port, http, server)
        finally:
            server.should_exit = True
            await task


@asynccontextmanager
async def working(
    settings: Settings, modules: Sequence[str] = ("tests.support.tools",), **more: Any
) -> AsyncIterator[None]:
    """Yield with a worker running in this event loop; it is drained afterwards."""
    stop = asyncio.Event()
    given = settings.model_copy(update={"drain_grace_s": 0.2, "tick_s": 0.1, **more})
    task = asyncio.create_task(worker(given, list(modules), stop=stop))
    try:
        yield
    finally:
        stop.set()
        await task
