"""Commands about runs: start, list, show, follow, verify, control; and their dead letters."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.live import Live
from rich.table import Table

from durable_agent.cli.client import DEFAULT_URL, call, connected, events, refusal
from durable_agent.cli.options import Json, Url, print_json
from durable_agent.cli.tree import RunTree, console, events_table, line_of
from durable_agent.errors import InvalidRequest

app = typer.Typer(no_args_is_help=True, help="Look at runs and control them.")
dead_letters = typer.Typer(no_args_is_help=True, help="Steps that gave up.")

Run = Annotated[str, typer.Argument(metavar="RUN", help="A run's id.")]
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


def tail(run: Run, after: Annotated[int, typer.Option(min=0, help="Only events after this one.")] = 0, url: Url = None,
         as_json: Json = False) -> None:  # fmt: skip
    """Follow a run to its end: a live tree on a terminal, a line an event otherwise. Exit 1 unless it completes."""
    _follow(_url(url), run, after=after, as_json=as_json)


def _follow(url: str, run_id: str, *, after: int = 0, as_json: bool = False) -> None:
    run = call(url, "GET", f"/runs/{run_id}")
    out = console()
    tree = RunTree(run)
    drawn = out.is_terminal and not as_json and after == 0

    async def follow() -> None:
        async for event in events(url, run_id, after=after):
            tree.apply(event)
            if as_json:
                print(orjson.dumps(event).decode(), flush=True)
            elif not drawn:
                print(line_of(event), flush=True)

    with Live(tree, console=out, refresh_per_second=10) if drawn else contextlib.nullcontext():
        asyncio.run(follow())
    if call(url, "GET", f"/runs/{run_id}")["status"] != "completed":
        raise typer.Exit(1)


@app.command("list")
def list_runs(
    status: Annotated[list[str] | None, typer.Option(help="Only with this status; may be repeated.")] = None,
    graph: Annotated[str | None, typer.Option()] = None,
    q: Annotated[str | None, typer.Option("--search", help="Words of the goal.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 50,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List runs, newest first."""
    given = {"status": status, "graph": graph, "q": q, "limit": limit}
    found = call(_url(url), "GET", "/runs", params={name: value for name, value in given.items() if value})
    if as_json:
        print_json(found)
        return
    table = Table("id", "status", "steps", "created", "goal", box=None, header_style="dim", pad_edge=False)
    for run in found["items"]:
        done = run["steps_total"] - run["steps_left"]
        table.add_row(
            run["id"], run["status"], f"{done}/{run['steps_total']}", run["created_at"][:19], run["goal"] or ""
        )
    console().print(table)


@app.command()
def show(run: Run, url: Url = None, as_json: Json = False) -> None:
    """Show a run and its steps."""
    found = call(_url(url), "GET", f"/runs/{run}")
    if as_json:
        print_json(found)
        return
    out = console()
    out.print(f"run {found['id']}  {found['status']}  {found['goal'] or ''}", soft_wrap=True)
    table = Table(
        "step", "status", "attempt", "worker", "output or error", box=None, header_style="dim", pad_edge=False
    )
    for step in found["steps"]:
        said = step["error"] if step["error"] else step["output"]
        text = orjson.dumps(said).decode() if said is not None else ""
        table.add_row(step["name"], step["status"], str(step["attempt"]), step["worker"] or "", text[:120])
    out.print(table)


@app.command("events")
def show_events(
    run: Run, after: Annotated[int, typer.Option(min=0)] = 0, url: Url = None, as_json: Json = False
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
def export(run: Run, url: Url = None) -> None:
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
def explain(run: Run, url: Url = None, as_json: Json = False) -> None:
    """Say why each unfinished step is not moving."""
    found = call(_url(url), "GET", f"/runs/{run}/explain")
    if as_json:
        print_json(found)
        return
    print(found["text"])
    for step in found["steps"]:
        print(f"  {step['step'] or '-'}: {step['text']}  [{step['reason']}]")


@app.command()
def cancel(run: Run, reason: Reason = None, url: Url = None) -> None:
    """Cancel a run; attempts in flight are stopped."""
    print(call(_url(url), "POST", f"/runs/{run}/cancel", json={"reason": reason})["status"])


@app.command()
def pause(run: Run, reason: Reason = None, url: Url = None) -> None:
    """Stop claiming a run's steps; attempts in flight go on."""
    print(call(_url(url), "POST", f"/runs/{run}/pause", json={"reason": reason})["status"])


@app.command()
def resume(run: Run, reason: Reason = None, url: Url = None) -> None:
    """Let a paused run go on."""
    print(call(_url(url), "POST", f"/runs/{run}/resume", json={"reason": reason})["status"])


@dead_letters.command("list")
def list_dead_letters(
    reason: Annotated[str | None, typer.Option()] = None,
    tool: Annotated[str | None, typer.Option()] = None,
    run: Annotated[str | None, typer.Option()] = None,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 50,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List the steps that gave up, and why."""
    given = {"reason": reason, "tool": tool, "run_id": run, "limit": limit}
    found = call(_url(url), "GET", "/dead-letters", params={name: value for name, value in given.items() if value})
    if as_json:
        print_json(found)
        return
    for item in found["items"]:
        print(f"{item['run_id']}  {item['step']:<28} {item['reason']:<20} {item['failure']:<14} {item['message'][:80]}")
    print("  ".join(f"{name}: {count}" for name, count in found["counts"].items()) or "no dead letters")


@dead_letters.command()
def redrive(
    run: Annotated[str | None, typer.Argument(metavar="[RUN]")] = None,
    step: Annotated[str | None, typer.Option(help="Only this step.")] = None,
    reason: Annotated[str | None, typer.Option(help="Only with this reason.")] = None,
    tool: Annotated[str | None, typer.Option(help="Only of this tool.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    attempts: Annotated[int | None, typer.Option(min=1, help="Attempts added; default: as many again.")] = None,
    url: Url = None,
) -> None:
    """Give dead letters another chance; what had succeeded stays."""
    body = {"run_id": run, "step": step, "reason": reason, "tool": tool, "all": every, "extra_attempts": attempts}
    done = call(_url(url), "POST", "/dead-letters/redrive", json=body)["redriven"]
    for item in done:
        print(f"{item['run_id']}  {item['step']}")
    print(f"{len(done)} redriven")


def show_workers(url: str | None, as_json: bool) -> None:
    """Print the registry."""
    found = call(_url(url), "GET", "/workers")
    if as_json:
        print_json(found)
        return
    for w in found["items"]:
        load = f"{w['running']}/{w['concurrency']}"
        print(
            f"{w['worker']:<24} {w['state']:<9} {load:>9}  beat {w['beat_age_s']:.1f} s ago  {','.join(w['offers'])[:80]}"
        )


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
