"""A run as a live tree in the terminal, and as lines where there is none."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

_MARK = {
    "pending": ("·", "dim"), "ready": ("○", "cyan"), "running": ("●", "bold blue"), "succeeded": ("✔", "green"),
    "dead_letter": ("✘", "bold red"), "skipped": ("⤼", "dim"), "cancelled": ("⊘", "yellow"), "waiting": ("◷", "magenta"),
    "compensated": ("↶", "magenta"),
}  # fmt: skip
_STYLE = {"completed": "green", "failed": "bold red", "cancelled": "yellow", "running": "blue", "paused": "yellow"}
_MOVES = {
    "step.ready": "ready", "step.claimed": "running", "step.succeeded": "succeeded", "step.failed": "ready",
    "step.lease_lost": "ready", "step.released": "ready", "step.dead_letter": "dead_letter", "step.skipped": "skipped",
    "step.cancelled": "cancelled", "step.redriven": "pending",
}  # fmt: skip


@dataclass(slots=True)
class Line:
    """One step as the tree shows it."""

    status: str = "pending"
    worker: str = ""
    note: str = ""
    since_s: float | None = None
    took_s: float | None = None


@dataclass(slots=True)
class RunTree:
    """A run followed by its events."""

    run: dict[str, Any]
    status: str = "pending"
    lines: dict[str, Line] = field(default_factory=dict)
    _at: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Begin with every step pending."""
        self.lines = {step["name"]: Line() for step in self.run["steps"]}

    def apply(self, event: dict[str, Any]) -> None:
        """Take note of an event."""
        kind, data = event["type"], event["data"]
        if event["step"] is None:
            words = {
                "run.started": "running",
                "run.resumed": "running",
                "run.redriven": "running",
                "run.created": "pending",
            }
            self.status = words.get(kind, kind.removeprefix("run."))
            return
        line = self.lines.setdefault(event["step"], Line())
        line.status = _MOVES.get(kind, line.status)
        match kind:
            case "step.claimed":
                line.worker, line.since_s, line.took_s = data["worker"], time.monotonic(), None
                self._at[event["step"]] = _seconds(event["at"])
                line.note = f"attempt {data['attempt']}" if data["attempt"] > 1 or data["claim_no"] > 1 else ""
            case "step.succeeded":
                line.took_s = _seconds(event["at"]) - self._at.get(event["step"], _seconds(event["at"]))
            case "step.failed":
                retry = f"; again in {data['retry_in_s']:.1f} s" if "retry_in_s" in data else ""
                line.note = f"attempt {data['attempt']} of {data['of']} failed: {data.get('message', '')}{retry}"
            case "step.lease_lost":
                line.note = f"lost by {data.get('worker') or 'its worker'} ({data['why']}), taken over"
            case "step.dead_letter":
                line.note = f"{data['reason']}: {data.get('message', '')}"
            case _:
                pass

    def __rich__(self) -> RenderableType:
        """Draw the tree."""
        title = Text.assemble(
            ("run ", "dim"), self.run["id"], "  ", (self.status, _STYLE.get(self.status, "")),
            (f"  {self.run['goal']}" if self.run.get("goal") else "", "italic"),
        )  # fmt: skip
        tree = Tree(title, guide_style="dim")
        placed: dict[str, Tree] = {}
        for step in self.run["steps"][:200]:
            under = placed.get(step["depends_on"][-1], tree) if step["depends_on"] else tree
            placed[step["name"]] = under.add(self._label(step["name"]))
        if len(self.run["steps"]) > 200:
            tree.add(Text(f"… and {len(self.run['steps']) - 200} more steps", "dim"))
        return tree

    def _label(self, name: str) -> Text:
        line = self.lines[name]
        mark, style = _MARK.get(line.status, ("?", ""))
        took = line.took_s
        if line.status == "running" and line.since_s is not None:
            took = time.monotonic() - line.since_s
        text = Text.assemble((f"{mark} ", style), (name, style), f"  {line.status}")
        if line.worker and line.status in ("running", "succeeded"):
            text.append(f"  {line.worker}", "dim")
        if took is not None:
            text.append(f"  {took:.1f} s", "dim")
        if line.note:
            text.append(f"  {line.note}", "yellow")
        return text


def line_of(event: dict[str, Any]) -> str:
    """Return an event as one line of text."""
    facts = "  ".join(
        f"{name}={value}" for name, value in event["data"].items() if not name.endswith("sha256") and value is not None
    )
    return f"{event['seq']:>4}  {event['at'][11:23]}  {event['type']:<16} {event['step'] or '':<28} {facts}".rstrip()


def events_table(events: list[dict[str, Any]]) -> Table:
    """Return a run's events as a table."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    for column in ("seq", "at", "event", "step", "facts"):
        table.add_column(column, justify="right" if column == "seq" else "left", overflow="fold")
    for event in events:
        facts = "  ".join(f"{n}={v}" for n, v in event["data"].items() if not n.endswith("sha256") and v is not None)
        style = "red" if "lost" in event["type"] or "failed" in event["type"] or "dead" in event["type"] else ""
        table.add_row(str(event["seq"]), event["at"][11:23], Text(event["type"], style), event["step"] or "", facts)
    return table


def console() -> Console:
    """Return the terminal; `NO_COLOR` is honoured, and a pipe gets plain text."""
    return Console(highlight=False)


def _seconds(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()
