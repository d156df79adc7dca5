"""What people do: answer what waits, and find their way without a mouse."""

from __future__ import annotations

import re

from playwright.async_api import Route, expect

from durable_agent.settings import Settings
from tests.console.conftest import Opened
from tests.support.server import Api, serving, working

TOOLS = ("tests.console.tools",)
# Whoever reads it sees "to: …nimda", and a name that looks like another's.
TO = "\u202eadmin\u200b@example.org"


async def asked(api: Api, goal: str = "Send the letter") -> str:
    """Return the wait of a new run that asks a person."""
    run = await api.start(
        {"name": "approve", "kind": "approval", "input": {"prompt": "May this be sent?", "arguments": {"to": TO}}},
        {"name": "send", "input": {"tool": "give", "value": "sent"}, "dependsOn": ["approve"]}, goal=goal,
    )  # fmt: skip
    while True:
        items = (await api.http.get(f"/waits?run_id={run}")).json()["items"]
        if items:
            return str(items[0]["id"])


async def test_an_approval_shows_what_its_arguments_hide_and_the_run_goes_on(
    settings: Settings, opened: Opened
) -> None:
    async with serving(settings) as api, working(settings, TOOLS):
        await asked(api)
        window = await opened(api.port)
        page = await window.go("/")
        await page.get_by_role("link", name=re.compile("^Waits")).click()
        request = page.get_by_role("article", name="May this be sent?")
        shown = '{\n  "to": "U+202EadminU+200B@example.org"\n}'
        await expect(request.get_by_role("group", name="Arguments")).to_have_text(shown)
        assert not re.search("[\u202e\u200b]", await page.locator("main").inner_text())
        await request.get_by_label("Reason (optional)").fill("I asked the customer")
        await request.get_by_role("button", name="Approve").click()
        await expect(
            page.get_by_role("status").filter(has_text="You approved this. Reason: I asked the customer")
        ).to_be_visible()
        await page.get_by_role("link", name="Open the run").click()
        await expect(page.locator("main header").get_by_text("completed", exact=True)).to_be_visible()
        answer = (await api.http.get("/waits?state=answered")).json()["items"][0]["answer"]
        assert (answer["decision"], answer["reason"]) == ("approved", "I asked the customer")
        await window.go("/waits?state=answered")
        await expect(page.get_by_role("article")).to_contain_text("by local: I asked the customer")


async def test_who_answers_second_is_told_who_was_first_and_what_they_said(settings: Settings, opened: Opened) -> None:
    async with serving(settings) as api, working(settings, TOOLS):
        wait = await asked(api)
        window = await opened(api.port)
        page = await window.go("/waits")
        request = page.get_by_role("article", name="May this be sent?")
        await request.get_by_label("Reason (optional)").fill("Go ahead")

        async def late(route: Route) -> None:
            # The other is faster by so little that this page has not heard of it.
            if route.request.method == "GET":
                await route.abort()
            else:
                await route.continue_()

        await page.route(re.compile("/waits"), late)
        refused = {"reason": "Not to this address"}
        assert (await api.http.post(f"/waits/{wait}/reject", json=refused)).status_code == 202
        await request.get_by_role("button", name="Approve").click()
        told = page.get_by_role("status").filter(has_text="before your answer; nothing of yours was recorded")
        await expect(told).to_contain_text("It is decided: rejected by local")
        await page.unroute_all()
        answer = (await api.http.get("/waits?state=answered")).json()["items"][0]["answer"]
        assert (answer["decision"], answer["reason"]) == ("rejected", "Not to this address")


async def test_a_card_that_somebody_works_at_does_not_vanish_when_another_answers(
    settings: Settings, opened: Opened
) -> None:
    async with serving(settings) as api, working(settings, TOOLS):
        wait = await asked(api)
        window = await opened(api.port)
        page = await window.go("/waits")
        await page.get_by_label("Reason (optional)").fill("Let me think")
        assert (await api.http.post(f"/waits/{wait}/approve", json={})).status_code == 202
        await expect(page.get_by_role("status").filter(has_text="before your answer")).to_be_visible()
        await expect(page.get_by_role("button", name="Approve")).to_be_hidden()


async def test_the_keyboard_alone_goes_everywhere(settings: Settings, opened: Opened) -> None:
    async with serving(settings) as api, working(settings, TOOLS):
        run = await api.start({"name": "a", "input": {"tool": "give"}}, goal="Count the stars")
        await api.watch(run)
        window = await opened(api.port)
        page = await window.go("/")
        await page.keyboard.press("Control+k")
        palette = page.get_by_role("dialog", name="Go to")
        await expect(palette.get_by_role("combobox")).to_be_focused()
        await page.keyboard.type("count the st")
        await expect(palette.get_by_role("option", selected=True)).to_contain_text("Count the stars")
        await page.keyboard.press("Enter")
        await expect(page).to_have_url(re.compile(rf"/runs/{run}$"))
        await expect(page.get_by_role("heading", level=1, name="Count the stars")).to_be_visible()
        await expect(palette).to_be_hidden()
        await page.keyboard.press("g")
        await page.keyboard.press("w")
        await expect(page.get_by_role("heading", level=1, name="Waits")).to_be_visible()
        await page.keyboard.press("/")
        await expect(palette.get_by_role("combobox")).to_be_focused()
        # Letters are letters where one types.
        await page.keyboard.type("gr")
        await expect(palette.get_by_role("combobox")).to_have_value("gr")
        await page.keyboard.press("Escape")
        await expect(palette).to_be_hidden()
        await expect(page).to_have_url(re.compile(r"/waits$"))


async def test_a_dialog_keeps_the_focus_and_escape_closes_it(settings: Settings, opened: Opened) -> None:
    async with serving(settings) as api, working(settings, TOOLS):
        run = await api.start({"name": "a", "input": {"tool": "give"}})
        await api.watch(run)
        window = await opened(api.port)
        page = await window.go(f"/runs/{run}")
        button = page.get_by_role("button", name="Replay", exact=True)
        await button.focus()
        await page.keyboard.press("Enter")
        dialog = page.get_by_role("dialog", name="Replay")
        await expect(dialog).to_be_visible()
        # There and back again, further than there are places to go to.
        for key in ["Tab"] * 15 + ["Shift+Tab"] * 20:
            await page.keyboard.press(key)
            assert await dialog.evaluate(
                "(box) => box.contains(document.activeElement) || document.activeElement.hasAttribute('data-base-ui-focus-guard')"
            )
        await page.keyboard.press("g")
        await page.keyboard.press("w")
        await expect(dialog).to_be_visible()
        await page.keyboard.press("Escape")
        await expect(dialog).to_be_hidden()
        await expect(button).to_be_focused()
