"""Live streams: WebSocket and server-sent events over the same cursor."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import orjson
from fastapi import APIRouter, WebSocket, WebSocketDisconnect

from durable_agent.api.hub import follow
from durable_agent.api.state import State, state_of
from durable_agent.core.records import Tenant
from durable_agent.db import reads
from durable_agent.errors import DatabaseUnavailable, DurableAgentError, NotFound

router = APIRouter()

# A socket that takes no frame for so long is closed; it resumes by its cursor.
SEND_TIMEOUT_S: Final = 30.0
# A control frame's 125 bytes, less the code's (Source: RFC 6455, 5.5): with a longer reason no close frame is sent at all.
REASON_BYTES: Final = 123
# How many run-level events are read at a time.
PAGE: Final = 1000
# A transaction may stamp a moment before it is known to write.
_STAMPS_FIRST: Final = timedelta(seconds=2)
_CLOSE: Final = {401: 4401, 403: 4403, 404: 4404, 422: 4422, 503: 1013}


@router.websocket("/ws/{run_id}")
async def watch_run(socket: WebSocket, run_id: str, after: str = "0") -> None:
    """Send the run's events after SEQ, one JSON object a frame; close with 1000 after its final event."""
    state = state_of(socket)
    try:
        principal = await state.guard.admit(socket, "read")
        key, start = _parse(run_id, after)
        await socket.accept()
        async with _until_gone(socket):
            async for page in follow(state.hub, state.db, principal.tenant, key, start):
                for event in page:
                    await _send(socket, event)
            await socket.close(1000)
    except DurableAgentError as error:
        await _refuse(socket, error)
    except (WebSocketDisconnect, _Gone):
        return
    except TimeoutError:
        with suppress(RuntimeError):
            await socket.close(1013, "too slow; resume with ?after=SEQ")


@router.websocket("/ws")
async def watch_all(socket: WebSocket) -> None:
    """Send run-level events of all the tenant's runs from now on."""
    state = state_of(socket)
    try:
        principal = await state.guard.admit(socket, "read")
        start = await reads.now(state.db)
        await socket.accept()
        async with _until_gone(socket):
            async for event in _run_events(state, principal.tenant, start):
                await _send(socket, event)
    except DurableAgentError as error:
        await _refuse(socket, error)
    except (WebSocketDisconnect, _Gone, TimeoutError):
        return


class _Gone(Exception):
    """The other side closed the socket."""


class _until_gone:
    """Cancel the sending when the other side closes: a stream with no news would not notice otherwise."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._gone = False

    async def __aenter__(self) -> None:
        sender = asyncio.current_task()
        assert sender is not None

        async def listen() -> None:
            with suppress(WebSocketDisconnect, RuntimeError):
                while (await self._socket.receive())["type"] != "websocket.disconnect":
                    pass
            self._gone = True
            sender.cancel()

        self._listener = asyncio.create_task(listen())

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._listener.cancel()
        with suppress(asyncio.CancelledError):
            await self._listener
        if self._gone and kind is asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()
            raise _Gone


async def _send(socket: WebSocket, event: dict[str, Any]) -> None:
    async with asyncio.timeout(SEND_TIMEOUT_S):
        await socket.send_text(orjson.dumps(event).decode())


async def _refuse(socket: WebSocket, error: DurableAgentError) -> None:
    with suppress(RuntimeError, WebSocketDisconnect):
        if socket.application_state.name == "CONNECTING":
            await socket.accept()  # a close code reaches the client only on an open socket
        reason = error.message.encode()[:REASON_BYTES].decode(errors="ignore")
        await socket.close(_CLOSE.get(error.status, 1011), reason)


def _parse(run_id: str, after: str) -> tuple[UUID, int]:
    try:
        key = UUID(run_id)
    except ValueError:
        raise NotFound(f"run {run_id!r} does not exist: it is no run id", run_id=run_id) from None
    return key, int(after) if after.isascii() and after.isdecimal() and len(after) < 10 else 0


async def sse(state: State, tenant: Tenant, run_id: UUID, after: int) -> AsyncIterator[bytes]:
    """Yield a run's events as server-sent events whose ids are their numbers; a comment keeps an idle stream open."""
    yield b"retry: 1000\n\n"
    async for page in follow(state.hub, state.db, tenant, run_id, after):
        if not page:
            yield b": nothing new\n\n"
        for event in page:
            number = b"id: %d\n" % event["seq"] if event["seq"] is not None else b""  # a piece of an answer has none
            yield number + b"event: %s\ndata: %s\n\n" % (event["type"].encode(), orjson.dumps(event))


async def _run_events(state: State, tenant: Tenant, start: datetime) -> AsyncIterator[dict[str, Any]]:
    """Yield the run-level events that are stamped from `start` on, each once, in order but for those whose commit comes late."""
    # What is told is remembered for as long as the next look may find it again.
    since, told = start, dict[tuple[UUID, int], datetime]()
    looked, writing = start, dict[str, datetime]()
    while True:
        hint, took_s, began_s = state.hub.next_hint(), 0.0, time.monotonic()
        try:
            now, under_way = await reads.writing(state.db)
            # A transaction that a look did not find has stamped what it writes after that look, and may commit it long after.
            writing = {key: writing.get(key, looked) for key in under_way}
            after: reads.Place | None = reads.Place(max(start, since))
            while after is not None:
                rows = await reads.run_events(state.db, tenant, after, limit=PAGE)
                took_s += time.monotonic() - began_s
                for row in rows:
                    if (row["run_id"], row["seq"]) not in told:
                        told[row["run_id"], row["seq"]] = row["at"]
                        yield reads.frame(row["run_id"], row)
                after = reads.Place(*(rows[-1][name] for name in reads.Place._fields)) if len(rows) == PAGE else None
                began_s = time.monotonic()
            looked, since = now, min([now, *writing.values()]) - _STAMPS_FIRST
            told = {key: at for key, at in told.items() if at >= since}
        except DatabaseUnavailable:
            pass  # the next look is from the same place
        # Each of many open runs is looked at: hints that come within twice that time share the next look.
        await asyncio.sleep(2 * took_s)
        await hint.wait()
