"""Waits: people, signals, timers, steps and runs; each answered once, by whoever may. A real API, worker and PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from durable_agent.settings import Settings
from tests.support import outside
from tests.support.postgres import Database
from tests.support.server import Api, serving, working
from tests.support.story import MODULES, effects, end, next_wait, run, until, wait_of


@pytest.fixture
async def api(settings: Settings) -> AsyncIterator[Api]:
    """An API and a worker that offers the world outside."""
    outside.forget()
    async with serving(settings) as made, working(settings, MODULES):
        yield made


async def status(api: Api, run_id: str) -> str:
    return str((await api.http.get(f"/runs/{run_id}")).json()["status"])


async def test_an_approval_step_waits_and_goes_on(api: Api) -> None:
    run_id = await api.start(
        {"name": "approval.go", "input": {"prompt": "Go on?", "tool": "charge", "arguments": {"amount": 5}}},
        {"name": "after", "tool": "double", "input": {"item": 2}, "dependsOn": ["approval.go"]},
    )
    wait = await wait_of(api, run_id)
    assert (wait["kind"], wait["request"]["arguments"]) == ("approval", {"amount": 5})
    assert await status(api, run_id) == "waiting_for_approval"
    answer = await api.http.post(f"/waits/{wait['id']}/approve", json={"reason": "fine"})
    assert answer.status_code == 202
    ended = await end(api, run_id)
    assert ended["status"] == "completed"
    assert ended["steps"][0]["output"] == {"approved": True, "by": "local", "reason": "fine"}
    kinds = [event["type"] for event in await api.watch(run_id)]
    assert "run.waiting_for_approval" in kinds
    assert "run.continued" in kinds


async def test_a_rejected_approval_ends_the_run_or_is_an_answer_like_another(api: Api) -> None:
    refusing = await api.start({"name": "approval.a", "input": {}})
    going_on = await api.start({"name": "approval.a", "input": {"on_reject": "continue"}})
    for run_id in (refusing, going_on):
        wait = await wait_of(api, run_id)
        await api.http.post(f"/waits/{wait['id']}/reject", json={"reason": "no"})
    failed = await end(api, refusing)
    assert (failed["status"], failed["steps"][0]["error"]["reason"]) == ("failed", "rejected")
    assert (await end(api, going_on))["steps"][0]["output"]["approved"] is False


async def test_what_waits_is_listed_the_oldest_first_and_what_is_over_the_newest_first(api: Api) -> None:
    asked = []
    for name in ("a", "b", "c"):
        run_id = await api.start({"name": f"approval.{name}", "input": {}})
        asked.append((await wait_of(api, run_id))["id"])

    async def pages(state: str) -> list[str]:
        found, cursor = [], ""
        while True:
            page = (await api.http.get(f"/waits?state={state}&limit=2{cursor}")).json()
            found += [one["id"] for one in page["items"]]
            if page["next_cursor"] is None:
                return found
            cursor = f"&cursor={page['next_cursor']}"

    assert await pages("open") == asked
    for wait in asked:
        await api.http.post(f"/waits/{wait}/approve")
    assert await pages("answered") == asked[::-1]


async def test_exactly_one_of_many_answers_wins_and_the_others_are_told_who(api: Api) -> None:
    run_id = await api.start({"name": "approval.a", "input": {"on_reject": "continue"}})
    wait = await wait_of(api, run_id)
    answers = await asyncio.gather(
        *(api.http.post(f"/waits/{wait['id']}/{verb}", json={}) for verb in ["approve", "reject"] * 5)
    )
    assert sorted(answer.status_code for answer in answers) == [202] + [409] * 9
    winner = next(a for a in answers if a.status_code == 202).json()["decision"]
    assert {a.json()["winner"]["decision"] for a in answers if a.status_code == 409} == {winner}
    assert (await end(api, run_id))["steps"][0]["output"]["approved"] is (winner == "approved")


async def test_an_approval_that_expires_is_rejected_and_takes_no_answer(api: Api, database: Database) -> None:
    run_id = await api.start({"name": "approval.a", "input": {"expires_s": 3600}})
    wait = await wait_of(api, run_id)
    database.move_clock(3601)
    late = await api.http.post(f"/waits/{wait['id']}/approve", json={})
    assert late.status_code == 409
    ended = await end(api, run_id)
    assert (ended["status"], ended["steps"][0]["error"]["reason"]) == ("failed", "rejected")


async def test_who_asked_may_not_approve_where_it_is_forbidden(api: Api) -> None:
    run_id = await api.start({"name": "approval.a", "input": {"allow_self": False}})
    wait = await wait_of(api, run_id)
    answer = await api.http.post(f"/waits/{wait['id']}/approve", json={})
    assert answer.status_code == 403
    assert "may not give it" in answer.json()["detail"]
    assert await status(api, run_id) == "waiting_for_approval"


@pytest.mark.parametrize("given", [{"charged": 6}, {"twice": True}])
async def test_an_approval_holds_for_exactly_one_call_with_its_arguments(api: Api, given: dict[str, Any]) -> None:
    run_id = await run(api, "approved_charge", **given)
    wait = await wait_of(api, run_id)
    await api.http.post(f"/waits/{wait['id']}/approve", json={})
    ended = await end(api, run_id)
    error = ended["steps"][0]["error"]
    assert (ended["status"], error["reason"]) == ("failed", "refused")
    assert "approval does not allow" in error["message"]
    assert outside.called("charge") == ([5] if "twice" in given else [])


async def test_an_approved_call_is_made_and_uses_the_approval_up(api: Api) -> None:
    run_id = await run(api, "approved_charge")
    wait = await wait_of(api, run_id)
    await api.http.post(f"/waits/{wait['id']}/approve", json={})
    assert (await end(api, run_id))["status"] == "completed"
    (effect,) = await effects(api, run_id)
    assert effect["approval"] == wait["id"]
    assert (await api.http.get(f"/waits/{wait['id']}")).json()["consumed_at"] is not None


@pytest.mark.parametrize(
    ("kind", "verb", "body"),
    [("approval", "respond", {"value": 1}), ("input", "approve", {}), ("approval", "settle", {"outcome": "fail"})],
)
async def test_an_answer_that_does_not_fit_is_refused_and_the_wait_stays_open(
    api: Api, kind: str, verb: str, body: dict[str, Any]
) -> None:
    run_id = await api.start({"name": f"{kind}.a", "input": {}})
    wait = await wait_of(api, run_id)
    answer = await api.http.post(f"/waits/{wait['id']}/{verb}", json=body)
    assert answer.status_code == 422
    assert (await api.http.get(f"/waits/{wait['id']}")).json()["state"] == "open"


async def test_a_question_is_answered(api: Api) -> None:
    run_id = await api.start({"name": "input.name", "input": {"prompt": "Who?", "schema": {"type": "string"}}})
    wait = await wait_of(api, run_id)
    assert await status(api, run_id) == "waiting_for_input"
    await api.http.post(f"/waits/{wait['id']}/respond", json={"value": {"name": "Ada"}})
    assert (await end(api, run_id))["steps"][0]["output"] == {"name": "Ada"}


async def test_a_signal_that_comes_early_is_kept_and_each_is_heard_once(api: Api) -> None:
    run_id = await api.start(
        {"name": "approval.first", "input": {}},
        {"name": "ear", "tool": "hear", "input": {"times": 3}, "dependsOn": ["approval.first"]},
    )
    for n in (1, 2):
        assert (await api.http.post(f"/runs/{run_id}/signals/go", json={"n": n})).status_code == 202
    wait = await wait_of(api, run_id)
    await api.http.post(f"/waits/{wait['id']}/approve", json={})
    await until(api, run_id, "run.waiting")
    await api.http.post(f"/runs/{run_id}/signals/go", json={"n": 3})
    assert (await end(api, run_id))["steps"][1]["output"] == [{"n": 1}, {"n": 2}, {"n": 3}]


async def test_a_signal_with_a_key_counts_once_and_the_first_one_wins(api: Api) -> None:
    run_id = await run(api, "hear", name="other")
    send = [("a", 200), ("a", 200), ("b", 409)]
    codes = []
    for payload, _ in send:
        answer = await api.http.post(f"/runs/{run_id}/signals/go", json=payload, headers={"Idempotency-Key": "k"})
        codes.append(answer.status_code)
    assert codes == [202, 200, 409]
    await api.http.post(f"/runs/{run_id}/signals/other", json={})
    await end(api, run_id)
    again = {"Idempotency-Key": "k"}
    assert (await api.http.post(f"/runs/{run_id}/signals/go", json="a", headers=again)).status_code == 200
    late = await api.http.post(f"/runs/{run_id}/signals/go", json="a")
    assert late.status_code == 409
    assert "nobody will hear the signal" in late.json()["detail"]


async def test_a_signal_that_does_not_come_in_time_fails_the_step_once(api: Api, database: Database) -> None:
    run_id = await run(api, "hear", timeout_s=3600)
    await until(api, run_id, "run.waiting")
    database.move_clock(3601)
    ended = await end(api, run_id)
    assert (ended["steps"][0]["error"]["reason"], ended["steps"][0]["failures"]) == ("expired", 1)


@pytest.mark.parametrize(
    "step", [{"tool": "nap", "input": {"seconds": 3600}}, {"kind": "sleep", "input": {"seconds": 3600}}]
)
async def test_a_timer_frees_the_worker_and_wakes_the_step(api: Api, database: Database, step: dict[str, Any]) -> None:
    run_id = await api.start({"name": "s", **step})
    await until(api, run_id, "run.waiting")
    workers = (await api.http.get("/workers")).json()["items"]
    assert [w["running"] for w in workers if w["state"] == "active"] == [0]
    database.move_clock(3601)
    assert (await end(api, run_id))["status"] == "completed"


async def test_a_step_spawns_others_and_gets_their_results_by_index(api: Api) -> None:
    run_id = await run(api, "fan", items=[3, 1, 2, 5, 4], concurrency=2)
    ended = await end(api, run_id)
    assert ended["steps"][0]["output"] == [6, 2, 4, 10, 8]
    assert ended["steps_total"] == 6
    assert {step["spawned_by"] for step in ended["steps"][1:]} == {"s"}


async def test_a_map_never_has_more_items_under_way_than_it_may(api: Api) -> None:
    run_id = await api.start(
        {"name": "m", "kind": "map", "input": {"tool": "double", "items": list(range(9)), "concurrency": 3}}
    )
    assert (await end(api, run_id))["steps"][0]["output"] == [n * 2 for n in range(9)]
    most, running = 0, set()
    for event in await api.watch(run_id):
        if event["type"] == "step.claimed" and event["step"] != "m":
            running.add(event["step"])
        elif event["type"] == "step.succeeded":
            running.discard(event["step"])
        most = max(most, len(running))
    assert most <= 3


async def test_a_run_starts_another_and_waits_for_it(api: Api) -> None:
    run_id = await run(api, "parent")
    output = (await end(api, run_id))["steps"][0]["output"]
    assert (output["status"], output["output"]) == ("completed", {"child": 8})
    child = (await api.http.get(f"/runs/{output['run_id']}")).json()
    assert (child["parent_run"], child["goal"]) == (run_id, "a child")


async def test_a_child_that_fails_is_an_answer_too(api: Api) -> None:
    output = (await end(api, await run(api, "parent", does="boom")))["steps"][0]["output"]
    assert output["status"] == "failed"


async def test_a_cancelled_run_takes_the_runs_it_waits_for_with_it(api: Api) -> None:
    run_id = await api.start(
        {"name": "r", "kind": "run", "input": {"steps": [{"name": "ask", "kind": "approval", "input": {}}]}}
    )
    wait = await next_wait(api, run_id)
    child = wait["child_run"]
    await until(api, child, "run.waiting_for_approval")
    await api.http.post(f"/runs/{run_id}/cancel", json={})
    assert (await end(api, child))["status"] == "cancelled"
    assert (await end(api, run_id))["status"] == "cancelled"


@pytest.mark.parametrize(
    ("amount", "then"),
    [(1, "pass"), (50, "approve"), (900, "refuse")],
)
async def test_a_policy_passes_asks_or_refuses(api: Api, amount: int, then: str) -> None:
    rules = [
        {"when": "input.amount < 10", "then": "pass"},
        {"when": "input.amount > 500", "then": "refuse", "reason": "too much"},
    ]
    run_id = await api.start({"name": "p", "kind": "policy", "input": {"rules": rules}}, input={"amount": amount})
    if then == "approve":
        wait = await wait_of(api, run_id)
        await api.http.post(f"/waits/{wait['id']}/approve", json={"reason": "with controls"})
    step = (await end(api, run_id))["steps"][0]
    if then == "refuse":
        assert (step["error"]["reason"], step["error"]["message"]) == ("refused", "too much")
    else:
        assert step["output"]["decision"] == {"pass": "pass", "approve": "approved"}[then]


async def test_a_paused_run_keeps_an_answer_until_it_is_resumed(api: Api) -> None:
    run_id = await api.start({"name": "approval.a", "input": {}})
    wait = await wait_of(api, run_id)
    await api.http.post(f"/runs/{run_id}/pause", json={})
    await api.http.post(f"/waits/{wait['id']}/approve", json={})
    assert await status(api, run_id) == "paused"
    await api.http.post(f"/runs/{run_id}/resume", json={})
    assert (await end(api, run_id))["status"] == "completed"


async def test_a_failed_run_undoes_what_it_did_the_last_first(api: Api) -> None:
    run_id = await api.start(
        {"name": "first", "tool": "charge", "input": {"amount": 3}},
        {"name": "second", "tool": "wrong", "dependsOn": ["first"]},
    )
    ended = await end(api, run_id)
    assert ended["status"] == "failed"
    assert outside.called("refund") == [7, 3]
    assert (await statuses(ended))["first"] == "compensated"
    kinds = [event["type"] for event in await api.watch(run_id)]
    assert kinds.index("run.compensating") < kinds.index("run.failed")


async def statuses(run: dict[str, Any]) -> dict[str, str]:
    return {step["name"]: step["status"] for step in run["steps"]}


async def test_a_cancelled_run_undoes_what_it_did(api: Api) -> None:
    run_id = await api.start(
        {"name": "first", "tool": "charge", "input": {"amount": 3}},
        {"name": "approval.second", "input": {}, "dependsOn": ["first"]},
    )
    await wait_of(api, run_id)
    await api.http.post(f"/runs/{run_id}/cancel", json={})
    assert (await end(api, run_id))["status"] == "cancelled"
    assert outside.called("refund") == [3]


@pytest.mark.parametrize("by", ["step", "run"])
async def test_a_compensation_that_fails_is_shown_and_can_be_redriven(api: Api, by: str) -> None:
    outside.GATES["refund.fails"].set()
    run_id = await api.start(
        {"name": "first", "tool": "charge", "input": {"amount": 3}},
        {"name": "second", "tool": "wrong", "dependsOn": ["first"]},
        {"name": "third", "tool": "double", "input": {"item": 1}, "dependsOn": ["second"]},
    )
    ended = await end(api, run_id)
    assert (ended["status"], ended["error"]["reason"]) == ("failed", "compensation_failed")
    first = ended["last_seq"]
    outside.GATES["refund.fails"].clear()
    which = {"step": ended["error"]["step"]} if by == "step" else {}
    answer = await api.http.post("/dead-letters/redrive", json={"runId": run_id, **which})
    assert answer.status_code == 200, answer.text
    assert (await api.watch(run_id, after=first))[-1]["type"] == "run.failed"
    ended = await end(api, run_id)
    assert (ended["status"], ended["error"]["reason"]) == ("failed", "non_retryable")
    assert (await statuses(ended))["first"] == "compensated"
    assert (await statuses(ended))["third"] == "cancelled"
    assert outside.called("refund")[-1] == 3
    assert len(set(outside.keys("refund"))) == 2
