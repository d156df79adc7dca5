"""Options that several commands share, and how they print."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import orjson
import typer

from durable_agent.errors import InvalidRequest
from durable_agent.settings import Settings, read_settings

Url = Annotated[
    str | None, typer.Option("--url", envvar="DURABLE_AGENT_URL", help="The API; default http://127.0.0.1:4000.")
]
RunId = Annotated[UUID, typer.Argument(metavar="RUN", help="A run's id.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DatabaseUrl = Annotated[str | None, typer.Option("--database-url", help="PostgreSQL; default: DATABASE_URL.")]
Data = Annotated[Path | None, typer.Option("--data-dir", help="Where the embedded PostgreSQL lives.")]
Modules = Annotated[list[str] | None, typer.Option("--import", help="A module with @tool functions; may be repeated.")]


def settings_for(database_url: str | None, data_dir: Path | None, **given: Any) -> Settings:
    """Return the settings with a command's options over the environment.

    A database given by option is the only one: neither DATABASE_URL nor DATABASE_DIRECT_URL of the environment adds to
    it. Raises InvalidRequest when both kinds are given.
    """
    if database_url is not None and data_dir is not None:
        raise InvalidRequest("give --database-url or --data-dir, not both", field="--data-dir")
    if database_url is not None or data_dir is not None:
        given |= {"database_url": database_url or "", "database_direct_url": ""}
    return read_settings(data_dir=data_dir, **given)


def print_json(value: Any) -> None:
    """Print a value as indented JSON."""
    sys.stdout.buffer.write(orjson.dumps(value, default=str, option=orjson.OPT_INDENT_2) + b"\n")
    sys.stdout.flush()


def report(findings: Iterable[Any]) -> None:
    """Print findings, one a line, with what to do under those that are not well."""
    from rich.text import Text

    from durable_agent.cli.tree import console, shown

    out = console()
    styles = {"ok": "green", "warn": "yellow", "fail": "bold red"}
    for finding in findings:
        level = finding.level.value
        out.print(
            Text.assemble((f"{level:<4}", styles[level]), f"  {finding.check}: {shown(finding.fact)}"), soft_wrap=True
        )
        if finding.advice:
            out.print(f"      → {finding.advice}", soft_wrap=True)


@contextmanager
def checking(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yield what is told how many are done, of how many; shown on a terminal's stderr."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)
