"""Fork: a new run that shares what another has done before a step, and makes the rest again.

`recorded` runs the handlers on the record, calls nothing and expects the same; `live` makes it anew. What is shared is
not copied: the new run's steps name the run that holds their results.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import orjson
from uuid_utils.compat import uuid7

from durable_agent.core.events import digest, dumps, genesis, inputs_digest
from durable_agent.core.graph import Graph, children_of
from durable_agent.core.promotion import (
    ChildState,
    ConditionFailed,
    Outcome,
    ParentResolution,
    Ready,
    Skipped,
    own_condition,
    resolve,
)
from durable_agent.core.records import RunId, Tenant
from durable_agent.core.replay import Side, compare, made_again
from durable_agent.core.states import RunEvent, RunStatus, StepEvent
from durable_agent.core.turns import claim_order
from durable_agent.db import reads
from durable_agent.db.arrays import ints
from durable_agent.db.batch import batch
from durable_agent.db.pool import TRANSIENT, Connection, Database, first_line, may_be_committed
from durable_agent.engine.caps import release
from durable_agent.engine.journal import Head, Journal, Row, read_now
from durable_agent.engine.patience import FEW_STEPS, Patience
from durable_agent.engine.routes import Routes
from durable_agent.engine.rows import RUN_COLUMNS, STEP_COLUMNS, SUBMIT, json_text
from durable_agent.engine.spend import BUDGETS
from durable_agent.errors import Conflict, DatabaseUnavailable, InvalidRequest, NotFound

RECORDED, LIVE = "recorded", "live"


@dataclass(frozen=True, slots=True)
class Edit:
    """A change to a step of a fork: another input (it is made again), or another output (it is not)."""

    has_input: bool = False
    input: Any = None
    has_output: bool = False
    output: Any = None


@dataclass(slots=True)
class _Fork:
    """A fork in the making: the origin's steps, those made again, and what becomes of each."""

    origin: dict[str, Any]
    steps: list[dict[str, Any]]
    mode: str
    start: int
    named: bool
    edits: Mapping[int, Edit]
    again: set[int] = field(default_factory=set)
    skipped: set[int] = field(default_factory=set)
    ready: set[int] = field(default_factory=set)
    counts: dict[int, tuple[int, int]] = field(default_factory=dict)

    @property
    def agent(self) -> UUID | None:
        """The agent among whose runs under way this one counts; it begins when there is room for it."""
        return self.origin["agent"] if self.mode == LIVE and self.origin["root"] is None else None

    def output_of(self, no: int) -> Any:
        edit = self.edits.get(no)
        return edit.output if edit is not None and edit.has_output else self.steps[no]["output"]

    def input_of(self, no: int) -> Any:
        edit = self.edits.get(no)
        return edit.input if edit is not None and edit.has_input else self.steps[no]["input"]

    def decide(self) -> None:
        """Decide for each step whether it is made again, and where those stand whose parents are all resolved.

        Raises InvalidRequest when the conditions cannot be decided, or not in time.
        """
        patience = Patience()
        parents = [step["parents"] for step in self.steps]
        fixed = {no for no, edit in self.edits.items() if edit.has_output}
        changed = {no for no, edit in self.edits.items() if edit.has_input}
        # Of an output that somebody put there nothing is recorded that could be made again.
        put = {s["no"] for s in self.steps if _was_put(s)} - changed if self.mode == RECORDED else set()
        told = ("succeeded", "skipped") if self.mode == LIVE else ("succeeded", "skipped", "compensated")
        unfinished = [s["no"] for s in self.steps if s["status"] not in told and s["no"] not in fixed]
        children = children_of(parents)
        follow = [child for no in fixed for child in children[no]]
        first = {self.start} if self.named else set(range(self.start, len(self.steps)))
        self.again = made_again(parents, [*first, *unfinished, *changed, *follow]) - fixed - put
        resolved: dict[int, bool] = {}
        for step in self.steps:
            if step["no"] not in self.again:
                resolved[step["no"]] = step["no"] in fixed or step["status"] != "skipped"
        wave = sorted(self.again)
        while wave:
            moved = [no for no in wave if self._place(no, resolved, patience)]
            # A skipped step resolves its children: look at those again.
            wave = sorted({child for no in moved for child in children[no]} & self.again)

    def _place(self, no: int, resolved: dict[int, bool], patience: Patience) -> bool:
        """Count what a step waits for; tell whether it turned out to be skipped."""
        step = self.steps[no]
        known = [p for p in step["parents"] if p in resolved]
        conditions = step["edge_conditions"] or {}
        child = ChildState(no, step["name"], len(step["parents"]), 0, step["condition"])
        facts = [
            ParentResolution(p, self.steps[p]["name"], Outcome.SUCCEEDED if resolved[p] else Outcome.SKIPPED,
                             self.output_of(p), conditions.get(str(p)))
            for p in known
        ]  # fmt: skip
        outputs = {fact.name: fact.output for fact in facts if fact.outcome is Outcome.SUCCEEDED}
        given = self.origin["input"]
        if step["parents"]:
            verdict = resolve(child, facts, given, outputs=outputs, watch=patience)
        else:
            verdict = own_condition(step["condition"], 0, {}, given)
        if step["condition"] is not None:
            patience(step["name"])
        match verdict:
            case Ready(taken):
                self.ready.add(no)
                self.counts[no] = 0, taken
            case Skipped(_, taken):
                self.skipped.add(no)
                self.again.discard(no)
                resolved[no] = False
                self.counts[no] = 0, taken
                return True
            case ConditionFailed(expression, message):
                raise InvalidRequest(
                    f"step {step['name']!r}: the condition {expression!r} cannot be decided: {message}", field="edits"
                )
            case _:
                self.counts[no] = verdict.deps_left, verdict.taken
        return False


