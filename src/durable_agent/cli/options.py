"""Options that several commands share, and how they print."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

Url = Annotated[
    str | None, typer.Option("--url", envvar="DURABLE_AGENT_URL", help="The API; default http://127.0.0.1:4000.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DatabaseUrl = Annotated[str | None, typer.Option("--database-url", help="PostgreSQL; default: DATABASE_URL.")]
Data = Annotated[Path | None, typer.Option("--data-dir", help="Where the embedded PostgreSQL lives.")]
Modules = Annotated[list[str] | None, typer.Option("--import", help="A module with @tool functions; may be repeated.")]


def print_json(value: Any) -> None:
    """Print a value as indented JSON."""
    sys.stdout.buffer.write(orjson.dumps(value, default=str, option=orjson.OPT_INDENT_2) + b"\n")
    sys.stdout.flush()


def report(findings: Iterable[Any]) -> None:
    """Print findings, one a line, with what to do under those that are not well."""
    from durable_agent.cli.tree import console

    out = console()
    marks = {"ok": "[green]ok  [/]", "warn": "[yellow]warn[/]", "fail": "[bold red]fail[/]"}
    for finding in findings:
        out.print(f"{marks[finding.level.value]}  {finding.check}: {finding.fact}", soft_wrap=True)
        if finding.advice:
            out.print(f"      → {finding.advice}", soft_wrap=True)
