"""The demo: the README's run on a real system, with a worker killed in the middle of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from durable_agent.cli.client import call, events
from durable_agent.cli.supervisor import Stack, Stop, stack
from durable_agent.cli.tree import RunTree, console, events_table, line_of, shown
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


async def demo(settings: Settings, *, workers: int) -> bool:
    """Bring everything up, run, kill, show; tell whether the run completed. On a terminal, stay until Ctrl-C."""
    out, stop, completed = console(), Stop(), False
    stays = sys.stdin.isatty() and sys.stdout.isatty()
    try:
        with _directory(settings) as placed:
            out.print("durable-agent demo: embedded PostgreSQL, API, workers … (a moment)")
            async with stack(placed, workers=workers) as running:
                out.print(f"ready {running.url}: {workers} workers", style="bold")
                run_id, completed = await _show(out, running)
                if running.console_url is not None:
                    out.print(f"\nconsole  {running.console_url}/runs/{run_id}", soft_wrap=True)
                if stays:
                    _where_to_look(out, running, run_id)
                    await asyncio.Event().wait()
                out.print(
                    "\nOn a terminal all of this stays up to look around in; `durable-agent up` does so anywhere."
                )
    except asyncio.CancelledError:
        if not stop.asked:
            raise
    return completed


@contextlib.contextmanager
def _directory(settings: Settings) -> Iterator[Settings]:
    """Yield the settings with a temporary data directory, unless they say where the data is."""
    if settings.data_dir is not None or settings.database_url is not None:
        yield settings
        return
    # Not the user's own temporary folder: root's PostgreSQL runs as another user, who must get in.
    with tempfile.TemporaryDirectory(prefix="durable-agent-demo-", dir="/var/tmp", ignore_cleanup_errors=True) as made:
        Path(made).chmod(0o755)
        yield settings.model_copy(update={"data_dir": Path(made)})


async def _show(out: Console, running: Stack) -> tuple[str, bool]:
    """Start the run and follow it; return its id, and whether it completed."""
    started = await asyncio.to_thread(call, running.url, "POST", "/runs", json=RUN)
    run = await asyncio.to_thread(call, running.url, "GET", f"/runs/{started['id']}")
    out.print(f"POST /runs → run {started['id']}\n")
    seen, killed = await _watch(out, running, RunTree(run))
    final = await asyncio.to_thread(call, running.url, "GET", f"/runs/{started['id']}")
    if out.is_terminal:
        out.print()
        out.print(events_table(seen))
    steps = {step["name"]: step for step in final["steps"]}
    out.print(f"\nThe answer: {shown(steps['llm_call.summarize']['output'])}")
    completed = final["status"] == "completed"
    out.print(
        Text.assemble("\nThe run is ", (final["status"], "bold green" if completed else "bold red"), ". ", killed)
    )
    return started["id"], completed


async def _watch(out: Console, running: Stack, tree: RunTree) -> tuple[list[dict[str, Any]], str]:
    """Follow the run to its end; return its events, and what was done to whom on the way."""
    seen: list[dict[str, Any]] = []
    victim: str | None = None
    finished = False
    live = Live(tree, console=out, refresh_per_second=10) if out.is_terminal else contextlib.nullcontext()
    with live:
        async for event in events(running.url, tree.run["id"]):
            seen.append(event)
            tree.apply(event)
            if not out.is_terminal:
                out.print(line_of(event))
            if event["step"] != VICTIM_STEP:
                continue
            # Its first word of progress: the step is being worked on at this moment.
            if victim is None and event["type"] == "step.emitted":
                victim = await asyncio.to_thread(_kill, running, seen)
                what = f"kill -9 {victim}, which is running" if victim else "nobody is killed: no worker of ours runs"
                out.print(f"  {what} {VICTIM_STEP}", style="bold red")
            elif victim and event["type"] == "step.succeeded":
                claims = [
                    e["data"]["claim_no"] for e in seen if e["type"] == "step.claimed" and e["step"] == VICTIM_STEP
                ]
                finished = claims[-1] > 1
    if not victim:
        return seen, "No worker of ours was in the middle of it, so none was killed."
    then = "another attempt finished it" if finished else "it had finished already"
    return seen, f"{victim} was killed (SIGKILL) in the middle of {VICTIM_STEP}; {then}."


def _kill(running: Stack, seen: list[dict[str, Any]]) -> str:
    """Kill the worker that runs the victim step, and return its name; nobody, and empty, unless it is surely one of ours."""
    claim = next(e for e in reversed(seen) if e["type"] == "step.claimed" and e["step"] == VICTIM_STEP)
    name = claim["data"]["worker"]
    listed = call(running.url, "GET", "/workers")["items"]
    sessions = [one for one in listed if one["worker"] == name and one["state"] not in ("stopped", "lost")]
    # Another system on the same database has workers of the same names.
    places = [(one["host"], one["os_pid"]) for one in sessions]
    child = next((c for c in running.workers if c.pid and places == [(socket.gethostname(), c.pid)]), None)
    if child is None or child.pid is None:
        return ""
    pid = child.pid
    os.kill(pid, signal.SIGKILL)
    return f"{child.name} (pid {pid})"


def _where_to_look(out: Console, running: Stack, run_id: str) -> None:
    url, ws = running.url, running.url.replace("http", "ws", 1)
    for line in (
        "\nWhere to look, while it stays up (Ctrl-C ends it):",
        f"  curl {url}/runs/{run_id}",
        f"  npx wscat -c {ws}/ws/{run_id}",
        f"  export DURABLE_AGENT_URL={url}",
        f"  durable-agent tail {run_id}",
        f"  durable-agent runs export {run_id} > run.jsonl && durable-agent runs verify run.jsonl",
    ):
        out.print(line, soft_wrap=True)
