"""The process of the fault proxy: carries connections, and hurts them as it is told by its standard input.

Each route is a port of its own, so that one worker can be cut off and its neighbours not. What a fault did is counted
where it happened: bytes that were held back, connections that were severed, commits whose answer never came back. A
fault counts only if that is not nothing.

The proxy follows the server's half of the protocol as far as it must to know that a COMMIT took place: the server's own
`CommandComplete COMMIT` is the evidence, and it is what the client does not get to see.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import sys
from dataclasses import dataclass, field
from typing import Any

_COMMITTED = b"C" + struct.pack("!i", 11) + b"COMMIT\0"
# SSLRequest and GSSENCRequest: the only messages that are answered by a single byte.
_ASKS_FIRST = (80877103, 80877104)
_RESET_AT_ONCE = struct.pack("ii", 1, 0)


class Answers:
    """Follows the messages of a server through chunks of any size."""

    def __init__(self) -> None:
        self.single_bytes = 0
        self._message = bytearray()
        self._missing = 0
        self._blind = False

    def commit(self, data: bytes) -> int | None:
        """Return where in the chunk the first answer to a COMMIT starts, at the earliest 0, or None if none ends there."""
        found, at = None, 0
        while at < len(data) and not self._blind:
            if self.single_bytes and not self._message:
                self.single_bytes -= 1
                self._blind = data[at : at + 1] == b"S"  # encrypted from here on
                at += 1
            elif self._missing:
                step = min(self._missing, len(data) - at)
                self._missing -= step
                at += step
            else:
                step = min(self._wanted() - len(self._message), len(data) - at)
                self._message += data[at : at + step]
                at += step
                if len(self._message) == self._wanted():
                    if bytes(self._message) == _COMMITTED and found is None:
                        found = max(0, at - len(_COMMITTED))
                    self._missing = 0 if self._is_tag() else self._length() - 4
                    self._message.clear()
        return found

    def _wanted(self) -> int:
        return 1 + self._length() if len(self._message) >= 5 and self._is_tag() else 5

    def _length(self) -> int:
        return int(struct.unpack_from("!i", self._message, 1)[0])

    def _is_tag(self) -> bool:
        return self._message[:1] == b"C"


class Link:
    """One connection through the proxy."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.ends = (client, server)
        self.answers = Answers()
        self.started = False

    def sever(self, *, reset: bool) -> None:
        """End both halves: in order, or by RST, which throws away what is on its way."""
        for end in self.ends:
            if reset:
                _reset(end)
            else:
                end.close()


@dataclass(slots=True)
class Route:
    """A port of the proxy, where it leads, and what is wrong with it."""

    target: tuple[str, int]
    links: set[Link] = field(default_factory=set)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    open: tuple[asyncio.Event, asyncio.Event] = field(default_factory=lambda: (asyncio.Event(), asyncio.Event()))
    delay_s: float = 0.0
    armed: int = 0
    held: int = 0
    delayed: int = 0
    commits: int = 0

    def hold(self, *, up: bool, down: bool, delay_s: float) -> None:
        """Stop the directions asked for, let the others go, and delay what goes."""
        self.delay_s = delay_s
        for stop, gate in zip((up, down), self.open, strict=True):
            if stop:
                gate.clear()
            else:
                gate.set()

    def sever(self, *, reset: bool) -> int:
        """End every connection of the route; return how many there were."""
        links = list(self.links)
        self.links.clear()
        for link in links:
            link.sever(reset=reset)
        return len(links)

    def counts(self) -> dict[str, int]:
        """Return what landed since the last time, and forget it."""
        found = {"held": self.held, "delayed": self.delayed, "commits": self.commits, "links": len(self.links)}
        self.held = self.delayed = self.commits = 0
        return found

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection."""
        try:
            other, onward = await asyncio.open_connection(*self.target)
        except OSError:
            _reset(writer)
            return
        link = Link(writer, onward)
        self.links.add(link)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(link, reader, onward, up=True))
                group.create_task(self._pump(link, other, writer, up=False))
        except* (OSError, RuntimeError):
            pass  # severed while something was on its way
        finally:
            self.links.discard(link)
            link.sever(reset=False)

    async def _pump(self, link: Link, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, up: bool) -> None:
        gate = self.open[0 if up else 1]
        while data := await source.read(65536):
            if up and not link.started:
                link.started = not _asks_first(data, link.answers)
            committed = None if up else link.answers.commit(data)
            if committed is not None and self.armed:
                self.armed -= 1
                self.commits += 1
                sink.write(data[:committed])
                link.sever(reset=True)
                return
            if self.delay_s:
                self.delayed += 1
                await asyncio.sleep(self.delay_s)
            if not gate.is_set():
                self.held += len(data)
                await gate.wait()
            sink.write(data)
            await sink.drain()
        link.sever(reset=False)


def _reset(end: asyncio.StreamWriter) -> None:
    """End a connection by RST."""
    sock = end.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_ONCE)
    end.transport.abort()


def _asks_first(data: bytes, answers: Answers) -> bool:
    asks = len(data) == 8 and struct.unpack("!ii", data)[1] in _ASKS_FIRST
    answers.single_bytes += asks
    return asks


async def _open(routes: dict[str, Route], order: dict[str, Any]) -> int:
    route = routes[order["route"]] = Route(("127.0.0.1", order["port"]))
    route.hold(up=False, down=False, delay_s=0.0)
    server = await asyncio.start_server(route.serve, order["host"], 0, backlog=1000)
    return int(server.sockets[0].getsockname()[1])


async def _obey(routes: dict[str, Route], order: dict[str, Any]) -> dict[str, int]:
    if order["do"] == "open":
        return {"port": await _open(routes, order)}
    route = routes[order["route"]]
    match order["do"]:
        case "hold":
            route.hold(up=order["up"], down=order["down"], delay_s=order["delay_s"])
        case "sever":
            return {"links": route.sever(reset=order["reset"])}
        case "arm":
            route.armed = order["commits"]
        case "aim":
            route.target = ("127.0.0.1", order["port"])
        case "counts":
            return route.counts()
    return {}


async def _main() -> None:
    routes: dict[str, Route] = {}
    orders = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    while line := await orders.readline():
        print(json.dumps(await _obey(routes, json.loads(line))), flush=True)


def main() -> None:
    """Carry connections until the parent closes the pipe."""
    import uvloop

    uvloop.run(_main())


if __name__ == "__main__":
    main()
