"""Replay and fork: a run made again from its record calls nobody; made again live it shares what came before."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from durable_agent.settings import Settings
from tests.support import outside
from tests.support.postgres import Database
from tests.support.server import Api, serving, working
from tests.support.story import MODULES, effects, end, run, until, wait_of


@pytest.fixture
async def api(settings: Settings) -> AsyncIterator[Api]:
    """An API and a worker that offers the world outside."""
    outside.forget()
    async with serving(settings) as made, working(settings, MODULES):
        yield made


async def replay(api: Api, run_id: str, **given: Any) -> dict[str, Any]:
    """Return the run that the replay made, when it has ended."""
    answer = await api.http.post(f"/runs/{run_id}/replay", json=given)
    assert answer.status_code == 201, answer.text
    return await end(api, answer.json()["id"])


async def diff(api: Api, a: str, b: str) -> dict[str, Any]:
    return dict((await api.http.get(f"/runs/{a}/diff/{b}")).json())


def outputs(run: dict[str, Any]) -> dict[str, Any]:
    return {step["name"]: step["output"] for step in run["steps"]}


async def chain(api: Api) -> str:
    """Return a run that read, charged, waited, slept and doubled; it has ended."""
    run_id = await api.start(
        {"name": "buy", "tool": "buy", "input": {"waits": True}},
        {"name": "alone", "tool": "charge", "input": {"amount": 9}, "dependsOn": ["buy"]},
        {"name": "fan", "tool": "fan", "input": {"items": [1, 2]}, "dependsOn": ["alone"]},
        {"name": "last", "tool": "parent", "dependsOn": ["fan"]},
    )
    wait = await wait_of(api, run_id)
    await api.http.post(f"/waits/{wait['id']}/respond", json={"value": "yes"})
    await end(api, run_id)
    return run_id


async def test_a_recorded_replay_calls_nobody_and_comes_to_the_same(api: Api) -> None:
    run_id = await chain(api)
    first = await end(api, run_id)
    outside.forget()
    again = await replay(api, run_id, mode="recorded", fromStep=0)
    assert again["status"] == "completed"
    assert dict(outside.CALLS) == {}
    assert outputs(again) == {name: outputs(first)[name] for name in outputs(again)}
    assert (again["origin"], again["mode"], again["from_step"]) == (run_id, "recorded", 0)
    found = await diff(api, run_id, again["id"])
    assert [row["step"] for row in found["steps"] if row["same"]] == ["buy", "alone", "fan", "last"]


async def test_a_replay_is_itself_replayed_from_the_record_it_was_made_from(api: Api) -> None:
    run_id = await chain(api)
    outside.forget()
    once = await replay(api, run_id, mode="recorded", fromStep="fan")
    again = await replay(api, once["id"], mode="recorded", fromStep=0)
    assert (again["status"], outputs(again), again["origin"]) == ("completed", outputs(once), once["id"]), again[
        "error"
    ]
    last = await replay(api, again["id"], mode="live", fromStep="last")
    assert (last["status"], dict(outside.CALLS)) == ("completed", {})
    assert outputs(last) == {**outputs(once), "last": outputs(last)["last"]}


async def test_a_recorded_replay_of_a_failed_run_fails_the_same_way(api: Api) -> None:
    run_id = await run(api, "letter", how="refused")
    first = await end(api, run_id)
    outside.forget()
    again = await replay(api, run_id, mode="recorded")
    assert (again["status"], outside.called("mail")) == ("failed", [])
    assert again["steps"][0]["error"]["message"] == first["steps"][0]["error"]["message"]


async def test_a_recorded_replay_of_a_call_that_a_person_gave_up_fails_the_same_way(api: Api) -> None:
    run_id = await run(api, "letter", how="breaks")
    wait = await wait_of(api, run_id)
    await api.http.post(f"/waits/{wait['id']}/settle", json={"outcome": "fail", "reason": "give it up"})
    first = await end(api, run_id)
    again = await replay(api, run_id, mode="recorded")
    assert again["status"] == "failed"
    for told in (first, again):
        error = told["steps"][0]["error"]
        assert (error["failure"], error["message"]) == ("unknown_effect", "give it up")
    assert outside.called("mail") == ["her"]


async def test_a_replay_names_the_first_step_that_is_no_longer_what_was_recorded(api: Api) -> None:
    run_id = await chain(api)
    again = await replay(api, run_id, mode="recorded", edits={"fan": {"input": {"items": [1, 2, 3]}}})
    step = next(step for step in again["steps"] if step["name"] == "fan")
    assert (again["status"], step["error"]["reason"]) == ("failed", "diverged")
    assert (await diff(api, run_id, again["id"]))["first"]["step"] == "fan"


async def test_a_live_replay_shares_what_came_before_and_makes_the_rest_again(api: Api) -> None:
    run_id = await chain(api)
    first = await end(api, run_id)
    outside.forget()
    again = await replay(api, run_id, mode="live", fromStep="alone")
    assert again["status"] == "completed"
    assert outside.called("charge") == [9]
    assert outside.called("read") == []
    shared = [step["name"] for step in again["steps"] if step["shared"]]
    assert shared == ["buy"]
    assert outputs(again)["buy"] == outputs(first)["buy"]
    assert outside.keys("charge") != [e["key"] for e in await effects(api, run_id)]


async def test_what_is_shared_is_seen_by_the_steps_that_follow(api: Api) -> None:
    run_id = await api.start(
        {"name": "a", "tool": "double", "input": {"item": 4}},
        {"name": "b", "tool": "double", "input": {"item": 5}, "dependsOn": ["a"]},
        {"name": "p", "kind": "map", "input": {"over": "c", "tool": "double"}, "dependsOn": ["c"]},
        {"name": "c", "kind": "run", "input": {"steps": [{"name": "x", "tool": "double", "input": {"item": 1}}]},
         "dependsOn": ["a", {"step": "b", "when": "output == 10"}]},
    )  # fmt: skip
    await end(api, run_id)
    edited = await replay(api, run_id, fromStep="p", edits={"c": {"output": [7]}})
    assert outputs(edited)["p"] == [14]
    assert [s["name"] for s in edited["steps"] if s["edited"]] == ["c"]
    twice = await replay(api, edited["id"], fromStep="p")
    assert outputs(twice) == {**outputs(edited), "p": [14]}


async def test_an_edited_output_moves_the_branch_that_is_taken(api: Api) -> None:
    run_id = await api.start(
        {"name": "a", "tool": "double", "input": {"item": 1}},
        {"name": "small", "tool": "double", "input": {"item": 1}, "dependsOn": [{"step": "a", "when": "output < 10"}]},
        {"name": "big", "tool": "double", "input": {"item": 100}, "dependsOn": [{"step": "a", "when": "output >= 10"}]},
        {"name": "end", "tool": "double", "input": {"item": 0}, "dependsOn": ["small", "big"]},
    )
    await end(api, run_id)
    again = await replay(api, run_id, fromStep="end", edits={"a": {"output": 50}})
    assert {s["name"]: s["status"] for s in again["steps"]} == {
        "a": "succeeded", "small": "skipped", "big": "succeeded", "end": "succeeded",
    }  # fmt: skip


async def test_an_edited_output_stands_for_a_step_that_was_skipped(api: Api) -> None:
    run_id = await api.start(
        {"name": "a", "tool": "double", "input": {"item": 1}},
        {"name": "b", "tool": "double", "input": {"item": 1}, "dependsOn": [{"step": "a", "when": "output > 2"}]},
        {"name": "p", "kind": "map", "input": {"over": "b", "tool": "double"}, "dependsOn": ["b"]},
    )
    assert [step["status"] for step in (await end(api, run_id))["steps"]] == ["succeeded", "skipped", "skipped"]
    again = await replay(api, run_id, fromStep="b", edits={"b": {"output": [21]}})
    assert (again["status"], outputs(again)["b"], outputs(again)["p"]) == ("completed", [21], [42])


async def test_a_recorded_replay_of_a_fork_keeps_what_was_put_into_it(api: Api) -> None:
    """And of a fork of that fork: nothing is recorded of an edited output that could be made again."""
    run_id = await api.start(
        {"name": "a", "tool": "double", "input": {"item": 4}},
        {"name": "b", "tool": "double", "input": {"item": 5}, "dependsOn": ["a"]},
        {"name": "p", "kind": "map", "input": {"over": "a", "tool": "double"}, "dependsOn": ["a", "b"]},
    )
    await end(api, run_id)
    edits = {"a": {"output": [7]}, "b": {"input": {"item": 6}}}
    fork = await replay(api, run_id, mode="live", fromStep="b", edits=edits)
    live = await replay(api, fork["id"], mode="live", fromStep="p")
    for origin in (fork, live):
        again = await replay(api, origin["id"], mode="recorded", fromStep=0)
        shown = [{"a": outputs(one)["a"], "b": outputs(one)["b"], "p": outputs(one)["p"]} for one in (origin, again)]
        assert shown == [{"a": [7], "b": 12, "p": [14]}] * 2, again["error"]
        assert [(s["name"], s["edited"]) for s in again["steps"] if s["shared"]] == [("a", True)]


async def test_a_fork_does_not_undo_what_it_did_not_do(api: Api) -> None:
    run_id = await api.start(
        {"name": "a", "tool": "charge", "input": {"amount": 3}, "compensate": "refund"},
        {"name": "b", "tool": "double", "input": {"item": 1}, "dependsOn": ["a"]},
    )
    await end(api, run_id)
    edits = {"a": {"output": {"charged": 4}}, "b": {"input": {"item": None}}}
    again = await replay(api, run_id, fromStep="b", edits=edits)
    assert (again["status"], outside.called("refund")) == ("failed", [])


async def test_an_authors_transaction_is_not_made_again_in_a_replay(api: Api, database: Database) -> None:
    database.execute("create table notes (text text)")
    run_id = await run(api, "write", text="once")
    await end(api, run_id)
    again = await replay(api, run_id, mode="recorded")
    assert (again["status"], outputs(again)) == ("completed", {"s": "once"})
    assert database.execute("select text from notes") == [("once",)]


async def test_a_replay_undoes_nothing(api: Api) -> None:
    run_id = await api.start(
        {"name": "first", "tool": "charge", "input": {"amount": 3}},
        {"name": "second", "tool": "wrong", "dependsOn": ["first"]},
    )
    await end(api, run_id)
    outside.forget()
    again = await replay(api, run_id, mode="recorded")
    assert again["status"] == "failed"
    assert dict(outside.CALLS) == {}


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"fromStep": 7}, 422, "fromStep"),
        ({"fromStep": "nobody"}, 422, "fromStep"),
        ({"edits": {"nobody": {"input": 1}}}, 422, "edits"),
        ({"edits": {"s": {}}}, 422, "edits"),
        ({"mode": "dry"}, 422, "mode"),
    ],
)
async def test_a_replay_that_makes_no_sense_is_refused_by_name(
    api: Api, body: dict[str, Any], status: int, field: str
) -> None:
    run_id = await run(api, "double", item=1)
    await end(api, run_id)
    answer = await api.http.post(f"/runs/{run_id}/replay", json=body)
    assert answer.status_code == status
    assert field in answer.text


async def test_the_record_of_a_run_that_has_not_ended_is_refused(api: Api) -> None:
    run_id = await run(api, "hear")
    await until(api, run_id, "run.waiting")
    answer = await api.http.post(f"/runs/{run_id}/replay", json={"mode": "recorded"})
    assert answer.status_code == 409
