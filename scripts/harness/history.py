"""The history checker: what the record of every run says about the invariants, and the receiver's log about the world.

I1 one success a step · I2 none by a lease that was given up · I3 claim numbers 1, 2, 3 · I4 a release between two
claims · I5 final states absorb · I6 no claim before every parent is resolved, none left behind · I9 events 1..n ·
I10 one run a key · I13 the chain · P1 everything ends. I1 to I6 hold when the events fold through the core's tables
without fault and give exactly the rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from durable_agent.core.events import ChainBroken, dumps, verify
from durable_agent.core.records import DEFAULT_TENANT, Lease, RunId, Token
from durable_agent.core.states import RunStatus
from durable_agent.core.waits import approval_digest
from durable_agent.db import reads
from durable_agent.db.pool import Connection
from durable_agent.engine.claim import idempotency_key
from durable_agent.engine.export import effect_faults, row_faults
from durable_agent.engine.journal import EFFECTS, WAITS


@dataclass(slots=True)
class Report:
    """What was checked and what was found."""

    runs: int = 0
    steps: int = 0
    events: int = 0
    lost: int = 0
    double: int = 0
    fenced: int = 0
    leases_lost: int = 0
    effects: int = 0
    keys: set[str] = field(default_factory=set)
    violations: list[str] = field(default_factory=list)
    claims: dict[tuple[UUID, int, int], datetime] = field(default_factory=dict)


async def check_run(conn: Connection, run_id: UUID, report: Report, secret: bytes, results: Mapping[str, str]) -> None:
    """Check one run and add what is found to the report."""
    run = await reads.run(conn, DEFAULT_TENANT, run_id)
    if run is None:
        report.violations.append(f"run {run_id}: acknowledged and gone")
        report.lost += 1
        return
    steps = await reads.steps(conn, DEFAULT_TENANT, run_id)
    rows: list[dict[str, Any]] = []
    while page := await reads.events(conn, DEFAULT_TENANT, run_id, after=rows[-1]["seq"] if rows else 0, limit=5000):
        rows += page
    events = [reads.stored(row) for row in rows]
    report.runs, report.steps, report.events = report.runs + 1, report.steps + len(steps), report.events + len(events)
    try:
        verify(run_id, events, head=bytes.fromhex(run["chain"]), last_seq=run["last_seq"])
    except ChainBroken as broken:
        report.violations.append(f"run {run_id}: I9/I13: {broken}")
    faults = row_faults(run, steps, events)
    report.violations += [f"run {run_id}: {fault}" for fault in faults]
    if not RunStatus(run["status"]).final:
        report.violations.append(f"run {run_id}: P1: still {run['status']}")
        report.lost += sum(step["finished_at"] is None for step in steps)
    _count(run_id, rows, report)
    for step in steps:
        _check_receiver(run_id, step, report, secret, results)
    where = {"tenant": DEFAULT_TENANT, "run": run_id}
    effects = await reads.rows(conn, EFFECTS.of_run, where)
    waits = await reads.rows(conn, WAITS.of_run, where)
    report.violations += [f"run {run_id}: {fault}" for fault in effect_faults(effects, waits, events)]
    _check_effects(run_id, effects, waits, report, results)
    for step in steps:
        report.keys.add(
            idempotency_key(secret, Lease(DEFAULT_TENANT, RunId(run_id), step["no"], 0, Token(UUID(int=0))))
        )


def _check_effects(
    run_id: UUID, effects: list[dict[str, Any]], waits: list[dict[str, Any]], report: Report, results: Mapping[str, str]
) -> None:
    """Results are the receiver's (I11's other half); an approval is used once, for the call it was given for (I7)."""
    given = {wait["id"]: wait for wait in waits}
    used: set[UUID] = set()
    for effect in effects:
        report.effects += 1
        report.keys.add(effect["key"])
        name = f"run {run_id}: effect {effect['no']} of step {effect['step_no']}"
        if effect["state"] == "done" and effect["key"] and results.get(effect["key"]) != effect["result"]:
            report.violations.append(f"{name}: its result is not the receiver's for its key")
        if (approval := effect["approval"]) is None:
            continue
        wait = given.get(approval)
        digest = approval_digest(effect["name"], dumps(effect["request"]))
        if wait is None or wait["request_sha256"] != digest or (wait["answer"] or {}).get("decision") != "approved":
            report.violations.append(f"{name}: I7: it was not approved as it was called")
        if approval in used or (wait is not None and wait["consumed_at"] is None):
            report.violations.append(f"{name}: I7: its approval was used twice, or never used up")
        used.add(approval)


def check_calls(report: Report, calls: Mapping[str, int], whats: Mapping[str, str]) -> Counter[str]:
    """Every external call shows the key of a committed intent (I11); what cannot be repeated was not.

    Returns the calls beyond the first under one key, by class.
    """
    repeated: Counter[str] = Counter()
    for key, count in calls.items():
        what = whats.get(key, "work")
        if key not in report.keys:
            report.violations.append(f"I11: a call of {what} came with key {key}, which no intent has")
        repeated[what] += count - 1
        if what in ("verify", "manual") and count > 1:
            report.violations.append(f"the receiver was called {count} times for one {what} effect, key {key}")
    return repeated


def _count(run_id: UUID, rows: list[dict[str, Any]], report: Report) -> None:
    holder: dict[int, int] = {}
    successes: dict[int, int] = {}
    for row in rows:
        data, no = orjson.loads(row["data"]), row["step_no"]
        match row["type"]:
            case "step.claimed":
                holder[no] = data["claim_no"]
                report.claims[run_id, no, data["claim_no"]] = row["at"]
            case "step.succeeded":
                successes[no] = successes.get(no, 0) + 1
                # A result by a lease that was lost is a second worker's commit over the rightful one's.
                report.double += data["claim_no"] != holder.get(no) or successes[no] > 1
            case "step.fenced":
                report.fenced += 1
            case "step.lease_lost":
                report.leases_lost += 1


def _check_receiver(
    run_id: UUID, step: dict[str, Any], report: Report, secret: bytes, results: Mapping[str, str]
) -> None:
    """A step that succeeded with `work` has exactly the result the receiver keeps under its key."""
    if step["tool"] != "work" or step["status"] != "succeeded":
        return
    lease = Lease(DEFAULT_TENANT, RunId(run_id), step["no"], 0, Token(UUID(int=0)))
    key = idempotency_key(secret, lease)
    if results.get(key) != step["output"]["result"]:
        report.violations.append(
            f"run {run_id}: step {step['name']}: its output is not the receiver's result for its key"
        )
