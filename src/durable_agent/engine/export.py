"""Export: a run's whole history as JSON lines that prove themselves."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import IO, Any
from uuid import UUID

import orjson

from durable_agent.artifacts import Artifacts, StoreUnavailable
from durable_agent.core.events import ChainBroken, StoredEvent, digest, dumps, fold, inputs_digest, verify
from durable_agent.core.graph import Graph
from durable_agent.core.large import KEY, is_reference
from durable_agent.core.records import Tenant, WaitKind
from durable_agent.core.states import RunEvent, StepEvent
from durable_agent.db import reads
from durable_agent.db.pool import Connection, Database
from durable_agent.engine.journal import EFFECTS, WAITS
from durable_agent.engine.recorded import effect_faults
from durable_agent.errors import NotFound, OutsideError
from durable_agent.testing.history import Checker, read_runs

FORMAT = 1
_PAGE = 1000
_PIECE_BYTES = 1_048_576
_IN_MEMORY_BYTES = 8 * _PIECE_BYTES


async def export(db: Database, tenant: Tenant, run_id: UUID, artifacts: Artifacts | None = None) -> IO[bytes]:
    """Return a run's export as a temporary file, open at its beginning: run, steps, effects, waits, events in order with their
    hashes, end.

    All of it is of one moment. It is whole, and no connection is held, before the caller has any of it: however slowly it is sent,
    nobody else waits for that. With `artifacts` the results that lie there are in it, too. Raises NotFound, OutsideError.
    """
    with ExitStack() as held:
        spool = _Spool(held.enter_context(tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES)))
        kept, end = set[str](), dict[str, Any]()
        async with db.reading() as conn:
            async for record in _records(conn, tenant, run_id):
                kept |= _large_in(record)
                if record["record"] == "end":
                    end = record
                else:
                    await spool.add(_line(record))
        for digest_ in sorted(kept) if artifacts is not None else ():
            # What the store has lost is missing from the export, too; its digest still tells what it was.
            with suppress(NotFound, StoreUnavailable):
                content = (await artifacts.get(digest_)).decode() if artifacts is not None else ""
                await spool.add(_line({"record": "content", "sha256": digest_, "content": content}))
        await spool.add(_line(end))
        file = await spool.whole()
        held.pop_all()
        return file


async def lines_of(conn: Connection, tenant: Tenant, run_id: UUID) -> AsyncIterator[bytes]:
    """Yield the lines of an export without what lies in the artifact store, over a connection that has no transaction open.

    They are read as they are asked for, in one snapshot: ask without delay. Raises NotFound.
    """
    async for record in _records(conn, tenant, run_id):
        yield _line(record)


async def _records(conn: Connection, tenant: Tenant, run_id: UUID) -> AsyncIterator[dict[str, Any]]:
    async with conn.transaction():
        await conn.execute("set transaction isolation level repeatable read, read only")
        run = await reads.run(conn, tenant, run_id)
        if run is None:
            raise NotFound(f"run {run_id} does not exist", run_id=str(run_id))
        yield {"record": "run", "format": FORMAT, **run}
        for step in await reads.steps(conn, tenant, run_id):
            yield {"record": "step", **step}
        for effect in await reads.rows(conn, EFFECTS.of_run, {"tenant": tenant, "run": run_id}):
            yield {"record": "effect", **effect}
        for wait in await reads.rows(conn, WAITS.of_run, {"tenant": tenant, "run": run_id}):
            yield {"record": "wait", **wait}
        async for row in _events(conn, tenant, run_id):
            yield {"record": "event", **row, "hash": bytes(row["hash"]).hex()}
        yield {"record": "end", "events": run["last_seq"], "chain": run["chain"]}


@dataclass(slots=True)
class _Spool:
    """A file that is written in large pieces, beside the event loop."""

    file: IO[bytes]
    _unwritten: bytearray = field(default_factory=bytearray)

    async def add(self, line: bytes) -> None:
        self._unwritten += line
        if len(self._unwritten) >= _PIECE_BYTES:
            await self._write()

    async def whole(self) -> IO[bytes]:
        await self._write()
        self.file.seek(0)
        return self.file

    async def _write(self) -> None:
        piece, self._unwritten = self._unwritten, bytearray()
        try:
            await asyncio.to_thread(self.file.write, piece)
        except OSError as error:
            text = f"the export cannot be put together in {tempfile.gettempdir()}: {error.strerror}; make room there, or set TMPDIR"
            raise OutsideError(text) from error


def _large_in(record: Mapping[str, Any]) -> set[str]:
    """Return the digests of the large values that a record refers to."""
    match record:
        case {"record": "step", "output": output, "input": given}:
            # Of an agent's run the conversation that it goes on with, too.
            return _digests(output, given.get("history") if isinstance(given, dict) else None)
        case {"record": "effect", "result": result}:
            return _digests(result)
        case {"record": "wait"}:
            return _digests(*_outputs_in(record))
        case _:
            return set()


def _digests(*values: Any) -> set[str]:
    return {value[KEY] for value in values if is_reference(value)}


def _outputs_in(wait: Mapping[str, Any]) -> Iterable[Any]:
    """Return what the run, or the steps, came to that the wait was for."""
    match wait["kind"], (wait["answer"] or {}).get("value"):
        case WaitKind.RUN, {"output": dict(outputs)}:
            return outputs.values()
        case WaitKind.STEPS, list(steps):
            return [step["output"] for step in steps]
        case _:
            return ()


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
    effects: list[dict[str, Any]] = field(default_factory=list)
    waits: list[dict[str, Any]] = field(default_factory=list)
    contents: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    ends: list[dict[str, Any]] = field(default_factory=list)


def verify_export(lines: Iterable[bytes]) -> tuple[UUID, int]:
    """Return the run's id and number of events when an export proves itself: chain, tail, graph, outputs, fold.

    Raises ChainBroken with the first event that does not fit, NotAnExport.
    """
    run_id, count, faults = faults_in(lines)
    if faults:
        raise ChainBroken(count, faults[0])
    return run_id, count


def faults_in(lines: Iterable[bytes]) -> tuple[UUID, int, list[str]]:
    """As `verify_export`, with all that the rows have against the events in place of an exception for the first of it.

    The invariants that one run tells of are derived anew by the history checker, which knows nothing of the engine's own fold.
    """
    lines = list(lines)
    found = parse_export(lines)
    try:
        run_id, head = UUID(found.run["id"]), bytes.fromhex(found.run["chain"])
        count = verify(run_id, _stored_events(found.events), head=head, last_seq=found.run["last_seq"])
        if [(end["events"], end["chain"]) for end in found.ends] != [(count, found.run["chain"])]:
            raise ChainBroken(count + 1, "the last line of the export is missing or does not fit")
        stored = list(_stored_events(found.events))
        altered = [c["sha256"] for c in found.contents if digest(c["content"].encode()) != c["sha256"]]
        faults = [f"the content of artifact {one} was altered" for one in altered]
        faults += row_faults(found.run, found.steps, stored) + effect_faults(found.effects, found.waits, stored)
        faults += _name_faults(found)
        checker = Checker(at_rest=False)
        for exported in read_runs(lines):
            checker.add(exported)
        faults += [f"{one.invariant}: {one.message}" for one in checker.report.violations]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ChainBroken(len(found.events) + 1, f"a line of the run or of a step was altered: {error}") from None
    return run_id, count, faults


def parse_export(lines: Iterable[bytes]) -> Export:
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
            case "step" | "effect" | "wait" | "content" | "event" | "end" if found is not None and not found.ends:
                {
                    "step": found.steps, "effect": found.effects, "wait": found.waits, "content": found.contents,
                    "event": found.events,
                    "end": found.ends,
                }[record].append(document)  # fmt: skip
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
    outputs = {e.step_no: orjson.loads(e.data)["output_sha256"] for e in events if e.type in _WITH_OUTPUT}
    for step in steps:
        if step["no"] not in folded.steps:
            faults.append(f"step {step['name']!r} is not numbered from 0")
            continue
        said = folded.steps[step["no"]]
        for name, mine in (("status", said.status.value), ("claim_no", said.claim_no), ("failures", said.failures),
                           ("crashes", said.crashes)):  # fmt: skip
            if step[name] != mine:
                faults.append(f"step {step['name']!r}: {name} is {step[name]}, its events say {mine}")
        if step["status"] in ("succeeded", "compensated") and outputs.get(step["no"]) != digest(dumps(step["output"])):
            faults.append(f"step {step['name']!r}: its output is not the one that was recorded")
    return faults


_WITH_OUTPUT = (StepEvent.SUCCEEDED, StepEvent.SHARED)


def _name_faults(found: Export) -> list[str]:
    """Return where what a line says for its reader's sake is not what the chained part of the record says."""
    names = {step["no"]: step["name"] for step in found.steps}
    faults = [
        f"event {e['seq']} is not of step {e['step']!r}" for e in found.events if e["step"] != names.get(e["step_no"])
    ]
    told = orjson.loads(found.events[0]["data"]).get("detail_sha256")
    if told != (digest(dumps({"goal": found.run["goal"]})) if found.run["goal"] else None):
        faults.append("the run's goal is not the one that was submitted")
    if found.run["steps_total"] != len(found.steps):
        faults.append(f"the run has {len(found.steps)} steps, its row says {found.run['steps_total']}")
    return faults


