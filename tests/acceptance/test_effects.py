"""Effects: recorded once, returned for ever, never made twice in silence. A real API, worker and PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

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


async def test_a_recorded_effect_is_returned_and_not_made_again(api: Api) -> None:
    run_id = await run(api, "buy", fails=2)
    ended = await end(api, run_id)
    assert ended["status"] == "completed"
    assert outside.called("read") == ["price"]
    assert outside.called("charge") == [5]
    (price,) = [e for e in await effects(api, run_id) if e["name"] == "read"]
    assert price["result"] == ended["steps"][0]["output"]["before"]
    assert (price["state"], price["class"]) == ("done", "safe")


async def test_time_ids_and_chance_are_the_same_at_every_attempt(api: Api) -> None:
    run_id = await run(api, "buy", waits=True)
    wait = await wait_of(api, run_id)
    before = {e["name"]: e["result"] for e in await effects(api, run_id)}
    await api.http.post(f"/waits/{wait['id']}/respond", json={"value": "yes"})
    output = (await end(api, run_id))["steps"][0]["output"]
    assert (output["at"], output["uid"], output["luck"]) == (
        before["ctx.now"],
        before["ctx.uuid"],
        before["ctx.random"],
    )
    assert output["answer"] == "yes"


@pytest.mark.parametrize("how", ["breaks", "bug", "unknown"])
async def test_a_manual_effect_whose_end_nobody_heard_waits_for_a_person(api: Api, how: str) -> None:
    run_id = await run(api, "letter", how=how)
    wait = await wait_of(api, run_id)
    assert wait["kind"] == "unknown_effect"
    found = (await api.http.get(f"/runs/{run_id}")).json()
    assert found["status"] == "waiting_for_approval"
    assert outside.called("mail") == ["her"]
    answer = await api.http.post(f"/waits/{wait['id']}/settle", json={"outcome": "happened", "result": "it went"})
    assert answer.status_code == 202, answer.text
    ended = await end(api, run_id)
    assert (ended["status"], ended["steps"][0]["output"]) == ("completed", "it went")
    assert outside.called("mail") == ["her"]


async def test_an_unknown_effect_is_sent_again_with_its_key_when_a_person_says_so(api: Api) -> None:
    run_id = await run(api, "letter", how="breaks")
    wait = await wait_of(api, run_id)
    await api.http.post(f"/waits/{wait['id']}/settle", json={"outcome": "send_again"})
    second = await next_wait(api, run_id, wait["id"])
    assert len(outside.called("mail")) == 2
    assert len(set(outside.keys("mail"))) == 1
    await api.http.post(f"/waits/{second['id']}/settle", json={"outcome": "fail", "reason": "give it up"})
    ended = await end(api, run_id)
    assert ended["status"] == "failed"
    assert ended["steps"][0]["error"]["failure"] == "unknown_effect"
    assert ended["steps"][0]["error"]["reason"] == "unknown_effect"


async def test_a_manual_effect_that_its_tool_says_did_not_happen_is_tried_again(api: Api) -> None:
    ended = await end(api, await run(api, "letter", how="refused"))
    assert ended["status"] == "failed"
    assert ended["steps"][0]["error"]["reason"] == "attempts_exhausted"
    assert len(outside.called("mail")) == 3
    assert len(set(outside.keys("mail"))) == 1


@pytest.mark.parametrize("how", ["breaks", "bug"])
async def test_a_manual_tool_as_a_step_of_its_own_waits_for_a_person_too(api: Api, how: str) -> None:
    run_id = await run(api, "mail", to="him", how=how)
    wait = await wait_of(api, run_id)
    assert wait["request"]["effect"] == 0
    await api.http.post(f"/waits/{wait['id']}/settle", json={"outcome": "happened", "result": "by hand"})
    ended = await end(api, run_id)
    assert (ended["status"], ended["steps"][0]["output"]) == ("completed", "by hand")
    assert outside.called("mail") == ["him"]


async def test_a_manual_step_that_is_timed_out_waits_for_a_person(api: Api) -> None:
    run_id = await run(api, "mail", to="him", how="hangs", step={"timeoutS": 0.1})
    wait = await wait_of(api, run_id)
    await api.http.post(f"/waits/{wait['id']}/settle", json={"outcome": "fail"})
    assert (await end(api, run_id))["steps"][0]["error"]["failure"] == "unknown_effect"


async def test_an_effect_with_a_look_up_is_adopted_when_it_happened(api: Api) -> None:
    ended = await end(api, await run(api, "ordering"))
    assert ended["steps"][0]["output"] == {"ordered": "tea", "found": True}
    assert outside.called("order") == ["tea"]
    assert outside.keys("look-up") == outside.keys("order")


async def test_a_step_with_a_look_up_is_adopted_when_it_happened(api: Api) -> None:
    ended = await end(api, await run(api, "order", item="tea", breaks=True))
    assert ended["steps"][0]["output"] == {"ordered": "tea", "found": True}
    assert outside.called("order") == ["tea"]


async def test_a_request_that_differs_from_the_recorded_one_is_never_called(api: Api) -> None:
    ended = await end(api, await run(api, "fickle"))
    assert ended["steps"][0]["error"]["failure"] == "diverged"
    assert ended["steps"][0]["error"]["reason"] == "diverged"
    assert "'charge'" in ended["steps"][0]["error"]["message"]
    assert outside.called("charge") == [1]


async def test_what_is_under_way_is_recorded_before_the_step_waits(api: Api) -> None:
    run_id = await run(api, "both")
    wait = await wait_of(api, run_id)
    await api.http.post(f"/waits/{wait['id']}/respond", json={"value": 3})
    assert (await end(api, run_id))["steps"][0]["output"] == [{"charged": 1}, 3]
    assert outside.called("charge") == [1]


async def test_what_ends_an_attempt_ends_it_though_its_handler_takes_it_for_a_result(api: Api) -> None:
    run_id = await run(api, "heedless")
    doubt = await wait_of(api, run_id)
    assert doubt["kind"] == "unknown_effect"
    await api.http.post(f"/waits/{doubt['id']}/settle", json={"outcome": "happened", "result": "it went"})
    question = await next_wait(api, run_id, doubt["id"])
    await api.http.post(f"/waits/{question['id']}/respond", json={"value": 3})
    assert (await end(api, run_id))["steps"][0]["output"] == ["it went", "{'charged': 1}", "3"]
    assert (outside.called("mail"), outside.called("charge")) == (["her"], [1])


async def test_an_authors_rows_are_committed_with_the_step_or_not_at_all(api: Api, database: Database) -> None:
    database.execute("create table notes (text text)")
    ended = await end(api, await run(api, "write", text="once", fails=2))
    assert ended["status"] == "completed"
    assert database.execute("select text from notes") == [("once",)]


async def test_a_transaction_that_the_handler_ends_itself_is_refused(api: Api, database: Database) -> None:
    database.execute("create table notes (text text)")
    ended = await end(api, await run(api, "write", text="early", ends=True))
    assert ended["status"] == "failed"
    assert "transaction" in ended["steps"][0]["error"]["message"]


async def test_cancel_in_the_middle_of_a_manual_call_leaves_it_unknown(api: Api) -> None:
    run_id = await run(api, "letter", how="hangs")
    await until(api, run_id, "effect.intended")
    async with asyncio.timeout(10):
        while not outside.called("mail"):  # noqa: ASYNC110  # the world has no event to wait for
            await asyncio.sleep(0)
    await api.http.post(f"/runs/{run_id}/cancel", json={"reason": "enough"})
    assert (await end(api, run_id))["status"] == "cancelled"
    (effect,) = await effects(api, run_id)
    assert effect["state"] == "unknown"


async def test_a_redrive_goes_on_from_the_last_recorded_effect(api: Api) -> None:
    run_id = await run(api, "stubborn", fails=4)
    ended = await end(api, run_id)
    assert (ended["status"], ended["steps"][0]["error"]["reason"]) == ("failed", "attempts_exhausted")
    answer = await api.http.post("/dead-letters/redrive", json={"runId": run_id, "extraAttempts": 3})
    assert len(answer.json()["redriven"]) == 1
    assert (await api.watch(run_id, after=ended["last_seq"]))[-1]["type"] == "run.completed"
    assert outside.called("read") == ["price"]


async def test_a_run_that_was_undone_is_not_redriven(api: Api) -> None:
    run_id = await run(api, "buy", fails=4)
    await end(api, run_id)
    assert outside.called("refund") == [5]
    answer = await api.http.post("/dead-letters/redrive", json={"runId": run_id})
    assert answer.status_code == 409
    assert "undone" in answer.json()["detail"]


async def test_cancel_stops_the_handler_in_flight(api: Api) -> None:
    run_id = await run(api, "letter", how="hangs")
    await until(api, run_id, "effect.intended")
    await api.http.post(f"/runs/{run_id}/cancel", json={})
    await end(api, run_id)
    workers = (await api.http.get("/workers")).json()["items"]
    async with asyncio.timeout(20):
        while any(w["running"] for w in workers):
            workers = (await api.http.get("/workers")).json()["items"]
            await asyncio.sleep(0)


async def test_a_run_that_was_undone_keeps_no_other_from_being_redriven(api: Api) -> None:
    undone, other = await run(api, "buy", fails=4), await run(api, "stubborn", fails=4)
    await end(api, undone)
    ended = await end(api, other)
    answer = await api.http.post("/dead-letters/redrive", json={"all": True, "extraAttempts": 3})
    assert [one["run_id"] for one in answer.json()["redriven"]] == [other]
    assert (await api.watch(other, after=ended["last_seq"]))[-1]["type"] == "run.completed"


async def test_a_pause_reaches_an_attempt_in_flight_at_its_next_effect(api: Api) -> None:
    run_id = await run(api, "pausable")
    await until(api, run_id, "effect.recorded")
    await api.http.post(f"/runs/{run_id}/pause", json={})
    outside.GATES["go on"].set()
    await until(api, run_id, "step.released")
    found = (await api.http.get(f"/runs/{run_id}/explain")).json()
    assert (found["status"], [s["reason"] for s in found["steps"]]) == ("paused", ["paused"])
    await api.http.post(f"/runs/{run_id}/resume", json={})
    ended = await end(api, run_id)
    assert (ended["status"], ended["steps"][0]["output"]) == ("completed", 1)
    assert outside.called("read") == ["price"]


@pytest.mark.parametrize(("tool", "given"), [("mail", {"to": "him"}), ("letter", {"to": "him"})])
async def test_a_manual_call_that_its_runs_failure_cut_off_is_not_made_again_by_a_redrive(
    api: Api, tool: str, given: dict[str, str]
) -> None:
    run_id = await api.start(
        {"name": "s", "tool": tool, "input": {**given, "how": "hangs"}}, {"name": "gated", "tool": "gated"}
    )
    async with asyncio.timeout(20):
        while not outside.called("mail"):  # noqa: ASYNC110  # the world has no event to wait for
            await asyncio.sleep(0)
    outside.GATES["fail"].set()
    await end(api, run_id)
    assert len((await api.http.post("/dead-letters/redrive", json={"runId": run_id})).json()["redriven"]) == 1
    wait = await next_wait(api, run_id)
    assert wait["kind"] == "unknown_effect"
    await api.http.post(f"/waits/{wait['id']}/settle", json={"outcome": "happened", "result": "by hand"})
    events = [event["type"] for event in await api.watch(run_id)]
    assert (events[-1], outside.called("mail")) == ("run.completed", ["him"])


async def test_an_answer_that_was_lost_and_done_without_is_recorded_as_unknown(api: Api) -> None:
    run_id = await run(api, "half")
    assert (await end(api, run_id))["steps"][0]["output"] == "without tea"
    (effect,) = await effects(api, run_id)
    assert (effect["state"], effect["error"]["type"]) == ("unknown", "ConnectionError")
    again = await api.http.post(f"/runs/{run_id}/replay", json={"mode": "recorded"})
    assert (await end(api, again.json()["id"]))["status"] == "completed"


async def test_a_call_under_way_in_another_task_is_recorded_before_the_attempt_fails(api: Api) -> None:
    run_id = await run(api, "beside")
    assert (await end(api, run_id))["steps"][0]["output"] == 1
    assert outside.called("slow") == [1]


async def test_a_drain_in_the_middle_of_a_manual_call_leaves_it_unknown(settings: Settings) -> None:
    outside.forget()
    async with serving(settings) as api:
        async with working(settings, MODULES):
            run_ids = [await run(api, tool, to="him", how="hangs") for tool in ("mail", "letter")]
            async with asyncio.timeout(20):
                while len(outside.called("mail")) < 2:  # noqa: ASYNC110  # the world has no event to wait for
                    await asyncio.sleep(0)
        for run_id in run_ids:
            wait = await wait_of(api, run_id)
            assert wait["kind"] == "unknown_effect"
            assert "ended in the middle" in wait["request"]["message"]


async def test_a_manual_result_that_cannot_be_kept_waits_for_a_person(api: Api) -> None:
    run_id = await run(api, "mail", to="him", how="hostile")
    wait = await wait_of(api, run_id)
    assert "cannot be stored" in wait["request"]["message"]


@pytest.mark.parametrize("tool", ["brief", "impatient"])
async def test_a_tools_own_time_limit_holds_as_a_step_and_as_an_effect(api: Api, tool: str) -> None:
    ended = await end(api, await run(api, tool, step={"retry": {"maxAttempts": 1}}))
    assert ended["steps"][0]["error"]["failure"] == "timeout"


async def test_send_again_holds_for_one_call_only(api: Api) -> None:
    run_id = await api.start(
        {"name": "s", "tool": "mail", "input": {"to": "him", "how": "hangs"}, "timeoutS": 1},
        {"name": "gated", "tool": "gated"},
    )
    first = await wait_of(api, run_id)
    await api.http.post(f"/waits/{first['id']}/settle", json={"outcome": "send_again"})
    async with asyncio.timeout(20):
        while len(outside.called("mail")) < 2:  # noqa: ASYNC110  # the world has no event to wait for
            await asyncio.sleep(0)
    outside.GATES["fail"].set()
    await end(api, run_id)
    await api.http.post("/dead-letters/redrive", json={"runId": run_id})
    second = await next_wait(api, run_id, first["id"])
    assert (second["kind"], len(outside.called("mail"))) == ("unknown_effect", 2)


async def test_a_question_about_a_call_is_asked_again_after_a_redrive(api: Api) -> None:
    run_id = await api.start(
        {"name": "s", "tool": "mail", "input": {"to": "him", "how": "breaks"}}, {"name": "gated", "tool": "gated"}
    )
    first = await wait_of(api, run_id)
    outside.GATES["fail"].set()
    await end(api, run_id)
    await api.http.post("/dead-letters/redrive", json={"runId": run_id})
    second = await next_wait(api, run_id, first["id"])
    assert (second["kind"], outside.called("mail")) == ("unknown_effect", ["him"])


async def test_a_commit_that_the_authors_own_constraint_refuses_fails_the_step_alone(
    api: Api, database: Database
) -> None:
    database.execute("create table notes (text text, unique (text) deferrable initially deferred)")
    database.execute("insert into notes values ('once')")
    ended = await end(api, await run(api, "write", text="once"))
    assert (ended["status"], ended["steps"][0]["error"]["reason"]) == ("failed", "attempts_exhausted")
    assert "notes_text_key" in ended["steps"][0]["error"]["message"]
    assert (await end(api, await run(api, "double", item=2)))["status"] == "completed"
