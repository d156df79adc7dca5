"""Agents, budgets, messages, tool servers, models and gates over HTTP."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator
from typing import Any

import pytest

from durable_agent.settings import Settings
from tests.support.postgres import Database
from tests.support.server import Api, serving, working

AGENT = {"name": "researcher", "system_prompt": "You research.", "allowed_tools": ["calculator"]}
GONE = "01a00000-0000-7000-8000-000000000000"


@pytest.fixture
async def api(settings: Settings) -> AsyncIterator[Api]:
    given = settings.model_copy(update={"secret_key": "a secret", "egress_allow": ("127.0.0.1",), "allow_stdio": False})
    async with serving(given) as made:
        yield made


@pytest.fixture
async def worker(settings: Settings, tmp_path: Any) -> AsyncIterator[None]:
    given = {"secret_key": "a secret", "egress_allow": ("127.0.0.1",), "artifacts": str(tmp_path)}
    async with working(settings, **given):
        yield


async def made(api: Api, **more: Any) -> dict[str, Any]:
    answer = await api.http.post("/agents", json={**AGENT, **more})
    assert answer.status_code == 201, answer.text
    return answer.json()  # type: ignore[no-any-return]


async def run_of(api: Api, given: Any, **more: Any) -> dict[str, Any]:
    """Return the run of the agent when it has ended."""
    answer = await api.http.post("/runs", json={"agent": "researcher", "input": given, **more})
    assert answer.status_code == 201, answer.text
    return await ended(api, answer.json()["id"])


async def asking(api: Api) -> str:
    """Return a run of the agent that waits for a person's answer."""
    run = (await api.http.post("/runs", json={"agent": "researcher", "input": "Which city?"})).json()["id"]
    async with api.socket(f"/ws/{run}") as socket:
        async for text in socket:
            if "run.waiting_for_input" in str(text):
                break
    return str(run)


async def key_of(api: Api, *scopes: str) -> dict[str, str]:
    """Return the header of a new key."""
    answer = await api.http.post("/keys", json={"name": "-".join(scopes), "scopes": scopes})
    assert answer.status_code == 201, answer.text
    return {"Authorization": f"Bearer {answer.json()['key']}"}


async def ended(api: Api, run: str) -> dict[str, Any]:
    await api.watch(run)
    return (await api.http.get(f"/runs/{run}")).json()  # type: ignore[no-any-return]


