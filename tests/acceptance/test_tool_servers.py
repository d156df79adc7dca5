"""Tool servers through the whole product: registered, discovered, called by an agent, asking people, drifting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from typing import Any, LiteralString

import orjson
import psycopg
import pytest

from durable_agent.agents.providers import _wire_name
from durable_agent.settings import Settings
from tests.support import mcp_servers
from tests.support.mcp_servers import Running
from tests.support.postgres import Database
from tests.support.providers import Answer, Call, ProviderStub, provider_stub
from tests.support.server import Api, serving, working

TOKEN = "a-very-secret-token"


def depot(tool: str, arguments: dict[str, Any]) -> Call:
    """Return a model's call of the server's tool, by the name that a provider takes for it."""
    return Call(_wire_name(f"depot.{tool}"), arguments)


@dataclass(slots=True)
class Stage:
    """An API, a worker, a model whose words are scripted, a tool server."""

    api: Api
    model: ProviderStub
    depot: Running
    server: str = ""

    async def discovered(self) -> dict[str, Any]:
        answer = await self.api.http.post(f"/tool-servers/{self.server}/discover")
        assert answer.status_code == 200, answer.text
        return answer.json()  # type: ignore[no-any-return]

    async def start(self, *calls: Call, text: str = "done") -> str:
        """Start a run of the agent, whose model asks for these calls, one after the other."""
        self.model.script(*(Answer(calls=[call]) for call in calls), Answer(text))
        answer = await self.api.http.post("/runs", json={"agent": "clerk", "input": "go"})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    async def told(self, run: str) -> list[dict[str, Any]]:
        """Return what the tools told the model, when the run has ended."""
        await self.api.watch(run)
        found = (await self.api.http.get(f"/runs/{run}")).json()
        assert found["status"] == "completed", found["steps"][0]["error"]
        return [m for m in found["steps"][0]["output"]["messages"] if m["role"] == "tool"]

    async def asked(self, run: str, times: int = 1) -> dict[str, Any]:
        """Return the question that the run waits with, once it has waited so many times."""
        async with self.api.socket(f"/ws/{run}") as socket:
            async for text in socket:
                event = orjson.loads(text)
                times -= event["type"] == "run.waiting_for_input"
                if times == 0:
                    break
        (wait,) = (await self.api.http.get(f"/waits?run_id={run}")).json()["items"]
        return wait  # type: ignore[no-any-return]


@pytest.fixture
async def stage(settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> AsyncIterator[Stage]:
    given = {"secret_key": "k", "egress_allow": ("127.0.0.1",), "artifacts": str(tmp_path), "model": "openai:stub"}
    async with provider_stub() as model, mcp_servers.serving() as depot:
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        monkeypatch.setenv("OPENAI_BASE_URL", f"{model.url}/v1")
        async with serving(settings.model_copy(update=given)) as api, working(settings, **given):
            made = Stage(api, model, depot)
            answer = await api.http.post("/tool-servers", json={"name": "depot", "url": depot.url, "token": TOKEN})
            assert answer.status_code == 201, answer.text
            made.server = answer.json()["id"]
            await made.discovered()
            agent = {"name": "clerk", "tool_servers": ["depot"], "max_steps": 10}
            assert (await api.http.post("/agents", json=agent)).status_code == 201
            yield made


async def test_the_token_reaches_the_server_and_nobody_else(stage: Stage, database: Database) -> None:
    run = await stage.start(depot("read", {"what": "x"}))
    await stage.told(run)
    assert stage.depot.world.tokens == {f"Bearer {TOKEN}"}
    shown = [
        await stage.api.http.get(path)
        for path in ("/tool-servers", f"/tool-servers/{stage.server}", f"/runs/{run}/export")
    ]
    assert all(TOKEN not in answer.text for answer in shown)
    assert shown[0].json()["items"][0]["has_token"]
    dump = database.execute(
        "select t::text from tool_servers t union all select s::text from steps s union all select e::text from events e"
    )
    assert all(TOKEN not in str(row) for row in dump)


async def test_each_call_is_recorded_under_its_class_and_shows_its_key(stage: Stage, database: Database) -> None:
    run = await stage.start(depot("read", {"what": "x"}), depot("put", {"name": "a", "amount": 1}), depot("wipe", {}))
    told = await stage.told(run)
    assert [m["content"] for m in told] == ['{"what":"x"}', '{"result":"a: 1"}', '{"result":"gone"}']
    rows = database.execute("select name, class, key from effects where name like 'depot.%%' order by no")
    assert [row[:2] for row in rows] == [("depot.read", "safe"), ("depot.put", "idempotent"), ("depot.wipe", "manual")]
    assert stage.depot.world.keys == [row[2] for row in rows]


async def test_wrong_arguments_and_an_error_of_the_tools_own_go_back_to_the_model(
    stage: Stage, database: Database
) -> None:
    run = await stage.start(depot("put", {"name": "a", "amount": "many"}), depot("fail", {}))
    wrong, failed = await stage.told(run)
    assert "amount" in wrong["content"]
    assert "the disk is full" in failed["content"]
    assert [name for name, _ in stage.depot.world.calls] == ["fail"]
    rows = database.execute("select name, state from effects where name like 'depot.%%' order by no")
    assert rows == [("depot.put", "failed"), ("depot.fail", "failed")]


async def test_what_the_server_asks_a_person_is_asked_and_the_worker_is_free_meanwhile(stage: Stage) -> None:
    run = await stage.start(depot("deploy", {"target": "prod"}))
    first = await stage.asked(run)
    assert first["request"]["schema"]["properties"]["sure"]
    await stage.api.http.post(f"/waits/{first['id']}/respond", json={"value": {"sure": True}})
    second = await stage.asked(run, 2)
    await stage.api.http.post(f"/waits/{second['id']}/respond", json={"value": {"hour": 9}})
    (told,) = await stage.told(run)
    assert "deployed to prod at 9: True" in told["content"]
    assert [name for name, _ in stage.depot.world.calls] == ["deploy"]


async def test_work_that_goes_on_at_the_server_is_looked_at_again_without_a_worker(
    stage: Stage, database: Database
) -> None:
    run = await stage.start(depot("research", {"topic": "owls"}))
    async with stage.api.socket(f"/ws/{run}") as socket:
        async for text in socket:
            event = orjson.loads(text)
            if event["type"] == "step.waiting":
                assert event["data"]["kind"] == "timer"
                break
    found = {"content": [{"type": "text", "text": "they see at night"}]}
    stage.depot.world.tasks["task-0"] = {"status": "completed", "result": found}
    (told,) = await stage.told(run)
    assert "they see at night" in told["content"]
    assert database.execute("select distinct state from effects where name like 'depot.%%'") == [("done",)]


async def test_a_server_that_offers_something_else_is_called_no_more_until_somebody_approved_it(stage: Stage) -> None:
    run = await stage.start(depot("change", {"name": "extra"}), depot("read", {"what": "x"}))
    _, refused = await stage.told(run)
    assert "extra" in refused["content"]
    assert [name for name, _ in stage.depot.world.calls] == ["change"]
    found = await stage.discovered()
    assert found["state"] == "quarantined"
    again = await stage.api.http.post("/runs", json={"agent": "clerk", "input": "go"})
    assert (again.status_code, "approve" in again.text) == (409, True)
    wrong = await stage.api.http.post(f"/tool-servers/{stage.server}/approve", json={"digest": "0" * 64})
    assert wrong.status_code == 409
    approved = await stage.api.http.post(f"/tool-servers/{stage.server}/approve", json={"digest": found["digest"]})
    assert approved.json()["state"] == "ready"
    await stage.told(await stage.start(depot("read", {"what": "x"})))


async def test_another_address_is_another_server_and_drops_the_token(stage: Stage) -> None:
    place = f"/tool-servers/{stage.server}"
    same = (await stage.api.http.put(place, json={"name": "depot", "url": stage.depot.url})).json()
    assert same["has_token"]
    moved = (await stage.api.http.put(place, json={"name": "depot", "url": "https://example.org/mcp"})).json()
    assert (moved["has_token"], moved["state"], moved["digest"]) == (False, "new", None)


async def test_a_name_that_another_server_has_is_refused_by_name(stage: Stage) -> None:
    other = {"name": "other", "url": "https://example.org/mcp"}
    assert (await stage.api.http.post("/tool-servers", json=other)).status_code == 201
    answer = await stage.api.http.put(f"/tool-servers/{stage.server}", json={**other, "url": stage.depot.url})
    assert (answer.status_code, answer.json()["field"]) == (409, "name")
    gone = await stage.api.http.put("/tool-servers/01a00000-0000-7000-8000-000000000000", json=other)
    assert gone.status_code == 404


MOVED = "update tool_servers set url = 'https://example.org/mcp', state = 'new', digest = null, tools = null"


async def meanwhile(database: Database, change: LiteralString, request: Awaitable[Any]) -> Any:
    """Return the answer to a request that waits for the server's row while that is changed."""
    with psycopg.connect(database.url) as conn:
        conn.execute(change)
        asked = asyncio.ensure_future(request)
        waits = (
            "select pid from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
            " and query like '%update tool_servers%'"
        )
        while not database.execute(waits):  # noqa: ASYNC110  # the server has no event to wait for
            await asyncio.sleep(0.01)
    return await asked


