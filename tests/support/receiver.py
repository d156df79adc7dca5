"""A receiver outside of the database: it keeps the first result under each key and a log of every call it got."""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson


@dataclass(slots=True)
class Receiver:
    """What came in: `calls` as (what, key, run) in order, `results` by key."""

    calls: list[tuple[str, str, str]] = field(default_factory=list)
    results: dict[str, Any] = field(default_factory=dict)
    port: int = 0

    def of(self, run: str) -> dict[str, list[str]]:
        """Return the keys that came for a run, by what was asked."""
        found: dict[str, list[str]] = defaultdict(list)
        for what, key, of in self.calls:
            if of == run:
                found[what].append(key)
        return dict(found)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            order = orjson.loads(line)
            if order["what"] == "look-up":
                writer.write(orjson.dumps({"result": self.results.get(order["key"])}) + b"\n")
            else:
                self.calls.append((order["what"], order["key"], order["run"]))
                self.results.setdefault(order["key"], order["given"])
                writer.write(orjson.dumps({"result": self.results[order["key"]]}) + b"\n")
            await writer.drain()
        writer.close()


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """Yield a receiver on a loopback port."""
    made = Receiver()
    server = await asyncio.start_server(made._serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()


async def call(what: str, key: str, run: str, given: Any) -> Any:
    """Call the receiver that the environment names."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(os.environ["TEST_RECEIVER"]))
    try:
        writer.write(orjson.dumps({"what": what, "key": key, "run": run, "given": given}) + b"\n")
        await writer.drain()
        answer = await reader.readline()
        if not answer:
            raise ConnectionError("the receiver is gone")
        return orjson.loads(answer)["result"]
    finally:
        writer.close()
