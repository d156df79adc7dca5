"""Payloads: what is hostile ends its own step with a reason and harms nobody; what is large goes to the artifact store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import orjson
import pytest

from durable_agent.engine.export import verify_export
from durable_agent.flow.registry import Registry
from durable_agent.settings import Settings
from durable_agent.testing.cassette import Cassette
from tests.support import outside
from tests.support.postgres import Database
from tests.support.server import Api, serving, working
from tests.support.story import MODULES, effects, end, run, wait_of

HOSTILE = ("surrogate", "nan", "huge", "deep", "object", "bytes", "cycle", "bigint")


@pytest.fixture
async def api(settings: Settings, tmp_path: Path) -> AsyncIterator[Api]:
    """An API and a worker that keep artifacts in a folder of the test's."""
    outside.forget()
    given = settings.model_copy(update={"artifacts": str(tmp_path / "kept"), "artifact_limit_bytes": 4_000_000})
    async with serving(given) as made, working(given, (*MODULES, "tests.support.hostile")):
        yield made


@pytest.mark.parametrize("where", ["output", "effect", "event", "argument"])
async def test_a_value_that_cannot_be_stored_ends_its_step_at_once_and_harms_nobody(api: Api, where: str) -> None:
    runs = {how: await run(api, "hostile", how=how, where=where) for how in HOSTILE}
    neighbour = await run(api, "double", item=2)
    for how, run_id in runs.items():
        ended = await end(api, run_id)
        step = ended["steps"][0]
        if how == "nan":  # JSON has no NaN: it is null, as ever
            assert ended["status"] == "completed"
        else:
            assert (ended["status"], step["failures"]) == ("failed", 1), (how, step)
            assert step["error"]["failure"] == "invalid_input", how
        verified = await api.http.get(f"/runs/{run_id}/export")
        assert verified.status_code == 200, how
    assert (await end(api, neighbour))["steps"][0]["output"] == 4


@pytest.mark.parametrize("how", ["map", "run", "undone"])
@pytest.mark.parametrize(("levels", "stored"), [(200, True), (201, False), (254, False)])
async def test_what_is_nested_is_handed_on_whole_or_refused_where_it_is_made(
    api: Api, how: str, levels: int, stored: bool
) -> None:
    """What a run hands on is in an answer, an input and a history, which are nested deeper than it is itself."""
    if how == "undone":
        last = {"name": "refuses", "tool": "refuses", "dependsOn": ["nested"]}
        run_id = await api.start({"name": "nested", "tool": "nested", "input": {"levels": levels}}, last)
    else:
        run_id = await run(api, "nests", levels=levels, how=how)
    ended = await end(api, run_id)
    steps = {one["name"]: one for one in ended["steps"]}
    if how == "undone":
        assert steps["nested"]["status"] == ("compensated" if stored else "dead_letter")
    else:
        assert ended["status"] == ("completed" if stored else "failed")
    failed = [one for one in steps.values() if one["error"] and one["name"] != "refuses"]
    assert all(one["error"]["failure"] == "invalid_input" for one in failed)
    assert bool(failed) is not stored
    assert (await api.http.get(f"/runs/{run_id}/export")).status_code == 200
    assert (await end(api, await run(api, "double", item=2)))["steps"][0]["output"] == 4


async def test_a_nul_character_passes_unharmed(api: Api) -> None:
    ended = await end(api, await run(api, "hostile", how="nul", where="effect"))
    assert ended["steps"][0]["output"] == "a\x00b"


async def test_a_large_result_goes_to_the_store_and_is_whole_for_whoever_needs_it(api: Api, tmp_path: Path) -> None:
    run_id = await api.start(
        {"name": "large", "tool": "large", "input": {"size": 1_000_000}},
        {"name": "length", "tool": "length", "dependsOn": ["large"]},
    )
    ended = await end(api, run_id)
    assert ended["steps"][0]["output"]["bytes"] == 1_000_002
    assert ended["steps"][1]["output"] == {"large": 1_000_000}
    assert len([path for path in (tmp_path / "kept").rglob("*") if path.is_file()]) == 1


async def test_a_large_result_of_an_effect_is_whole_again_when_the_step_resumes(api: Api) -> None:
    run_id = await run(api, "resumes", size=500_000)
    ended = await end(api, run_id)
    assert ended["steps"][0]["output"] == [500_000, 500_000]
    assert len(outside.called("big")) == 1
    assert [e["result"]["bytes"] for e in await effects(api, run_id) if e["name"] == "big"] == [500_002]


async def test_large_results_of_mapped_steps_and_of_a_run_are_whole(api: Api) -> None:
    run_id = await api.start({"name": "all", "tool": "reports", "input": {"size": 300_000}})
    ended = await end(api, run_id)
    whole = [[True, 300_000], [True, 300_001], [True, 300_002]]
    assert ended["steps"][0]["output"] == whole, ended["steps"][0]
    again = (await api.http.post(f"/runs/{run_id}/replay", json={"fromStep": 0, "mode": "recorded"})).json()["id"]
    assert (await end(api, again))["steps"][0]["output"] == whole


async def test_an_export_has_the_large_results_and_is_played_from_them_alone(api: Api) -> None:
    run_id = await api.start({"name": "all", "tool": "reports", "input": {"size": 300_000}})
    await end(api, run_id)
    lines = (await api.http.get(f"/runs/{run_id}/export")).content.splitlines()
    kept = [record for line in lines if (record := orjson.loads(line))["record"] == "content"]
    assert sorted(len(orjson.loads(one["content"])["text"]) for one in kept) == [300_000, 300_001, 300_002]
    assert verify_export(lines)[0] == UUID(run_id)
    cassette = Cassette(lines)
    played = await asyncio.to_thread(cassette.play, "all", Registry.from_modules(["tests.support.hostile"]))
    assert played.difference is None