async def test_what_was_asked_at_the_old_address_is_not_taken_for_the_new_one(stage: Stage, database: Database) -> None:
    place = f"/tool-servers/{stage.server}"
    answer = await meanwhile(database, MOVED, stage.api.http.post(f"{place}/discover"))
    assert (answer.status_code, "again" in answer.text) == (409, True)
    found = (await stage.api.http.get(place)).json()
    assert (found["state"], found["digest"], found["tools"]) == ("new", None, None)


@pytest.mark.parametrize(
    ("given", "status", "named"),
    [
        ({"name": "x"}, 422, "url"),
        ({"name": "x", "url": "ftp://a"}, 422, "url"),
        ({"name": "a b", "url": "https://a"}, 422, "name"),
        ({"name": "x", "command": ["sh"]}, 403, "ALLOW_STDIO"),
        ({"name": "x", "command": ["sh"], "token": "t"}, 422, "a script"),
        ({"name": "depot", "url": "https://a"}, 409, "depot"),
    ],
)
async def test_what_cannot_be_registered_says_why(stage: Stage, given: Any, status: int, named: str) -> None:
    answer = await stage.api.http.post("/tool-servers", json=given)
    assert (answer.status_code, named in answer.text) == (status, True)


async def test_a_private_address_is_never_asked(settings: Settings) -> None:
    async with mcp_servers.serving() as depot, serving(settings) as api:
        made = (await api.http.post("/tool-servers", json={"name": "inside", "url": depot.url})).json()
        answer = await api.http.post(f"/tool-servers/{made['id']}/discover")
        assert answer.status_code == 409
        assert depot.world.requests == 0
        assert (await api.http.get(f"/tool-servers/{made['id']}")).json()["state"] == "unreachable"


