"""Commands about agents, their tool servers, and what runs may spend."""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

import typer

from durable_agent.cli.client import DEFAULT_URL, call
from durable_agent.cli.documents import document
from durable_agent.cli.options import Json, RunId, Url, print_json
from durable_agent.cli.tree import console, shown, table
from durable_agent.errors import InvalidRequest, NotFound

app = typer.Typer(no_args_is_help=True, help="Agents: create, change, list; talk to their runs.")
servers = typer.Typer(no_args_is_help=True, help="Tool servers (MCP): register, discover, approve.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="A name, from `list`.")]
File = Annotated[str, typer.Argument(metavar="FILE", help="JSON as POST /agents takes it; - for standard input.")]


@app.command("list")
def list_agents(url: Url = None, as_json: Json = False) -> None:
    """List the agents with their runs and what they spent."""
    found = call(_url(url), "GET", "/agents")
    if as_json:
        print_json(found)
        return
    made = table("agent", "model", "tools", "open", "runs", "tokens", "USD")
    for one in found["items"]:
        tools = ", ".join([*one["tools"], *(f"{name} (server)" for name in one["tool_servers"])])
        numbers = [str(one[key]) for key in ("open_runs", "runs", "tokens")]
        made.add_row(shown(one["name"]), shown(one["model"]), shown(tools), *numbers, usd(one["microusd"]))
    console().print(made) if found["items"] else print("no agents; create one with `durable-agent agents create FILE`")


@app.command("show")
def show_agent(name: Name, url: Url = None, as_json: Json = False) -> None:
    """Show an agent: its configuration, its budgets as they stand."""
    print_json(call(_url(url), "GET", f"/agents/{_agent(url, name)['id']}"))


@app.command("create")
def create_agent(file: File, url: Url = None, as_json: Json = False) -> None:
    """Create an agent, or give the one of that name this configuration."""
    given = document(file, "FILE")
    if not isinstance(given, dict):
        raise InvalidRequest(f"{file} holds no JSON object; it must look like the body of POST /agents", field="FILE")
    try:
        known = _agent(url, str(given.get("name")))
        made = call(_url(url), "PUT", f"/agents/{known['id']}", json=given)
    except NotFound:
        made = call(_url(url), "POST", "/agents", json=given)
    print_json(made) if as_json else print(f"{shown(made['name'])} version {made['version']}")


@app.command("delete")
def delete_agent(name: Name, url: Url = None) -> None:
    """Forget an agent; its runs go on."""
    call(_url(url), "DELETE", f"/agents/{_agent(url, name)['id']}")


@app.command("run")
def run_agent(
    name: Name, text: Annotated[str, typer.Argument(help="What it is asked.")], url: Url = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Start a run of an agent and print its id."""
    made = call(_url(url), "POST", "/runs", json={"agent": name, "input": text})
    print_json(made) if as_json else print(made["id"])


@app.command("say")
def say(
    run: RunId, text: Annotated[str, typer.Argument(help="What is said.")], url: Url = None, as_json: Json = False
) -> None:
    """Answer the question an agent's run waits with, or go on with one that completed; prints the run's id."""
    made = call(_url(url), "POST", f"/runs/{run}/messages", json={"message": text})
    print_json(made) if as_json else print(made["id"])


@servers.command("list")
def list_servers(url: Url = None, as_json: Json = False) -> None:
    """List the tool servers."""
    found = call(_url(url), "GET", "/tool-servers")
    if as_json:
        print_json(found)
        return
    made = table("server", "where", "state", "tools", "token", "error")
    for one in found["items"]:
        where = one["url"] or " ".join(one["command"] or ())
        token = "yes" if one["has_token"] else "no"
        made.add_row(
            shown(one["name"]),
            shown(where),
            one["state"],
            str(len(one["tools"] or ())),
            token,
            shown(one["error"] or ""),
        )
    console().print(made) if found["items"] else print("no tool servers")


@servers.command("add")
def add_server(
    name: Name,
    place: Annotated[list[str], typer.Argument(metavar="URL|COMMAND...", help="A URL, or an operator's own command.")],
    token_env: Annotated[str | None, typer.Option(help="The environment variable that holds the bearer token.")] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Register a tool server and ask what it offers."""
    is_url = len(place) == 1 and place[0].startswith(("http://", "https://"))
    given: dict[str, Any] = {"name": name, **({"url": place[0]} if is_url else {"command": place})}
    if token_env is not None:
        if not os.environ.get(token_env):
            raise InvalidRequest(f"environment variable {token_env} is empty", field="--token-env")
        given["token"] = os.environ[token_env]
    made = call(_url(url), "POST", "/tool-servers", json=given)
    _tell(call(_url(url), "POST", f"/tool-servers/{made['id']}/discover"), name, as_json=as_json)


@servers.command("discover")
def discover(name: Name, url: Url = None, as_json: Json = False) -> None:
    """Ask a tool server what it offers; a list that differs from the approved one is quarantined."""
    found = call(_url(url), "POST", f"/tool-servers/{_server(url, name)['id']}/discover")
    _tell(found, name, as_json=as_json)


@servers.command("approve")
def approve(
    name: Name, digest: Annotated[str, typer.Argument(help="The digest that `discover` showed.")], url: Url = None
) -> None:
    """Accept what a quarantined tool server offers."""
    call(_url(url), "POST", f"/tool-servers/{_server(url, name)['id']}/approve", json={"digest": digest})


@servers.command("delete")
def delete_server(name: Name, url: Url = None) -> None:
    """Forget a tool server and its token."""
    call(_url(url), "DELETE", f"/tool-servers/{_server(url, name)['id']}")


def budget(
    run: RunId,
    tokens: Annotated[int | None, typer.Option(min=0, help="Tokens in all.")] = None,
    dollars: Annotated[float | None, typer.Option("--usd", min=0, help="US dollars in all.")] = None,
    tools: Annotated[int | None, typer.Option(min=0, help="Tool calls in all.")] = None,
    wall_clock_s: Annotated[int | None, typer.Option(min=1, help="Seconds since the run was started.")] = None,
    on_limit: Annotated[
        Literal["fail", "pause"] | None, typer.Option(help="What happens then; else as it is, or fail for a new limit.")
    ] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Show what a run may spend with all it started, or set new totals; what a limit had paused goes on."""
    money = None if dollars is None else round(dollars * 1_000_000)
    given = {"tokens": tokens, "microusd": money, "tools": tools, "wall_clock_s": wall_clock_s}
    limits: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if on_limit and not limits:
        held = call(_url(url), "GET", f"/runs/{run}/budget")["limits"]
        limits = {one["meter"]: one["cap"] for one in held if not one["meter"].startswith("tool:")}
        tools_held = {
            one["meter"].removeprefix("tool:"): one["cap"] for one in held if one["meter"].startswith("tool:")
        }
        limits |= {"per_tool": tools_held} if tools_held else {}
        if not limits:
            raise InvalidRequest("the run has no limits: give one with --on-limit", field="--on-limit")
    if limits:
        call(_url(url), "POST", f"/runs/{run}/budget", json={**limits, **({"on_limit": on_limit} if on_limit else {})})
    found = call(_url(url), "GET", f"/runs/{run}/budget")
    if as_json:
        print_json(found)
        return
    made = table("meter", "limit", "spent", "held", "at the limit")
    for one in found["limits"]:
        numbers = [usd(one[k]) if one["meter"] == "microusd" else str(one[k]) for k in ("cap", "spent", "reserved")]
        made.add_row(shown(one["meter"]), *numbers, one["on_limit"])
    console().print(made) if found["limits"] else print("the run has no limits")


def usd(microusd: int | None) -> str:
    """Return micro-dollars as dollars, to a hundredth of a cent."""
    return f"${(microusd or 0) / 1_000_000:,.4f}"


def _tell(found: dict[str, Any], name: str, *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    print(f"{shown(name)}: {found['state']}, digest {found['digest']}")
    for one in found["tools"]:
        print(f"  {shown(one['name'])} ({one['effect']}): {shown(one['description'])[:200]}")


def _agent(url: str | None, name: str) -> dict[str, Any]:
    return _named(call(_url(url), "GET", "/agents")["items"], name, "agent")


def _server(url: str | None, name: str) -> dict[str, Any]:
    return _named(call(_url(url), "GET", "/tool-servers")["items"], name, "tool server")


def _named(items: list[dict[str, Any]], name: str, what: str) -> dict[str, Any]:
    found = next((one for one in items if name in (one["name"], one["id"])), None)
    if found is None:
        raise NotFound(f"{what} {name!r} does not exist")
    return found


def _url(url: str | None) -> str:
    return (url or DEFAULT_URL).rstrip("/")