def _input_faults(run: dict[str, Any], steps: list[dict[str, Any]], events: list[StoredEvent]) -> list[str]:
    """Return whether the inputs are no longer those that were submitted, or added later."""
    for first, last, told in _parts(steps, events):
        submitted = run["input"] if first == 0 else None
        if told.get("inputs_sha256") != inputs_digest(submitted, [step["input"] for step in steps[first:last]]):
            return ["an input of the run or of one of its steps is not the one that was submitted"]
    return []


def _graph_faults(steps: list[dict[str, Any]], events: list[StoredEvent]) -> list[str]:
    """Return whether names, edges and edge conditions are no longer those that were submitted, or added later."""
    parts = _parts(steps, events)
    for first, last, told in parts:
        own = steps[first:last]
        conditions = {(int(p), s["no"]): when for s in own for p, when in (s["edge_conditions"] or {}).items()}
        graph = Graph(tuple(s["name"] for s in own), tuple(tuple(s["parents"]) for s in own), (), (), conditions)
        if told.get("graph_sha256") != graph.digest():
            return ["the steps are not the graph that was submitted"]
    return [] if parts and parts[-1][1] == len(steps) else ["there are steps that no event tells of"]


def _parts(steps: list[dict[str, Any]], events: list[StoredEvent]) -> list[tuple[int, int, dict[str, Any]]]:
    """Return (first step, end, what the event told) of the run's graph as submitted and of each extension."""
    parts: list[tuple[int, int, dict[str, Any]]] = []
    for event in events:
        if event.type in (RunEvent.CREATED, RunEvent.EXTENDED):
            told = orjson.loads(event.data)
            first = parts[-1][1] if parts else 0
            parts.append((first, first + told["steps"], told))
    return parts


def _stored(d: dict[str, Any]) -> StoredEvent:
    detail = d["detail"].encode() if d["detail"] is not None else None
    return StoredEvent(
        d["seq"], d["type"], d["step_no"], datetime.fromisoformat(d["at"]), d["data"].encode(), detail,
        bytes.fromhex(d["hash"]),
    )  # fmt: skip