async def test_a_token_without_a_key_to_encrypt_it_is_refused(settings: Settings) -> None:
    async with serving(settings) as api:
        answer = await api.http.post("/tool-servers", json={"name": "x", "url": "https://a", "token": "t"})
        assert (answer.status_code, "DURABLE_AGENT_SECRET_KEY" in answer.text) == (422, True)


async def test_a_models_words_reach_who_watches_and_cancelling_cuts_the_connection(
    stage: Stage, database: Database
) -> None:
    stage.model.script(Answer("Three plain words", endless=True))
    budget = {"tokens": 100_000}
    run = (await stage.api.http.post("/runs", json={"agent": "clerk", "input": "go", "budget": budget})).json()["id"]
    heard, numbered = "", []
    async with stage.api.socket(f"/ws/{run}") as socket:
        async for text in socket:
            event = orjson.loads(text)
            if event["type"] == "llm.delta":
                assert (event["seq"], event["step"], event["run_id"]) == (None, "clerk", run)
                heard += event["data"]["text"]
            else:
                numbered.append(event["seq"])
            if heard == "Three plain words":
                break
    assert numbered == list(range(1, len(numbered) + 1))
    await stage.api.http.post(f"/runs/{run}/cancel")
    await stage.model.seen[-1].gone.wait()
    while True:
        (row,) = (await stage.api.http.get(f"/runs/{run}/budget")).json()["limits"]
        if row["spent"] < 1000:  # what it had used took the place of the whole bound
            break
        await asyncio.sleep(0.01)
    assert row["reserved"] == 0
    assert row["spent"] > 0
    assert not [e for e in await stage.api.watch(run) if e["type"] == "llm.delta" and e["seq"] is not None]
