"""What others wrote is shown and does nothing: over a hundred attempts in every field that is rendered."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from unicodedata import category
from urllib.parse import quote

import pytest_asyncio
from playwright.async_api import Page, expect

from durable_agent.settings import Settings
from tests.console.conftest import Opened, Window
from tests.support import mcp_servers, postgres
from tests.support.server import Api, serving, working
from tests.support.xss import EVIL, PAYLOADS

TOOLS = ("tests.console.tools",)
# Each in an item of its own, so that none swallows the next one.
AS_MARKDOWN = "\n".join("- " + text.replace("\n", "\n  ") for text in PAYLOADS)
# A server's tool that hides anything in its description is refused altogether.
OPEN = [text for text in PAYLOADS if not any(category(char) in ("Cc", "Cf", "Zl", "Zp") for char in text)]


@dataclass(frozen=True)
class Hostile:
    """An API whose every text means harm."""

    api: Api
    ids: dict[str, str]


async def fill(api: Api, server: str) -> dict[str, str]:
    """Put the texts wherever the API takes one; return the ids."""
    steps: list[Any] = [
        {"name": text, "tool": "give", "input": {"value": {"text": text, text: text}}} for text in PAYLOADS
    ]
    after = {"step": PAYLOADS[0], "when": "output.text != '<img src=x onerror=alert(1)>'"}
    steps.append({"name": "when", "tool": "give", "dependsOn": [after]})
    ids = {"names": await api.start(*steps, goal=PAYLOADS[0], metadata={text: text for text in PAYLOADS})}
    broken = [
        {"goal": text, "steps": [{"name": "hurt", "tool": "hurt", "input": {"message": text}}]} for text in PAYLOADS
    ]
    answer = await api.http.post("/runs/batch", json={"runs": broken})
    assert answer.status_code == 201, answer.text
    failing = [item["id"] for item in answer.json()["items"]]
    ids["failed"] = failing[0]
    ids["events"] = await api.start({"name": "tell", "input": {"events": list(PAYLOADS)}})
    ids["words"] = await api.start({"name": "say", "input": {"tool": "give", "value": {"text": AS_MARKDOWN}}})
    ask = [
        {"name": f"ask.{no}", "kind": "approval", "input": {"prompt": text, "arguments": {"text": text, text: [text]}}}
        for no, text in enumerate(PAYLOADS)
    ]
    ids["asks"] = await api.start(*ask)
    ids["asked"] = await api.start(*ask)
    ids["server"] = (await api.http.post("/tool-servers", json={"name": "hostile", "url": server})).json()["id"]
    answer = await api.http.post(f"/tool-servers/{ids['server']}/discover")
    assert answer.status_code == 200, answer.text
    agent = {"name": "hostile", "model": "offline", "system": "\n".join(PAYLOADS), "tool_servers": ["hostile"]}
    answer = await api.http.post("/agents", json=agent)
    assert answer.status_code == 201, answer.text
    ids["agent"] = answer.json()["id"]
    ids["talk"] = (await api.http.post("/runs", json={"agent": "hostile", "input": AS_MARKDOWN})).json()["id"]
    for run in (ids["names"], ids["events"], ids["words"], ids["talk"], *failing):
        await api.watch(run)
    while True:
        waits = (await api.http.get(f"/waits?run_id={ids['asked']}&limit=200")).json()["items"]
        if len(waits) == len(PAYLOADS):
            break
    reasons = zip(waits, PAYLOADS, strict=True)
    await asyncio.gather(
        *(api.http.post(f"/waits/{wait['id']}/approve", json={"reason": text}) for wait, text in reasons)
    )
    return ids


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def hostile(admin_url: str) -> AsyncIterator[Hostile]:
    """Fill a database once."""
    tools = [mcp_servers.a_tool(f"t{no}", text, text=text, title=text) for no, text in enumerate(OPEN)]
    given = {"secret_key": "k", "egress_allow": ("127.0.0.1",), "model": "offline", "max_concurrent_tasks": 40}
    with postgres.cloned(admin_url) as database:
        settings = Settings(_env_file=None, database_url=database.url, port=0, **given)
        async with mcp_servers.offering(*tools) as server, serving(settings) as api, working(settings, TOOLS):
            yield Hostile(api, await fill(api, server))


# What our own page has none of, whatever a policy would have kept it from doing.
_LOOK = """
() => {
  const own = (address) => new URL(address, document.baseURI).origin === location.origin;
  const DOES = new Set(['href', 'xlink:href', 'src', 'srcset', 'srcdoc', 'action', 'formaction', 'data', 'to', 'poster', 'background', 'ping']);
  const found = [];
  const tell = (one) => found.push(one.outerHTML.slice(0, 200));
  for (const one of document.querySelectorAll('script')) if (!one.src || !own(one.src) || !one.src.includes('/assets/')) tell(one);
  for (const one of document.querySelectorAll('iframe, frame, object, embed, portal, math, template, video, audio, picture, marquee, noscript, '
    + 'meta[http-equiv], form[action], foreignObject, animate, set, svg script, svg a, svg image, body style')) tell(one);
  for (const one of document.querySelectorAll('img')) if (!one.src.endsWith('/icon.svg')) tell(one);
  for (const one of document.querySelectorAll('link')) if (!own(one.href)) tell(one);
  if (document.querySelectorAll('base').length > 1) found.push('a second base');
  for (const one of document.querySelectorAll('a, area')) {
    if (!['http:', 'https:', ''].includes(one.protocol)) tell(one);
    else if (!own(one.href) && !(one.target === '_blank' && ['noopener', 'noreferrer', 'nofollow'].every((word) => one.rel.includes(word)))) tell(one);
  }
  for (const one of document.querySelectorAll('*')) {
    for (const { name, value } of one.attributes) {
      if (/^on/i.test(name) || /^\\s*(javascript|vbscript|data):/i.test(value) && DOES.has(name)) tell(one);
    }
  }
  return found;
}
"""
_SCROLL = """
async (box) => {
  const before = box.scrollTop;
  box.scrollTop += box.clientHeight * 0.8;
  await new Promise((go) => requestAnimationFrame(() => requestAnimationFrame(go)));
  return box.scrollTop > before;
}
"""


async def harmless(page: Page, within: str | None = None) -> None:
    """Look at what is there; where only what is in sight is drawn, from the top of the place to its end."""
    assert await page.evaluate(_LOOK) == []
    while within is not None and await page.locator(within).evaluate(_SCROLL):
        assert await page.evaluate(_LOOK) == []


async def show(window: Window, path: str, sign: str) -> Page:
    """Show a screen, once what it is about is there."""
    page = await window.go(path)
    await expect(page.get_by_text(sign, exact=True).first).to_be_visible()
    return page


async def test_lists_show_hostile_texts_and_nothing_happens(hostile: Hostile, opened: Opened) -> None:
    window = await opened(hostile.api.port)
    for path in ("/runs", "/dead-letters"):
        page = await show(window, path, PAYLOADS[-2])
        await harmless(page, "main")
    page = await show(window, "/waits", PAYLOADS[0])
    assert await page.get_by_role("article").count() == len(PAYLOADS)
    await harmless(page)
    page = await window.go("/waits?state=answered")
    for shown in range(50, len(PAYLOADS), 50):
        await expect(page.get_by_role("article")).to_have_count(shown)
        await page.get_by_role("button", name="Show more").click()
    await expect(page.get_by_role("article")).to_have_count(len(PAYLOADS))
    await page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    await harmless(page)
    await show(window, "/", PAYLOADS[-2])
    await harmless(page)
    # And the page still does what it should.
    await page.keyboard.press("Control+k")
    await page.keyboard.type("<script>")
    await expect(page.get_by_role("option", name=re.compile("<script>"), selected=True)).to_be_visible()
    await harmless(page)
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("tab", name="Graph")).to_be_visible()


async def test_a_run_of_hostile_steps_shows_them_and_nothing_happens(hostile: Hostile, opened: Opened) -> None:
    window = await opened(hostile.api.port)
    run = f"/runs/{hostile.ids['names']}"
    page = await window.go(run)
    await expect(page.get_by_role("button", name=PAYLOADS[0]).first).to_be_visible()
    await page.get_by_role("button", name="Fit View").click()
    await harmless(page)
    page = await window.go(f"{run}?view=timeline")
    await expect(page.get_by_role("button", name=re.compile("succeeded")).first).to_be_visible()
    await harmless(page, "[aria-label='Steps over time']")
    page = await window.go(f"{run}?view=events")
    await harmless(page, "[aria-label='Events']")
    for text in (PAYLOADS[0], PAYLOADS[40], PAYLOADS[80], PAYLOADS[-1]):
        page = await show(window, f"{run}?step={quote(text)}", "Replay from here")
        await harmless(page, "[aria-label='The step']")
    page = await window.go(f"/runs/{hostile.ids['events']}?view=events&type=step")
    said = page.get_by_role("button", name=re.compile(r"^Event \d+: all of it$"))
    await expect(said.first).to_be_visible()
    for no in range(10):
        await said.nth(no).click()
    await harmless(page, "[aria-label='Events']")
    page = await window.go(f"/runs/{hostile.ids['failed']}?step=hurt")
    await expect(page.get_by_role("region", name="Error")).to_contain_text(PAYLOADS[0])
    await harmless(page)


async def test_words_of_models_and_tools_are_words(hostile: Hostile, opened: Opened) -> None:
    window = await opened(hostile.api.port)
    page = await window.go(f"/runs/{hostile.ids['words']}?step=say")
    beside = page.get_by_role("complementary", name="Step say")
    for look in ("JSON", "text"):
        await beside.get_by_role("button", name=look, exact=True).click()
        await harmless(page, "[aria-label='The step']")
    await beside.get_by_role("button", name="markdown", exact=True).click()
    # All of them are laid out, none swallowed another; what may lead to the web does, and says where to.
    shown = beside.get_by_role("group", name="Output", exact=True)
    await expect(shown.locator("ul").first.locator("> li")).to_have_count(len(PAYLOADS))
    await expect(shown.get_by_role("link", name=f"{EVIL}/auto (evil.example)", exact=True)).to_be_visible()
    await harmless(page, "[aria-label='The step']")
    page = await window.go(f"/runs/{hostile.ids['talk']}?step=hostile")
    calls = page.get_by_role("complementary").get_by_role("button", name=re.compile(r"^#\d+"))
    await calls.first.click()
    await harmless(page, "[aria-label='The step']")
    page = await window.go(f"/agents/{hostile.ids['agent']}")
    await expect(page.get_by_role("region", name="Instructions")).to_contain_text(PAYLOADS[0])
    await harmless(page)
    page = await show(window, f"/tool-servers/{hostile.ids['server']}", PAYLOADS[0])
    for no in range(8):
        await page.get_by_role("button", name=f"1 argument of t{no}", exact=True).click()
    await harmless(page)
