"""Pictures of the console: every screen of a system that has something to tell, in both themes.

    python scripts/screenshots.py [SCREEN ...]

Starts its own PostgreSQL, API and workers, tells them an hour's story (a worker is killed in it, a person is asked, steps
give up), and writes docs/images/SCREEN-THEME.webp. Needs Chromium and the built console (`make console`).
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import os
import random
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import orjson
import psycopg
import uvicorn
from harness.llm import Llm
from mcp.server.mcpserver import MCPServer
from mcp_types import ToolAnnotations
from playwright.async_api import Browser, async_playwright

from durable_agent.cli.client import events
from durable_agent.cli.demo import RUN, VICTIM_STEP
from durable_agent.cli.supervisor import Stack, stack
from durable_agent.settings import read_settings

IMAGES = Path(__file__).parents[1] / "docs" / "images"
MODULES = (
    "durable_agent.flow.demo", "workers.examples.research_swarm", "workers.examples.triage", "workers.examples.vendor_onboarding",
)  # fmt: skip
WIDE, NARROW = (1280, 800), (390, 844)
QUALITY = 82
HOUR_S = 3600
MODEL = "gpt-4.1"
OPENINGS = ("In short:", "What the sources agree on:", "For a first decision this is enough:", "As of this week:")
ANSWER = (
    "Both carry 200 rooms on one machine of 16 cores.\n\n- **mediasoup** leaves signalling and scaling to you and costs less to run.\n"
    "- **LiveKit** brings both, and a second region is a setting.\n\nNot known: how either behaves above 60 people in a room."
)
PHASES = 12
WORKERS = 3
_BEATING = (
    b"select count(*) from workers where state = 'active' and suspected_at is null and lease_until > engine_now() + interval '9 seconds'"
    b" and beat_at > engine_now() - interval '2 seconds'"
)
TOPICS = (
    "mediasoup or LiveKit for 200 rooms", "What changed in PostgreSQL 18 for queues", "Prices of reserved GPUs in Europe",
    "How others bill by the token", "Passkeys on shared devices", "Which logs an auditor asks for first",
)  # fmt: skip


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    """Return once it is so."""
    while not await true():  # noqa: ASYNC110  # what is waited for is in a browser and in a database
        await asyncio.sleep(0.05)


class Model(Llm):
    """A provider that answers every question well enough."""

    def _events(self, asked: dict[str, Any]) -> list[bytes]:
        said = random.Random(str(asked["messages"]))
        answer = f"{said.choice(OPENINGS)} {ANSWER}"
        frame = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": asked["model"]}
        usage = {"prompt_tokens": said.randint(1_800, 9_000), "completion_tokens": said.randint(150, 700)}
        usage["total_tokens"] = sum(usage.values())
        chunks = (
            {
                **frame,
                "choices": [{"index": 0, "delta": {"role": "assistant", "content": answer}, "finish_reason": None}],
            },
            {**frame, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
            {**frame, "choices": [], "usage": usage},
        )
        return [*(b"data: %b\n\n" % orjson.dumps(chunk) for chunk in chunks), b"data: [DONE]\n\n"]


class Story:
    """What is told to a running system."""

    def __init__(self, http: httpx2.AsyncClient, system: Stack, database: str) -> None:
        self.ids: dict[str, str] = {}
        self._http = http
        self._system = system
        self._database = database
        self._random = random.Random(7)

    async def tell(self, depot: str) -> None:
        """Let an hour pass in a minute, and leave what is still open."""
        await self._prepare(depot)
        for phase in range(PHASES):
            await self._clock(-HOUR_S * (1 - phase / PHASES) + 60)
            await self._batch(phase)
        await self._clock(0)
        await self._killed()
        await self._research("mediasoup or LiveKit for 200 rooms", "swarm")
        await self._open()

    async def post(self, path: str, body: Any, method: str = "POST") -> Any:
        """Return the answer. Raises RuntimeError for one that refuses."""
        answer = await self._http.request(method, path, json=body)
        if answer.status_code >= 400:
            raise RuntimeError(f"{method} {path}: {answer.text}")
        return answer.json()

    async def _prepare(self, depot: str) -> None:
        await self.post("/models/openai/gpt-4.1-mini", {"price": {"input_usd": "0.3", "output_usd": "1.2"}}, "PUT")
        await self.post("/gates/provider:anthropic", {"requests_per_minute": 600, "concurrency": 24}, "PUT")
        server = await self.post("/tool-servers", {"name": "warehouse", "url": depot})
        await self.post(f"/tool-servers/{server['id']}/discover", {})
        self.ids["server"] = server["id"]
        for name, system, tools in (
            ("researcher", "Find what is known, say where it is from, and say what is not known.", ["web_search"]),
            ("storekeeper", "Keep the warehouse in order. Ask before anything is thrown away.", []),
        ):
            agent = {
                "name": name, "model": f"openai:{MODEL}", "system": system, "tools": tools, "tool_servers": [] if tools else ["warehouse"],
                "approve": [] if tools else ["warehouse.scrap"], "max_steps": 12,
                "budgets": [{"meter": "tokens", "cap": 90_000, "window_s": 3600}, {"meter": "microusd", "cap": 5_000_000, "window_s": 86_400}],
            }  # fmt: skip
            self.ids[name] = (await self.post("/agents", agent))["id"]

    async def _clock(self, seconds: float) -> None:
        """Set the engine's clock beside the wall clock, once nothing is under way; every worker is seen to live by it."""
        await until(self._idle)
        async with await psycopg.AsyncConnection.connect(self._database, autocommit=True) as connection:
            await connection.execute(
                "create or replace function engine_now() returns timestamptz language sql volatile"
                f" as $$ select clock_timestamp() + interval '{seconds} seconds' $$".encode()
            )

            async def beating() -> bool:
                row = await (await connection.execute(_BEATING)).fetchone()
                return row is not None and row[0] == WORKERS

            await until(beating)

    async def _idle(self) -> bool:
        answer = await self._http.get("/runs?status=pending&status=running&limit=1")
        return not answer.json()["items"]

    async def _batch(self, phase: int) -> None:
        """Start what comes in in five minutes."""
        started = [
            self._start({**RUN, "goal": f"Nightly figures, part {no + 1}", "steps": self._quick()})
            for no in range(self._random.randint(3, 9))
        ]
        started.append(self._research(TOPICS[phase % len(TOPICS)]))
        refund = {
            "graph": "triage",
            "goal": f"Ticket {4200 + phase}",
            "input": {"intent": "refund" if phase % 2 else "question"},
        }
        started.append(self._start(refund))
        started.append(
            self._start(
                {
                    "agent": "researcher",
                    "goal": f"Look up: {TOPICS[(phase + 2) % len(TOPICS)]}",
                    "input": TOPICS[(phase + 2) % len(TOPICS)],
                }
            )
        )
        if phase % 4 == 1:
            broken = {
                "name": "tool_call.sync",
                "tool": "fetch_data",
                "input": {"source": "crm", "failure_rate": 1},
                "retry": {"maxAttempts": 3, "baseS": 0.05},
            }
            started.append(
                self._start(
                    {
                        "goal": f"Sync customers, batch {phase}",
                        "steps": [broken, {"name": "report", "tool": "echo", "dependsOn": ["tool_call.sync"]}],
                    }
                )
            )
        await asyncio.gather(*started)

    def _quick(self) -> list[dict[str, Any]]:
        return [
            {**step, "input": {**step["input"], "delay_s": round(self._random.random() / 5, 2)}}
            for step in RUN["steps"]
        ]

    async def _start(self, body: dict[str, Any]) -> str:
        return str((await self.post("/runs", body))["id"])

    async def _research(self, topic: str, name: str | None = None) -> str:
        run = await self._start({"graph": "research-swarm", "goal": topic, "input": {"topic": topic}})
        if name:
            self.ids[name] = run
            await self._ended(run)
        return run

    async def _ended(self, run: str) -> None:
        async for _ in events(self._system.url, run):
            pass

    async def _killed(self) -> None:
        """Kill the worker that transforms, in the middle of it."""
        run = self.ids["killed"] = await self._start(RUN)
        worker, killed = "", False
        async for event in events(self._system.url, run):
            if event["type"] == "step.claimed":
                worker = event["data"]["worker"]
            if not killed and event["step"] == VICTIM_STEP and event["type"] == "step.emitted":
                victim = next(child for child in self._system.workers if child.name == worker)
                if victim.pid is not None:
                    os.kill(victim.pid, signal.SIGKILL)
                killed = True

    async def _open(self) -> None:
        """Leave what waits, and what goes on while pictures are taken."""
        replay = {
            "from_step": "llm_call.summarize",
            "edits": {"llm_call.summarize": {"input": {"prompt": "Summarize it for a child"}}},
        }
        self.ids["replay"] = (await self.post(f"/runs/{self.ids['killed']}/replay", replay))["id"]
        await self._start({"graph": "vendor-onboarding", "goal": "Take on Meridian Freight as a vendor"})
        letter = {"to": "finance@meridian-freight.example", "amount_eur": 18_400, "iban": "DE02 1203 0000 0000 2020 51"}
        self.ids["asks"] = await self._start({
            "goal": "Pay the invoice of Meridian Freight", "steps": [
                {"name": "check", "tool": "echo", "input": {"text": "The sum is the order's"}},
                {"name": "approve", "kind": "approval", "input": {"prompt": "Pay 18,400 € to Meridian Freight?", "arguments": letter}, "dependsOn": ["check"]},
                {"name": "pay", "tool": "echo", "input": {"text": "paid"}, "dependsOn": ["approve"]},
            ],
        })  # fmt: skip
        question = {"prompt": "Which region first?", "schema": {"enum": ["Europe", "North America", "Asia"]}}
        await self._start({"goal": "Plan the launch", "steps": [{"name": "ask", "kind": "input", "input": question}]})
        slow = [{"name": f"tool_call.fetch_{no}", "input": {"tool": "fetch_data", "delay_s": 300}} for no in range(5)]
        self.ids["live"] = await self._start({"goal": "Collect the week's figures", "steps": slow})
        await self._ended(self.ids["replay"])

        async def asked() -> bool:
            return len((await self._http.get("/waits")).json()["items"]) >= 3

        await until(asked)

    def screens(self) -> dict[str, str]:
        """Return the address of each picture."""
        run = self.ids
        return {
            "dashboard": "/", "runs": "/runs", "run-graph": f"/runs/{run['swarm']}", "run-step": f"/runs/{run['swarm']}?step=plan",
            "run-timeline": f"/runs/{run['killed']}?view=timeline&step={VICTIM_STEP}", "run-events": f"/runs/{run['killed']}?view=events",
            "run-budget": f"/runs/{run['swarm']}?view=budget", "run-waits": f"/runs/{run['asks']}", "diff": f"/runs/{run['killed']}/diff/{run['replay']}",
            "new": "/new", "new-graph": "/new?graph=research-swarm", "waits": "/waits", "dead-letters": "/dead-letters", "agents": "/agents",
            "agent": f"/agents/{run['researcher']}", "tool-servers": "/tool-servers", "tool-server": f"/tool-servers/{run['server']}",
            "models": "/models", "graphs": "/graphs", "graph": "/graphs/research-swarm", "workers": "/workers", "settings": "/settings",
        }  # fmt: skip


