"""What operators look at."""

from __future__ import annotations

from secrets import token_hex
from typing import Any
from urllib.parse import quote

import pytest
from jsonschema import Draft202012Validator

from durable_agent.settings import Settings
from tests.support.postgres import Database
from tests.support.server import Api, serving


@pytest.fixture
async def api(settings: Settings) -> Any:
    async with serving(settings) as made:
        yield made


async def test_ready_means_the_schema_is_ours(api: Api, database: Database) -> None:
    assert (await api.http.get("/readyz")).status_code == 200
    database.execute("update alembic_version set version_num = '9999'")
    answer = await api.http.get("/readyz")
    assert (answer.status_code, answer.json()["schema"]) == (503, "9999")
    assert (await api.http.get("/livez")).status_code == 200


async def test_health_says_what_is_stuck(api: Api) -> None:
    assert (await api.http.get("/healthz")).json()["status"] == "ok"
    await api.start({"name": "a", "tool": "noop"})
    answer = (await api.http.get("/healthz")).json()
    assert answer["status"] == "stuck"
    assert "no worker is alive" in answer["stuck"][0]


async def test_metrics_are_prometheus(api: Api, settings: Settings) -> None:
    await api.start({"name": "a", "tool": "noop"})
    text = (await api.http.get("/metrics")).text
    assert 'durable_agent_queue_steps{state="ready"} 1.0' in text
    for name in (
        "oldest_ready_seconds",
        "leases_lost_total",
        "fenced_writes_total",
        "event_loop_lag_seconds",
        "listener_up",
    ):
        assert f"durable_agent_{name} " in text


async def test_the_openapi_document_is_whole(api: Api) -> None:
    document = (await api.http.get("/openapi.json")).json()
    for path in (
        "/runs", "/runs/batch", "/runs/{run_id}", "/runs/{run_id}/events", "/runs/{run_id}/export", "/runs/{run_id}/explain",
        "/runs/{run_id}/cancel", "/runs/{run_id}/pause", "/runs/{run_id}/resume", "/dead-letters", "/dead-letters/redrive",
        "/workers", "/keys", "/keys/{key_id}", "/healthz", "/livez", "/readyz", "/metrics",
    ):  # fmt: skip
        assert path in document["paths"], path
    for model in ("RunRequest", "StepRequest", "Problem"):
        Draft202012Validator.check_schema(document["components"]["schemas"][model])
    for operations in document["paths"].values():
        for operation in operations.values():
            assert "503" in operation["responses"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nowhere", 404), ("PATCH", "/runs", 405), ("GET", "/runs?limit=0", 422), ("DELETE", "/keys/%00", 422)],
)
async def test_every_error_is_a_problem_document(api: Api, method: str, path: str, status: int) -> None:
    answer = await api.http.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status
    assert {"type", "title", "detail"} <= answer.json().keys()


async def test_every_text_in_an_address_has_a_limit(api: Api) -> None:
    document = (await api.http.get("/openapi.json")).json()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for one in operation.get("parameters", ()):
                schemas = one["schema"].get("anyOf", [one["schema"]])
                for schema in (
                    schema for schema in schemas if schema.get("type") == "string" and one["in"] != "header"
                ):
                    assert schema.keys() & {"maxLength", "format", "enum"}, (method, path, one["name"])


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/models/p/{}"), ("PUT", "/models/{}/m"), ("DELETE", "/models/p/{}"), ("PUT", "/gates/{}"), ("GET", "/graphs/{}"),
        ("DELETE", "/keys/{}"), ("POST", "/runs/01890000-0000-7000-8000-000000000000/signals/{}"),
    ],
)  # fmt: skip
async def test_a_name_that_is_too_long_is_the_caller_s_mistake(api: Api, method: str, path: str) -> None:
    answer = await api.http.request(method, path.format(token_hex(6000)), json={} if method == "PUT" else None)
    assert (answer.status_code, "retry-after" in answer.headers) == (422, False)
    assert answer.json()["type"].endswith(":invalid-request")


async def test_the_longest_names_are_stored(api: Api) -> None:
    longest = [quote("".join(chr(0x20000 + int(c, 16)) for c in token_hex(100))) for _ in range(2)]  # of 800 bytes each
    for path in ("/models/{}/{}", "/gates/{}"):
        assert (await api.http.put(path.format(*longest), json={})).status_code == 200


async def test_dead_letters_refuse_a_cursor_of_another_list(api: Api) -> None:
    for _ in range(2):
        await api.start({"name": "a", "tool": "noop"})
    cursor = (await api.http.get("/runs?limit=1")).json()["next_cursor"]
    answer = await api.http.get("/dead-letters", params={"cursor": cursor})
    assert (answer.status_code, answer.json()["field"]) == (422, "cursor")


async def test_after_a_long_time_off_the_first_run_lies_in_its_week(settings: Settings, database: Database) -> None:
    for (week,) in database.execute("select relname from pg_class where relname ~ '_w[0-9]{8}$' and relkind = 'r'"):
        database.execute(f"drop table {week}")
    async with serving(settings) as api:
        await api.start({"name": "a", "tool": "noop"})
        assert database.execute("select tableoid::regclass::text like 'runs\\_w%' from runs") == [(True,)]
