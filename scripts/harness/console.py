"""The console's figures, taken in a real Chromium: what it loads, when it can be used, how it scrolls, what it holds."""

from __future__ import annotations

import asyncio
import gzip
import os
import shutil
import statistics
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from playwright.async_api import Browser, Page, Response, async_playwright

from durable_agent.core.records import RunSpec
from harness.stand import API_PORT, Bench, chain, run, step

Quantiles = Callable[[Sequence[float]], dict[str, float]]

RUNS, EVENTS, STEPS = 10_000, 5_000, 1_000
RATE = 20
FRAMES = 240
SHOWN = 12
_ORIGIN = f"http://127.0.0.1:{API_PORT}"

# Milliseconds from the navigation until what was asked for is there, was drawn, and the page answers again.
_READY = """
window.ready = null;
const look = () => {
  const there = document.querySelector('WANTED') && !document.querySelector('main [role=status][aria-label=Loading]');
  if (!there) return requestAnimationFrame(look);
  requestAnimationFrame(() => setTimeout(() => { window.ready = performance.now(); }, 0));
};
requestAnimationFrame(look);
"""

_CLICK = """
({link, wanted}) => new Promise((done) => {
  const began = performance.now();
  const look = () => {
    if (!document.querySelector(wanted)) return requestAnimationFrame(look);
    requestAnimationFrame(() => setTimeout(() => done(performance.now() - began), 0));
  };
  document.querySelector(link).click();
  requestAnimationFrame(look);
})
"""

# Scroll by most of a screen a frame; of each frame, how long it took and which part of the screen nothing was drawn on.
_SCROLL = """
async ({box, row, frames}) => {
  const scroller = document.querySelector(box);
  const frame = () => new Promise((done) => requestAnimationFrame(done));
  const took = [], bare = [];
  let before = await frame();
  for (let n = 0; n < frames; n++) {
    const left = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight;
    if (left < 2) scroller.scrollTop = 0; else scroller.scrollTop += scroller.clientHeight * 0.6;
    const now = await frame();
    took.push(now - before);
    before = now;
    const {top, bottom} = scroller.getBoundingClientRect();
    const rows = [...scroller.querySelectorAll(row)].map((one) => one.getBoundingClientRect());
    const drawn = rows.reduce((sum, one) => sum + Math.max(0, Math.min(one.bottom, bottom) - Math.max(one.top, top)), 0);
    bare.push(drawn === 0 ? 1 : 0);
  }
  return {took, bare};
}
"""

_TO_END = "(box) => { const scroller = document.querySelector(box); scroller.scrollTop = scroller.scrollHeight; }"

# When each step's box first says that it succeeded, by the clock that the database reads too.
_WATCH = """
window.seen = {};
new MutationObserver(() => {
  for (const box of document.querySelectorAll('[data-status=succeeded][data-step]')) window.seen[box.dataset.step] ??= Date.now();
}).observe(document, {subtree: true, childList: true, attributes: true, attributeFilter: ['data-status']});
"""


@dataclass(slots=True)
class Tab:
    """One tab without a cache."""

    page: Page
    scripts: list[Response] = field(default_factory=list)

    async def ready_ms(self, path: str, wanted: str) -> float:
        """Show a screen; return how long it took until it could be used."""
        await self.page.add_init_script(_READY.replace("WANTED", wanted))
        await self.page.goto(_ORIGIN + path)
        return float(await self.until("() => window.ready"))

    async def until(self, question: str, timeout_s: float = 60.0) -> Any:
        """Return the answer once it is neither null nor false; asked from outside, for the page allows no `eval`."""
        async with asyncio.timeout(timeout_s):
            while not (answer := await self.page.evaluate(question)):  # noqa: ASYNC110  # what is waited for is in a browser
                await asyncio.sleep(0.05)
        return answer

    async def script_kb(self) -> float:
        """Return how much JavaScript came, gzipped."""
        bodies = [await one.body() for one in self.scripts]
        return sum(len(gzip.compress(body, 6)) for body in bodies) / 1024

    async def heap_mb(self) -> float:
        """Return what the page's JavaScript holds on to."""
        cdp = await self.page.context.new_cdp_session(self.page)
        for _ in range(2):
            await cdp.send("HeapProfiler.collectGarbage")
        used = (await cdp.send("Runtime.getHeapUsage"))["usedSize"]
        await cdp.detach()
        return float(used) / 2**20


@asynccontextmanager
async def _tab(browser: Browser) -> AsyncIterator[Tab]:
    context = await browser.new_context(viewport={"width": 1280, "height": 800})
    tab = Tab(await context.new_page())
    tab.page.on("response", lambda one: tab.scripts.append(one) if one.url.endswith(".js") else None)
    yield tab
    await context.close()


@asynccontextmanager
async def _chromium() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=os.environ.get("TEST_CHROMIUM") or shutil.which("chromium"),
            args=["--no-sandbox", "--disable-dev-shm-usage"],
        )
        yield browser
        await browser.close()


def measure(bench: Bench, minutes: float, quantiles: Quantiles) -> dict[str, Any]:
    """Return the console's figures by name; `minutes` is how long a run is watched for what the page holds."""
    bench.clean()
    zygote = bench.zygote()
    with bench.api(), bench.workers(zygote):
        run(bench.fill([chain(1)] * RUNS))
        large = RunSpec(
            (step("a"), *(step(f"s{n}", *([f"s{n - 40}"] if n >= 40 else ["a"])) for n in range(STEPS - 1)))
        )
        run(bench.fill([large, RunSpec((step("talk", tool="talk", input={"times": EVENTS, "rate": 1e9}),))]))
        bench.until("select count(*)::int from runs where finished_at is null", 0)
        bench.settle()
        return asyncio.run(_measure(bench, minutes, quantiles))