@asynccontextmanager
async def warehouse() -> AsyncIterator[str]:
    """Yield the URL of a tool server."""
    server: MCPServer[Any] = MCPServer("Warehouse", version="1.4", log_level="CRITICAL")

    @server.tool(annotations=ToolAnnotations(read_only_hint=True))
    async def stock(article: str) -> str:
        """Say how many of an article are on the shelf, and where."""
        return f"{article}: 12 in aisle 4"

    @server.tool(annotations=ToolAnnotations(idempotent_hint=True, destructive_hint=False))
    async def reserve(article: str, count: int, order: str) -> str:
        """Put articles aside for an order; the same order again changes nothing."""
        return f"{count} of {article} are kept for {order}"

    @server.tool()
    async def scrap(article: str, count: int, reason: str) -> str:
        """Throw articles away. It cannot be taken back."""
        return f"{count} of {article} are gone"

    config = uvicorn.Config(server.streamable_http_app(), port=0, log_config=None, access_log=False, lifespan="on")
    running = uvicorn.Server(config)
    task = asyncio.create_task(running.serve())

    async def started() -> bool:
        return running.started

    await until(started)
    yield f"http://127.0.0.1:{running.servers[0].sockets[0].getsockname()[1]}/mcp"
    running.should_exit = True
    await task


