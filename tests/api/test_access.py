"""Who may come in."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from durable_agent.api.app import serve
from durable_agent.errors import Forbidden
from durable_agent.settings import Settings
from tests.support.postgres import Database
from tests.support.server import Api, serving

RUN = {"steps": [{"name": "a", "tool": "noop"}]}


@pytest.fixture
async def api(settings: Settings) -> Any:
    async with serving(settings.model_copy(update={"allowed_origins": ("https://console.example",)})) as made:
        yield made


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "http://127.0.0.1:1", "https://console.example.evil", "http://[", "http://[x]"],
)
async def test_a_foreign_page_can_neither_write_nor_watch(api: Api, origin: str) -> None:
    answer = await api.http.post("/runs", json=RUN, headers={"Origin": origin})
    assert answer.status_code == 403
    async with api.socket("/ws", Origin=origin) as ws:
        with pytest.raises(ConnectionClosed):
            await ws.recv()
        assert ws.close_code == 4403


async def test_an_allowed_origin_and_our_own_may_write(api: Api) -> None:
    for origin in ("https://console.example", f"http://127.0.0.1:{api.port}"):
        assert (await api.http.post("/runs", json=RUN, headers={"Origin": origin})).status_code == 201


@pytest.mark.parametrize("host", ["rebound.example", "[", "[::1", "[x]", "[x].localhost"])
@pytest.mark.parametrize("path", ["/runs", "/healthz", "/openapi.json"])
async def test_a_foreign_host_is_refused_everywhere(api: Api, path: str, host: str) -> None:
    answer = await api.http.get(path, headers={"Host": host})
    assert (answer.status_code, answer.json()["field"]) == (403, "Host")


async def test_a_socket_to_a_host_that_cannot_be_read_is_refused(api: Api) -> None:
    """As another program would ask, for a library writes a Host of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    asked = ("GET /ws HTTP/1.1", "Host: [", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
             "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "", "")  # fmt: skip
    writer.write("\r\n".join(asked).encode())
    async with asyncio.timeout(20):
        head = await reader.readuntil(b"\r\n\r\n")
        frame = await reader.readexactly(4)
    writer.close()
    assert head.startswith(b"HTTP/1.1 101")
    assert (frame[0], int.from_bytes(frame[2:])) == (0x88, 4403)  # a close frame, and its code


async def test_a_browser_that_hides_its_origin_cannot_write(api: Api) -> None:
    answer = await api.http.post("/runs", json=RUN, headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 403


async def test_from_the_first_key_on_a_key_is_needed(settings: Settings) -> None:
    async with serving(settings) as api:
        made = await api.http.post("/keys", json={"name": "first", "scopes": ["admin"]})
        key = made.json()["key"]
    async with serving(settings) as api:
        assert (await api.http.get("/runs")).status_code == 401
        wrong = f"{key[:-1]}{'A' if key[-1] != 'A' else 'B'}"
        for bad in (wrong, "da_000000000000.x", "nonsense"):
            answer = await api.http.get("/runs", headers={"Authorization": f"Bearer {bad}"})
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        owner = {"Authorization": f"Bearer {key}"}
        assert (await api.http.get("/runs", headers=owner)).status_code == 200
        async with api.socket("/ws") as ws:
            with pytest.raises(ConnectionClosed):
                await ws.recv()
            assert ws.close_code == 4401
        reader = (await api.http.post("/keys", json={"name": "r", "scopes": ["read"]}, headers=owner)).json()["key"]
        narrow = {"Authorization": f"Bearer {reader}"}
        assert (await api.http.get("/runs", headers=narrow)).status_code == 200
        assert (await api.http.post("/runs", json=RUN, headers=narrow)).status_code == 403
        listed = (await api.http.get("/keys", headers=owner)).text
        assert key.split(".")[1] not in listed


async def test_a_revoked_key_stops_working(settings: Settings, database: Database) -> None:
    async with serving(settings) as api:
        key = (await api.http.post("/keys", json={"name": "k", "scopes": ["admin"]})).json()["key"]
        public = key.removeprefix("da_").split(".")[0]
        assert (await api.http.delete(f"/keys/{public}")).status_code == 204
    async with serving(settings) as api:
        assert (await api.http.get("/runs", headers={"Authorization": f"Bearer {key}"})).status_code == 401


async def test_a_key_of_one_tenant_sees_nothing_of_another(settings: Settings, database: Database) -> None:
    async with serving(settings) as api:
        run = (await api.http.post("/runs", json=RUN)).json()["id"]
        key = (await api.http.post("/keys", json={"name": "k", "scopes": ["admin"]})).json()["key"]
    database.execute("insert into tenants (tenant, name, secret) values (2, 'other', 'x')")
    database.execute("update api_keys set tenant = 2")
    async with serving(settings) as api:
        other = {"Authorization": f"Bearer {key}"}
        assert (await api.http.get("/runs", headers=other)).json()["items"] == []
        for path in (f"/runs/{run}", f"/runs/{run}/events", f"/runs/{run}/export", f"/runs/{run}/explain"):
            assert (await api.http.get(path, headers=other)).status_code == 404
        for verb in ("cancel", "pause", "resume"):
            assert (await api.http.post(f"/runs/{run}/{verb}", headers=other)).status_code == 404


async def test_without_a_key_only_loopback_is_bound(settings: Settings) -> None:
    with pytest.raises(Forbidden, match="keys create"):
        await serve(settings.model_copy(update={"host": "0.0.0.0"}))