async def _measure(bench: Bench, minutes: float, quantiles: Quantiles) -> dict[str, Any]:
    ((large,),) = bench.query("select id from runs where steps_total = %s", STEPS)
    ((talk,),) = bench.query("select id from runs where last_seq >= %s and steps_total = 1", EVENTS)
    figures: dict[str, Any] = {}
    async with _chromium() as browser:
        loads = [await _first_load(browser, "/", "main h1") for _ in range(6)]
        figures["console: JavaScript of the first load, gzipped kB"] = round(loads[0][1], 1)
        figures["console: dashboard usable, ms"] = quantiles([ms for ms, _ in loads[1:]])
        opens = [(await _first_load(browser, f"/runs/{large}", ".react-flow__node"))[0] for _ in range(6)]
        figures[f"console: a run of {STEPS:,} steps usable by its address, ms"] = quantiles(opens[1:])
        figures[f"console: a run of {STEPS:,} steps usable from the list, ms"] = quantiles(
            [await _opened(browser, str(large)) for _ in range(5)]
        )
        for name, path, box, row in (
            (f"{EVENTS:,} events", f"/runs/{talk}?view=events", "[aria-label=Events]", "li"),
            (f"{RUNS:,} runs", "/runs", "main", "[role=row]"),
        ):
            took, bare = await _scrolled(browser, path, box, row)
            figures[f"console: frames of scrolling {name}, ms"] = quantiles(took)
            figures[f"console: of {len(bare)} screens of {name} empty"] = sum(bare)
        figures["console: commit to screen, ms"] = quantiles(await _shown(browser, bench))
        if minutes:
            figures[f"console: held in {minutes:g} min of {RATE} events/s, MB a minute"] = await _held(
                browser, bench, minutes
            )
    return figures


async def _first_load(browser: Browser, path: str, wanted: str) -> tuple[float, float]:
    async with _tab(browser) as tab:
        return await tab.ready_ms(path, wanted), await tab.script_kb()


async def _opened(browser: Browser, run_id: str) -> float:
    """Return the milliseconds from the click on a run in the list until it can be used; other screens are not loaded before."""
    async with _tab(browser) as tab:
        await tab.ready_ms("/runs", "main [role=row] a")
        return float(await tab.page.evaluate(_CLICK, {"link": f"a[href*='{run_id}']", "wanted": ".react-flow__node"}))


async def _scrolled(browser: Browser, path: str, box: str, row: str) -> tuple[list[float], list[int]]:
    """Return the milliseconds of each frame, and of each whether its screen was empty; everything is loaded before."""
    async with _tab(browser) as tab:
        await tab.ready_ms(path, f"{box} {row}")
        before = 0
        while (height := await tab.page.evaluate(f"() => document.querySelector('{box}').scrollHeight")) > before:
            before = height
            for _ in range(20):
                await tab.page.evaluate(_TO_END, box)
                await asyncio.sleep(0.1)
        await tab.page.evaluate(f"() => {{ document.querySelector('{box}').scrollTop = 0; }}")
        found = await tab.page.evaluate(_SCROLL, {"box": box, "row": row, "frames": FRAMES})
        return found["took"], found["bare"]


async def _shown(browser: Browser, bench: Bench) -> list[float]:
    """Return the milliseconds from the commit of each step's success until its box said so."""
    found: list[float] = []
    for _ in range(4):
        # They begin once the page is there to see them end.
        names = {f"s{n}": 3.0 + 0.23 * n for n in range(SHOWN)}
        await asyncio.to_thread(
            run,
            bench.fill([RunSpec(tuple(step(name, tool="sleep", input={"delay_s": s}) for name, s in names.items()))]),
        )
        ((id_,),) = bench.query("select id from runs order by id desc limit 1")
        async with _tab(browser) as tab:
            await tab.page.add_init_script(_WATCH)
            await tab.ready_ms(f"/runs/{id_}", ".react-flow__node")
            await tab.until(f"() => Object.keys(window.seen).length === {SHOWN}")
            seen = await tab.page.evaluate("() => window.seen")
        ended = bench.query("select s.name, extract(epoch from e.at)::float8 * 1000 from events e join steps s on s.tenant = e.tenant"
                            " and s.run_id = e.run_id and s.no = e.step_no where e.run_id = %s and e.type = 'step.succeeded'", id_)  # fmt: skip
        found.extend(seen[name] - at for name, at in ended)
    return found


async def _held(browser: Browser, bench: Bench, minutes: float) -> dict[str, float]:
    """Return what the page holds at the first minute and at the last, and how much a minute it became more."""
    times = int(minutes * 60 * RATE)
    await asyncio.to_thread(
        run,
        bench.fill([RunSpec((step("talk", tool="talk", input={"times": times, "rate": RATE}, deadline_s=3600.0),))]),
    )
    ((id_,),) = bench.query("select id from runs order by id desc limit 1")
    held: list[float] = []
    async with _tab(browser) as tab:
        await tab.ready_ms(f"/runs/{id_}?view=events", "[aria-label=Events] li")
        ends = time.monotonic() + minutes * 60 - 5
        while time.monotonic() < ends:
            await asyncio.sleep(min(30.0, max(0.0, ends - time.monotonic())))
            held.append(round(await tab.heap_mb(), 2))
    late = held[len(held) // 2 :]
    slope = (late[-1] - late[0]) / max(len(late) - 1, 1) * 2
    return {
        "first": held[0],
        "middle": statistics.median(held),
        "last": held[-1],
        "a minute, second half": round(slope, 3),
    }
