"""The command line. Exit codes: 0 done, 1 failed or a violation found, 2 usage, 3 not found, 4 unreachable."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from io import TextIOWrapper
from typing import Annotated

import typer

from durable_agent import __version__
from durable_agent.cli import agents, replays, runs, start, waits
from durable_agent.cli.options import Data, DatabaseUrl, Json, Modules, Url, checking, print_json, report, settings_for
from durable_agent.cli.tree import shown
from durable_agent.errors import CallerError, Conflict, DurableAgentError, NotFound, OutsideError, innermost

app = typer.Typer(no_args_is_help=True, add_completion=True, help=__doc__, pretty_exceptions_enable=False)
replays.add_to(runs.app)
app.add_typer(runs.app, name="runs")
app.add_typer(runs.dead_letters, name="dead-letters")
app.add_typer(waits.app, name="waits")
app.add_typer(agents.app, name="agents")
app.add_typer(agents.servers, name="tool-servers")
runs.app.command("budget")(agents.budget)
keys_app = typer.Typer(no_args_is_help=True, help="API keys, made in the database.")
app.add_typer(keys_app, name="keys")
app.command("run")(start.start)
app.command("tail")(start.tail)


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"durable-agent {__version__}")
        raise typer.Exit


@app.callback()
def about(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Take what goes before a command."""


def main() -> None:
    """Run a command; an error of ours ends it with one line and its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a character shows its number
    try:
        app()
    except (DurableAgentError, ExceptionGroup, BrokenPipeError) as error:
        first = innermost(error)
        if isinstance(first, BrokenPipeError):
            # Who read our output has gone, as `head` does; what is still in the buffer has nowhere to go.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        if not isinstance(first, DurableAgentError):
            raise
        print("durable-agent: " + "\n".join(map(shown, first.message.splitlines())), file=sys.stderr)
        sys.exit(exit_code(first))


def exit_code(error: DurableAgentError) -> int:
    """Return the exit code an error stands for."""
    match error:
        case NotFound():
            return 3
        case OutsideError():
            return 4
        case CallerError() if not isinstance(error, Conflict):
            return 2
        case _:
            return 1


@app.command()
def up(
    host: Annotated[str | None, typer.Option(help="The address to bind; default 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="The API's port; default 4000.")] = None,
    workers: Annotated[int, typer.Option(min=0, max=64, help="Worker processes.")] = 2,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Steps a worker runs at once; default 10.")] = None,
    modules: Modules = None,
    data_dir: Data = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Start PostgreSQL (unless a URL is given), the API and workers; drain and exit 0 on SIGTERM or Ctrl-C."""
    from durable_agent.cli.processes import run
    from durable_agent.cli.supervisor import up as run_up
    from durable_agent.telemetry import configure_logging

    settings = settings_for(database_url, data_dir, host=host, port=port, max_concurrent_tasks=concurrency)
    configure_logging(settings.log_level, settings.log_format)
    run(run_up(settings, workers=workers, modules=modules or []))


