"""The recorded calls of a step: what was asked, what came of it, who did it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from durable_agent.api import effects
from durable_agent.settings import Settings
from tests.support.postgres import Database
from tests.support.server import Api, serving, working

ECHO = {"name": "e", "tool": "echo", "input": {"a": 1}}
SPEAKS = {"name": "llm_call.say", "input": {"prompt": "Say something"}}


@pytest.fixture
async def api(settings: Settings) -> AsyncIterator[Api]:
    async with serving(settings) as made:
        yield made


async def done(api: Api, settings: Settings, *steps: dict[str, Any]) -> str:
    async with working(settings):
        run = await api.start(*steps)
        await api.watch(run)
    return run


def add(database: Database, run: str, count: int, *, request: str = "{}", step: int = 0) -> None:
    """Record calls by hand, numbered from 1."""
    database.execute(
        "insert into effects (tenant, run_id, step_no, no, name, class, state, request_sha256, key, claim_no, sends, at, request)"
        f" select 1, '{run}', {step}, n, 'call', 'safe', 'done', 'd' || n, 'k', 1, 1, engine_now(), '{request}'"
        f" from generate_series(1, {count}) n"
    )


async def test_a_call_of_a_model_shows_what_it_was_asked_what_it_said_and_what_it_cost(
    api: Api, settings: Settings
) -> None:
    run = await done(api, settings, {"name": "a", "tool": "noop"}, SPEAKS)
    answer = await api.http.get(f"/runs/{run}/effects", params={"step": "llm_call.say"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["next_cursor"] is None
    [call] = answer.json()["items"]
    assert (call["step"], call["no"], call["state"], call["sends"]) == ("llm_call.say", 1, "done", 1)
    assert "Say something" in str(call["request"])
    assert call["result"]["text"]
    assert call["usage"]["output_tokens"] > 0
    assert call["error"] is None
    assert call["at"] <= call["ended_at"]
    step = (await api.http.get(f"/runs/{run}")).json()["steps"][1]
    assert (call["worker"], call["claim_no"]) == (step["worker"], step["claim_no"])
    assert call["microusd"] == step["microusd"]


async def test_pages_follow_each_other_without_gap_or_repeat(api: Api, settings: Settings, database: Database) -> None:
    run = await api.start({"name": "a", "tool": "noop"}, {"name": "b", "tool": "noop"})
    add(database, run, 5)
    add(database, run, 3, step=1)
    for params, wanted in (({}, [("a", n) for n in range(1, 6)] + [("b", n) for n in range(1, 4)]),
                           ({"step": "b"}, [("b", n) for n in range(1, 4)])):  # fmt: skip
        seen, cursor = [], None
        while True:
            page = (await api.http.get(f"/runs/{run}/effects", params={**params, "limit": 2, "cursor": cursor or ""} if cursor
                                       else {**params, "limit": 2})).json()  # fmt: skip
            assert len(page["items"]) <= 2
            seen += [(one["step"], one["no"]) for one in page["items"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert seen == wanted


async def test_a_page_ends_before_it_is_too_large(
    api: Api, settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(effects, "PAGE_BYTES", 2500)
    run = await api.start({"name": "a", "tool": "noop"})
    add(database, run, 4, request='{"text": "' + "x" * 1000 + '"}')
    first = (await api.http.get(f"/runs/{run}/effects")).json()
    assert [one["no"] for one in first["items"]] == [1, 2]
    rest = (await api.http.get(f"/runs/{run}/effects", params={"cursor": first["next_cursor"]})).json()
    assert [one["no"] for one in rest["items"]] == [3, 4]
    assert rest["next_cursor"] is None
    # One that is larger than a page is a page.
    monkeypatch.setattr(effects, "PAGE_BYTES", 10)
    first = (await api.http.get(f"/runs/{run}/effects")).json()
    assert [one["no"] for one in first["items"]] == [1]


async def test_a_large_request_is_its_digest_and_size(settings: Settings, database: Database) -> None:
    async with serving(settings.model_copy(update={"payload_limit_bytes": 1024})) as api:
        run = await api.start({"name": "a", "tool": "noop"})
        add(database, run, 1, request='"' + "x" * 2000 + '"')
        [call] = (await api.http.get(f"/runs/{run}/effects")).json()["items"]
    assert call["request"] == {"$request": "d1", "bytes": 2002}


async def test_what_is_not_there_is_said(api: Api, database: Database) -> None:
    run = await api.start({"name": "a", "tool": "noop"})
    assert (await api.http.get(f"/runs/{run}/effects")).json() == {"items": [], "next_cursor": None}
    answer = await api.http.get(f"/runs/{run}/effects", params={"step": "b"})
    assert (answer.status_code, answer.json()["step"]) == (404, "b")
    gone = "01a00000-0000-7000-8000-000000000000"
    assert (await api.http.get(f"/runs/{gone}/effects")).status_code == 404
    database.execute("insert into tenants (tenant, name, secret) values (2, 'other', 'x')")
    key = (await api.http.post("/keys", json={"name": "k", "scopes": ["admin"]})).json()["key"]
    database.execute("update api_keys set tenant = 2")
    answer = await api.http.get(f"/runs/{run}/effects", headers={"Authorization": f"Bearer {key}"})
    assert answer.status_code == 404


async def test_a_cursor_of_another_list_is_refused(api: Api) -> None:
    run = await api.start({"name": "a", "tool": "noop"})
    await api.start({"name": "a", "tool": "noop"})
    cursor = (await api.http.get("/runs", params={"limit": 1})).json()["next_cursor"]
    for bad in (cursor, "x"):
        answer = await api.http.get(f"/runs/{run}/effects", params={"cursor": bad})
        assert (answer.status_code, answer.json()["field"]) == (422, "cursor")
