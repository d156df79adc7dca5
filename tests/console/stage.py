"""What a test of the console stands beside the browser: a door for steps, a provider that speaks when told, an API that is
stopped and started."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import orjson
from harness.loopback import listening


@dataclass(slots=True)
class Door:
    """Where steps of the tool `knock` wait, in whatever process they are."""

    port: int = 0
    _came: dict[str, asyncio.Queue[asyncio.StreamWriter]] = field(default_factory=lambda: defaultdict(asyncio.Queue))

    async def knocked(self, step: str) -> asyncio.StreamWriter:
        """Return, once an attempt of the step stands there, what lets it in."""
        return await self._came[step].get()

    async def open(self, step: str) -> None:
        """Let the next attempt of the step go on."""
        await let_in(await self.knocked(step))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Keep who knocks."""
        with suppress(ConnectionError):
            self._came[(await reader.readline()).decode().strip()].put_nowait(writer)
            await reader.read()  # until it leaves, or dies
        writer.close()


async def let_in(knocker: asyncio.StreamWriter) -> None:
    """Let one attempt go on."""
    knocker.write(b"come in\n")
    await knocker.drain()


@asynccontextmanager
async def door() -> AsyncIterator[Door]:
    """Yield a door on a loopback port."""
    made = Door()
    async with listening(made.serve) as made.port:
        yield made


@dataclass(slots=True)
class Speaker:
    """A provider of OpenAI's chat completions that says a piece when the test does."""

    port: int = 0
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    _said: asyncio.Queue[str | None] = field(default_factory=asyncio.Queue)

    def say(self, piece: str) -> None:
        """Send a piece of the answer."""
        self._said.put_nowait(piece)

    def done(self) -> None:
        """End the answer, with what it used."""
        self._said.put_nowait(None)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request in pieces."""
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
            model = orjson.loads(await reader.readexactly(length))["model"]
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
            self.asked.set()
            frame = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": model}
            while (piece := await self._said.get()) is not None:
                delta = {"role": "assistant", "content": piece}
                self._send(writer, {**frame, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
                await writer.drain()
            self._send(writer, {**frame, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
            usage = {"prompt_tokens": 1200, "completion_tokens": 340, "total_tokens": 1540}
            self._send(writer, {**frame, "choices": [], "usage": usage})
            writer.write(b"data: [DONE]\n\n")
            await writer.drain()
        writer.close()

    def _send(self, writer: asyncio.StreamWriter, chunk: dict[str, Any]) -> None:
        writer.write(b"data: %b\n\n" % orjson.dumps(chunk))


@asynccontextmanager
async def speaker() -> AsyncIterator[Speaker]:
    """Yield a provider on a loopback port."""
    made = Speaker()
    async with listening(made.serve) as made.port:
        yield made
