"""What a person does to runs: pause, resume, cancel, limit, export, look closer; and the answers that are not yes or no."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from playwright.async_api import Page, expect

from durable_agent.settings import Settings
from tests.console.conftest import Opened
from tests.support.server import Api, serving, working

TOOLS = ("tests.console.tools",)
FOREVER: dict[str, Any] = {"name": "wait_here", "input": {"tool": "stay"}}


async def says(page: Page, status: str) -> None:
    """Return when the head of the run's screen says how it stands."""
    await expect(page.locator("main header").get_by_text(status, exact=True)).to_be_visible()


async def got(api: Api, path: str) -> Any:
    """Return the answer of a GET."""
    return (await api.http.get(path)).json()


async def test_a_run_is_paused_resumed_and_cancelled_with_a_reason(settings: Settings, opened: Opened) -> None:
    async with serving(settings) as api, working(settings, TOOLS):
        run = await api.start(FOREVER, {"name": "later", "input": {"tool": "give"}, "dependsOn": ["wait_here"]})
        page = await (await opened(api.port)).go(f"/runs/{run}")
        await says(page, "running")
        await page.get_by_role("button", name="Pause").click()
        await says(page, "paused")
        await page.get_by_role("button", name="Resume").click()
        await says(page, "running")
        await page.get_by_role("button", name="Cancel", exact=True).click()
        asked = page.get_by_role("dialog", name="Cancel this run?")
        await expect(asked).to_contain_text("2 of 2 steps are not done")
        await asked.get_by_label("Reason").fill("the customer called")
        await asked.get_by_role("button", name="Cancel the run").click()
        await says(page, "cancelled")
        await expect(page.get_by_role("button", name="Cancel", exact=True)).to_be_hidden()
        events = (await got(api, f"/runs/{run}/events"))["items"]
        assert [e["data"]["reason"] for e in events if e["type"] == "run.cancelled"] == ["the customer called"]


async def test_the_record_is_exported_as_it_is(settings: Settings, opened: Opened, tmp_path: Path) -> None:
    async with serving(settings) as api, working(settings, TOOLS):
        run = await api.start({"name": "a", "input": {"tool": "give", "value": 7}})
        await api.watch(run)
        page = await (await opened(api.port)).go(f"/runs/{run}")
        await says(page, "completed")
        await page.get_by_role("button", name="More actions").click()
        async with page.expect_download() as download:
            await page.get_by_role("menuitem", name="Export the record").click()
        taken = await download.value
        assert taken.suggested_filename == f"run-{run}.jsonl"
        await taken.save_as(tmp_path / "run.jsonl")
        assert (tmp_path / "run.jsonl").read_text() == (await api.http.get(f"/runs/{run}/export")).text


async def test_a_limit_is_set_and_one_below_what_was_taken_is_refused_where_it_is_asked(
    settings: Settings, opened: Opened
) -> None:
    async with serving(settings) as api, working(settings, TOOLS):
        run = await api.start(FOREVER)
        page = await (await opened(api.port)).go(f"/runs/{run}?view=budget")
        await expect(page.get_by_text("Nothing limits this run.")).to_be_visible()
        await page.get_by_label("Limit", exact=True).select_option("Money")
        await page.get_by_label("New total, in dollars").fill("2.5")
        await page.get_by_role("button", name="Set the limit").click()
        await expect(page.get_by_role("meter", name="Money")).to_be_visible()
        await expect(page.get_by_role("group", name="Budget")).to_contain_text("$0 of $2.50")
        limits = (await got(api, f"/runs/{run}/budget"))["limits"]
        assert [(one["meter"], one["cap"]) for one in limits] == [("microusd", 2_500_000)]
        await page.get_by_label("New total, in dollars").fill("-1")
        await expect(page.get_by_role("button", name="Set the limit")).to_be_disabled()
        await expect(page.get_by_text("A number, not below zero.")).to_be_visible()
        await api.http.post(f"/runs/{run}/cancel")


async def test_a_question_is_answered_by_one_of_its_choices(settings: Settings, opened: Opened) -> None:
    async with serving(settings) as api, working(settings, TOOLS):
        asked = {"prompt": "Which region first?", "schema": {"enum": ["Europe", "Asia"]}}
        run = await api.start({"name": "ask", "kind": "input", "input": asked})
        page = await (await opened(api.port)).go("/waits")
        await page.get_by_role("article", name="Which region first?").get_by_role("button", name="Asia").click()
        await api.watch(run)
        (step,) = (await got(api, f"/runs/{run}"))["steps"]
        assert step["output"] == "Asia"


async def test_a_call_that_nobody_heard_the_end_of_is_settled_by_who_knows(settings: Settings, opened: Opened) -> None:
    async with serving(settings) as api, working(settings, TOOLS):
        run = await api.start({"name": "pay", "input": {"tool": "lose"}})
        page = await (await opened(api.port)).go("/waits")
        request = page.get_by_role("article")
        await request.get_by_text("It happened", exact=True).click()
        await request.get_by_label("Result (optional)").fill("{not json")
        await request.get_by_role("button", name="Settle").click()
        await expect(request.get_by_text("This is no JSON.")).to_be_visible()
        await request.get_by_label("Result (optional)").fill('{"receipt": 7}')
        await request.get_by_label("Reason (optional)").fill("it is in their books")
        await request.get_by_role("button", name="Settle").click()
        await api.watch(run)
        (step,) = (await got(api, f"/runs/{run}"))["steps"]
        assert step["output"] == {"receipt": 7}


async def test_selected_runs_are_cancelled_together(settings: Settings, opened: Opened) -> None:
    async with serving(settings) as api, working(settings, TOOLS):
        runs = [await api.start(FOREVER, goal=f"Wait {no}") for no in range(3)]
        page = await (await opened(api.port)).go("/runs")
        for no in (0, 2):
            await page.get_by_role("checkbox", name=re.compile(f"Wait {no}")).check()
        bar = page.get_by_role("region", name="Selected runs")
        await expect(bar).to_contain_text("2 selected")
        await bar.get_by_role("button", name="Cancel 2").click()
        await page.get_by_role("dialog").get_by_role("button", name="Cancel 2 runs").click()
        await expect(page.get_by_role("status").filter(has_text="2 runs cancelled")).to_be_visible()
        assert [(await got(api, f"/runs/{run}"))["status"] for run in runs] == ["cancelled", "running", "cancelled"]
        await api.http.post(f"/runs/{runs[1]}/cancel")


async def test_the_timeline_is_looked_at_closer_and_as_a_whole_again(settings: Settings, opened: Opened) -> None:
    async with serving(settings) as api, working(settings, TOOLS):
        run = await api.start(
            {"name": "a", "input": {"tool": "give"}}, {"name": "b", "input": {"tool": "give"}, "dependsOn": ["a"]}
        )
        await api.watch(run)
        page = await (await opened(api.port)).go(f"/runs/{run}?view=timeline")
        last = page.get_by_role("button", name=re.compile(r"^b, "))
        await expect(last).to_have_accessible_name(re.compile(r"^b, succeeded; .*: succeeded$"))
        shown = page.get_by_text(re.compile("shown$"))
        whole = await shown.inner_text()
        await page.get_by_role("button", name="Zoom in").click()
        await expect(shown).not_to_have_text(whole)
        await page.get_by_role("button", name="Show all of it").click()
        await expect(shown).to_have_text(whole)
