"""What the routes share: made once by the app's lifespan, never changed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, cast

import orjson
from starlette.requests import HTTPConnection
from starlette.responses import Response

from durable_agent.api.auth import Guard
from durable_agent.api.board import Board
from durable_agent.api.hub import Hub
from durable_agent.artifacts import Artifacts
from durable_agent.db.doorbell import Bell, Listener
from durable_agent.db.pool import Database
from durable_agent.engine.submit import Submitter
from durable_agent.settings import Settings
from durable_agent.telemetry import Counters
from durable_agent.vault import Vault


@dataclass(frozen=True, slots=True)
class State:
    """The parts of one API process."""

    settings: Settings
    db: Database
    guard: Guard
    hub: Hub
    bell: Bell
    listener: Listener
    submitter: Submitter
    artifacts: Artifacts
    counters: Counters
    vault: Vault
    board: Board
    # Each holds a connection, and what it reads, until it is put together.
    exports: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2))


def state_of(conn: HTTPConnection) -> State:
    """Return the state of the app that serves the connection."""
    return cast(State, conn.app.state.parts)


def reply(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a JSON answer; built at once, for a model would only check what we made ourselves."""
    return Response(orjson.dumps(body, default=str), status, headers, "application/json")
