"""A way to the database that is cut when an answer with certain words is on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from psycopg.conninfo import conninfo_to_dict, make_conninfo

BEGUN, COMMITTED = b"BEGIN\0", b"COMMIT\0"


@dataclass(slots=True)
class Way:
    """Where to connect to; with `cut_at` set, an answer that holds these bytes is lost, and the connection with it.

    The first `spared` of them are not.
    """

    url: str = ""
    cut_at: bytes | None = None
    spared: int = 0
    lost: int = 0

    async def pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: bool) -> None:
        """Pass on what is read until either side ends, or an answer is to be lost."""
        with suppress(OSError):
            while said := await reader.read(65_536):
                if answers and self.cut_at is not None and self.cut_at in said:
                    self.spared -= 1
                    if self.spared < 0:
                        self.lost += 1
                        break
                writer.write(said)
                await writer.drain()
        writer.close()


@asynccontextmanager
async def way_to(url: str) -> AsyncIterator[Way]:
    """Yield a way to the database of a URL."""
    place, way = conninfo_to_dict(url), Way()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, ahead = await asyncio.open_connection(str(place["host"]), int(str(place["port"])))
        there = asyncio.create_task(way.pass_on(reader, ahead, False))
        await way.pass_on(behind, writer, True)
        ahead.close()
        await there

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    way.url = make_conninfo(url, host="127.0.0.1", port=port, sslmode="disable")
    async with server:
        yield way
