"""The API from outside: real sockets, a real worker where one is needed."""

from __future__ import annotations

import asyncio
import functools
from typing import Any

import orjson
import pytest
from websockets.exceptions import ConnectionClosed

from durable_agent.core.records import DEFAULT_TENANT
from durable_agent.db.pool import Database as Pools
from durable_agent.engine.export import verify_export
from durable_agent.engine.graphs import register
from durable_agent.settings import Settings
from tests.support.postgres import Database
from tests.support.server import Api, serving, working

SEED = {
    "goal": "Research and summarize a topic",
    "steps": [
        {"name": "tool_call.fetch_data", "input": {"tool": "fetch_data"}},
        {"name": "tool_call.transform", "input": {"tool": "transform"}, "dependsOn": ["tool_call.fetch_data"]},
        {"name": "llm_call.summarize", "input": {"prompt": "Summarize the data"}, "dependsOn": ["tool_call.transform"]},
    ],
}


@pytest.fixture
async def api(settings: Settings) -> Any:
    async with serving(settings) as made:
        yield made


def nested(levels: int) -> Any:
    return functools.reduce(lambda inner, _: [inner], range(levels), 1)


def code(answer: Any) -> str:
    assert answer.headers["content-type"] == "application/problem+json"
    return str(answer.json()["type"]).rsplit(":", 1)[1]


def test_these_tests_are_with_listen_and_without(settings: Settings, request: pytest.FixtureRequest) -> None:
    assert settings.listening is (request.node.callspec.params["listen"] == "on")


async def test_the_first_documents_run_works_as_written(api: Api, settings: Settings) -> None:
    async with working(settings, ["durable_agent.flow.demo"]):
        answer = await api.http.post("/runs", json=SEED)
        assert answer.status_code == 201
        started = answer.json()
        assert answer.headers["location"] == f"/runs/{started['id']}"
        assert started["ws_url"] == f"ws://127.0.0.1:{api.port}/ws/{started['id']}"
        events = await api.watch(started["id"])
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert events[-1]["type"] == "run.completed"
    run = (await api.http.get(f"/runs/{started['id']}")).json()
    assert [(s["name"], s["kind"], s["tool"], s["status"]) for s in run["steps"]] == [
        ("tool_call.fetch_data", "tool_call", "fetch_data", "succeeded"),
        ("tool_call.transform", "tool_call", "transform", "succeeded"),
        ("llm_call.summarize", "llm_call", "llm_call", "succeeded"),
    ]
    assert "Summarize the data" in run["steps"][2]["output"]["text"]


async def test_a_watcher_resumes_where_it_left_off(api: Api, settings: Settings) -> None:
    async with working(settings):
        run = await api.start({"name": "noop"}, {"name": "b", "tool": "noop", "dependsOn": ["noop"]})
        whole = await api.watch(run)
    assert await api.watch(run, after=3) == whole[3:]
    assert await api.watch(run, after=len(whole)) == []
    answer = await api.http.get(f"/runs/{run}/events", headers={"Accept": "text/event-stream", "Last-Event-ID": "2"})
    told = [orjson.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
    assert told == whole[2:]


async def test_many_watchers_see_every_event_once(api: Api, settings: Settings) -> None:
    steps = [{"name": f"s{n}", "tool": "tell", **({"dependsOn": [f"s{n - 1}"]} if n else {})} for n in range(8)]
    run = await api.start(*steps)
    watching = [asyncio.create_task(api.watch(run)) for _ in range(12)]
    async with working(settings):
        seen = await asyncio.gather(*watching)
    assert all([event["seq"] for event in events] == list(range(1, len(seen[0]) + 1)) for events in seen)
    emitted = [event["data"] for event in seen[0] if event["type"] == "step.emitted"]
    assert emitted[0]["name"] == "hello"
    assert emitted[0]["data"] == {"who": "world"}


async def test_a_watcher_survives_its_servers_database_connections_being_cut(
    api: Api, settings: Settings, database: Database
) -> None:
    run = await api.start({"name": "tell"})
    watching = asyncio.create_task(api.watch(run))
    await api.http.get(f"/runs/{run}")
    database.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    )
    async with working(settings):
        events = await watching
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))


async def test_the_same_key_and_body_is_the_same_run(api: Api) -> None:
    body = {"steps": [{"name": "a", "tool": "noop"}]}
    first = await api.http.post("/runs", json=body, headers={"Idempotency-Key": "k"})
    again = await api.http.post("/runs", json=body, headers={"Idempotency-Key": "k"})
    other = await api.http.post(
        "/runs", json={"steps": [{"name": "b", "tool": "noop"}]}, headers={"Idempotency-Key": "k"}
    )
    assert (first.status_code, again.status_code, other.status_code) == (201, 200, 422)
    assert first.json()["id"] == again.json()["id"]
    assert code(other) == "idempotency-key-reused"


