"""Exports over HTTP: whole before the first byte, so whoever takes one slowly keeps nobody waiting."""

from __future__ import annotations

import asyncio

from durable_agent.engine.export import verify_export
from durable_agent.settings import Settings
from tests.support.postgres import Database
from tests.support.server import Api, serving

HELD = (
    "select count(*) from pg_stat_activity where datname = current_database()"
    " and application_name = 'durable-agent read' and state like 'idle in transaction%'"
)


async def begun(api: Api, run: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return an export that was answered and of which next to nothing is taken."""
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port, limit=1024)
    writer.write(f"GET /runs/{run}/export HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    return reader, writer


async def test_who_takes_an_export_slowly_holds_no_connection_and_gets_it_whole(
    settings: Settings, database: Database
) -> None:
    async with serving(settings.model_copy(update={"api_pool_size": 2})) as api:
        # More than what lies between two programs on one machine.
        steps = [{"name": f"s{no}", "tool": "nobody", "input": "x" * 250_000} for no in range(80)]
        answer = await api.http.post("/runs/batch", json={"runs": [{"steps": steps}]})
        run = answer.json()["items"][0]["id"]
        slow = [await begun(api, run) for _ in range(2)]
        assert database.execute(HELD) == [(0,)]
        assert (await api.http.get("/runs?limit=1")).status_code == 200
        for reader, writer in slow:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            content = await reader.read()
            writer.close()
            assert f"content-length: {len(content)}\r\n" in head
            assert str(verify_export(content.splitlines())[0]) == run
