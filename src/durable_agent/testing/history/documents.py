"""The documents a history is read from: exported runs, and logs of what happened outside.

Only the shape of a document is decided here; what it says is believed by nobody. A log is JSON lines, appended to and
never rewritten:

client    {"key", "body"?, "answer": "ok" | "refused" | "unknown", "run_id"?}     what was asked, and what came back
receiver  {"key", "class"?, "what"?, "run"?, "step"?, "result"?, "at"?}           a call, logged before it is answered
watcher   {"watcher", "run_id", "seq", "type", "step", "data"}                    a frame as it came, with who got it
          {"watcher", "run_id", "after": n} · {"watcher", "run_id", "ended": true}    where it began; it saw the end
budget    {"owner", "meter", "window_s", "cap", "spent", "reserved"}              a budget's row when all was at rest
head      {"run_id", "seq", "hash"}                                               a hash that was kept outside
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import orjson

Document: TypeAlias = Mapping[str, Any]


class Unreadable(Exception):
    """A file is no document of a history: the message names the line and the cause."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event: `raw` is the line as exported, `data` what it says ({} where it cannot be read)."""

    seq: int
    type: str
    step_no: int | None
    at: str
    data: Mapping[str, Any]
    raw: Document

    @property
    def claim_no(self) -> int | None:
        """The claim under which it was written, if it names one."""
        return self.data.get("claim_no")

    def shown(self) -> dict[str, Any]:
        """Return what an excerpt holds of it."""
        return {"seq": self.seq, "type": self.type, "step_no": self.step_no, "at": self.at, "data": dict(self.data)}


@dataclass(frozen=True, slots=True)
class ExportedRun:
    """One run's export, line by line."""

    run: Document
    steps: list[Document] = field(default_factory=list)
    effects: list[Document] = field(default_factory=list)
    waits: list[Document] = field(default_factory=list)
    contents: list[Document] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    ends: list[Document] = field(default_factory=list)

    @property
    def id(self) -> str:
        """The run's id."""
        return str(self.run["id"])


def read_runs(lines: Iterable[bytes]) -> Iterator[ExportedRun]:
    """Yield the runs of an export; several may stand in one file, one after the other. Raises Unreadable."""
    found: ExportedRun | None = None
    for number, document in _documents(lines):
        match document.get("record"):
            case "run":
                if found is not None:
                    yield found
                found = ExportedRun(_needs(document, number, "id", "status", "last_seq", "chain", "steps_left"))
            case "event" if found is not None:
                found.events.append(_event(document, number))
            case "step" | "effect" | "wait" | "content" | "end" as record if found is not None:
                _list(found, record).append(document)
            case record:
                raise Unreadable(f"line {number} ({record!r}) is no line of an export, or comes before its run")
    if found is not None:
        yield found


def read_log(lines: Iterable[bytes], *needed: str) -> list[Document]:
    """Return the lines of a log, each with the fields that are needed. Raises Unreadable.

    A last line that was cut off is left out: whoever wrote it was killed.
    """
    kept = list(lines)
    if kept and not kept[-1].endswith(b"\n"):
        kept.pop()
    return [_needs(document, number, *needed) for number, document in _documents(kept)]


def _documents(lines: Iterable[bytes]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            document = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise Unreadable(f"line {number} is not JSON: {error}") from None
        if not isinstance(document, dict):
            raise Unreadable(f"line {number} is not an object")
        yield number, document


def _needs(document: Document, number: int, *names: str) -> Document:
    if missing := [name for name in names if name not in document]:
        raise Unreadable(f"line {number} says nothing of {', '.join(missing)}")
    return document


def _list(found: ExportedRun, record: str) -> list[Document]:
    return {
        "step": found.steps, "effect": found.effects, "wait": found.waits, "content": found.contents, "end": found.ends,
    }[record]  # fmt: skip


def _event(document: Document, number: int) -> Event:
    _needs(document, number, "seq", "type", "step_no", "at", "data", "hash", "detail")
    try:
        data = orjson.loads(document["data"])
    except (orjson.JSONDecodeError, TypeError):
        data = None
    seq = document["seq"] if isinstance(document["seq"], int) else 0
    said = data if isinstance(data, dict) else {}
    return Event(seq, str(document["type"]), document["step_no"], str(document["at"]), said, document)