@pytest.mark.parametrize(
    ("body", "problem", "named"),
    [
        ({"steps": []}, "invalid-request", "steps"),
        ({"steps": [{"name": "a"}, {"name": "a"}]}, "graph-invalid", "twice"),
        ({"steps": [{"name": "a", "dependsOn": ["b"]}]}, "graph-invalid", "'b'"),
        ({"steps": [{"name": "a", "retry": {"maxAttempts": 0}}]}, "invalid-request", "steps.0.retry.maxAttempts"),
        ({"steps": [{"name": "a", "unknown": 1}]}, "invalid-request", "steps.0.unknown"),
        ({"steps": [{"name": "a\x00"}]}, "invalid-request", "NUL"),
        ({"steps": [{"name": "a", "input": {"tool": "x\x00"}}]}, "invalid-request", "steps.0.input.tool"),
        ({"steps": [{"name": "a", "input": {"tool": "x" * 40_000}}]}, "invalid-request", "steps.0.input.tool"),
        ({"steps": [{"name": "tool_call."}]}, "invalid-request", "steps.0.name"),
        ({"steps": [{"name": "a", "input": "x" * 300_000}]}, "invalid-request", "steps.0.input"),
        ({"graph": "a", "steps": [{"name": "a"}]}, "invalid-request", "not both"),
        ({"agent": "researcher", "graph": "a"}, "invalid-request", "not both"),
        ({"steps": [{"name": "a"}], "budget": {"tokens": -1}}, "invalid-request", "tokens"),
        ({"steps": [{"name": "a", "timeoutS": -1}]}, "invalid-request", "timeoutS"),
    ],
)  # fmt: skip
async def test_bad_input_is_refused_by_name(api: Api, body: Any, problem: str, named: str) -> None:
    answer = await api.http.post("/runs", json=body)
    assert answer.status_code == 422
    assert code(answer) == problem
    assert named in answer.text


async def test_a_graph_that_nobody_registered_is_named(api: Api) -> None:
    for path, body in (
        ("/runs", {"graph": "research-swarm"}),
        ("/runs/batch", {"runs": [{"graph": "research-swarm"}]}),
    ):
        answer = await api.http.post(path, json=body)
        assert answer.status_code == 404
        assert "'research-swarm'" in answer.json()["detail"]


@pytest.mark.parametrize(
    "body", [b"{", b"\xff\xfe", b"[1]", b"null", b'{"steps": [{"name": "\\ud800"}]}', b"[" * 100_000]
)
async def test_what_is_no_run_at_all_is_a_4xx(api: Api, body: bytes) -> None:
    answer = await api.http.post("/runs", content=body)
    assert answer.status_code in (400, 422)
    assert "Traceback" not in answer.text


async def test_a_nested_input_is_refused_by_its_depth(api: Api) -> None:
    answer = await api.http.post("/runs", json={"steps": [{"name": "a", "input": nested(40)}]})
    assert (answer.status_code, answer.json()["field"]) == (422, "steps.0.input")


@pytest.mark.parametrize(
    ("body", "headers", "field"),
    [
        ({"steps": [{"name": "a", "tool": "noop"}], "input": nested(300)}, {"Idempotency-Key": "k"}, "input"),
        ({"graph": "typed", "input": {"n": nested(300)}}, {}, "input"),
        ({"graph": "typed", "input": {"n": nested(40)}}, {}, "input"),
        ({"graph": "typed", "input": {"n": "x" * 900_000}}, {}, "input"),
        ({"graph": "typed", "input": {"n": "x" * 90_000}}, {}, "input.n"),
        ([nested(300)], {}, "body"),
    ],
)  # fmt: skip
async def test_what_is_too_deep_or_too_large_is_refused_before_anything_else_looks_at_it(
    api: Api, settings: Settings, body: Any, headers: dict[str, str], field: str
) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    async with Pools.open(settings.database_url or "", size=2) as pools:
        steps = [{"name": "a", "tool": "noop"}]
        await register(pools, DEFAULT_TENANT, [("typed", "1", steps, schema, [])])
    answer = await api.http.post("/runs", json=body, headers=headers)
    assert (answer.status_code, answer.json()["field"]) == (422, field)
    assert len(answer.content) < 2000


async def test_a_body_that_is_too_large_is_refused(api: Api) -> None:
    answer = await api.http.post("/runs", content=b"x" * 1_100_000)
    assert (answer.status_code, code(answer)) == (413, "body-too-large")


async def test_a_batch_is_stored_whole_or_not_at_all(api: Api) -> None:
    good = {"steps": [{"name": "a", "tool": "noop"}]}
    answer = await api.http.post("/runs/batch", json={"runs": [good] * 3})
    assert (answer.status_code, len({item["id"] for item in answer.json()["items"]})) == (201, 3)
    bad = await api.http.post("/runs/batch", json={"runs": [good, {"steps": [{"name": "a", "dependsOn": ["x"]}]}]})
    assert bad.status_code == 422
    assert len((await api.http.get("/runs")).json()["items"]) == 3


