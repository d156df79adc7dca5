"""Commands about runs: start, list, show, follow, verify, control; and their dead letters."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer

from durable_agent.cli.client import DEFAULT_URL, call, connected, refusal
from durable_agent.cli.documents import parsed_json
from durable_agent.cli.options import Json, RunId, Url, print_json
from durable_agent.cli.tree import console, events_table, shown, table
from durable_agent.core.states import RunStatus
from durable_agent.errors import InvalidRequest

app = typer.Typer(no_args_is_help=True, help="Look at runs and control them.")
dead_letters = typer.Typer(no_args_is_help=True, help="Steps that gave up.")

Reason = Annotated[str | None, typer.Option(help="Why; it is recorded.")]


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
    found = call(url_of(url), "GET", "/runs", params={name: value for name, value in given.items() if value})
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
    found = call(url_of(url), "GET", f"/runs/{run}")
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
        page = call(url_of(url), "GET", f"/runs/{run}/events", params={"after": after, "limit": 1000})
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
    # It is put together before its first byte is sent.
    with connected(url_of(url)) as client, client.stream("GET", f"/runs/{run}/export", timeout=600.0) as answer:
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
    found = call(url_of(url), "GET", f"/runs/{run}/explain")
    if as_json:
        print_json(found)
        return
    print(shown(found["text"]))
    for step in found["steps"]:
        print(f"  {shown(step['step'] or '-')}: {shown(step['text'])}  [{step['reason']}]")


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
    done = call(
        url_of(url), "POST", f"/runs/{run}/signals/{name}", json=parsed_json(payload, "PAYLOAD"), headers=headers
    )
    print("delivered" if done["delivered"] else "known already")


@app.command()
def cancel(run: RunId, reason: Reason = None, url: Url = None) -> None:
    """Cancel a run; attempts in flight are stopped."""
    print(call(url_of(url), "POST", f"/runs/{run}/cancel", json={"reason": reason})["status"])


@app.command()
def pause(run: RunId, reason: Reason = None, url: Url = None) -> None:
    """Stop claiming a run's steps; attempts in flight begin no further effect."""
    print(call(url_of(url), "POST", f"/runs/{run}/pause", json={"reason": reason})["status"])


@app.command()
def resume(run: RunId, reason: Reason = None, url: Url = None) -> None:
    """Let a paused run go on."""
    print(call(url_of(url), "POST", f"/runs/{run}/resume", json={"reason": reason})["status"])


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
    found = call(url_of(url), "GET", "/dead-letters", params={name: value for name, value in given.items() if value})
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
    found = call(url_of(url), "POST", "/dead-letters/redrive", json=body)
    if as_json:
        print_json(found)
        return
    for item in found["redriven"]:
        print(f"{item['run_id']}  {shown(item['step'])}")
    print(f"{len(found['redriven'])} redriven")


def show_workers(url: str | None, as_json: bool) -> None:
    """Print the registry."""
    found = call(url_of(url), "GET", "/workers")
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


def url_of(given: str | None) -> str:
    return (given or DEFAULT_URL).rstrip("/")