async def fork(
    db: Database, tenant: Tenant, run_id: UUID, *, start: int | str, mode: str, edits: Mapping[str, Edit], by: str
) -> RunId:
    """Start the fork and return its id; ring READY afterwards.

    A step by its name: it and all that follows from it is made again; by its number: it and all with a higher one.

    Raises NotFound, InvalidRequest (a step that is not in the run), Conflict (a record of a run that has not ended).
    """
    async with db.reading() as conn, conn.transaction():
        await conn.execute("set transaction isolation level repeatable read, read only")
        origin = await reads.run(conn, tenant, run_id)
        if origin is None:
            raise NotFound(f"run {run_id} does not exist", run_id=str(run_id))
        steps = [
            s for s in await reads.steps(conn, tenant, run_id) if s["spawned_by"] is None and s["compensates"] is None
        ]
    if mode == RECORDED and not RunStatus(origin["status"]).final:
        raise Conflict(
            f"run {run_id} is {origin['status']}: its record is not whole; replay it when it has ended, or live",
            run_id=str(run_id), run_status=origin["status"],
        )  # fmt: skip
    numbers = {step["name"]: step["no"] for step in steps}
    made = _Fork(
        origin,
        steps,
        mode,
        _number(start, numbers, steps),
        isinstance(start, str),
        {_named(n, numbers): e for n, e in edits.items()},
    )
    if len(steps) <= FEW_STEPS and not any(s["condition"] or s["edge_conditions"] for s in steps):
        made.decide()
    else:
        await asyncio.to_thread(made.decide)
    committing = False
    try:
        async with db.transaction() as conn:
            routes = Routes()
            await routes.ensure(conn, {(tenant, s["queue"], origin["lane"], s["tool"]) for s in steps})
            async with batch(conn):
                row = await (await read_now(conn)).fetchone()
                forked = await _write(conn, Journal(row[0]), tenant, made, routes, by)
                committing = True
    except TRANSIENT as error:
        if committing and may_be_committed(error):
            raise DatabaseUnavailable(
                f"nobody knows whether the run was started: {first_line(error)}; look at GET /runs before you send it again"
            ) from error
        raise DatabaseUnavailable(f"the run was not started: {first_line(error)}; send it again") from error
    return forked


def _number(start: int | str, numbers: Mapping[str, int], steps: list[dict[str, Any]]) -> int:
    if isinstance(start, str):
        return _named(start, numbers, "fromStep")
    if not 0 <= start < len(steps):
        raise InvalidRequest(f"there is no step {start}; the run has steps 0 to {len(steps) - 1}", field="fromStep")
    return start


def _named(name: str, numbers: Mapping[str, int], field_: str = "edits") -> int:
    if name not in numbers:
        raise InvalidRequest(f"step {name!r} is no step of the run", field=field_, step=name)
    return numbers[name]


async def _write(conn: Connection, journal: Journal, tenant: Tenant, made: _Fork, routes: Routes, by: str) -> RunId:
    run_id, origin, steps = RunId(uuid7()), made.origin, made.steps
    head = Head(tenant, run_id, RunStatus.PENDING, len(steps), len(steps), 0, genesis(run_id), "", 0)
    conditions = {(int(p), s["no"]): when for s in steps for p, when in (s["edge_conditions"] or {}).items()}
    graph = Graph(tuple(s["name"] for s in steps), tuple(tuple(s["parents"]) for s in steps), (), (), conditions)
    journal.append(
        head, RunEvent.CREATED, None, {"goal": origin["goal"]} if origin["goal"] else None,
        steps=len(steps), graph_sha256=graph.digest(), origin=str(origin["id"]), mode=made.mode, from_step=made.start,
        inputs_sha256=inputs_digest(origin["input"], [made.input_of(s["no"]) for s in steps]),
    )  # fmt: skip
    rows = Row(SUBMIT.add_steps, STEP_COLUMNS)
    created_us = (run_id.int >> 80) * 1000
    for step in steps:
        route = routes.ids[tenant, step["queue"], origin["lane"], step["tool"]]
        ord_ = claim_order(step["priority"], created_us)
        _add(journal, head, rows, made, step, route, ord_)
    if head.steps_left == 0:
        journal.move(head, RunEvent.COMPLETED)
    runs = Row(SUBMIT.add_runs, RUN_COLUMNS)
    runs.add(
        tenant, run_id, head.status.value, len(steps), head.steps_left, head.last_seq, head.chain, origin["lane"],
        origin["graph"], origin["goal"], None, json_text(origin["input"]), json_text(origin["metadata"]),
        origin["graph_version"], by, None, None, origin["id"], made.mode, made.start, None,
        *((origin["agent"], origin["budgeted"]) if made.mode == LIVE else (None, False)),
    )  # fmt: skip
    await journal.send(conn, runs)
    if made.mode == LIVE and origin["budgeted"]:
        source = {"source": origin["root"] or origin["id"], "tenant": tenant, "run": run_id, "now": journal.now}
        await conn.execute(BUDGETS.copy_budgets, source)
    await journal.send(conn, rows)
    await journal.write(conn)
    if made.agent is not None:
        await release(conn, [(tenant, made.agent)], lifted=True)
    return run_id


