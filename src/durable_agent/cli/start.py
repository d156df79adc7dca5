"""Commands that start a run and follow one to its end."""

from __future__ import annotations

import asyncio
import contextlib
import runpy
import sys
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer
from rich.live import Live

from durable_agent.cli.client import call, call_patiently, events
from durable_agent.cli.documents import document, parsed_json
from durable_agent.cli.options import Data, DatabaseUrl, Json, RunId, Url, print_json, settings_for
from durable_agent.cli.runs import url_of
from durable_agent.cli.story import Story
from durable_agent.cli.tree import RunTree, console, line_of
from durable_agent.errors import InvalidRequest

if TYPE_CHECKING:
    from durable_agent.flow.builder import Graph


def start(
    what: Annotated[
        str,
        typer.Argument(
            metavar="GRAPH|FILE.json|FILE.py",
            help="A graph by name, a file like POST /runs or with a Graph; - for standard input.",
        ),
    ],
    goal: Annotated[str | None, typer.Option(help="The run's goal, in place of the file's.")] = None,
    input_: Annotated[str | None, typer.Option("--input", help="The run's input: JSON, or @FILE.")] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Follow the run to its end; exit 1 unless it completes.")
    ] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Start a graph and print its id only.")] = False,
    key: Annotated[str | None, typer.Option("--idempotency-key", help="The same key and run start it once.")] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Start a run; one of a graph is told step by step to its end."""
    by_name = what != "-" and not what.endswith((".json", ".py")) and not Path(what).is_file()
    body = {"graph": what} if by_name else _body(what)
    if goal is not None:
        body["goal"] = goal
    if input_ is not None:
        body["input"] = document(input_[1:], "--input") if input_.startswith("@") else parsed_json(input_, "--input")
    started = call(url_of(url), "POST", "/runs", json=body, headers={"Idempotency-Key": key} if key else None)
    told = by_name and not (watch or detach or as_json)
    if as_json:
        print_json(started)
    elif not told:
        print(started["id"])
    for warning in started.get("warnings", ()):
        print(f"warning: {warning}", file=sys.stderr)
    if told:
        asyncio.run(_tell(url_of(url), started["id"]))
    if told or watch:
        _follow(url_of(url), started["id"], silent=told, as_json=as_json)


def _body(path: str) -> dict[str, Any]:
    """Return what a file holds as the body of POST /runs. Raises InvalidRequest for what is no run."""
    if path.endswith(".py"):
        graph = _graph_in(path)
        if graph.predicates:
            raise InvalidRequest(
                f"{path}: a graph with predicates in Python is started by its name, once a worker has imported it",
                field="FILE",
            )
        return {"steps": graph.to_json(), "budget": graph.budget_json()} if graph.limits else {"steps": graph.to_json()}
    body = document(path, "FILE")
    if not isinstance(body, dict):
        raise InvalidRequest(f"{path} holds no JSON object; it must look like the body of POST /runs", field="FILE")
    return body


def _graph_in(path: str) -> Graph:
    """Return the one graph that a Python file defines; the file is run, as a worker would import it."""
    from durable_agent.flow.builder import Graph  # no other command needs it

    try:
        found = runpy.run_path(path)
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}", field="FILE") from None
    graphs = [value for value in found.values() if isinstance(value, Graph)]
    if len(graphs) != 1:
        raise InvalidRequest(f"{path} defines {len(graphs)} graphs; it must define one", field="FILE")
    return graphs[0]


async def _tell(url: str, run_id: str) -> None:
    """Print a run's story as it happens."""
    story = Story()
    async for event in events(url, run_id, after=0):
        for line in story.lines(event, lambda: call_patiently(url, f"/runs/{run_id}")):
            print(line, flush=True)


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
        _follow(url_of(url), str(run), after=after, as_json=as_json)
        return
    from durable_agent.cli.database import run_events, run_shown, url_for
    from durable_agent.cli.processes import require_schema

    with url_for(settings_for(database_url, data_dir)) as (pooled, direct):
        require_schema(direct)
        _draw(
            lambda: run_shown(pooled, run), lambda: run_events(pooled, direct, run, after),
            whole=after == 0, as_json=as_json,
        )  # fmt: skip


def _follow(url: str, run_id: str, *, after: int = 0, as_json: bool = False, silent: bool = False) -> None:
    if silent:
        if call_patiently(url, f"/runs/{run_id}")["status"] != "completed":
            raise typer.Exit(1)
        return
    _draw(
        lambda: call_patiently(url, f"/runs/{run_id}"), lambda: events(url, run_id, after=after),
        whole=after == 0, as_json=as_json,
    )  # fmt: skip


def _draw(
    run: Callable[[], dict[str, Any]], following: Callable[[], AsyncGenerator[dict[str, Any]]], *, whole: bool, as_json: bool
) -> None:  # fmt: skip
    """Show a run's events as they come. Raises Exit(1) unless it completes."""
    out = console()
    tree = RunTree(run())
    drawn = out.is_terminal and not as_json and whole

    async def follow() -> None:
        # Closed before the loop is, also when nobody reads any more and this is left by an exception.
        async with contextlib.aclosing(following()) as found:
            async for event in found:
                tree.apply(event)
                if as_json:
                    print(orjson.dumps(event).decode(), flush=True)
                elif not drawn:
                    out.print(line_of(event), soft_wrap=True)

    with Live(tree, console=out, refresh_per_second=10) if drawn else contextlib.nullcontext():
        asyncio.run(follow())
    if run()["status"] != "completed":
        raise typer.Exit(1)
