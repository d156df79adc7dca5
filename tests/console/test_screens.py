"""Every screen, full of what it may show: accessible in both themes, and as wide as its window."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest_asyncio
from playwright.async_api import Page, expect

from durable_agent.settings import Settings
from tests.console.conftest import Opened, Window
from tests.support import mcp_servers, postgres
from tests.support.server import Api, serving, working

TOOLS = ("tests.console.tools", "workers.examples.vendor_onboarding", "workers.examples.triage")
LONG = "a_name_that_goes_on_and_on_and_finds_no_place_where_it_could_be_broken_" * 2
MORE = {
    "secret_key": "k", "egress_allow": ("127.0.0.1",), "model": "offline", "web_search": "offline", "max_concurrent_tasks": 20,
}  # fmt: skip


@dataclass(frozen=True)
class Full:
    """An API with something of everything."""

    api: Api
    ids: dict[str, str]

    def paths(self) -> list[str]:
        """Return the address of every screen, and of what opens on one."""
        run = self.ids
        return [
            "/", "/runs", "/runs?status=failed,completed&q=of", f"/runs/{run['done']}", f"/runs/{run['done']}?step=work",
            f"/runs/{run['done']}?view=timeline", f"/runs/{run['done']}?view=events", f"/runs/{run['done']}?view=budget",
            f"/runs/{run['dead']}?step=call", f"/runs/{run['asks']}", f"/runs/{run['paused']}", f"/runs/{run['agent']}?step=clerk",
            f"/runs/{run['done']}/diff/{run['replay']}", "/runs/01a00000-0000-7000-8000-000000000000", "/new", "/new?graph=triage",
            "/new?agent=clerk", "/waits", "/waits?state=answered", "/dead-letters", "/dead-letters?reason=nothing", "/agents",
            f"/agents/{run['clerk']}", "/tool-servers", f"/tool-servers/{run['depot']}", "/models", "/graphs",
            "/graphs/vendor-onboarding", "/workers", "/settings",
        ]  # fmt: skip


async def post(api: Api, path: str, body: Any = None) -> Any:
    answer = await api.http.post(path, json=body or {})
    assert answer.status_code in (200, 201, 202), (path, answer.text)
    return answer.json()


async def waits(api: Api, count: int) -> list[dict[str, Any]]:
    """Return what waits for people, once there is so much."""
    while True:
        items: list[dict[str, Any]] = (await api.http.get("/waits")).json()["items"]
        if len(items) >= count:
            return items


async def fill(api: Api, depot: str) -> dict[str, str]:
    """Make something of everything; return the ids."""
    give = {
        "tool": "give",
        "value": {"text": "# Found\n\nall of *it*, [there](https://example.org)", LONG: [1, 2, {"a": LONG}]},
    }
    steps = [
        {"name": "plan", "input": give}, {"name": "work", "input": give, "dependsOn": ["plan"]},
        {"name": LONG, "tool": "tell", "input": {"times": 40}, "dependsOn": ["plan"]},
        {"name": "never", "input": give, "dependsOn": [{"step": "plan", "when": "output.text == 'no'"}]},
    ]  # fmt: skip
    ids = {"done": await api.start(*steps, goal=f"A bit of everything {LONG}", budget={"tokens": 5000, "tools": 10})}
    await api.watch(ids["done"])
    ids["replay"] = (
        await post(
            api,
            f"/runs/{ids['done']}/replay",
            {"from_step": "work", "edits": {"work": {"input": {"tool": "give", "value": 2}}}},
        )
    )["id"]
    ids["dead"] = await api.start(
        {"name": "call", "tool": "hurt", "input": {"message": f"It was refused: {LONG}"}}, goal="Out of order"
    )
    ask = {"prompt": "May this be sent?", "arguments": {"to": "\u202enobody", LONG: LONG}}
    ids["asks"] = await api.start({"name": "approve", "kind": "approval", "input": ask}, goal="Ask of people")
    for schema in ({"enum": ["one", "two"]}, {"type": "object", "properties": {"count": {"type": "integer"}}}, None):
        given = {"prompt": "Which one?", **({"schema": schema} if schema else {})}
        await api.start({"name": "ask", "kind": "input", "input": given})
    answered = await api.start({"name": "approve", "kind": "approval", "input": {"prompt": "And this?"}})
    (wait,) = [one for one in await waits(api, 5) if one["run_id"] == answered]
    await post(api, f"/waits/{wait['id']}/approve", {"reason": LONG})
    ids["paused"] = await api.start({"name": "sleep", "kind": "sleep", "input": {"seconds": 3600}})
    await post(api, f"/runs/{ids['paused']}/pause")
    await post(api, f"/runs/{await api.start({'name': 'sleep', 'kind': 'sleep', 'input': {'seconds': 3600}})}/cancel")
    await api.http.put("/models/openai/stub", json={"price": {"input_usd": "2", "output_usd": "10"}})
    await api.http.put("/gates/provider:openai", json={"requests_per_minute": 60, "concurrency": 3})
    ids["depot"] = (await post(api, "/tool-servers", {"name": "depot", "url": depot}))["id"]
    await post(api, f"/tool-servers/{ids['depot']}/discover")
    agent = {
        "name": "clerk", "model": "offline", "system": LONG, "tools": ["give"], "tool_servers": ["depot"], "approve": ["give"],
        "budgets": [{"meter": "tokens", "cap": 100_000, "window_s": 3600}],
    }  # fmt: skip
    ids["clerk"] = (await post(api, "/agents", agent))["id"]
    ids["agent"] = (await post(api, "/runs", {"agent": "clerk", "input": "give 1"}))["id"]
    await post(api, "/runs", {"graph": "vendor-onboarding", "goal": "Take on a vendor"})
    await waits(api, 6)
    for run in ("replay", "dead"):
        await api.watch(ids[run])
    return ids


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def full(admin_url: str) -> AsyncIterator[Full]:
    """Fill a database once, for all screens."""
    with postgres.cloned(admin_url) as database:
        given = Settings(_env_file=None, database_url=database.url, port=0, **MORE)
        async with mcp_servers.serving() as depot, serving(given) as api, working(given, TOOLS):
            yield Full(api, await fill(api, depot.url))


WIDE = "document.documentElement.scrollWidth - innerWidth"
FRAME = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
# What scrolls by a pixel or two shows a scroll bar and hides nothing behind it.
SLIGHT = """[...document.querySelectorAll('main *')].filter((one) => {
  const over = one.scrollHeight - one.clientHeight;
  return over > 0 && over <= 4 && ['auto', 'scroll'].includes(getComputedStyle(one).overflowY);
}).map((one) => one.getAttribute('aria-label') ?? one.className)"""
MAIN = "(() => { const main = document.querySelector('main'); return main.scrollWidth - main.clientWidth; })()"


# Loading the page anew for every screen takes five times as long as going there inside it.
GO = "(path) => { history.pushState(null, '', path); dispatchEvent(new PopStateEvent('popstate')); }"
THERE = """(path) => {
  const { status, resolvedLocation } = __TSR_ROUTER__.state;
  return status === 'idle' && resolvedLocation?.pathname + location.search === path;
}"""


async def shown(window: Window, path: str) -> Page:
    """Show a screen with all that it loads: the first by its address, the others as the page's own links do."""
    page = window.page
    if page.url == "about:blank":
        await window.go(path)
    else:
        await page.evaluate(GO, path)
        await page.wait_for_function(THERE, arg=path)
        await page.evaluate(FRAME)
    await expect(page.locator("main").get_by_role("status", name="Loading")).to_have_count(0)
    await expect(page.locator("main").get_by_role("heading", level=1)).to_be_visible()
    return page