async def test_an_agent_is_created_changed_listed_and_forgotten(api: Api) -> None:
    one = await made(api, budgets=[{"meter": "tokens", "cap": 1000, "window_s": 3600}])
    assert (one["name"], one["version"], one["tools"], one["system"]) == (
        "researcher",
        1,
        ["calculator"],
        "You research.",
    )
    assert one["budgets"][0] | {} == {
        "meter": "tokens", "window_s": 3600, "cap": 1000, "spent": 0, "reserved": 0, "on_limit": "pause", "due_at": None,
    }  # fmt: skip
    place = f"/agents/{one['id']}"
    changed = (await api.http.put(place, json={**AGENT, "name": "reader", "maxSteps": 3})).json()
    assert (changed["name"], changed["version"], changed["max_steps"], changed["budgets"]) == ("reader", 2, 3, [])
    assert [a["name"] for a in (await api.http.get("/agents")).json()["items"]] == ["reader"]
    assert (await api.http.delete(place)).status_code == 204
    assert (await api.http.get(place)).status_code == 404
    assert (await api.http.delete(place)).status_code == 404


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"name": ""}, "name"),
        ({"name": "a b"}, "name"),
        ({"max_steps": 0}, "max_steps"),
        ({"temperature": 3}, "temperature"),
        ({"budgets": [{"meter": "sleep", "cap": 1}]}, "budgets.0.meter"),
        ({"budgets": [{"meter": "tokens", "cap": 1}, {"meter": "tokens", "cap": 2}]}, "twice"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
async def test_what_is_wrong_with_an_agent_is_named(api: Api, given: dict[str, Any], named: str) -> None:
    answer = await api.http.post("/agents", json={**AGENT, **given})
    assert answer.status_code == 422
    assert named in answer.text


async def test_two_agents_of_one_name_are_refused_and_a_run_of_none_too(api: Api) -> None:
    await made(api)
    assert (await api.http.post("/agents", json=AGENT)).status_code == 409
    other = await made(api, name="other")
    assert (await api.http.put(f"/agents/{other['id']}", json=AGENT)).status_code == 409
    answer = await api.http.post("/runs", json={"agent": "nobody", "input": 1})
    assert (answer.status_code, "nobody" in answer.text) == (404, True)


async def test_a_key_gives_the_run_it_stands_for_when_its_agent_is_gone(api: Api) -> None:
    one = await made(api)
    body, key = {"agent": "researcher", "input": 1}, {"Idempotency-Key": "k"}
    first = await api.http.post("/runs", json=body, headers=key)
    assert (await api.http.delete(f"/agents/{one['id']}")).status_code == 204
    again = await api.http.post("/runs", json=body, headers=key)
    assert (first.status_code, again.status_code) == (201, 200)
    assert (again.json()["id"], again.headers["idempotent-replayed"]) == (first.json()["id"], "true")
    for refused in ({**body, "input": 2}, key), (body, {"Idempotency-Key": "l"}), (body, {}):
        assert (await api.http.post("/runs", json=refused[0], headers=refused[1])).status_code == 404


async def test_a_batch_of_an_agents_runs_gives_each_its_own(api: Api) -> None:
    await made(api, budget={"tokens": 5000})
    asked: list[dict[str, Any]] = [
        {"agent": "researcher", "input": "a", "goal": "A"},
        {"agent": "researcher", "input": "b", "metadata": {"m": 1}, "budget": {"tokens": 7}},
    ]
    answer = await api.http.post("/runs/batch", json={"runs": asked})
    assert answer.status_code == 201, answer.text
    runs = [(await api.http.get(f"/runs/{one['id']}")).json() for one in answer.json()["items"]]
    told = [(run["input"], run["goal"], run["metadata"], run["steps"][0]["input"]["input"]) for run in runs]
    assert told == [("a", "A", None, "a"), ("b", None, {"m": 1}, "b")]
    caps = [(await api.http.get(f"/runs/{run['id']}/budget")).json()["limits"][0]["cap"] for run in runs]
    assert caps == [5000, 7]
    unknown = await api.http.post("/runs/batch", json={"runs": [asked[0], {"agent": "nobody"}]})
    assert (unknown.status_code, unknown.json()["run"]) == (404, 1)


@pytest.mark.usefixtures("worker")
async def test_an_agents_run_answers_keeps_its_configuration_and_is_counted(api: Api) -> None:
    one = await made(api)
    run = await run_of(api, "What is 17*23?")
    assert run["status"] == "completed", run
    assert "391" in run["steps"][0]["output"]["text"]
    assert (run["agent"], run["agent_id"], run["calls"]) == ("researcher", one["id"], 2)
    assert run["input_tokens"] > 0
    assert run["steps"][0]["tokens"] == run["input_tokens"] + run["output_tokens"]
    (listed,) = (await api.http.get("/runs?agent=researcher")).json()["items"]
    assert listed["id"] == run["id"]
    (shown,) = (await api.http.get("/agents")).json()["items"]
    assert (shown["runs"], shown["open_runs"], shown["tokens"]) == (1, 0, run["input_tokens"] + run["output_tokens"])


@pytest.mark.usefixtures("worker")
async def test_a_message_goes_on_with_a_completed_conversation_in_a_run_of_its_own(api: Api) -> None:
    await made(api)
    first = await run_of(api, "What is 2+3?")
    answer = await api.http.post(f"/runs/{first['id']}/messages", json={"message": "And 4*5?"})
    assert answer.status_code == 201
    second = await ended(api, answer.json()["id"])
    assert second["origin"] == first["id"]
    said = [m.get("text") for m in second["steps"][0]["output"]["messages"] if m["role"] == "user"]
    assert said == ["What is 2+3?", "And 4*5?"]
    assert "20" in second["steps"][0]["output"]["text"]


@pytest.mark.usefixtures("worker")
async def test_a_message_answers_the_question_an_agent_waits_with(api: Api) -> None:
    await made(api, allowed_tools=["request_human_input"])
    run = await asking(api)
    answer = await api.http.post(f"/runs/{run}/messages", json={"message": "Rome"})
    assert answer.status_code == 202, answer.text
    done = await ended(api, run)
    assert "Rome" in done["steps"][0]["output"]["text"]


@pytest.mark.usefixtures("worker")
async def test_only_who_may_answer_a_wait_answers_one_by_a_message(api: Api) -> None:
    await made(api, allowed_tools=["request_human_input"])
    run = await asking(api)
    writer, operator, reader = [await key_of(api, *s) for s in (("write",), ("write", "operate"), ("read",))]
    refused = await api.http.post(f"/runs/{run}/messages", json={"message": "Rome"}, headers=writer)
    assert (refused.status_code, "operate" in refused.text) == (403, True)
    (wait,) = (await api.http.get("/waits", headers=reader)).json()["items"]
    assert wait["run_id"] == run
    answer = await api.http.post(f"/runs/{run}/messages", json={"message": "Oslo"}, headers=operator)
    assert answer.status_code == 202, answer.text


@pytest.mark.parametrize(
    "metadata", [{"a": functools.reduce(lambda inner, _: [inner], range(300), [])}, {"a": "x" * 300_000}]
)
async def test_what_a_message_brings_along_is_checked_as_the_message_is(api: Api, metadata: Any) -> None:
    answer = await api.http.post(f"/runs/{GONE}/messages", json={"message": "x", "metadata": metadata})
    assert (answer.status_code, answer.json()["field"]) == (422, "metadata")


async def test_messages_to_runs_that_take_none_say_why(api: Api) -> None:
    await made(api)
    plain = await api.start({"name": "a"})
    open_ = (await api.http.post("/runs", json={"agent": "researcher", "input": 1})).json()["id"]
    assert (await api.http.post(f"/runs/{GONE}/messages", json={"message": 1})).status_code == 404
    for run, why in ((plain, "no agent's"), (open_, "pending")):
        answer = await api.http.post(f"/runs/{run}/messages", json={"message": "x"})
        assert (answer.status_code, why in answer.text) == (409, True)


@pytest.mark.usefixtures("worker")
async def test_a_run_paused_by_its_budget_says_so_and_goes_on_when_it_is_raised(api: Api) -> None:
    await made(api)
    budget = {"tokens": 100, "onLimit": "pause"}
    run = (await api.http.post("/runs", json={"agent": "researcher", "input": "1+1", "budget": budget})).json()["id"]
    async with api.socket(f"/ws/{run}") as socket:
        async for text in socket:
            if "run.paused" in str(text):
                break
    told = (await api.http.get(f"/runs/{run}/explain")).json()["steps"][0]
    assert told["reason"] in ("budget", "running")
    limits = (await api.http.get(f"/runs/{run}/budget")).json()["limits"]
    assert (limits[0]["cap"], limits[0]["reserved"]) == (100, 0)
    assert (await api.http.post(f"/runs/{run}/budget", json={})).status_code == 422
    answer = await api.http.post(f"/runs/{run}/budget", json={"tokens": 100_000})
    assert (answer.status_code, answer.json()["resumed"]) == (202, [run])
    assert (await ended(api, run))["status"] == "completed"
    assert (await api.http.post(f"/runs/{run}/budget", json={"tokens": 200_000})).status_code == 409


@pytest.mark.usefixtures("worker")
async def test_a_run_beyond_its_budget_ends_by_it_and_says_which_limit(api: Api) -> None:
    await made(api)
    run = await run_of(api, "1+1", budget={"tokens": 100})
    assert (run["status"], run["error"]["budget"]["meter"]) == ("budget_exceeded", "tokens")


async def test_an_agents_concurrency_lets_the_others_wait_their_turn(api: Api, database: Database) -> None:
    await made(api, concurrency=2)
    runs = [(await api.http.post("/runs", json={"agent": "researcher", "input": i})).json()["id"] for i in range(5)]
    states = "select state from queue order by run_id"
    assert [row[0] for row in database.execute(states)] == ["ready", "ready", "capped", "capped", "capped"]
    told = (await api.http.get(f"/runs/{runs[3]}/explain")).json()["steps"][0]
    assert told["reason"] == "agent_busy"
    await api.http.post(f"/runs/{runs[0]}/cancel")
    assert [row[0] for row in database.execute(states)] == ["ready", "ready", "capped", "capped"]
    await api.http.post(f"/runs/{runs[2]}/cancel")
    await api.http.post(f"/runs/{runs[1]}/cancel")
    assert [row[0] for row in database.execute(states)] == ["ready", "ready"]


@pytest.mark.usefixtures("worker")
async def test_all_runs_of_a_capped_agent_end(api: Api) -> None:
    await made(api, concurrency=1)
    runs = [(await api.http.post("/runs", json={"agent": "researcher", "input": "1+1"})).json()["id"] for _ in range(6)]
    assert {(await ended(api, run))["status"] for run in runs} == {"completed"}


async def test_a_price_is_set_shown_and_forgotten(api: Api) -> None:
    place = "/models/openai/house-model"
    assert (await api.http.put(place, json={"price": {"inputUsd": "1.5", "outputUsd": 2}})).status_code == 200
    (row,) = (await api.http.get("/models")).json()["items"]
    assert (row["provider"], row["name"], row["price"]["input_usd"]) == ("openai", "house-model", "1.5")
    assert (await api.http.put(place, json={"price": {"inputUsd": -1, "outputUsd": 2}})).status_code == 422
    assert (await api.http.delete(place)).status_code == 204
    assert (await api.http.delete(place)).status_code == 404


async def test_a_gate_is_limited_and_shown(api: Api) -> None:
    answer = await api.http.put("/gates/provider:openai", json={"requestsPerMinute": 60, "concurrency": 2})
    assert answer.status_code == 200
    (row,) = (await api.http.get("/gates")).json()["items"]
    assert (row["name"], row["requests_per_minute"], row["state"], row["in_use"]) == (
        "provider:openai",
        60,
        "closed",
        0,
    )
    assert (await api.http.put("/gates/provider:openai", json={"concurrency": 0})).status_code == 422