async def picture(browser: Browser, url: str, place: Path, *, theme: str, size: tuple[int, int]) -> int:
    """Write a picture of a screen; return its size in bytes."""
    context = await browser.new_context(viewport={"width": size[0], "height": size[1]}, reduced_motion="reduce")
    await context.add_init_script(f"localStorage.setItem('durable-agent.theme', '{theme}')")
    page = await context.new_page()
    await page.goto(url)
    await page.locator("main :is(h1, h2)").first.wait_for()
    await page.locator("main [role=status][aria-label=Loading]").first.wait_for(state="detached")
    # Charts and graphs are drawn after their figures came.
    await page.wait_for_timeout(900)
    cdp = await context.new_cdp_session(page)
    taken = await cdp.send("Page.captureScreenshot", {"format": "webp", "quality": QUALITY})
    content = base64.b64decode(taken["data"])
    await asyncio.to_thread(place.write_bytes, content)
    await context.close()
    return len(content)


async def take(system: Stack, story: Story, wanted: list[str]) -> None:
    """Write the pictures and say how large they are."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    async with async_playwright() as playwright:
        chromium = os.environ.get("TEST_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
        browser = await playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        for name, path in story.screens().items():
            sizes = {"": WIDE, **({"-narrow": NARROW} if name in ("dashboard", "run-timeline") else {})}
            for suffix, size in sizes.items():
                for theme in ("light", "dark"):
                    if wanted and name not in wanted:
                        continue
                    # Where it is narrow a step lies over the run.
                    where = path.split("&step=")[0] if suffix else path
                    place = IMAGES / f"{name}{suffix}-{theme}.webp"
                    written = await picture(browser, system.url + where, place, theme=theme, size=size)
                    print(f"{place.name:32} {written / 1024:6.1f} kB", flush=True)
        await browser.close()


async def main(wanted: list[str]) -> None:
    """Start everything, tell the story, take the pictures."""
    with tempfile.TemporaryDirectory(
        prefix="durable-agent-screenshots-", dir="/var/tmp", ignore_cleanup_errors=True
    ) as made:
        os.chmod(made, 0o755)
        model = Model(delay_s=0.2)
        provider = await asyncio.start_server(model.serve, "127.0.0.1", 0)
        model.port = provider.sockets[0].getsockname()[1]
        # By the environment, where the processes that are started look too.
        os.environ.update({
            "DURABLE_AGENT_EGRESS_ALLOW": "127.0.0.1", "DURABLE_AGENT_WEB_SEARCH": "offline", "DURABLE_AGENT_LOG_LEVEL": "error",
                "DURABLE_AGENT_BEAT_S": "0.5",
            "DURABLE_AGENT_MODEL": f"openai:{MODEL}", "OPENAI_API_KEY": "none", "OPENAI_BASE_URL": model.url,
        })  # fmt: skip
        settings = read_settings(data_dir=Path(made), port=0)
        async with warehouse() as depot, stack(settings, workers=WORKERS, modules=MODULES) as system:
            assert system.postgres is not None
            async with httpx2.AsyncClient(base_url=system.url, trust_env=False, timeout=30) as http:
                story = Story(http, system, system.postgres.urls.url)
                await story.tell(depot)
                await take(system, story, wanted)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("screen", nargs="*", help="only these")
    # The examples, for this process and for the workers that it starts.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    asyncio.run(main(parser.parse_args().screen))
