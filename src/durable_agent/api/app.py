"""The app: its parts made and ended by the lifespan, its limits, its server."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import cache
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from durable_agent import __version__
from durable_agent.api import (
    admin,
    agents,
    effects,
    graphs,
    models,
    problems,
    reference,
    runs,
    stats,
    stream,
    tickets,
    tools,
    waits,
)
from durable_agent.api.auth import Guard, host_of, is_loopback
from durable_agent.api.board import Board
from durable_agent.api.console import ASGI, Console, Scope, Under, path_of
from durable_agent.api.document import openapi
from durable_agent.api.hub import Hub
from durable_agent.api.state import State, reply
from durable_agent.artifacts import Artifacts
from durable_agent.db import keys
from durable_agent.db.doorbell import EVENTS, Bell, Listener
from durable_agent.db.pool import Database, first_line
from durable_agent.engine.reap import Upkeep
from durable_agent.engine.submit import Submitter
from durable_agent.engine.weeks import begin_weeks
from durable_agent.errors import DurableAgentError, Forbidden, InvalidRequest, innermost
from durable_agent.hosting import bound
from durable_agent.settings import Settings
from durable_agent.tasks import beside
from durable_agent.telemetry import Counters
from durable_agent.vault import Vault

ROUTERS = tuple(
    part.router for part in (runs, effects, waits, graphs, agents, tools, models, admin, stats, tickets, stream)
)


def create_app(settings: Settings, *, on_failure: Callable[[Exception], None] = lambda _: None) -> FastAPI:
    """Return the control plane; its lifespan opens the database and runs bell, hub, submitter and upkeep.

    `on_failure` is told what kept it from starting, or ended one of them: the app answers nothing of use from then on.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            async with _running(settings) as app.state.parts:
                yield
        except Exception as error:
            on_failure(error)
            raise

    app = FastAPI(
        title="durable-agent", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None,
        responses=problems.RESPONSES,
    )  # fmt: skip
    problems.install(app)
    for router in ROUTERS:
        app.include_router(router)

    @app.get("/", include_in_schema=False)
    async def root() -> Response:
        return reply(
            {
                "name": "durable-agent",
                "version": __version__,
                "openapi": "/openapi.json",
                "docs": "/docs",
                "health": "/healthz",
            }
        )

    page = cache(lambda: reference.page(app.openapi()))

    async def docs(_: Request) -> Response:
        return reference.answer(page())

    app.add_route("/docs", docs, include_in_schema=False)
    app.openapi = lambda: openapi(app, settings, ROUTERS)  # type: ignore[method-assign]
    app.add_middleware(Limits, max_body_bytes=settings.max_body_bytes, max_batch_bytes=settings.max_batch_bytes)
    app.add_middleware(Console)
    app.add_middleware(Hosts, allowed=frozenset(settings.allowed_hosts))
    if settings.root_path:
        app.add_middleware(Under, root_path=settings.root_path)
    return app


@asynccontextmanager
async def _running(settings: Settings) -> AsyncIterator[State]:
    """Yield what the routes share, with its loops running and the weeks made that runs are to lie in."""
    url = settings.database_url
    if url is None:
        raise InvalidRequest(
            "the API needs a database: set DATABASE_URL, or use `durable-agent up`", field="DATABASE_URL"
        )
    async with Database.open(
        url, settings.direct_url, size=settings.api_pool_size, statement_timeout_s=settings.statement_timeout_s
    ) as db:
        await begin_weeks(db)
        state = _parts(settings, db)
        async with beside(_loops(settings, state)):
            yield state


def _parts(settings: Settings, db: Database) -> State:
    bell = Bell(db, enabled=settings.listening)
    listener = Listener(db, [EVENTS], enabled=settings.listening)
    submitter = Submitter(db, bell, max_steps=settings.max_steps)
    artifacts = Artifacts(settings.artifacts_place)
    return State(settings, db, Guard(settings, db), Hub(db, listener), bell, listener, submitter, artifacts, Counters(),
                 Vault(settings.secret_key), Board(db))  # fmt: skip


def _loops(settings: Settings, state: State) -> dict[str, Any]:
    upkeep = Upkeep(
        state.db, state.bell, settings.lease_ttl_s, settings.tick_s, settings.suspicion, settings.suspicion_s,
        settings.retention_days, state.counters,
    )  # fmt: skip
    return {
        "bell": state.bell.run(), "listener": state.listener.run(), "hub": state.hub.run(),
        "submitter": state.submitter.run(), "upkeep": upkeep.run(), "lag": _measure_lag(state.counters),
    }  # fmt: skip


