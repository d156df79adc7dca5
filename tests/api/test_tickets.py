"""Tickets: a browser's socket shows one instead of a key; it is good once, briefly, and for no more than the key is."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from durable_agent.settings import Settings
from tests.support.postgres import Database
from tests.support.server import Api, serving

STEP = {"name": "a", "tool": "noop"}


async def closed(api: Api, path: str, **headers: str) -> int:
    """Return the code that a socket is closed with before it says anything."""
    async with api.socket(path, **headers) as ws:
        with pytest.raises(ConnectionClosed):
            await asyncio.wait_for(ws.recv(), 10)
        assert ws.close_code is not None
        return int(ws.close_code)


async def first(api: Api, path: str, **headers: str) -> str:
    """Return the type of the first event that a socket sends."""
    async with api.socket(path, **headers) as ws:
        return str(orjson.loads(await asyncio.wait_for(ws.recv(), 10))["type"])


async def ticket(api: Api, key: dict[str, str] | None = None) -> str:
    answer = await api.http.post("/ws-tickets", headers=key)
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json()["expires_in_s"] == 30
    return str(answer.json()["ticket"])


async def key(api: Api, *scopes: str, by: dict[str, str] | None = None) -> dict[str, str]:
    answer = await api.http.post("/keys", json={"name": "k", "scopes": scopes}, headers=by)
    return {"Authorization": f"Bearer {answer.json()['key']}"}


@pytest.fixture
async def closed_api(settings: Settings) -> Any:
    """An API with a key, the key, and a run of its tenant."""
    async with serving(settings) as made:
        run = await made.start(STEP)
        admin = await key(made, "admin")
    async with serving(settings) as made:
        yield made, admin, run


async def test_a_ticket_opens_one_socket(closed_api: Any) -> None:
    api, admin, run = closed_api
    assert await closed(api, f"/ws/{run}") == 4401
    shown = await ticket(api, admin)
    assert await first(api, f"/ws/{run}?ticket={shown}") == "run.created"
    assert await closed(api, f"/ws/{run}?ticket={shown}") == 4401
    assert await closed(api, "/ws?ticket=nonsense") == 4401


async def test_of_many_sockets_at_once_with_one_ticket_one_is_let_in(closed_api: Any) -> None:
    api, admin, run = closed_api
    place = f"/ws/{run}?ticket={await ticket(api, admin)}"

    async def let_in() -> bool:
        async with api.socket(place) as ws:
            try:
                await asyncio.wait_for(ws.recv(), 10)
            except ConnectionClosed:
                return False
            return True

    assert sum(await asyncio.gather(*(let_in() for _ in range(8)))) == 1


async def test_any_api_process_takes_it(closed_api: Any, settings: Settings) -> None:
    api, admin, run = closed_api
    async with serving(settings) as other:
        assert await first(other, f"/ws/{run}?ticket={await ticket(api, admin)}") == "run.created"


async def test_a_ticket_is_good_for_half_a_minute(closed_api: Any, database: Database) -> None:
    api, admin, run = closed_api
    early, late = await ticket(api, admin), await ticket(api, admin)
    database.move_clock(28)
    assert await first(api, f"/ws/{run}?ticket={early}") == "run.created"
    database.move_clock(31)
    assert await closed(api, f"/ws/{run}?ticket={late}") == 4401


async def test_a_ticket_ends_with_its_key(closed_api: Any, database: Database) -> None:
    api, admin, run = closed_api
    for end in ("revoked_at = engine_now()", "expires_at = engine_now() - interval '1 second'"):
        reader = await key(api, "read", by=admin)
        shown = await ticket(api, reader)
        public = reader["Authorization"].removeprefix("Bearer da_").split(".")[0]
        database.execute(f"update api_keys set {end} where id = '{public}'")
        assert await closed(api, f"/ws/{run}?ticket={shown}") == 4401


async def test_a_ticket_may_no_more_than_its_key(closed_api: Any, database: Database) -> None:
    api, admin, run = closed_api
    assert (await api.http.post("/ws-tickets")).status_code == 401
    writer = await key(api, "write", by=admin)
    assert (await api.http.post("/ws-tickets", headers=writer)).status_code == 403
    shown = await ticket(api, await key(api, "read", by=admin))
    database.execute("update api_keys set scopes = '{write}' where scopes = '{read}'")
    assert await closed(api, f"/ws/{run}?ticket={shown}") == 4403


async def test_a_ticket_of_another_tenant_sees_nothing_of_ours(closed_api: Any, database: Database) -> None:
    api, admin, run = closed_api
    other = await key(api, "read", by=admin)
    public = other["Authorization"].removeprefix("Bearer da_").split(".")[0]
    database.execute("insert into tenants (tenant, name, secret) values (2, 'other', 'x')")
    database.execute(f"update api_keys set tenant = 2 where id = '{public}'")
    assert await closed(api, f"/ws/{run}?ticket={await ticket(api, other)}") == 4404


async def test_a_ticket_is_for_sockets_and_only_from_our_own_pages(closed_api: Any) -> None:
    api, admin, run = closed_api
    shown = await ticket(api, admin)
    assert (await api.http.get(f"/runs?ticket={shown}")).status_code == 401
    assert await closed(api, f"/ws/{run}?ticket={shown}", Origin="https://evil.example") == 4403
    # A foreign page has not used it up.
    assert await first(api, f"/ws/{run}?ticket={shown}", Origin=f"http://127.0.0.1:{api.port}") == "run.created"


async def test_a_key_in_the_header_stands_before_a_ticket(closed_api: Any) -> None:
    api, admin, run = closed_api
    shown = await ticket(api, admin)
    place = f"ws://127.0.0.1:{api.port}/ws/{run}?ticket={shown}"
    async with connect(place, proxy=None, additional_headers=admin) as ws:
        assert orjson.loads(await ws.recv())["type"] == "run.created"
    assert await first(api, f"/ws/{run}?ticket={shown}") == "run.created"


async def test_without_keys_a_ticket_is_nobodys_and_the_first_key_ends_it(settings: Settings) -> None:
    async with serving(settings) as api:
        run = await api.start(STEP)
        assert await first(api, f"/ws/{run}?ticket={await ticket(api)}") == "run.created"
        left = await ticket(api)
        await key(api, "admin")
        assert await closed(api, f"/ws/{run}?ticket={left}") == 4401


async def test_only_a_digest_is_stored_and_what_nobody_took_is_swept(
    closed_api: Any, database: Database, settings: Settings
) -> None:
    api, admin, _ = closed_api
    shown = await ticket(api, admin)
    [(digest, whole)] = database.execute("select digest, t::text from ws_tickets t")
    assert len(bytes(digest)) == 32  # type: ignore[call-overload]
    assert shown not in str(whole)
    assert shown.encode().hex() not in str(whole)
    database.move_clock(31)
    async with serving(settings):  # a process sweeps when it starts, and then every minute
        async with asyncio.timeout(20):
            while database.execute("select 1 from ws_tickets"):  # noqa: ASYNC110  # the upkeep tells nobody
                await asyncio.sleep(0.02)
