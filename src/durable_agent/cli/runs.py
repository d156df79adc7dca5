"""Commands about runs: start, list, show, follow, verify, control; and their dead letters."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import orjson
import typer
from rich.live import Live

from durable_agent.cli.client import DEFAULT_URL, call, call_patiently, connected, events, refusal
from durable_agent.cli.options import Data, DatabaseUrl, Json, RunId, Url, print_json, settings_for
from durable_agent.cli.tree import RunTree, console, events_table, line_of, shown, table
from durable_agent.core.states import RunStatus
from durable_agent.errors import InvalidRequest

app = typer.Typer(no_args_is_help=True, help="Look at runs and control them.")
dead_letters = typer.Typer(no_args_is_help=True, help="Steps that gave up.")

Reason = Annotated[str | None, typer.Option(help="Why; it is recorded.")]


def start(
    what: Annotated[
        str, typer.Argument(metavar="FILE.json", help="A run as POST /runs takes it; - for standard input.")
    ],
    goal: Annotated[str | None, typer.Option(help="The run's goal, in place of the file's.")] = None,
    input_: Annotated[str | None, typer.Option("--input", help="The run's input: JSON, or @FILE.")] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Follow the run to its end; exit 1 unless it completes.")
    ] = False,
    key: Annotated[str | None, typer.Option("--idempotency-key", help="The same key and run start it once.")] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Start a run."""
    body = _document(what, "FILE")
    if not isinstance(body, dict):
        raise InvalidRequest(f"{what} holds no JSON object; it must look like the body of POST /runs", field="FILE")
    if goal is not None:
        body["goal"] = goal
    if input_ is not None:
        body["input"] = _document(input_[1:], "--input") if input_.startswith("@") else _json(input_, "--input")
    started = call(_url(url), "POST", "/runs", json=body, headers={"Idempotency-Key": key} if key else None)
    if as_json:
        print_json(started)
    else:
        print(started["id"])
    for warning in started.get("warnings", ()):
        print(f"warning: {warning}", file=sys.stderr)
    if watch:
        _follow(_url(url), started["id"])


def tail(
    run: RunId,
    after: Annotated[int, typer.Option(min=0, help="Only events after this one.")] = 0,
    url: Url = None,
    database_url: DatabaseUrl = None,
    data_dir: Data = None,
    as_json: Json = False,
) -> None:
    """Follow a run to its end: a live tree on a terminal, a line an event otherwise. Exit 1 unless it completes.

    With --database-url or --data-dir it reads the database itself: for when no API is up.
    """
    if database_url is None and data_dir is None:
        _follow(_url(url), str(run), after=after, as_json=as_json)
        return
    from durable_agent.cli.database import run_events, run_shown, url_for

    with url_for(settings_for(database_url, data_dir)) as (pooled, direct):
        _draw(
            lambda: run_shown(pooled, run), lambda: run_events(pooled, direct, run, after),
            whole=after == 0, as_json=as_json,
        )  # fmt: skip


def _follow(url: str, run_id: str, *, after: int = 0, as_json: bool = False) -> None:
    _draw(
        lambda: call_patiently(url, f"/runs/{run_id}"), lambda: events(url, run_id, after=after),
        whole=after == 0, as_json=as_json,
    )  # fmt: skip


def _draw(
    run: Callable[[], dict[str, Any]], following: Callable[[], AsyncIterator[dict[str, Any]]], *, whole: bool, as_json: bool
) -> None:  # fmt: skip
    """Show a run's events as they come. Raises Exit(1) unless it completes."""
    out = console()
    tree = RunTree(run())
    drawn = out.is_terminal and not as_json and whole

    async def follow() -> None:
        async for event in following():
            tree.apply(event)
            if as_json:
                print(orjson.dumps(event).decode(), flush=True)
            elif not drawn:
                out.print(line_of(event), soft_wrap=True)

    with Live(tree, console=out, refresh_per_second=10) if drawn else contextlib.nullcontext():
        asyncio.run(follow())
    if run()["status"] != "completed":
        raise typer.Exit(1)


