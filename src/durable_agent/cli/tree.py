"""A run as a live tree in the terminal, and as lines where there is none."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from durable_agent.core.states import RunStatus

_MARK = {
    "pending": ("·", "dim"), "ready": ("○", "cyan"), "running": ("●", "bold blue"), "succeeded": ("✔", "green"),
    "dead_letter": ("✘", "bold red"), "skipped": ("⤼", "dim"), "cancelled": ("⊘", "yellow"), "waiting": ("◷", "magenta"),
    "compensated": ("↶", "magenta"),
}  # fmt: skip
_STYLE = {"completed": "green", "failed": "bold red", "cancelled": "yellow", "running": "blue", "paused": "yellow"}
_MOVES = {
    "step.ready": "ready", "step.claimed": "running", "step.succeeded": "succeeded", "step.failed": "ready",
    "step.lease_lost": "ready", "step.released": "ready", "step.dead_letter": "dead_letter", "step.skipped": "skipped",
    "step.cancelled": "cancelled", "step.redriven": "pending", "step.waiting": "waiting", "step.answered": "ready",
    "step.compensated": "compensated", "step.shared": "succeeded",
}  # fmt: skip
_RUN_MOVES = {
    "run.created": "pending", "run.started": "running", "run.resumed": "running", "run.redriven": "running",
    "run.continued": "running",
} | {f"run.{status}": status.value for status in RunStatus}  # fmt: skip

# Steps drawn, and how deep: a terminal has so many lines and columns.
MAX_STEPS = 200
MAX_DEPTH = 12
# A pipe gets whole lines, not lines folded to a width that nobody looks at.
PIPE_WIDTH = 1000


def shown(value: Any) -> str:
    """Return a value as text that is safe on a terminal: what is not printable is escaped, whoever wrote it."""
    text = value if isinstance(value, str) else orjson.dumps(value, default=str).decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in text)


@dataclass(slots=True)
class Line:
    """One step as the tree shows it; `began_s` is in seconds since 1970."""

    status: str = "pending"
    worker: str = ""
    note: str = ""
    began_s: float | None = None
    took_s: float | None = None


@dataclass(slots=True)
class RunTree:
    """A run followed by its events."""

    run: dict[str, Any]
    status: str = "pending"
    lines: dict[str, Line] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Begin with every step pending."""
        self.lines = {step["name"]: Line() for step in self.run["steps"]}

    def apply(self, event: dict[str, Any]) -> None:
        """Take note of an event."""
        kind, data = event["type"], event["data"]
        if event["step"] is None:
            self.status = _RUN_MOVES.get(kind, self.status)
            return
        line = self.lines.setdefault(event["step"], Line())
        line.status = _MOVES.get(kind, line.status)
        match kind:
            case "step.claimed":
                line.worker, line.began_s, line.took_s = data["worker"], _seconds(event["at"]), None
                again = data["attempt"] > 1 or data["claim_no"] > 1
                line.note = f"attempt {data['attempt']}, claim {data['claim_no']}" if again else ""
            case "step.succeeded" if line.began_s is not None:
                line.took_s = _seconds(event["at"]) - line.began_s
            case "step.failed":
                retry = f"; again in {data['retry_in_s']:.1f} s" if "retry_in_s" in data else ""
                line.note = f"attempt {data['attempt']} of {data['of']} failed: {data.get('message', '')}{retry}"
            case "step.lease_lost":
                line.note = f"lost by {data.get('worker') or 'its worker'} ({data['why']})"
            case "step.waiting":
                line.note = f"for {data['kind'].replace('_', ' ')} {shown(data['name'])}".rstrip()
            case "step.answered":
                line.note = f"{data['decision']}" + (f" by {shown(data['by'])}" if data.get("by") else "")
            case "step.dead_letter":
                line.note = f"{data['reason']}: {data.get('message', '')}"
            case _:
                pass

    def __rich__(self) -> RenderableType:
        """Draw the tree; a step hangs under the last of those it waits for."""
        title = Text.assemble(("run ", "dim"), self.run["id"], "  ", (self.status, _STYLE.get(self.status, "")))
        if self.run.get("goal"):
            title.append(f"  {shown(self.run['goal'])}", "italic")
        tree = Tree(title, guide_style="dim")
        placed: dict[str, tuple[Tree, int]] = {}
        for step in self.run["steps"][:MAX_STEPS]:
            under, depth = placed.get(step["depends_on"][-1], (tree, 0)) if step["depends_on"] else (tree, 0)
            node = under.add(self._label(step["name"], step["depends_on"][:-1]))
            # Deeper than that, a chain goes on straight down.
            placed[step["name"]] = (node, depth + 1) if depth < MAX_DEPTH else (under, depth)
        known = {step["name"] for step in self.run["steps"]}
        for name in [name for name in self.lines if name not in known][:MAX_STEPS]:
            tree.add(self._label(name, []))  # added while the run was under way
        if len(self.run["steps"]) > MAX_STEPS:
            tree.add(Text(f"… and {len(self.run['steps']) - MAX_STEPS} more steps", "dim"))
        return tree

    def _label(self, name: str, also_after: list[str]) -> Text:
        line = self.lines[name]
        mark, style = _MARK.get(line.status, ("?", ""))
        took = line.took_s
        if line.status == "running" and line.began_s is not None:
            took = max(0.0, time.time() - line.began_s)
        text = Text.assemble((f"{mark} ", style), (shown(name), style), f"  {line.status}")
        if line.worker and line.status in ("running", "succeeded"):
            text.append(f"  {shown(line.worker)}", "dim")
        if took is not None and line.status in ("running", "succeeded"):
            text.append(f"  {took:.1f} s", "dim")
        if line.note:
            text.append(f"  {shown(line.note)}", "yellow")
        if also_after:
            text.append(f"  also after {shown(', '.join(also_after[:5]))}", "dim")
        return text


def line_of(event: dict[str, Any]) -> str:
    """Return an event as one line of text."""
    step = shown(event["step"] or "")
    return f"{event['seq']:>4}  {event['at'][11:23]}  {event['type']:<16} {step:<28} {_facts(event)}".rstrip()


def events_table(events: list[dict[str, Any]]) -> Table:
    """Return a run's events as a table."""
    made = table("seq", "at", "event", "step", "facts")
    for event in events:
        bad = any(word in event["type"] for word in ("lost", "failed", "dead", "fenced"))
        kind = Text(event["type"], "red" if bad else "")
        made.add_row(str(event["seq"]), event["at"][11:23], kind, shown(event["step"] or ""), _facts(event))
    return made


def _facts(event: dict[str, Any]) -> str:
    """Return what an event tells; digests are left to `--json`."""
    known = ((n, v) for n, v in event["data"].items() if not n.endswith("sha256") and v is not None)
    return "  ".join(f"{shown(name)}={shown(value)}" for name, value in known)


def table(*columns: str) -> Table:
    """Return an empty table without a frame."""
    made = Table(box=None, header_style="dim", pad_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def console() -> Console:
    """Return the terminal; `NO_COLOR` is honoured, a pipe gets plain text, and no text is taken for markup."""
    out = Console(highlight=False, markup=False, emoji=False)
    if not out.is_terminal:
        out.width = PIPE_WIDTH
    return out


def _seconds(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()
