"""A real browser before a real API. Whatever the browser would rather not have done fails the test."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Dialog, Page, async_playwright, expect

ROOT = Path(__file__).parents[2]
BUILT = ROOT / "src" / "durable_agent" / "_console" / "index.html"
GROUPS = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice")
AXE = ROOT / "console" / "node_modules" / "axe-core" / "axe.min.js"
CHROMIUM = os.environ.get("TEST_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")

# A machine with everything on two cores shows a thing late, and shows it all the same.
expect.set_options(timeout=20_000)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run all in one loop; say what is missing instead of failing once a test: `make test` sees to both."""
    missing = (
        "no Chromium (apt-get install chromium)"
        if CHROMIUM is None
        else ""
        if BUILT.exists()
        else "no console (make console)"
    )
    for item in items:
        if item.path.parent != Path(__file__).parent:
            continue
        # A browser takes a second to start and lives in the loop that started it.
        item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)
        if missing:
            item.add_marker(pytest.mark.skip(reason=missing))


@dataclass
class Window:
    """One tab, and what it did that it should not have done."""

    page: Page
    origin: str
    wrong: list[str] = field(default_factory=list)

    def watch(self) -> None:
        """Note every error, dialog and request that leaves for somewhere else."""
        self.page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        self.page.on("dialog", self._asked_for)
        self.page.on("popup", lambda opened: self.wrong.append(f"popup: {opened.url}"))
        self.page.on("console", self._said)
        self.page.on("request", self._asked)

    def _said(self, message: Any) -> None:
        # What the server refuses is shown by the page; the browser tells it too.
        if (
            message.type == "error"
            and "Failed to load resource" not in message.text
            and "WebSocket" not in message.text
        ):
            self.wrong.append(f"console: {message.text}")

    async def _asked_for(self, dialog: Dialog) -> None:
        self.wrong.append(f"dialog: {dialog.message}")
        await dialog.dismiss()

    def _asked(self, request: Any) -> None:
        if not request.url.startswith((self.origin, self.origin.replace("http", "ws"), "data:", "blob:")):
            self.wrong.append(f"request: {request.url}")

    async def go(self, path: str) -> Page:
        """Show a screen."""
        await self.page.goto(self.origin + path)
        await expect(self.page.locator("main")).to_be_visible()
        return self.page

    async def faults(self, rules: Sequence[str] = (), groups: Sequence[str] = GROUPS) -> list[str]:
        """Return what axe finds wrong with what is shown, by some of its rules or by groups of them."""
        only = {"type": "rule", "values": list(rules)} if rules else {"type": "tag", "values": list(groups)}
        if not await self.page.evaluate("'axe' in window"):
            await self.page.evaluate(AXE.read_text())
        found = await self.page.evaluate(
            "async (only) => (await axe.run(document, {runOnly: only}))"
            ".violations.map((v) => `${v.id}: ${v.nodes.map((n) => n.target.join(' ')).slice(0, 3).join(', ')} ${v.nodes[0].failureSummary}`)",
            only,
        )
        return [str(one) for one in found]


Opened = Callable[..., Awaitable[Window]]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """One browser for all; each window is a context of its own, which shares nothing with another."""
    async with async_playwright() as playwright:
        # A test's browser runs as whoever runs the tests, and shares little memory with anybody.
        made = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield made
        await made.close()


@asynccontextmanager
async def _window(browser: Browser, origin: str, theme: str, size: tuple[int, int]) -> AsyncIterator[Window]:
    context = await browser.new_context(viewport={"width": size[0], "height": size[1]}, reduced_motion="reduce")
    await context.grant_permissions(["clipboard-read", "clipboard-write"])
    await context.add_init_script(
        f"localStorage.getItem('durable-agent.theme') ?? localStorage.setItem('durable-agent.theme', '{theme}')"
    )
    window = Window(await context.new_page(), origin)
    window.watch()
    yield window
    await context.close()


@pytest_asyncio.fixture(loop_scope="session")
async def opened(browser: Browser) -> AsyncIterator[Opened]:
    """Open windows on an API's port; at the end none did what it should not have done."""
    windows: list[Window] = []
    async with AsyncExitStack() as stack:

        async def make(
            port: int, *, theme: str = "light", size: tuple[int, int] = (1280, 800), path: str = ""
        ) -> Window:
            context: AbstractAsyncContextManager[Window] = _window(
                browser, f"http://127.0.0.1:{port}{path}", theme, size
            )
            windows.append(await stack.enter_async_context(context))
            return windows[-1]

        yield make
        wrong = [one for window in windows for one in window.wrong]
    assert wrong == []