async def test_runs_are_listed_page_by_page_without_gap_or_repeat(api: Api) -> None:
    made = [await api.start({"name": "a", "tool": "noop"}, goal=f"goal {n}") for n in range(7)]
    found, cursor = [], None
    while True:
        params = {"limit": 3, **({"cursor": cursor} if cursor else {})}
        page = (await api.http.get("/runs", params=params)).json()
        found += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert found == made[::-1]
    assert [item["goal"] for item in (await api.http.get("/runs", params={"q": "GOAL 3"})).json()["items"]] == [
        "goal 3"
    ]
    assert (await api.http.get("/runs", params={"status": "failed"})).json()["items"] == []
    assert (await api.http.get("/runs", params={"cursor": "nonsense"})).status_code == 422


async def test_a_time_before_1970_is_before_every_run(api: Api) -> None:
    run = await api.start({"name": "a", "tool": "noop"})
    for then in ("1960-01-01", "0001-01-01T00:00:00+14:00", "1970-01-01"):
        for of, found in (("since", [run]), ("until", [])):
            answer = await api.http.get("/runs", params={of: then})
            assert [one["id"] for one in answer.json()["items"]] == found, (of, then)


async def test_cancel_reaches_an_attempt_in_flight(api: Api, settings: Settings) -> None:
    async with working(settings):
        run = await api.start({"name": "forever"})
        async with api.socket(f"/ws/{run}") as ws:
            async for text in ws:
                if orjson.loads(text)["type"] == "step.claimed":
                    break
            answer = await api.http.post(f"/runs/{run}/cancel", json={"reason": "enough"})
            assert (answer.status_code, answer.json()["status"]) == (202, "cancelled")
            rest = [orjson.loads(text)["type"] async for text in ws]
        assert rest[-1] == "run.cancelled"
        # The slot is free again only once the handler was stopped: with one slot, the next run needs it.
        other = await api.start({"name": "noop"})
        assert (await api.watch(other))[-1]["type"] == "run.completed"
    again = await api.http.post(f"/runs/{run}/cancel")
    assert (again.status_code, code(again)) == (409, "conflict")


async def test_an_export_verifies_by_itself(api: Api, settings: Settings) -> None:
    async with working(settings):
        run = await api.start(
            {"name": "flaky", "retry": {"baseS": 0.01}}, {"name": "add", "input": {"a": 1}, "dependsOn": ["flaky"]}
        )
        events = await api.watch(run)
    lines = (await api.http.get(f"/runs/{run}/export")).content.splitlines()
    found, count = verify_export(lines)
    assert (str(found), count) == (run, len(events))


async def test_dead_letters_are_listed_counted_and_redriven(api: Api, settings: Settings) -> None:
    async with working(settings):
        run = await api.start({"name": "flaky", "input": {"times": 2}, "retry": {"maxAttempts": 1}})
        assert (await api.watch(run))[-1]["type"] == "run.failed"
        listed = (await api.http.get("/dead-letters")).json()
        assert (listed["items"][0]["step"], listed["counts"]) == ("flaky", {"attempts_exhausted": 1})
        assert (await api.http.post("/dead-letters/redrive", json={})).status_code == 422
        answer = await api.http.post("/dead-letters/redrive", json={"run_id": run, "extra_attempts": 3})
        assert answer.json() == {"redriven": [{"run_id": run, "step": "flaky"}]}
        assert (await api.watch(run))[-1]["type"] == "run.completed"
    assert (await api.http.get("/dead-letters")).json()["items"] == []


async def test_a_tool_nobody_offers_is_said_at_once_and_explained(api: Api, settings: Settings) -> None:
    answer = await api.http.post("/runs", json={"steps": [{"name": "a", "tool": "nobody"}]})
    assert "nobody" in answer.json()["warnings"][0]
    async with working(settings):
        while not (await api.http.get("/workers")).json()["items"]:
            pass
        explained = (await api.http.get(f"/runs/{answer.json()['id']}/explain")).json()
    assert explained["steps"][0]["reason"] == "no_worker_offers"


@pytest.mark.parametrize("path", ["", "/events", "/export", "/explain"])
async def test_an_unknown_run_is_a_404_that_names_it(api: Api, path: str) -> None:
    nowhere = "01890000-0000-7000-8000-000000000000"
    answer = await api.http.get(f"/runs/{nowhere}{path}")
    assert (answer.status_code, code(answer)) == (404, "not-found")
    assert nowhere in answer.text


@pytest.mark.parametrize("run_id", ["01890000-0000-7000-8000-000000000000", "nonsense"])
async def test_watching_an_unknown_run_closes_with_4404(api: Api, run_id: str) -> None:
    async with api.socket(f"/ws/{run_id}") as ws:
        with pytest.raises(ConnectionClosed):
            await ws.recv()
        assert ws.close_code == 4404


async def test_the_stream_of_all_runs_tells_their_beginnings_and_ends(api: Api, settings: Settings) -> None:
    async with api.socket("/ws") as ws, working(settings):
        run = await api.start({"name": "noop"})
        seen = []
        while "run.completed" not in seen:
            event = orjson.loads(await ws.recv())
            assert event["run_id"] == run
            seen.append(event["type"])
    assert seen == ["run.created", "run.started", "run.completed"]
