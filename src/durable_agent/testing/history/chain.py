"""I9 and I13 of one run: its events are 1..n, their chain is the stored one, and what lies outside has its digest.

The chain is computed here anew from its definition (`core.events.link` is the engine's): SHA-256 over the hash before, then seq, type,
step and microseconds each on a line, then the event's text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson

from durable_agent.testing.history.documents import Document, Event, ExportedRun
from durable_agent.testing.history.report import Report

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_KEPT = {"step.succeeded", "step.shared"}


def check_chain(found: ExportedRun, report: Report, heads: dict[int, str]) -> None:
    """Add what is wrong with the numbers and hashes of a run; `heads` are hashes by seq that were kept outside."""
    _numbers(found, report)
    _hashes(found, report, heads)
    _inputs(found, report)
    _outputs(found, report)
    for content in found.contents:
        if _sha256(str(content["content"]).encode()) != content["sha256"]:
            report.found("I13", found.id, f"the content of artifact {content['sha256']} was altered", content)


def _numbers(found: ExportedRun, report: Report) -> None:
    before: Event | None = None
    for event in found.events:
        expected = 1 if before is None else before.seq + 1
        if event.seq != expected:
            shown = (event,) if before is None else (before, event)
            report.found("I9", found.id, f"event {event.seq} stands where {expected} belongs", *shown)
        before = event
    last = before.seq if before is not None else 0
    tail = (before,) if before is not None else ()
    if last != found.run["last_seq"]:
        report.found("I9", found.id, f"the history ends at event {last} of {found.run['last_seq']}", *tail)
    if [end.get("events") for end in found.ends] != [found.run["last_seq"]]:
        report.found("I9", found.id, "the last line of the export is missing or tells another number", *found.ends)


def _hashes(found: ExportedRun, report: Report, heads: dict[int, str]) -> None:
    previous = hashlib.sha256(UUID(found.id).bytes).digest()
    for event in found.events:
        try:
            made, stored = _link(previous, event), bytes.fromhex(event.raw["hash"])
        except (ValueError, TypeError, AttributeError, OverflowError) as error:
            report.found("I13", found.id, f"event {event.seq} cannot be hashed: {error}", event)
            return
        if made != stored:
            report.found("I13", found.id, f"event {event.seq} ({event.type}) or one before it was altered", event)
        if heads.get(event.seq, stored.hex()) != stored.hex():
            report.found("I13", found.id, f"event {event.seq} has not the hash that was kept outside", event)
        detail = event.raw["detail"]
        if detail is not None and event.data.get("detail_sha256") != _sha256(str(detail).encode()):
            report.found("I13", found.id, f"the detail of event {event.seq} ({event.type}) was altered", event)
        # One altered event is told once: the next is measured by what is stored.
        previous = stored
    if previous.hex() != found.run["chain"] or any(end.get("chain") != found.run["chain"] for end in found.ends):
        tail = found.events[-1:]
        report.found("I13", found.id, "the head of the chain is not the one that the run carries", *tail)
    for seq in heads:
        if seq > len(found.events):
            text = f"a hash of event {seq} was kept outside, and the history ends at {len(found.events)}"
            report.found("I13", found.id, text, *found.events[-1:])


def _link(previous: bytes, event: Event) -> bytes:
    at = datetime.fromisoformat(event.at)
    microseconds = (at - _EPOCH) // timedelta(microseconds=1)
    step = "" if event.step_no is None else event.step_no
    head = f"\n{event.seq}\n{event.type}\n{step}\n{microseconds}\n".encode()
    return hashlib.sha256(previous + head + event.raw["data"].encode()).digest()


def _inputs(found: ExportedRun, report: Report) -> None:
    """The graph and the inputs are those whose digests were written when the steps came into being."""
    end = 0
    for event in found.events:
        if event.type not in ("run.created", "run.extended"):
            continue
        first, end = end, end + int(event.data.get("steps", 0))
        own = found.steps[first:end]
        given = found.run.get("input") if first == 0 else None
        if event.data.get("inputs_sha256") != sha256_of([given, [step["input"] for step in own]]):
            report.found("I13", found.id, "an input of the run or of a step is not the one that was submitted", event)
        if event.data.get("graph_sha256") != _sha256(orjson.dumps(list(_graph(own)))):
            report.found("I13", found.id, "the steps are not the graph that was submitted", event)
    if end != len(found.steps) or [step["no"] for step in found.steps] != list(range(end)):
        report.found("I13", found.id, f"there are {len(found.steps)} steps, and events tell of {end}")


def _graph(steps: list[Document]) -> Iterator[Any]:
    yield [step["name"] for step in steps]
    yield [step["parents"] for step in steps]
    yield sorted(
        (int(parent), step["no"], when) for step in steps for parent, when in (step["edge_conditions"] or {}).items()
    )


def _outputs(found: ExportedRun, report: Report) -> None:
    told = {event.step_no: event for event in found.events if event.type in _KEPT}
    for step in found.steps:
        event = told.get(step["no"])
        if step["status"] not in ("succeeded", "compensated") or event is None:
            continue
        if event.data.get("output_sha256") != sha256_of(step["output"]):
            text = f"the output of step {step['name']!r} is not the one that was recorded"
            report.found("I13", found.id, text, event, {"no": step["no"], "output": step["output"]})


def _sha256(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()


def sha256_of(value: Any) -> str:
    """Return the SHA-256 of a value as canonical JSON."""
    return _sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS))
