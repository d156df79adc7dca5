"""A provider on loopback: speaks the chat completions of OpenAI as server-sent events, for agents that call a tool so many
times and then answer. It counts what came, by Idempotency-Key and by time.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import orjson

from harness.loopback import listening

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_KEY = re.compile(rb"idempotency-key: *(\S+)", re.IGNORECASE)


@dataclass(slots=True)
class Llm:
    """A running provider. `calls` of `tool` are asked for before the answer; each reply takes `delay_s`;
    `took_s` is what all replies really took.

    `refuse` may return (status, headers) in place of a reply; `on_request` hears each key as it comes.
    """

    tool: str = "work"
    calls: int = 5
    delay_s: float = 0.05
    port: int = 0
    refuse: Callable[[], tuple[int, dict[str, str]] | None] = lambda: None
    on_request: Callable[[str], Awaitable[None]] | None = None
    came: list[tuple[float, str]] = field(default_factory=list)
    keys: Counter[str] = field(default_factory=Counter)
    took_s: float = 0.0
    at_once: int = 0
    most_at_once: int = 0

    @property
    def url(self) -> str:
        """What OPENAI_BASE_URL is set to."""
        return f"http://127.0.0.1:{self.port}/v1"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = _LENGTH.search(head)
                body = await reader.readexactly(int(length.group(1)) if length else 0)
                key, came_s = _KEY.search(head), time.perf_counter()
                await self._answer(key.group(1).decode() if key else "", orjson.loads(body), writer)
                await writer.drain()
                self.took_s += time.perf_counter() - came_s
        writer.close()

    async def _answer(self, key: str, asked: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        self.came.append((time.time(), key))
        self.keys[key] += 1
        if self.on_request is not None:
            await self.on_request(key)
        refused = self.refuse()
        if refused is not None:
            status, headers = refused
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            body = b'{"error":{"message":"slow down","type":"error"}}'
            writer.write(f"HTTP/1.1 {status} No\r\nContent-Type: application/json\r\n{lines}".encode()
                         + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))  # fmt: skip
            return
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(self.delay_s)
        finally:
            self.at_once -= 1
        body = b"".join(self._events(asked))
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )

    def _events(self, asked: dict[str, Any]) -> list[bytes]:
        said = sum(message["role"] == "assistant" for message in asked["messages"])
        frame = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": asked["model"]}
        if said < self.calls and asked.get("tools"):
            call = {"index": 0, "id": f"call_{said}", "type": "function",
                    "function": {"name": self.tool, "arguments": orjson.dumps({"n": said}).decode()}}  # fmt: skip
            delta, finish = {"role": "assistant", "tool_calls": [call]}, "tool_calls"
        else:
            delta, finish = {"role": "assistant", "content": f"done after {said}"}, "stop"
        size = len(orjson.dumps(asked["messages"])) // 4
        usage = {"prompt_tokens": size, "completion_tokens": 10, "total_tokens": size + 10}
        chunks = (
            {**frame, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]},
            {**frame, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]},
            {**frame, "choices": [], "usage": usage},
        )
        return [*(b"data: %b\n\n" % orjson.dumps(chunk) for chunk in chunks), b"data: [DONE]\n\n"]


@asynccontextmanager
async def provider(**given: Any) -> AsyncIterator[Llm]:
    """Yield a running provider."""
    made = Llm(**given)
    async with listening(made.serve) as made.port:
        yield made


@contextmanager
def stub(**given: Any) -> Iterator[Llm]:
    """Yield a provider in a thread of its own."""
    ready, found = threading.Event(), list[Llm]()
    loops: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def serve() -> None:
        ended = asyncio.Event()
        loops.append((asyncio.get_running_loop(), ended))
        async with provider(**given) as made:
            found.append(made)
            ready.set()
            await ended.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    ready.wait()
    yield found[0]
    loop, ended = loops[0]
    loop.call_soon_threadsafe(ended.set)
    thread.join()