@app.command()
def demo(
    port: Annotated[int | None, typer.Option(help="The API's port; default 4000.")] = None,
    workers: Annotated[int, typer.Option(min=2, max=16, help="Worker processes.")] = 2,
    data_dir: Data = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Start everything, run three steps, kill a worker in the middle, and show the run completing."""
    import asyncio

    from durable_agent.cli.demo import demo as run_demo
    from durable_agent.telemetry import configure_logging

    # Whatever DATABASE_URL says, the demo has a server of its own unless it is told otherwise.
    settings = settings_for(database_url, data_dir, port=port, log_level="error")
    if database_url is None:
        settings = settings.model_copy(update={"database_url": None, "database_direct_url": None})
    configure_logging(settings.log_level, settings.log_format)
    if not asyncio.run(run_demo(settings, workers=workers)):
        raise typer.Exit(1)


@app.command()
def api(
    host: Annotated[str | None, typer.Option(help="The address to bind.")] = None,
    port: Annotated[int | None, typer.Option(help="The port.")] = None,
    database_url: DatabaseUrl = None,
    fd: Annotated[int | None, typer.Option(hidden=True, help="A socket that is bound already.")] = None,
) -> None:
    """Run the API."""
    from durable_agent.cli.processes import api_process

    api_process(settings_for(database_url, None, host=host, port=port), fd)


@app.command()
def worker(
    modules: Annotated[
        list[str] | None, typer.Argument(metavar="[MODULE]...", help="Where @tool functions are.")
    ] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Steps run at once; default 10.")] = None,
    queues: Annotated[str | None, typer.Option(help="Queues served, separated by commas; default: default.")] = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Run a worker with the modules' tools (default: the demo's), until SIGTERM drains it."""
    from durable_agent.cli.processes import worker_process

    settings = settings_for(database_url, None, max_concurrent_tasks=concurrency, queues=queues)
    worker_process(settings, modules or [])


@app.command()
def migrate(database_url: DatabaseUrl = None, data_dir: Data = None) -> None:
    """Bring the database's schema to this version's; any number may run at once."""
    import asyncio

    from durable_agent import migrate as migrations
    from durable_agent.cli.database import url_for
    from durable_agent.cli.processes import checkpoint_tables

    with url_for(settings_for(database_url, data_dir)) as (_, direct_url):
        print(f"schema {migrations.upgrade(direct_url)}")
        asyncio.run(checkpoint_tables(direct_url))


@app.command()
def doctor(
    database_url: DatabaseUrl = None,
    data_dir: Data = None,
    every: Annotated[bool, typer.Option("--all", help="Check every run's history, not the last 200.")] = False,
    as_json: Json = False,
) -> None:
    """Check the engine's invariants and its PostgreSQL's health, and say what to do. Exit 1 when something fails."""
    import asyncio

    from durable_agent.cli.database import url_for
    from durable_agent.engine.health import Level, examine

    with url_for(settings_for(database_url, data_dir)) as (url, direct_url), checking("histories") as progress:
        findings = asyncio.run(examine(url, direct_url, runs=None if every else 200, progress=progress))
    if as_json:
        print_json([finding.to_json() for finding in findings])
    else:
        report(findings)
    if any(finding.level is Level.FAIL for finding in findings):
        raise typer.Exit(1)


@app.command("check-deploy")
def check_deploy(
    modules: Annotated[
        list[str], typer.Argument(metavar="MODULE...", help="The new code's modules with tools and graphs.")
    ],
    database_url: DatabaseUrl = None,
    data_dir: Data = None,
    as_json: Json = False,
) -> None:
    """Check new code against every open run before it is rolled out. Exit 1 with a list of what does not fit."""
    import asyncio
    from dataclasses import asdict

    from durable_agent.cli.database import deploy_mismatches, url_for
    from durable_agent.cli.processes import registry_of, require_schema

    settings = settings_for(database_url, data_dir)
    registry = registry_of(modules, settings)
    with url_for(settings) as (url, direct_url):
        require_schema(direct_url)
        looked, found = asyncio.run(deploy_mismatches(url, registry))
    if as_json:
        print_json({"open_steps": looked, "mismatches": [{**asdict(one), "run_id": str(one.run_id)} for one in found]})
    else:
        for one in found:
            print(
                f"{shown(one.what)}\n  {one.steps} open steps, first {shown(one.step)} of run {one.run_id}; {one.advice}"
            )
        print(f"{looked} open steps: {len(found)} mismatches" if found else f"{looked} open steps: the new code fits")
    if found:
        raise typer.Exit(1)


@app.command()
def mcp(
    url: Url = None,
    tools: Annotated[
        bool, typer.Option("--tools", help="Serve web_search, read_url and calculator instead; needs no engine.")
    ] = False,
    http: Annotated[
        int | None, typer.Option(min=1, max=65535, help="A loopback port; default: standard input and output.")
    ] = None,
) -> None:
    """Serve MCP: runs are started, watched, explained and answered from an MCP client, with DURABLE_AGENT_API_KEY."""
    from durable_agent.cli.mcp import command

    command(runs.url_of(url), tools=tools, http=http)


@app.command()
def workers(url: Url = None, as_json: Json = False) -> None:
    """List the worker sessions: state, load, last beat."""
    runs.show_workers(url, as_json)


@keys_app.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    scopes: Annotated[str, typer.Option(help="Of read, write, operate, admin.")] = "read,write,operate",
    days: Annotated[int | None, typer.Option(min=1, help="Days until it expires; default: never.")] = None,
    database_url: DatabaseUrl = None,
    data_dir: Data = None,
) -> None:
    """Make a key and print it, this once. From the first key on, the API asks for one."""
    from durable_agent.cli.database import create_key as create

    print(create(settings_for(database_url, data_dir), name, scopes.split(","), days))


@keys_app.command("list")
def list_keys(database_url: DatabaseUrl = None, data_dir: Data = None, as_json: Json = False) -> None:
    """List the keys, without their secrets."""
    from durable_agent.cli.database import list_keys as listed

    found = listed(settings_for(database_url, data_dir))
    if as_json:
        print_json(found)
        return
    for key in found:
        expired = key["expires_at"] is not None and key["expires_at"] <= datetime.now(UTC)
        state = "revoked" if key["revoked_at"] else "expired" if expired else "active"
        print(f"{key['id']}  {state:<8} {','.join(key['scopes']):<24} {shown(key['name'])}")
    if not found:
        print("no keys: the API is open, on loopback only")


@keys_app.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(metavar="ID")], database_url: DatabaseUrl = None, data_dir: Data = None
) -> None:
    """End a key at once."""
    from durable_agent.cli.database import revoke_key as revoke

    if not revoke(settings_for(database_url, data_dir), key_id):
        raise NotFound(f"key {key_id!r} does not exist")
