"""A run from its start to its end, as a person sees it who never loads the page anew."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest
from harness.zygote import Zygote
from playwright.async_api import Page, expect

from durable_agent.settings import Settings
from tests.console.conftest import Opened
from tests.console.stage import Door, door, let_in, speaker
from tests.support.postgres import Database
from tests.support.server import serving, working

TOOLS = ("tests.console.tools",)
PLAN = [
    {"name": "plan", "input": {"tool": "give", "value": "what to do"}},
    {"name": "work", "input": {"tool": "knock", "text": "done it"}, "dependsOn": ["plan"]},
    {"name": "report", "input": {"tool": "give", "value": "all of it"}, "dependsOn": ["work"]},
]


def at_the_door(monkeypatch: pytest.MonkeyPatch, made: Door) -> None:
    monkeypatch.setenv("TEST_DOOR", f"127.0.0.1:{made.port}")


def node(page: Page, step: str, status: str) -> object:
    """Return a step of the graph that stands so."""
    return page.get_by_role("tabpanel").get_by_role("button", name=re.compile(rf"^{step}\b.*{status}"))


async def graph_shows(page: Page, **statuses: str) -> None:
    for step, status in statuses.items():
        await expect(node(page, step, status)).to_be_visible()  # type: ignore[arg-type]


async def head_says(page: Page, status: str) -> None:
    await expect(
        page.get_by_role("banner").or_(page.locator("main header")).get_by_text(status, exact=True)
    ).to_be_visible()


async def test_steps_are_submitted_by_the_form_and_watched_to_their_end(
    settings: Settings, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with door() as outside, serving(settings) as api, working(settings, TOOLS):
        at_the_door(monkeypatch, outside)
        window = await opened(api.port)
        page = await window.go("/new")
        await page.get_by_label("Goal (optional)").fill("Write the report")
        await page.get_by_label("Steps", exact=True).fill(json.dumps(PLAN))
        await page.get_by_role("button", name="Start the run").click()
        await expect(page.get_by_role("heading", level=1, name="Write the report")).to_be_visible()
        await expect(page).to_have_url(re.compile(r"/runs/[0-9a-f-]{36}$"))
        knocker = await outside.knocked("work")
        await graph_shows(page, plan="succeeded", work="running", report="pending")
        await head_says(page, "running")
        await let_in(knocker)
        await graph_shows(page, plan="succeeded", work="succeeded", report="succeeded")
        await head_says(page, "completed")
        # The same address shows the same, with the step that it names.
        await node(page, "work", "succeeded").click()  # type: ignore[attr-defined]
        await expect(page).to_have_url(re.compile(r"\?step=work$"))
        await page.reload()
        await graph_shows(page, plan="succeeded", work="succeeded", report="succeeded")
        await head_says(page, "completed")
        beside = page.get_by_role("complementary", name="Step work")
        await expect(beside.get_by_role("group", name="Output", exact=True)).to_contain_text("done it")


async def test_what_the_server_refuses_is_said_where_it_stands(settings: Settings, opened: Opened) -> None:
    async with serving(settings) as api:
        window = await opened(api.port)
        page = await window.go("/new")
        circle = [{"name": "a", "tool": "give", "dependsOn": ["b"]}, {"name": "b", "tool": "give", "dependsOn": ["a"]}]
        await page.get_by_label("Steps", exact=True).fill(json.dumps(circle, indent=2))
        await page.get_by_role("button", name="Start the run").click()
        await expect(page.get_by_role("listitem").filter(has_text="in a circle: a → b → a")).to_be_visible()
        await page.get_by_label("Steps", exact=True).fill('[\n  {"name": "a",}\n]')
        await expect(page.get_by_role("button", name="Line 2, column")).to_be_visible()
        assert (await api.http.get("/runs")).json()["items"] == []


async def test_a_killed_worker_is_seen_on_the_timeline_and_another_takes_over(
    settings: Settings, database: Database, opened: Opened, tmp_path: Path
) -> None:
    async with door() as outside, serving(settings) as api:
        given = {
            "DATABASE_URL": database.url, "TEST_DOOR": f"127.0.0.1:{outside.port}", "DURABLE_AGENT_TICK_S": "0.1",
            "DURABLE_AGENT_LOG_LEVEL": "warning", "DURABLE_AGENT_ARTIFACTS": str(tmp_path / "artifacts"),
        }  # fmt: skip
        zygote = Zygote(["tests.console.tools"], given, tmp_path / "workers.log", source=Path.cwd())
        try:
            victim = zygote.spawn("first")
            run = await api.start({"name": "survive", "tool": "knock"})
            window = await opened(api.port)
            page = await window.go(f"/runs/{run}?view=timeline")
            await outside.knocked("survive")
            row = page.get_by_role("button", name=re.compile(r"^survive, "))
            await expect(row).to_have_accessible_name("survive, running; attempt 1 on first: running")
            marked = await page.evaluate("window.marked = 'never loaded anew'")
            zygote.spawn("second")
            os.kill(victim, signal.SIGKILL)
            again = await outside.knocked("survive")
            await expect(row).to_have_accessible_name(
                re.compile(r"^survive, running; attempt \d on first: lease lost; attempt \d on second: running$")
            )
            await expect(page.get_by_title(re.compile("first lost its lease"))).to_be_visible()
            await let_in(again)
            await expect(row).to_have_accessible_name(re.compile(r"^survive, succeeded; .*on second: succeeded$"))
            await head_says(page, "completed")
            assert await page.evaluate("window.marked") == marked
        finally:
            zygote.close()


async def test_a_replay_with_an_edited_input_is_a_run_of_its_own_and_the_difference_is_shown(
    settings: Settings, opened: Opened
) -> None:
    async with serving(settings) as api, working(settings, TOOLS):
        same = {"name": "same", "input": {"tool": "give", "value": "as ever"}}
        run = await api.start({"name": "ask", "input": {"tool": "give", "value": "old words"}}, same, goal="Ask twice")
        await api.watch(run)
        window = await opened(api.port)
        page = await window.go(f"/runs/{run}")
        await page.get_by_role("button", name="Replay", exact=True).click()
        dialog = page.get_by_role("dialog", name="Replay")
        await dialog.get_by_label("From step").select_option("ask")
        await dialog.get_by_role("button", name="Change a step").click()
        await dialog.get_by_label("New input of ask").fill("{ no JSON")
        await dialog.get_by_role("button", name="Start the replay").click()
        await expect(dialog.get_by_role("alert")).to_contain_text("Not JSON")
        await dialog.get_by_label("New input of ask").fill('{"tool": "give", "value": "new words"}')
        await dialog.get_by_role("button", name="Start the replay").click()
        await expect(dialog).to_be_hidden()
        await expect(page).not_to_have_url(re.compile(run))
        await head_says(page, "completed")
        await page.get_by_role("link", name="compare").click()
        await expect(page.get_by_text("They part at ask")).to_be_visible()
        await expect(page.get_by_role("group", name="Output, first run")).to_contain_text("old words")
        await expect(page.get_by_role("group", name="Output, second run")).to_contain_text("new words")
        await expect(page.get_by_role("heading", name=re.compile("^same same"))).to_be_visible()


async def test_a_dead_letter_is_given_another_chance(settings: Settings, opened: Opened) -> None:
    async with serving(settings) as api, working(settings, TOOLS):
        broken = {"name": "call", "tool": "hurt", "input": {"message": "the line is dead", "until": 1}}
        run = await api.start(broken, goal="Call the customer")
        await api.watch(run)
        window = await opened(api.port)
        page = await window.go("/dead-letters")
        row = page.get_by_role("row", name=re.compile("call"))
        await expect(row).to_contain_text("the line is dead")
        await row.get_by_role("button", name="Redrive call").click()
        await page.get_by_role("dialog").get_by_role("button", name="Redrive").click()
        await expect(page.get_by_text("Nothing gave up")).to_be_visible()
        await page.get_by_role("link", name="Runs", exact=True).click()
        await page.get_by_role("link", name="Call the customer").click()
        await head_says(page, "completed")
        await graph_shows(page, call="succeeded")


async def test_the_words_of_a_model_come_as_they_are_said_and_then_what_they_cost(
    settings: Settings, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with speaker() as model, serving(settings) as api:
        for name, value in {
            "OPENAI_BASE_URL": f"http://127.0.0.1:{model.port}/v1", "OPENAI_API_KEY": "none",
            "DURABLE_AGENT_MODEL": "openai:stub",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        price = {"price": {"input_usd": "2", "output_usd": "10"}}
        assert (await api.http.put("/models/openai/stub", json=price)).status_code == 200
        async with working(settings, TOOLS):
            run = await api.start(
                {"name": "say", "kind": "llm_call", "input": {"prompt": "Speak", "model": "openai:stub"}}
            )
            window = await opened(api.port)
            page = await window.go(f"/runs/{run}?step=say")
            beside = page.get_by_role("complementary", name="Step say")
            await model.asked.wait()
            # Words are told to who listens, and kept for nobody: the call is in the list once the socket is there.
            await expect(page.get_by_role("tab", name="Events 5")).to_be_visible()
            words = ""
            for piece in ("Once ", "upon a ", "time"):
                model.say(piece)
                words += piece
                await expect(beside.get_by_role("region", name=re.compile("answers"))).to_contain_text(words)
            model.done()
            await head_says(page, "completed")
            await expect(beside.get_by_role("group", name="Output", exact=True)).to_contain_text("Once upon a time")
            await expect(beside.get_by_text("the model answers")).to_be_hidden()
            call = beside.get_by_role("button", name=re.compile("^#1 llm"))
            await expect(call).to_contain_text("stub · 1,200 → 340 tokens")
            await expect(call).to_contain_text("$0.0058")


async def test_an_api_that_comes_back_has_missed_nothing_for_who_watched(
    settings: Settings, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = [
        {"name": "before", "tool": "knock"}, {"name": "meanwhile", "tool": "tell", "input": {"times": 30}, "dependsOn": ["before"]},
        {"name": "last", "tool": "knock", "dependsOn": ["meanwhile"]},
    ]  # fmt: skip
    async with door() as outside, working(settings, TOOLS):
        at_the_door(monkeypatch, outside)
        async with serving(settings) as api:
            port = api.port
            run = await api.start(*steps)
            window = await opened(port)
            page = await window.go(f"/runs/{run}?view=events")
            knocker = await outside.knocked("before")
            mark = page.locator("main").get_by_role("status").filter(has_text=re.compile("^(live|reconnecting)$"))
            await expect(mark).to_have_text("live")
        await expect(mark).to_have_text("reconnecting")
        # All of this happens while nobody can be asked.
        await let_in(knocker)
        knocker = await outside.knocked("last")
        async with serving(settings, port) as api:
            await expect(mark).to_have_text("live")
            await let_in(knocker)
            await head_says(page, "completed")
            recorded = [
                event["seq"] for event in (await api.http.get(f"/runs/{run}/events?limit=1000")).json()["items"]
            ]
            assert len(recorded) > 40
            await expect(page.get_by_text(f"{len(recorded)} events", exact=True)).to_be_visible()
            assert await all_events(page) == recorded


async def all_events(page: Page) -> list[int]:
    """Return the numbers that the list shows from its top to its end, which draws only what is in sight."""
    seen: list[int] = []
    field = page.get_by_role("group", name="Events")
    while True:
        shown = await field.get_by_role("button", name=re.compile(r"^Event \d+: all of it$")).evaluate_all(
            "all => all.map((one) => Number(one.getAttribute('aria-label').match(/\\d+/)[0]))"
        )
        fresh = [no for no in shown if no not in seen]
        assert len(set(shown)) == len(shown)
        seen += fresh
        moved = await field.evaluate(
            "async (box) => { const before = box.scrollTop; box.scrollTop += box.clientHeight / 2;"
            " await new Promise((go) => requestAnimationFrame(() => requestAnimationFrame(go))); return box.scrollTop > before; }"
        )
        if not moved:
            return seen
