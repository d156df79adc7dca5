"""The history checker of a campaign: exports from its database, and the receiver's log, for `durable_agent.testing.history`.

What is its own here: a `work` step returns what the receiver gave it, and a campaign's person answers whatever waits, so
that in the end every run is over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from durable_agent.core.records import DEFAULT_TENANT, Lease, RunId, Token
from durable_agent.core.states import RunStatus
from durable_agent.db import reads
from durable_agent.db.pool import Connection
from durable_agent.engine.claim import idempotency_key
from durable_agent.engine.journal import EFFECTS, WAITS
from durable_agent.engine.spend import BUDGETS
from durable_agent.testing.history import Checker, read_runs
from harness.receiver import Receiver


@dataclass(slots=True)
class Report:
    """What was checked and what was found; `claims` are the times of the claims, for how long a rescue took."""

    violations: list[str] = field(default_factory=list)
    claims: dict[tuple[UUID, int, int], datetime] = field(default_factory=dict)
    gone: int = 0
    own_keys: dict[tuple[str, int], str] = field(default_factory=dict)
    budgets: list[dict[str, Any]] = field(default_factory=list)
    results: Mapping[str, str] = field(default_factory=dict)
    checker: Checker = field(init=False)
    _told: int = 0

    def __post_init__(self) -> None:
        self.checker = Checker(own_keys=self.own_keys)

    @property
    def runs(self) -> int:
        """How many runs were checked."""
        return self.checker.report.runs

    @property
    def steps(self) -> int:
        """How many steps they have."""
        return self.checker.report.steps

    @property
    def events(self) -> int:
        """How many events."""
        return self.checker.report.events

    @property
    def effects(self) -> int:
        """How many recorded effects."""
        return self.checker.report.effects

    @property
    def lost(self) -> int:
        """How many acknowledged runs are gone, and steps that will never end."""
        return self.gone + self.checker.report.lost

    @property
    def double(self) -> int:
        """How many results came from a lease that was not the step's any more, or second."""
        return self.checker.report.double

    @property
    def fenced(self) -> int:
        """How many writes the fence refused."""
        return self.checker.report.fenced

    @property
    def leases_lost(self) -> int:
        """How many leases were lost."""
        return self.checker.report.leases_lost

    def take(self) -> None:
        """Take over what the checker found since the last time, each with its excerpt."""
        found = self.checker.report.violations
        self.violations += ["\n  ".join([str(one), *one.lines()]) for one in found[self._told :]]
        self._told = len(found)


async def check_run(conn: Connection, run_id: UUID, report: Report, secret: bytes, results: Mapping[str, str]) -> None:
    """Check one run and add what is found to the report."""
    report.results = results
    run = await reads.run(conn, DEFAULT_TENANT, run_id)
    if run is None:
        report.violations.append(f"P1: run {run_id}: it was acknowledged, and it is gone")
        report.gone += 1
        return
    steps = await reads.steps(conn, DEFAULT_TENANT, run_id)
    lines = [line async for line in _lines(conn, run_id, report, run=run, steps=steps)]
    for step in steps:
        key = idempotency_key(secret, Lease(DEFAULT_TENANT, RunId(run_id), step["no"], 0, Token(UUID(int=0))))
        report.own_keys[str(run_id), step["no"]] = key
        if step["tool"] == "work" and step["status"] == "succeeded" and results.get(key) != step["output"]["result"]:
            text = "its output is not the receiver's result for its key"
            report.violations.append(f"I11: run {run_id}: step {step['name']}: {text}")
    for found in read_runs(lines):
        report.checker.add(found)
    status = RunStatus(run["status"])
    if not status.final and status.value.startswith(("waiting", "paused")):
        report.violations.append(f"P1: run {run_id}: it is {status.value}, and whoever it waits for has answered all")
    report.budgets += await _budgets(conn, run_id)
    report.take()


async def _lines(
    conn: Connection, run_id: UUID, report: Report, *, run: dict[str, Any], steps: list[dict[str, Any]]
) -> AsyncIterator[bytes]:
    """Yield the run as `runs export` writes it, at rest and on the connection at hand."""
    where = {"tenant": DEFAULT_TENANT, "run": run_id}
    yield _line("run", run)
    for step in steps:
        yield _line("step", step)
    for effect in await reads.rows(conn, EFFECTS.of_run, where):
        yield _line("effect", effect)
    for wait in await reads.rows(conn, WAITS.of_run, where):
        yield _line("wait", wait)
    after = 0
    while page := await reads.events(conn, DEFAULT_TENANT, run_id, after=after, limit=5000):
        for row in page:
            if row["type"] == "step.claimed":
                report.claims[run_id, row["step_no"], orjson.loads(row["data"])["claim_no"]] = row["at"]
            yield _line("event", {**row, "hash": bytes(row["hash"]).hex()})
        after = page[-1]["seq"]
    yield _line("end", {"events": run["last_seq"], "chain": run["chain"]})


def _line(record: str, row: dict[str, Any]) -> bytes:
    return orjson.dumps({"record": record, **row}, default=str) + b"\n"


async def _budgets(conn: Connection, owner: UUID) -> list[dict[str, Any]]:
    rows = await reads.rows(conn, BUDGETS.of_owner, {"tenant": DEFAULT_TENANT, "owner": owner})
    return [{**row, "owner": str(owner)} for row in rows]


# A process that was frozen in the very instant between its last look at its lease and the call makes it when it wakes: what
# `docs/guarantees.md` says cannot be helped. One that was awake for longer than this looked again.
JUST_WOKEN_S = 1.0


def check_calls(report: Report, world: Receiver, woken: Mapping[int, Sequence[float]]) -> Counter[str]:
    """Compare every run with the receiver's log: each call shows the key of a committed intent (I11), no more often.

    Returns the calls beyond the first under one key, by class; those of class `verify` that a process made as it woke, and that
    another had made meanwhile, as `late`.
    """
    repeated: Counter[str] = Counter()
    calls = dict(world.calls)
    for key, count in world.calls.items():
        what = world.whats.get(key, "work")
        repeated[what] += count - 1
        if what == "verify" and count > 1:
            late = sum(any(0 <= at - woke < JUST_WOKEN_S for woke in woken.get(pid, ())) for pid, at in world.came[key])
            calls[key] -= min(late, count - 1)
            repeated["late"] += min(late, count - 1)
    report.checker.compare(receiver=_calls(report, calls, world.whats), budgets=report.budgets)
    report.take()
    return repeated


def _calls(report: Report, calls: Mapping[str, int], whats: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    for key, count in calls.items():
        for _ in range(count):
            yield {"key": key, "class": whats.get(key, "work"), "result": report.results.get(key)}
