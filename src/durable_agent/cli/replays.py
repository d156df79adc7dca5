"""Commands that make runs again and compare them."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer

from durable_agent.cli.client import call, connected, events, refusal
from durable_agent.cli.documents import document, parsed_json
from durable_agent.cli.options import Json, RunId, Url, print_json
from durable_agent.cli.runs import url_of
from durable_agent.cli.tree import console, shown, table
from durable_agent.errors import InvalidRequest


def add_to(app: typer.Typer) -> None:
    """Add the commands to those about runs."""
    app.command("replay")(replay)
    app.command("diff")(diff_runs)
    app.command("artifacts")(artifacts)


def replay(
    run: RunId,
    start: Annotated[
        str,
        typer.Option(
            "--from", help="A step's name (what follows from it is made again) or number (all from there on)."
        ),
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
        body["edits"] = document(edits[1:], "--edits") if edits.startswith("@") else parsed_json(edits, "--edits")
    made = call(url_of(url), "POST", f"/runs/{run}/replay", json=body)
    asyncio.run(_ended(url_of(url), made["id"]))
    _show_diff(call(url_of(url), "GET", f"/runs/{run}/diff/{made['id']}"), as_json)


async def _ended(url: str, run_id: str) -> None:
    async for _ in events(url, run_id, after=0):
        pass


def diff_runs(
    run: RunId, other: Annotated[UUID, typer.Argument(metavar="OTHER")], url: Url = None, as_json: Json = False
) -> None:
    """Compare two runs step by step. Exit 1 when they differ."""
    _show_diff(call(url_of(url), "GET", f"/runs/{run}/diff/{other}"), as_json)


def _show_diff(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(found)
    else:
        made = table(
            "step", "…" + found["a"]["run_id"][-8:], "", "…" + found["b"]["run_id"][-8:], "seconds", "difference"
        )
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


def artifacts(
    run: RunId,
    save: Annotated[Path | None, typer.Option(help="Write them into this folder.")] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List the files that a run's steps stored, or save them: by name, and where several have one, in folders named after their steps."""
    found = call(url_of(url), "GET", f"/runs/{run}/artifacts")
    if save is not None:
        alike = Counter(one["name"] for one in found["items"])
        with connected(url_of(url)) as client:
            for one in found["items"]:
                answer = client.get(f"/artifacts/{one['id']}")
                if not answer.is_success:
                    raise refusal(answer)
                own = alike[one["name"]] > 1 and one["step"] is not None
                try:
                    _save(save / _harmless(one["step"]) if own else save, one, answer.content)
                except OSError as error:
                    raise InvalidRequest(f"{save} cannot be written: {error}", field="--save") from None
    if as_json:
        print_json(found)
        return
    for one in found["items"]:
        print(f"{one['id']}  {one['bytes']:>10}  {shown(one['step'] or '')}  {shown(one['name'])}")


def _save(folder: Path, one: dict[str, Any], content: bytes) -> None:
    """Write a file by its name; where another has it, by its id and name. What is there already is never written over."""
    folder.mkdir(parents=True, exist_ok=True)
    name = _harmless(one["name"])
    for place in (folder / name, folder / f"{one['id']}-{name}"):
        try:
            with place.open("xb") as file:
                file.write(content)
            return
        except FileExistsError:
            if place.is_file() and place.read_bytes() == content:
                return  # saved before
    raise InvalidRequest(f"{folder} has other files named {name} already: choose another --save", field="--save")


def _harmless(name: str) -> str:
    """Return a name that stays in its folder and that every file system takes, whoever gave it."""
    kept = "".join(c if c.isprintable() and c not in '/\\:*?"<>|' else "_" for c in name)
    kept = kept.encode("utf-8", "replace")[-180:].decode("utf-8", "ignore")
    return kept if kept.strip(". ") else "_" + kept.strip()
