"""The demo: the README's run on a real system, with a worker killed in the middle of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
from rich.console import Console
from rich.live import Live

from durable_agent.cli.client import events
from durable_agent.cli.supervisor import Child, Stack, stack
from durable_agent.cli.tree import RunTree, console, events_table, line_of
from durable_agent.settings import Settings

RUN: dict[str, Any] = {
    "goal": "Research and summarize a topic",
    "steps": [
        {"name": "tool_call.fetch_data", "input": {"tool": "fetch_data", "delay_s": 1.5}},
        {
            "name": "tool_call.transform",
            "input": {"tool": "transform", "delay_s": 2.5},
            "dependsOn": ["tool_call.fetch_data"],
        },
        {
            "name": "llm_call.summarize",
            "input": {"prompt": "Summarize the data", "delay_s": 1.5},
            "dependsOn": ["tool_call.transform"],
        },
    ],
}

VICTIM_STEP = "tool_call.transform"


async def demo(settings: Settings, *, workers: int, data_dir: Path | None) -> bool:
    """Bring everything up, run, kill, show; tell whether the run completed. On a terminal, stay until Ctrl-C."""
    out = console()
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    with _directory(data_dir) as directory:
        out.print("[bold]durable-agent demo[/]: embedded PostgreSQL, API, workers … (a moment)")
        async with stack(settings, workers=workers, data_dir=directory) as running:
            out.print(f"ready [bold]{running.url}[/]: {workers} workers")
            completed = await _show(out, running)
            if sys.stdin.isatty() and sys.stdout.isatty() and not stop.is_set():
                out.print("\nEverything stays up; Ctrl-C ends it.")
                await stop.wait()
    return completed


@contextlib.contextmanager
def _directory(given: Path | None) -> Iterator[Path]:
    if given is not None:
        yield given
        return
    # Not the user's own temporary folder: root's PostgreSQL runs as another user, who must get in.
    with tempfile.TemporaryDirectory(prefix="durable-agent-demo-", dir="/var/tmp", ignore_cleanup_errors=True) as made:
        Path(made).chmod(0o755)
        yield Path(made)


async def _show(out: Console, running: Stack) -> bool:
    async with httpx2.AsyncClient(base_url=running.url, timeout=10.0, trust_env=False) as client:
        answer = await client.post("/runs", json=RUN)
        answer.raise_for_status()
        started = answer.json()
        run = (await client.get(f"/runs/{started['id']}")).json()
        out.print(f"POST /runs → {answer.status_code}  {started['ws_url']}\n")
        seen, killed = await _watch(out, running, RunTree(run), started["id"])
        final = (await client.get(f"/runs/{started['id']}")).json()
    out.print()
    out.print(events_table(seen))
    steps = {step["name"]: step for step in final["steps"]}
    out.print(f"\nThe answer: {steps['llm_call.summarize']['output']}")
    completed = bool(final["status"] == "completed")
    ending = "[green]completed[/]" if completed else f"[red]{final['status']}[/]"
    out.print(
        f"\nThe run is {ending}. {killed} was killed with SIGKILL in the middle of {VICTIM_STEP}; nothing was lost."
    )
    _where_to_look(out, running, started)
    return completed


async def _watch(out: Console, running: Stack, tree: RunTree, run_id: str) -> tuple[list[dict[str, Any]], str]:
    seen: list[dict[str, Any]] = []
    killed = ""
    live = Live(tree, console=out, refresh_per_second=10) if out.is_terminal else contextlib.nullcontext()
    with live:
        async for event in events(running.url, run_id):
            seen.append(event)
            tree.apply(event)
            if not out.is_terminal:
                print(line_of(event), flush=True)
            if not killed and event["step"] == VICTIM_STEP and event["type"] == "step.emitted":
                killed = _kill(running, seen)
                out.print(f"  [bold red]kill -9[/] {killed}, which runs {VICTIM_STEP}")
    return seen, killed


def _kill(running: Stack, seen: list[dict[str, Any]]) -> str:
    """Kill the worker that runs the victim step."""
    claim = next(e for e in reversed(seen) if e["type"] == "step.claimed" and e["step"] == VICTIM_STEP)
    child: Child = next(child for child in running.workers if child.name == claim["data"]["worker"])
    if child.pid is not None:
        os.kill(child.pid, signal.SIGKILL)
    return f"{child.name} (pid {child.pid})"


def _where_to_look(out: Console, running: Stack, started: dict[str, Any]) -> None:
    out.print("\nWhere to look:")
    out.print(f"  curl {running.url}/runs/{started['id']}")
    out.print(f"  npx wscat -c {started['ws_url']}")
    out.print(f"  durable-agent tail {started['id']} --url {running.url}")
    out.print(
        f"  durable-agent runs export {started['id']} --url {running.url} > run.jsonl && durable-agent runs verify run.jsonl"
    )