async def test_each_screen_can_be_read_in_the_dark(full: Full, opened: Opened) -> None:
    """What a theme changes is colours; the rest is looked at by light."""
    window = await opened(full.api.port, theme="dark")
    found: list[str] = []
    for path in full.paths():
        await shown(window, path)
        found += [f"{path} {fault}" for fault in await window.faults(["color-contrast"])]
    assert "\n".join(found) == ""


async def test_each_screen_is_accessible_and_no_wider_than_its_window(full: Full, opened: Opened) -> None:
    window = await opened(full.api.port, theme="light")
    found: list[str] = []
    for path in full.paths():
        await window.page.set_viewport_size({"width": 1280, "height": 800})
        page = await shown(window, path)
        found += [f"{path} {fault}" for fault in await window.faults()]
        for width, height in ((1280, 800), (390, 844)):
            await page.set_viewport_size({"width": width, "height": height})
            for _ in range(100):  # what is laid out by script follows a few frames later
                if (over := max(await page.evaluate(WIDE), await page.evaluate(MAIN))) <= 0:
                    break
                await page.evaluate(FRAME)
            if over > 0:
                found.append(f"{path} is {over} px too wide at {width}")
            found += [f"{path} at {width}: {one!r} scrolls a few pixels" for one in await page.evaluate(SLIGHT)]
    assert "\n".join(found) == ""
