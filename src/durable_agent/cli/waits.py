"""Commands about waits: what people are asked, and their answers."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

import orjson
import typer

from durable_agent.cli.client import call
from durable_agent.cli.options import Json, Url, print_json
from durable_agent.cli.runs import url_of
from durable_agent.cli.tree import console, shown, table
from durable_agent.errors import InvalidRequest

app = typer.Typer(no_args_is_help=True, help="What waits for a person: approvals, questions, unknown effects.")

WaitId = Annotated[UUID, typer.Argument(metavar="WAIT", help="A wait's id, from `waits list`.")]
Reason = Annotated[str | None, typer.Option(help="Why; it is recorded.")]


@app.command("list")
def list_waits(
    run: Annotated[UUID | None, typer.Option(help="Only of this run.")] = None,
    state: Annotated[str, typer.Option(help="open, answered, cancelled or all.")] = "open",
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many, oldest first.")] = 50,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List what people are asked."""
    given = {"run_id": str(run) if run else None, "state": state, "limit": limit}
    found = call(url_of(url), "GET", "/waits", params={name: value for name, value in given.items() if value})
    if as_json:
        print_json(found)
        return
    made = table("wait", "run", "step", "kind", "state", "what is asked", "expires")
    for wait in found["items"]:
        made.add_row(
            wait["id"],
            wait["run_id"],
            shown(wait["step"]),
            wait["kind"],
            wait["state"],
            asked(wait),
            wait["expires_at"] or "",
        )
    console().print(made) if found["items"] else print("nothing waits for a person")


def asked(wait: dict[str, Any]) -> str:
    """Return what a wait asks, in a line; nothing unprintable passes."""
    request = wait["request"] or {}
    match wait["kind"]:
        case "approval":
            call_ = f"{request.get('tool')}({shown(request.get('arguments') or {})})" if request.get("tool") else ""
            return " ".join(part for part in (shown(request.get("prompt") or ""), call_) if part)[:300]
        case "unknown_effect":
            return shown(f"did {request.get('tool')} happen? {request.get('message') or ''}")[:300]
        case _:
            return shown(request.get("prompt") or wait["name"])[:300]


@app.command()
def approve(wait: WaitId, reason: Reason = None, url: Url = None) -> None:
    """Approve exactly what is asked, once."""
    _answer(url, wait, "approve", {"reason": reason})


@app.command()
def reject(wait: WaitId, reason: Reason = None, url: Url = None) -> None:
    """Reject an approval, or decline a question."""
    _answer(url, wait, "reject", {"reason": reason})


@app.command()
def respond(
    wait: WaitId,
    value: Annotated[str, typer.Argument(help="The answer: JSON, else a text.")],
    reason: Reason = None,
    url: Url = None,
) -> None:
    """Answer a question."""
    _answer(url, wait, "respond", {"value": _value(value), "reason": reason})


@app.command()
def settle(
    wait: WaitId,
    outcome: Annotated[str, typer.Argument(help="happened, send_again or fail.")],
    result: Annotated[str | None, typer.Option(help="Of a call that happened: JSON, else a text.")] = None,
    reason: Reason = None,
    url: Url = None,
) -> None:
    """Say what became of a call that nobody heard the end of."""
    if outcome not in ("happened", "send_again", "fail"):
        raise InvalidRequest(f"{outcome!r} is no outcome; there are happened, send_again, fail", field="OUTCOME")
    body: dict[str, Any] = {"outcome": outcome, "reason": reason}
    if result is not None:
        body["result"] = _value(result)
    _answer(url, wait, "settle", body)


def _answer(url: str | None, wait: UUID, verb: str, body: dict[str, Any]) -> None:
    done = call(url_of(url), "POST", f"/waits/{wait}/{verb}", json=body)
    print(f"{done['decision']} by {done['by']}: run {done['run_id']} goes on")


def _value(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