def _add(journal: Journal, head: Head, rows: Row, made: _Fork, step: dict[str, Any], route: int, ord_: int) -> None:
    no, edit = step["no"], made.edits.get(step["no"])
    status, output, shared, edited = "pending", None, False, edit is not None
    fixed = edit is not None and edit.has_output
    holder = step["origin"] if step["shared"] else made.origin["id"]
    # A replay records nothing of its own: it is made again from what it was made from.
    record = (step["origin"] or made.origin["id"]) if made.mode == RECORDED else None
    if no in made.skipped or (no not in made.again and step["status"] == "skipped" and not fixed):
        status = "skipped"
        journal.append(head, StepEvent.SKIPPED, no, why="recorded")
        head.steps_left -= 1
    elif no not in made.again:
        status, shared, edited = "succeeded", not fixed, fixed or _was_put(step)
        text = dumps(made.output_of(no))
        output = None if shared else text.decode()
        journal.append(
            head, StepEvent.SHARED, no, output_sha256=digest(text), edited=not shared,
            origin=str(holder),
        )  # fmt: skip
        head.steps_left -= 1
    elif no in made.ready:
        status = "queued"
        journal.append(head, StepEvent.READY, no)
        journal.enqueued.add(
            head.tenant, head.id, no, route, ord_, "capped" if made.agent is not None else "ready", 0, 0, 0,
            step["max_crashes"], None, step["deadline_s"], None,
        )  # fmt: skip
    deps_left, taken = made.counts.get(no, (0, 0))
    attempts = 1 if made.mode == RECORDED else step["max_attempts"]
    rows.add(
        head.tenant, head.id, no, status, deps_left if status == "pending" else 0, attempts, step["max_crashes"], route,
        ord_, step["timeout_s"], step["deadline_s"], step["name"], step["kind"], step["tool"], step["condition"],
        ints(step["parents"]), ints(step["children"]), json_text(step["edge_conditions"]), dumps(step["retry"]).decode(),
        json_text(made.input_of(no)), None, step["compensate"] if made.mode == LIVE and no in made.again else None, None, None,
        None, holder if shared else record, shared, edited, output, taken,
    )  # fmt: skip


def _was_put(step: Mapping[str, Any]) -> bool:
    """Whether nobody made the step's output: somebody put it there by an edit, of this run or of one before it."""
    return bool(step["edited"] and step["status"] == "succeeded" and step["claim_no"] == 0)


async def diff(db: Database, tenant: Tenant, run_id: UUID, other: UUID) -> dict[str, Any]:
    """Return two runs side by side: the first step that differs, each step's outcome, the time they took. Raises NotFound."""
    sides, told = [], []
    async with db.reading() as conn:
        for one in (run_id, other):
            run = await reads.run(conn, tenant, one)
            if run is None:
                raise NotFound(f"run {one} does not exist", run_id=str(one))
            steps = await reads.steps(conn, tenant, one)
            sides.append({step["name"]: _side(step) for step in steps})
            tokens = run["input_tokens"] + run["output_tokens"]
            spent = {"calls": run["calls"], "tokens": tokens, "microusd": run["microusd"]}
            told.append({"run_id": str(one), "status": run["status"], "seconds": _seconds(run), **spent})
    return orjson.loads(orjson.dumps({"a": told[0], "b": told[1], **compare(*sides)}))  # type: ignore[no-any-return]


def _side(step: Mapping[str, Any]) -> Side:
    attempts = step["failures"] + (step["status"] == "succeeded")
    spent = step["tokens"] or 0, step["microusd"] or 0
    return Side(step["status"], step["output"], _seconds(step), attempts, *spent)


def _seconds(row: Mapping[str, Any]) -> float | None:
    if row["started_at"] is None or row["finished_at"] is None:
        return None
    return round(float((row["finished_at"] - row["started_at"]).total_seconds()), 3)
