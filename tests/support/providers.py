"""The four providers on a loopback port: their wire formats with scripted answers, failures and cuts.

    async with provider_stub() as stub:
        stub.script(Answer("Hello"), Failure(429, {"Retry-After": "7"}))

One behaviour is taken for each request; when none is left, the stub calls the first tool offered, once, then restates
what it was asked. For other processes: `python -m tests.support.providers --port 0` prints its port; `POST /script`
takes a JSON list of behaviours ({"text": …} or {"status": …}) and `GET /seen` returns the requests that came.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from time import time
from typing import Any
from urllib.parse import unquote

from durable_agent.flow.model import Usage
from tests.support.dialects import DIALECTS, JSON, USED, Answer, Call, Dialect, Failure, Seen, _json


class Cut(Exception):
    """The connection is cut here."""


class ProviderStub:
    """A running stub."""

    def __init__(self) -> None:
        self.port = 0
        self.seen: list[Seen] = []
        self.came = asyncio.Event()
        self._script: deque[Answer | Failure] = deque()
        self._serving: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    @property
    def url(self) -> str:
        """Its address, without a path."""
        return f"http://127.0.0.1:{self.port}"

    def script(self, *behaviours: Answer | Failure) -> None:
        """Do these, one for each of the next requests."""
        self._script.extend(behaviours)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer requests until one is cut or the client leaves."""
        task: Any = asyncio.current_task()
        self._serving[task] = writer
        with suppress(Cut, ConnectionError):
            while (seen := await _request(reader)) is not None:
                await self._answer(seen, reader, writer)
                await writer.drain()
        writer.close()
        del self._serving[task]

    async def hang_up(self) -> None:
        """Close what connections are left."""
        serving = dict(self._serving)
        for writer in serving.values():
            writer.transport.abort()
        await asyncio.gather(*serving)

    async def _answer(self, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        match seen.path:
            case "/script":
                self.script(*(_behaviour(given) for given in seen.body))
                return _whole(writer, 200, {}, b"{}")
            case "/seen":
                return _whole(writer, 200, {}, _json([[s.path, s.headers, s.body, s.at] for s in self.seen]))
        self.seen.append(seen)
        self.came.set()
        dialect = next((d for pattern, d in DIALECTS if re.fullmatch(pattern, seen.path)), None)
        if dialect is None:
            return _whole(writer, 404, {}, b"{}")
        behaviour = self._script.popleft() if self._script else dialect.default(seen.body)
        match behaviour:
            case Failure():
                body, headers = dialect.failure(behaviour)
                return _whole(writer, behaviour.status, {**headers, **behaviour.headers}, _json(body))
            case Answer():
                try:
                    await self._say(dialect, behaviour, seen, reader, writer)
                finally:
                    if behaviour.endless:  # only the caller ends it, by hanging up here or in the middle of a piece
                        seen.gone.set()

    async def _say(
        self, dialect: Dialect, answer: Answer, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if answer.cut == 0:
            raise Cut
        if not dialect.streams(seen):
            return _whole(writer, 200, {}, _json(dialect.whole(answer, seen)))
        writer.write(_head(200, {"Content-Type": dialect.media, "Transfer-Encoding": "chunked"}))
        events = list(dialect.events(answer, seen))[: answer.stops]
        for number, event in enumerate(events[:-1] if answer.endless else events, start=1):
            writer.write(b"%x\r\n%b\r\n" % (len(event), event))
            await writer.drain()
            if answer.cut == number:
                raise Cut
        if answer.endless:
            await reader.read()
            raise Cut
        writer.write(b"0\r\n\r\n")


def _behaviour(given: Any) -> Answer | Failure:
    if "status" in given:
        return Failure(**given)
    calls = [Call(**call) for call in given.get("calls", ())]
    return Answer(**{**given, "calls": calls, "usage": Usage(**given["usage"]) if "usage" in given else USED})


async def _request(reader: asyncio.StreamReader) -> Seen | None:
    line = (await reader.readline()).decode().split()
    if len(line) != 3:
        return None
    headers: dict[str, str] = {}
    while text := (await reader.readline()).decode().strip():
        name, _, value = text.partition(":")
        headers[name.lower()] = value.strip()
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    path = unquote(line[1].partition("?")[0]).replace("//", "/")
    return Seen(path, headers, json.loads(body or b"{}"), time())


def _head(status: int, headers: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} -", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _whole(writer: asyncio.StreamWriter, status: int, headers: dict[str, str], body: bytes) -> None:
    writer.write(_head(status, {"Content-Type": JSON, "Content-Length": str(len(body)), **headers}) + body)


@asynccontextmanager
async def provider_stub(port: int = 0) -> AsyncIterator[ProviderStub]:
    """Yield a stub on a loopback port."""
    stub = ProviderStub()
    server = await asyncio.start_server(stub.serve, "127.0.0.1", port)
    stub.port = server.sockets[0].getsockname()[1]
    try:
        yield stub
    finally:
        server.close()
        await stub.hang_up()


async def _main(port: int) -> None:
    async with provider_stub(port) as stub:
        print(stub.port, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    asyncio.run(_main(parser.parse_args().port))
