"""Payloads: what is hostile ends its own step with a reason and harms nobody; what is large goes to the artifact store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from durable_agent.settings import Settings
from tests.support import outside
from tests.support.server import Api, serving, working
from tests.support.story import MODULES, effects, end, run


@pytest.fixture
async def api(settings: Settings, tmp_path: Path) -> AsyncIterator[Api]:
    """An API and a worker that keep artifacts in a folder of the test's."""
    outside.forget()
    given = settings.model_copy(update={"artifacts": str(tmp_path / "kept"), "artifact_limit_bytes": 4_000_000})
    async with serving(given) as made, working(given, (*MODULES, "tests.support.hostile")):
        yield made


@pytest.mark.parametrize("how", ["surrogate", "nan", "huge", "deep", "object", "bytes", "cycle", "bigint"])
@pytest.mark.parametrize("where", ["output", "effect", "event", "argument"])
async def test_a_value_that_cannot_be_stored_ends_its_step_at_once_and_harms_nobody(
    api: Api, how: str, where: str
) -> None:
    run_id = await run(api, "hostile", how=how, where=where)
    neighbour = await run(api, "double", item=2)
    ended = await end(api, run_id)
    step = ended["steps"][0]
    if how == "nan":  # JSON has no NaN: it is null, as ever
        assert ended["status"] == "completed"
    else:
        assert (ended["status"], step["failures"]) == ("failed", 1), step
        assert step["error"]["failure"] == "invalid_input"
    assert (await end(api, neighbour))["steps"][0]["output"] == 4
    verified = await api.http.get(f"/runs/{run_id}/export")
    assert verified.status_code == 200


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


async def test_what_is_too_large_for_the_store_is_refused(api: Api) -> None:
    ended = await end(api, await run(api, "large", size=5_000_000))
    assert ended["steps"][0]["error"]["failure"] == "invalid_input"
    assert "4000000" in ended["steps"][0]["error"]["message"]


@pytest.mark.parametrize("artifact", ["01890000-0000-7000-8000-000000000000"])
async def test_a_file_that_does_not_exist_is_named(api: Api, artifact: str) -> None:
    answer = await api.http.get(f"/artifacts/{artifact}")
    assert answer.status_code == 404
    assert artifact in answer.text