async def test_what_undoes_a_step_is_given_its_large_result_whole(api: Api) -> None:
    run_id = await api.start(
        {"name": "report", "tool": "report", "input": {"size": 300_000}, "compensate": "unreport"},
        {"name": "refuses", "tool": "refuses", "dependsOn": ["report"]},
    )
    ended = await end(api, run_id)
    assert ended["status"] == "failed"
    assert {s["name"]: s["output"] for s in ended["steps"]}["undo.report.0"] == [True, 300_000]


@pytest.mark.parametrize(
    ("edge", "own", "status"),
    [
        ("output.ok", None, "failed"),
        ("has(output.ok) && output.ok", None, "failed"),
        (None, "outputs.report.ok", "failed"),
        (None, "has(outputs.report.ok)", "failed"),
        (None, "has(outputs.report) && outputs.small == 2", "completed"),
    ],
)
async def test_a_condition_that_looks_into_a_large_result_fails_by_name_and_any_other_is_decided(
    api: Api, edge: str | None, own: str | None, status: str
) -> None:
    run_id = await api.start(
        {"name": "report", "tool": "report", "input": {"size": 300_000}},
        {"name": "small", "tool": "double", "input": {"item": 1}},
        {
            "name": "last",
            "tool": "double",
            "input": {"item": 2},
            "when": own,
            "dependsOn": ["small", {"step": "report", "when": edge}],
        },
    )
    ended = await end(api, run_id)
    assert ended["status"] == status
    if status == "failed":
        (letter,) = (await api.http.get("/dead-letters", params={"run_id": run_id})).json()["items"]
        assert "the output of step 'report' has 300021 bytes" in letter["message"]
        assert "return what decides from a step of its own" in ended["steps"][2]["error"]["message"]


async def test_a_policy_looks_into_a_large_result_and_asks_without_it(api: Api) -> None:
    rules = [{"when": "outputs.report.ok && outputs.report.text.size() == 300000", "then": "approve"}]
    run_id = await api.start(
        {"name": "report", "tool": "report", "input": {"size": 300_000}},
        {"name": "small", "tool": "double", "input": {"item": 1}},
        {
            "name": "p",
            "kind": "policy",
            "input": {"rules": rules, "otherwise": "refuse"},
            "dependsOn": ["report", "small"],
        },
    )
    wait = await wait_of(api, run_id)
    assert wait["request"]["arguments"]["parents"] == {"report": {"bytes": 300_021}, "small": 2}
    await api.http.post(f"/waits/{wait['id']}/approve", json={})
    assert (await end(api, run_id))["steps"][2]["output"]["decision"] == "approved"


async def test_what_looks_like_a_large_result_comes_as_it_was_given(api: Api) -> None:
    run_id = await api.start(
        {"name": "disguised", "tool": "disguised"}, {"name": "unmasks", "tool": "unmasks", "dependsOn": ["disguised"]}
    )
    ended = await end(api, run_id)
    assert ended["steps"][1]["output"] is True, ended["steps"][1]


async def test_a_stored_file_is_listed_and_comes_back_as_it_was(api: Api) -> None:
    run_id = await run(api, "files")
    await end(api, run_id)
    listed = (await api.http.get(f"/runs/{run_id}/artifacts")).json()["items"]
    assert [(one["name"], one["media_type"], one["bytes"]) for one in listed] == [
        ("page.html", "text/html", 26), ("raw.bin", "application/octet-stream", 3),
    ]  # fmt: skip
    page = await api.http.get(f"/artifacts/{listed[0]['id']}")
    assert (page.content, page.headers["x-content-type-options"]) == (b"<script>alert(1)</script>\n", "nosniff")
    assert page.headers["content-disposition"].startswith("attachment")


async def test_a_file_whose_type_no_header_can_have_is_sent_as_bytes(api: Api, database: Database) -> None:
    run_id = await run(api, "files")
    await end(api, run_id)
    file = (await api.http.get(f"/runs/{run_id}/artifacts")).json()["items"][0]["id"]
    unknown = "application/octet-stream"
    for named, sent in {
        "image/svg+xml": "image/svg+xml", "application/json; charset=utf-8": "application/json; charset=utf-8",
        "text/ü—": unknown, "text/html\r\nX-Injected: yes": unknown, "text/html\n;x": unknown, "text/html;\rx": unknown,
        "text": unknown, "": unknown, "a/" + "x" * 5000: unknown,
    }.items():  # fmt: skip
        database.execute("update artifacts set media_type = %s", named)
        answer = await api.http.get(f"/artifacts/{file}")
        assert (answer.status_code, answer.headers["content-type"]) == (200, sent), named
        assert "x-injected" not in answer.headers


async def test_what_is_too_large_for_the_store_is_refused(api: Api) -> None:
    ended = await end(api, await run(api, "large", size=5_000_000))
    assert ended["steps"][0]["error"]["failure"] == "invalid_input"
    assert "4000000" in ended["steps"][0]["error"]["message"]


@pytest.mark.parametrize("artifact", ["01890000-0000-7000-8000-000000000000"])
async def test_a_file_that_does_not_exist_is_named(api: Api, artifact: str) -> None:
    answer = await api.http.get(f"/artifacts/{artifact}")
    assert answer.status_code == 404
    assert artifact in answer.text