@app.command("list")
def list_runs(
    status: Annotated[list[RunStatus] | None, typer.Option(help="Only with this status; may be repeated.")] = None,
    graph: Annotated[str | None, typer.Option(help="Only of this graph.")] = None,
    q: Annotated[str | None, typer.Option("--search", help="Words of the goal.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many, newest first.")] = 50,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List runs, newest first."""
    given = {"status": [s.value for s in status or ()], "graph": graph, "q": q, "limit": limit}
    found = call(_url(url), "GET", "/runs", params={name: value for name, value in given.items() if value})
    if as_json:
        print_json(found)
        return
    made = table("id", "status", "steps", "created", "goal")
    for run in found["items"]:
        done = run["steps_total"] - run["steps_left"]
        goal = shown(run["goal"] or "")[:200]
        made.add_row(run["id"], run["status"], f"{done}/{run['steps_total']}", run["created_at"][:19], goal)
    console().print(made)
    if found["next_cursor"]:
        print(f"… more than {limit}: give --limit, --status or --search", file=sys.stderr)


@app.command()
def show(run: RunId, url: Url = None, as_json: Json = False) -> None:
    """Show a run and its steps."""
    found = call(_url(url), "GET", f"/runs/{run}")
    if as_json:
        print_json(found)
        return
    out = console()
    out.print(f"run {found['id']}  {found['status']}  {shown(found['goal'] or '')}", soft_wrap=True)
    made = table("step", "status", "attempt", "worker", "seconds", "output or error")
    for step in found["steps"]:
        said = step["error"] if step["error"] is not None else step["output"]
        text = shown(said)[:120] if said is not None else ""
        made.add_row(
            shown(step["name"]), step["status"], f"{step['attempt']}/{step['max_attempts']}", shown(step["worker"] or ""),
            _seconds(step), text,
        )  # fmt: skip
    out.print(made)


def _seconds(step: dict[str, Any]) -> str:
    if not step["started_at"] or not step["finished_at"]:
        return ""
    took = datetime.fromisoformat(step["finished_at"]) - datetime.fromisoformat(step["started_at"])
    return f"{took.total_seconds():.1f}"


@app.command("events")
def show_events(
    run: RunId, after: Annotated[int, typer.Option(min=0)] = 0, url: Url = None, as_json: Json = False
) -> None:
    """Show a run's events as they stand."""
    found: list[dict[str, Any]] = []
    while True:
        page = call(_url(url), "GET", f"/runs/{run}/events", params={"after": after, "limit": 1000})
        found += page["items"]
        if page["next_after"] is None:
            break
        after = page["next_after"]
    if as_json:
        print_json(found)
    else:
        console().print(events_table(found))


@app.command()
def export(run: RunId, url: Url = None) -> None:
    """Write a run's whole history to standard output as JSON lines, for `runs verify`."""
    with connected(_url(url)) as client, client.stream("GET", f"/runs/{run}/export") as answer:
        if not answer.is_success:
            answer.read()
            raise refusal(answer)
        for chunk in answer.iter_bytes():
            sys.stdout.buffer.write(chunk)


@app.command()
def verify(file: Annotated[Path, typer.Argument(metavar="FILE", help="An export; - for standard input.")]) -> None:
    """Check an export by itself: the chain of hashes, its tail, the outputs, the rows. Exit 1 naming what does not fit."""
    from durable_agent.core.events import ChainBroken
    from durable_agent.engine.export import NotAnExport, verify_export

    try:
        lines = sys.stdin.buffer.readlines() if str(file) == "-" else file.read_bytes().splitlines()
        run_id, count = verify_export(lines)
    except OSError as error:
        raise InvalidRequest(f"{file} cannot be read: {error.strerror}", field="FILE") from None
    except NotAnExport as error:
        raise InvalidRequest(str(error), field="FILE") from None
    except ChainBroken as error:
        print(f"broken at event {error.seq}: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    print(f"run {run_id}: {count} events, the chain holds, the rows are what the events say")


@app.command()
def explain(run: RunId, url: Url = None, as_json: Json = False) -> None:
    """Say why each unfinished step is not moving."""
    found = call(_url(url), "GET", f"/runs/{run}/explain")
    if as_json:
        print_json(found)
        return
    print(shown(found["text"]))
    for step in found["steps"]:
        print(f"  {shown(step['step'] or '-')}: {shown(step['text'])}  [{step['reason']}]")


@app.command()
def replay(
    run: RunId,
    start: Annotated[
        str, typer.Option("--from", help="A step's name or number; what follows from it is made again.")
    ] = "0",
    live: Annotated[
        bool, typer.Option("--live", help="Call models and tools again; default: only the record.")
    ] = False,
    edits: Annotated[
        str | None, typer.Option(help='Changes, JSON or @FILE: {"STEP": {"input": …, "output": …}}.')
    ] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Make a run again from its record, and show each step as recorded and now, and the first that differs.

    Exit 1 when something differs.
    """
    body: dict[str, Any] = {
        "fromStep": int(start) if start.isdigit() else start,
        "mode": "live" if live else "recorded",
    }
    if edits is not None:
        body["edits"] = _document(edits[1:], "--edits") if edits.startswith("@") else _json(edits, "--edits")
    made = call(_url(url), "POST", f"/runs/{run}/replay", json=body)
    asyncio.run(_ended(_url(url), made["id"]))
    _show_diff(call(_url(url), "GET", f"/runs/{run}/diff/{made['id']}"), as_json)


async def _ended(url: str, run_id: str) -> None:
    async for _ in events(url, run_id, after=0):
        pass


@app.command("diff")
def diff_runs(
    run: RunId, other: Annotated[UUID, typer.Argument(metavar="OTHER")], url: Url = None, as_json: Json = False
) -> None:
    """Compare two runs step by step. Exit 1 when they differ."""
    _show_diff(call(_url(url), "GET", f"/runs/{run}/diff/{other}"), as_json)


def _show_diff(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(found)
    else:
        made = table("step", found["a"]["run_id"][:8], "", found["b"]["run_id"][:8], "seconds", "difference")
        for step in found["steps"]:
            a, b = step["a"] or {}, step["b"] or {}
            made.add_row(
                shown(step["step"]), a.get("status", "-"), "=" if step["same"] else "≠", b.get("status", "-"),
                f"{a.get('seconds') or 0:.3f} / {b.get('seconds') or 0:.3f}", shown(step["difference"] or "")[:200],
            )  # fmt: skip
        console().print(made)
        first = found["first"]
        print(f"first difference: {shown(first['step'])}: {shown(first['difference'])}" if first else "no step differs")
    if not found["same"]:
        raise typer.Exit(1)


@app.command("signal")
def send_signal(
    run: RunId,
    name: Annotated[str, typer.Argument(help="The signal's name.")],
    payload: Annotated[str, typer.Argument(help="Its payload, JSON.")] = "null",
    key: Annotated[str | None, typer.Option("--idempotency-key", help="The same key counts once.")] = None,
    url: Url = None,
) -> None:
    """Deliver a signal; one that comes before anybody waits for it is kept."""
    headers = {"Idempotency-Key": key} if key else None
    done = call(_url(url), "POST", f"/runs/{run}/signals/{name}", json=_json(payload, "PAYLOAD"), headers=headers)
    print("delivered" if done["delivered"] else "known already")


@app.command()
def cancel(run: RunId, reason: Reason = None, url: Url = None) -> None:
    """Cancel a run; attempts in flight are stopped."""
    print(call(_url(url), "POST", f"/runs/{run}/cancel", json={"reason": reason})["status"])


@app.command()
def pause(run: RunId, reason: Reason = None, url: Url = None) -> None:
    """Stop claiming a run's steps; attempts in flight go on."""
    print(call(_url(url), "POST", f"/runs/{run}/pause", json={"reason": reason})["status"])


@app.command()
def resume(run: RunId, reason: Reason = None, url: Url = None) -> None:
    """Let a paused run go on."""
    print(call(_url(url), "POST", f"/runs/{run}/resume", json={"reason": reason})["status"])


@dead_letters.command("list")
def list_dead_letters(
    reason: Annotated[str | None, typer.Option(help="Only with this reason.")] = None,
    tool: Annotated[str | None, typer.Option(help="Only of this tool.")] = None,
    run: Annotated[UUID | None, typer.Option(help="Only of this run.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many, newest first.")] = 50,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List the steps that gave up, and why."""
    given = {"reason": reason, "tool": tool, "run_id": str(run) if run else None, "limit": limit}
    found = call(_url(url), "GET", "/dead-letters", params={name: value for name, value in given.items() if value})
    if as_json:
        print_json(found)
        return
    made = table("run", "step", "reason", "failure", "message")
    for item in found["items"]:
        message = shown(item["message"])[:200]
        made.add_row(item["run_id"], shown(item["step"]), item["reason"], item["failure"], message)
    if found["items"]:
        console().print(made)
    print("  ".join(f"{name}: {count}" for name, count in found["counts"].items()) or "no dead letters")


@dead_letters.command()
def redrive(
    run: Annotated[UUID | None, typer.Argument(metavar="[RUN]")] = None,
    step: Annotated[str | None, typer.Option(help="Only this step.")] = None,
    reason: Annotated[str | None, typer.Option(help="Only with this reason.")] = None,
    tool: Annotated[str | None, typer.Option(help="Only of this tool.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    attempts: Annotated[int | None, typer.Option(min=1, help="Attempts added; default: as many again.")] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Give dead letters another chance; what had succeeded stays."""
    if not (run or step or reason or tool or every):
        raise InvalidRequest("say which: a RUN, --step, --reason, --tool, or --all", field="RUN")
    body = {
        "run_id": str(run) if run else None, "step": step, "reason": reason, "tool": tool, "all": every,
        "extra_attempts": attempts,
    }  # fmt: skip
    found = call(_url(url), "POST", "/dead-letters/redrive", json=body)
    if as_json:
        print_json(found)
        return
    for item in found["redriven"]:
        print(f"{item['run_id']}  {shown(item['step'])}")
    print(f"{len(found['redriven'])} redriven")


def show_workers(url: str | None, as_json: bool) -> None:
    """Print the registry."""
    found = call(_url(url), "GET", "/workers")
    if as_json:
        print_json(found)
        return
    made = table("worker", "state", "load", "beat", "host", "pid", "queues", "offers")
    for w in found["items"]:
        offers = shown(", ".join(w["offers"]))
        made.add_row(
            shown(w["worker"]), "suspected" if w["suspected_at"] and w["state"] == "active" else w["state"],
            f"{w['running']}/{w['concurrency']}", f"{w['beat_age_s']:.1f} s ago", shown(w["host"]), str(w["os_pid"]),
            shown(", ".join(w["queues"])), offers if len(offers) <= 100 else f"{offers[:99]}…",
        )  # fmt: skip
    console().print(made) if found["items"] else print("no worker was ever here: start `durable-agent worker`")


def _url(given: str | None) -> str:
    return (given or DEFAULT_URL).rstrip("/")


def _document(path: str, field: str) -> Any:
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path} cannot be read: {error}", field=field) from None
    return _json(text, field)


def _json(text: str, field: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"{field} is no JSON: {error}", field=field) from None
