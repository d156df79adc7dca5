"""The console where a key is asked for, and below a path that a proxy gives it."""

from __future__ import annotations

import json
import re

from playwright.async_api import Page, WebSocket, expect

from durable_agent.settings import Settings
from tests.console.conftest import Opened
from tests.support.server import serving, working

TOOLS = ("tests.console.tools",)
STEPS = [{"name": "a", "input": {"tool": "give", "value": 1}}]


async def start(page: Page, goal: str) -> None:
    """Start a run by the form and see it end."""
    await page.get_by_role("navigation", name="Screens").get_by_role("link", name="New run").click()
    await page.get_by_label("Goal (optional)").fill(goal)
    await page.get_by_label("Steps", exact=True).fill(json.dumps(STEPS))
    await page.get_by_role("button", name="Start the run").click()
    await expect(page.get_by_role("heading", level=1, name=goal)).to_be_visible()
    await expect(page.locator("main header").get_by_text("completed", exact=True)).to_be_visible()


async def test_a_key_is_asked_for_taken_and_used_for_sockets_by_tickets(settings: Settings, opened: Opened) -> None:
    async with serving(settings) as api:
        key = (await api.http.post("/keys", json={"name": "mine", "scopes": ["admin"]})).json()["key"]
    async with serving(settings) as api, working(settings, TOOLS):
        window = await opened(api.port)
        sockets: list[str] = []

        def note(made: WebSocket) -> None:
            sockets.append(made.url)

        window.page.on("websocket", note)
        page = await window.go("/runs")
        mark = page.get_by_role("banner").get_by_role("status")
        await expect(mark).to_have_text("needs a key")
        await expect(page.get_by_role("alert")).to_contain_text("Enter an API key under Settings.")
        await page.get_by_role("link", name="Settings", exact=True).click()
        field = page.get_by_label("Key", exact=True)
        await field.fill("da_nobody.knows")
        await page.get_by_role("button", name="Save and test").click()
        await expect(page.get_by_text("The server does not know this key")).to_be_visible()
        await field.fill(key)
        await page.get_by_role("button", name="Save and test").click()
        await expect(page.get_by_text("The server accepts this key.")).to_be_visible()
        await expect(mark).to_have_text("live")
        await start(page, "With a key")
        await expect(page.get_by_role("tab", name=re.compile(r"^Events \d+$"))).to_be_visible()
        used = [re.search(r"[?&]ticket=([^&]+)", url) for url in sockets]
        tickets = [found.group(1) for found in used if found]
        # The one over all and the run's: each has a ticket of its own, and the key is in no address.
        assert len(tickets) >= 2
        assert len(set(tickets)) == len(tickets)
        assert not [url for url in sockets if key in url or key.split(".")[1] in url]
        await page.get_by_role("link", name="Settings", exact=True).click()
        await page.get_by_role("button", name="Forget").click()
        await expect(page.get_by_text("The server asks for a key. Enter one.")).to_be_visible()


async def test_below_a_path_everything_is_below_it(settings: Settings, opened: Opened) -> None:
    below = Settings(**{**settings.model_dump(), "root_path": "/tools/agents"}, _env_file=None)
    async with serving(below) as api, working(settings, TOOLS):
        # Whatever the browser asks for above the path fails the test by itself.
        window = await opened(api.port, path="/tools/agents")
        sockets: list[str] = []
        window.page.on("websocket", lambda made: sockets.append(made.url))
        page = await window.go("/")
        await expect(page.get_by_role("banner").get_by_role("status")).to_have_text("live")
        await start(page, "Down below")
        await expect(page).to_have_url(re.compile(r"/tools/agents/runs/[0-9a-f-]{36}$"))
        await page.get_by_role("tab", name="Timeline").click()
        await page.reload()
        await expect(page.get_by_role("button", name=re.compile("^a, succeeded"))).to_be_visible()
        for screen in (
            "Runs",
            "Waits",
            "Dead letters",
            "Agents",
            "Tool servers",
            "Models and gates",
            "Graphs",
            "Workers",
            "Settings",
        ):
            await page.get_by_role("navigation", name="Screens").get_by_role("link", name=screen, exact=True).click()
            await expect(page.get_by_role("heading", level=1, name=screen)).to_be_visible()
        assert sockets
        assert all(url.startswith(f"ws://127.0.0.1:{api.port}/tools/agents/ws") for url in sockets)
