"""The counting receiver: the outside world, with a log of its own that no database fault can touch.

It honours the idempotency key, as a good payment service would: the same key gets the same result, and every call is
logged before it is answered.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson


class Receiver:
    """A TCP server on loopback in a thread of its own; one JSON line in, one out. `look-up` asks and does nothing."""

    def __init__(self, log: Path) -> None:
        self._log = log.open("ab", buffering=0)
        self.results: dict[str, str] = {}
        self.calls: Counter[str] = Counter()
        self.whats: dict[str, str] = {}
        self.came: dict[str, list[tuple[int, float]]] = defaultdict(list)  # from which process, and when
        self.port = 0
        # Called with each order, before and after it is carried out; it may end the caller.
        self.on_order: Callable[[dict[str, Any], str], None] = lambda order, when: None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            order = orjson.loads(await reader.readline())
            key, what = order["key"], order.get("what", "work")
            if what == "look-up":
                writer.write(orjson.dumps({"result": self.results.get(key)}) + b"\n")
                await writer.drain()
                return
            self.on_order(order, "before")
            result = self.results.setdefault(key, uuid4().hex)
            self.calls[key] += 1
            self.whats[key] = what
            at = time.time()
            self.came[key].append((order.get("pid", 0), at))
            self._log.write(orjson.dumps({**order, "result": result, "at": at}) + b"\n")
            self.on_order(order, "after")
            writer.write(orjson.dumps({"result": result}) + b"\n")
            await writer.drain()
        except (OSError, orjson.JSONDecodeError, KeyError):
            pass  # a caller that was killed in the middle of its call
        finally:
            writer.close()

    async def _run(self, ready: threading.Event, stop: asyncio.Event) -> None:
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1000) as server:
            self.port = server.sockets[0].getsockname()[1]
            ready.set()
            await stop.wait()


@contextmanager
def receiver(log: Path) -> Iterator[Receiver]:
    """Yield a running receiver."""
    made, ready, stop = Receiver(log), threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=lambda: loop.run_until_complete(made._run(ready, stop)), daemon=True)
    thread.start()
    ready.wait(10)
    try:
        yield made
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(5)