async def _measure_lag(counters: Counters) -> None:
    loop = asyncio.get_running_loop()
    while True:
        before = loop.time()
        await asyncio.sleep(0.5)
        counters.loop_lag_s = max(0.0, loop.time() - before - 0.5)


class Hosts:
    """Refuses a Host that is not ours before anything else looks at the request (DNS rebinding)."""

    def __init__(self, app: ASGI, *, allowed: frozenset[str]) -> None:
        self._app = app
        self._allowed = allowed

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Pass the request on, or answer 403."""
        if scope["type"] == "http":
            host = host_of(HTTPConnection(scope).headers.get("host", ""))
            if not (is_loopback(host) or host in self._allowed):
                error = Forbidden(f"Host {host!r} is not allowed; add it to DURABLE_AGENT_ALLOWED_HOSTS", field="Host")
                await problems.from_error(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class Limits:
    """Refuses a body that is too large, by its announced length or as it comes in."""

    def __init__(self, app: ASGI, *, max_body_bytes: int, max_batch_bytes: int) -> None:
        self._app = app
        self._limits = {"/runs/batch": max_batch_bytes}
        self._limit = max_body_bytes

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Pass the request on, or answer 413."""
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        limit = self._limits.get(path_of(scope), self._limit)
        length = HTTPConnection(scope).headers.get("content-length", "0")
        seen = int(length) if length.isdecimal() else 0
        messages: list[Any] = []
        if seen <= limit:
            seen = 0
            while True:
                message = await receive()
                messages.append(message)
                seen += len(message.get("body", b""))
                if seen > limit or not message.get("more_body"):
                    break
        if seen > limit:
            text = f"the body is larger than {limit} bytes; send less, or several requests"
            await problems.problem(413, "body-too-large", text, {"Connection": "close"}, limit_bytes=limit)(
                scope, receive, send
            )
            return

        async def replay() -> Any:
            return messages.pop(0) if messages else await receive()

        await self._app(scope, replay, send)


async def serve(
    settings: Settings, *, on_port: Callable[[int], None] | None = None, sock: socket.socket | None = None
) -> None:
    """Serve until SIGTERM or SIGINT, then end in order. `on_port` is told the port once it is bound, if `sock` is not already.

    Raises Forbidden rather than bind another address than loopback while no API key exists; DurableAgentError when it
    could not start, or one of its loops ended: who watches over the process starts it again.
    """
    await _check_bind(settings)
    sock = sock or bound(settings.host, settings.port)
    if on_port is not None:
        on_port(sock.getsockname()[1])
    failures: list[Exception] = []

    def fail(error: Exception) -> None:
        failures.append(error)
        server.should_exit = True

    config = uvicorn.Config(
        create_app(settings, on_failure=fail), loop="none", log_config=None, access_log=False, ws="websockets-sansio",
        lifespan="on", ws_ping_interval=20.0, ws_ping_timeout=20.0, ws_max_size=65_536, timeout_graceful_shutdown=3,
        server_header=False, timeout_keep_alive=30,
    )  # fmt: skip
    server = uvicorn.Server(config)
    with suppress(KeyboardInterrupt, SystemExit):  # the latter is uvicorn's word for a start that failed
        await server.serve(sockets=[sock])
    if failures or not server.started:
        raise _ending(failures, started=server.started)


def _ending(failures: Sequence[Exception], *, started: bool) -> DurableAgentError:
    """Return why a server ended, or never began."""
    if not failures:
        return DurableAgentError("the API could not start: the log lines above say why")
    why = innermost(failures[0])
    if isinstance(why, DurableAgentError):
        return why
    what = "a loop of the API ended" if started else "the API could not start"
    return DurableAgentError(f"{what}: {type(why).__name__}: {first_line(why)}")


async def _check_bind(settings: Settings) -> None:
    if is_loopback(settings.host) or settings.database_url is None:
        return
    async with Database.open(settings.database_url, settings.direct_url, size=2) as db, db.reading() as conn:
        if not await keys.exist(conn):
            raise Forbidden(
                f"{settings.host} is not loopback and no API key exists: make one with `durable-agent keys create` first",
                field="host",
            )
