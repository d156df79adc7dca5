"""Export: a run's whole history as JSON lines that prove themselves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from durable_agent.core.events import ChainBroken, StoredEvent, digest, dumps, fold, inputs_digest, verify
from durable_agent.core.graph import Graph
from durable_agent.core.records import Tenant
from durable_agent.db import reads
from durable_agent.db.pool import Connection, Database
from durable_agent.errors import NotFound

FORMAT = 1
_PAGE = 1000


async def export_lines(db: Database, tenant: Tenant, run_id: UUID) -> AsyncIterator[bytes]:
    """Yield the lines of a run's export: run, steps, events in order with their hashes, end. Raises NotFound.

    All lines are of one moment: they are read in one snapshot.
    """
    async with db.reading() as conn, conn.transaction():
        await conn.execute("set transaction isolation level repeatable read, read only")
        run = await reads.run(conn, tenant, run_id)
        if run is None:
            raise NotFound(f"run {run_id} does not exist", run_id=str(run_id))
        yield _line({"record": "run", "format": FORMAT, **run})
        for step in await reads.steps(conn, tenant, run_id):
            yield _line({"record": "step", **step})
        async for row in _events(conn, tenant, run_id):
            yield _line({"record": "event", **row, "hash": bytes(row["hash"]).hex()})
        yield _line({"record": "end", "events": run["last_seq"], "chain": run["chain"]})


async def _events(conn: Connection, tenant: Tenant, run_id: UUID) -> AsyncIterator[dict[str, Any]]:
    after = 0
    while rows := await reads.events(conn, tenant, run_id, after=after, limit=_PAGE):
        for row in rows:
            yield row
        after = rows[-1]["seq"]


def _line(value: dict[str, Any]) -> bytes:
    return orjson.dumps(value, default=str) + b"\n"


class NotAnExport(Exception):
    """The file is no export of a run."""


@dataclass(slots=True)
class Export:
    """The lines of an export by what they record."""

    run: dict[str, Any]
    steps: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    ends: list[dict[str, Any]] = field(default_factory=list)


def verify_export(lines: Iterable[bytes]) -> tuple[UUID, int]:
    """Return the run's id and number of events when an export proves itself: chain, tail, graph, outputs, fold.

    Raises ChainBroken with the first event that does not fit, NotAnExport.
    """
    found = _parsed(lines)
    try:
        run_id, head = UUID(found.run["id"]), bytes.fromhex(found.run["chain"])
        count = verify(run_id, _stored_events(found.events), head=head, last_seq=found.run["last_seq"])
        if [(end["events"], end["chain"]) for end in found.ends] != [(count, found.run["chain"])]:
            raise ChainBroken(count + 1, "the last line of the export is missing or does not fit")
        faults = row_faults(found.run, found.steps, list(_stored_events(found.events)))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ChainBroken(len(found.events) + 1, f"a line of the run or of a step was altered: {error}") from None
    if faults:
        raise ChainBroken(count, faults[0])
    return run_id, count


def _parsed(lines: Iterable[bytes]) -> Export:
    found: Export | None = None
    for number, line in enumerate(lines, 1):
        try:
            document = orjson.loads(line)
            record = document["record"]
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            if found is None:
                raise NotAnExport(f"line {number} is no line of an export ({error})") from None
            raise ChainBroken(len(found.events) + 1, f"line {number} cannot be read: cut off or altered") from None
        match record:
            case "run" if found is None:
                found = Export(document)
            case "step" | "event" | "end" if found is not None and not found.ends:
                {"step": found.steps, "event": found.events, "end": found.ends}[record].append(document)
            case _ if found is None:
                raise NotAnExport("the first line is not that of a run")
            case _:
                raise ChainBroken(len(found.events) + 1, f"line {number} ({record}) is out of place")
    if found is None:
        raise NotAnExport("it is empty")
    return found


def _stored_events(documents: Iterable[dict[str, Any]]) -> Iterator[StoredEvent]:
    """Yield events; one that was altered beyond reading breaks the chain there."""
    for expected, document in enumerate(documents, 1):
        try:
            yield _stored(document)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ChainBroken(expected, f"event {expected} was altered: {error}") from None


def row_faults(run: dict[str, Any], steps: list[dict[str, Any]], events: list[StoredEvent]) -> list[str]:
    """Return where a run's rows are not what its events, folded through the machines, say they are."""
    folded = fold([s["parents"] for s in steps], ((e.seq, e.type, e.step_no, orjson.loads(e.data)) for e in events))
    faults = [*folded.faults, *_graph_faults(steps, events), *_input_faults(run, steps, events)]
    if folded.status is None or folded.status.value != run["status"]:
        faults.append(f"the run is {run['status']}, its events say {folded.status}")
    if folded.steps_left != run["steps_left"]:
        faults.append(f"the run has {run['steps_left']} steps left, its events say {folded.steps_left}")
    outputs = {e.step_no: orjson.loads(e.data)["output_sha256"] for e in events if e.type == "step.succeeded"}
    for step in steps:
        if step["no"] not in folded.steps:
            faults.append(f"step {step['name']!r} is not numbered from 0")
            continue
        said = folded.steps[step["no"]]
        for name, mine in (("status", said.status.value), ("claim_no", said.claim_no), ("failures", said.failures),
                           ("crashes", said.crashes)):  # fmt: skip
            if step[name] != mine:
                faults.append(f"step {step['name']!r}: {name} is {step[name]}, its events say {mine}")
        if step["status"] == "succeeded" and outputs.get(step["no"]) != digest(dumps(step["output"])):
            faults.append(f"step {step['name']!r}: its output is not the one that was recorded")
    return faults


def _input_faults(run: dict[str, Any], steps: list[dict[str, Any]], events: list[StoredEvent]) -> list[str]:
    """Return whether the inputs are no longer those that were submitted."""
    told = orjson.loads(events[0].data).get("inputs_sha256") if events else None
    if told == inputs_digest(run["input"], [step["input"] for step in steps]):
        return []
    return ["an input of the run or of one of its steps is not the one that was submitted"]


def _graph_faults(steps: list[dict[str, Any]], events: list[StoredEvent]) -> list[str]:
    """Return whether names, edges and edge conditions are no longer those that were submitted."""
    conditions = {(int(p), s["no"]): when for s in steps for p, when in (s["edge_conditions"] or {}).items()}
    graph = Graph(tuple(s["name"] for s in steps), tuple(tuple(s["parents"]) for s in steps), (), (), conditions)
    said = orjson.loads(events[0].data).get("graph_sha256") if events else None
    return [] if said == graph.digest() else ["the steps are not the graph that was submitted"]


def _stored(d: dict[str, Any]) -> StoredEvent:
    detail = d["detail"].encode() if d["detail"] is not None else None
    return StoredEvent(
        d["seq"], d["type"], d["step_no"], datetime.fromisoformat(d["at"]), d["data"].encode(), detail,
        bytes.fromhex(d["hash"]),
    )  # fmt: skip
