"""Explain: why each unfinished step of a run is not moving, one reason of a closed list, with its facts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any
from uuid import UUID

from durable_agent.core.records import Tenant
from durable_agent.core.states import RunStatus
from durable_agent.db import reads
from durable_agent.db.pool import Connection, Database
from durable_agent.db.sql import load
from durable_agent.engine.gate import GATES
from durable_agent.errors import NotFound

EXPLAIN = load("explain")


class Reason(StrEnum):
    """The closed list."""

    WAITS_FOR_STEPS = "waits_for_steps"
    READY = "ready"
    NO_LIVE_WORKER = "no_live_worker"
    NO_WORKER_OFFERS = "no_worker_offers"
    NO_WORKER_SERVES_QUEUE = "no_worker_serves_queue"
    RETRY_SCHEDULED = "retry_scheduled"
    RUNNING = "running"
    WORKER_SUSPECTED = "worker_suspected"
    LEASE_EXPIRED = "lease_expired"
    PAUSED = "paused"
    BUDGET = "budget"
    AGENT_BUSY = "agent_busy"
    GATE_SHUT = "gate_shut"
    WAITS_FOR_APPROVAL = "waits_for_approval"
    WAITS_FOR_INPUT = "waits_for_input"
    WAITS_FOR_SIGNAL = "waits_for_signal"
    WAITS_FOR_TIMER = "waits_for_timer"
    WAITS_FOR_SPAWNED_STEPS = "waits_for_spawned_steps"
    WAITS_FOR_RUN = "waits_for_run"
    UNKNOWN_EFFECT = "unknown_effect"
    STRANDED = "stranded"


@dataclass(frozen=True, slots=True)
class StepReason:
    """Why one step is not moving, as a code, a sentence and facts."""

    step: str
    reason: Reason
    text: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Explanation:
    """A run's status in a sentence, and a reason for each unfinished step (the first 1,000)."""

    run_id: UUID
    status: RunStatus
    text: str
    steps: tuple[StepReason, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the explanation as JSON."""
        steps = [asdict(step) for step in self.steps]
        return {"run_id": str(self.run_id), "status": self.status.value, "text": self.text, "steps": steps}


async def explain(db: Database, tenant: Tenant, run_id: UUID) -> Explanation:
    """Return the explanation of a run; an unfinished run always has at least one reason. Raises NotFound."""
    where = {"tenant": tenant, "run": run_id}
    async with db.reading() as conn:
        run = await reads.run(conn, tenant, run_id)
        if run is None:
            raise NotFound(f"run {run_id} does not exist", run_id=str(run_id))
        status = RunStatus(run["status"])
        if status.final:
            return Explanation(run_id, status, _ended(run), ())
        rows = await reads.rows(conn, EXPLAIN.unfinished, where)
        gates = await reads.rows(conn, GATES.closed_to, {"tenant": tenant})
        living, parents = await reads.rows(conn, EXPLAIN.living, {}), await _open_parents(conn, where, rows)
        looking = _Look(conn, where, living, parents, gates)
        reasons = tuple([await looking.at(row) for row in rows])
    done = run["steps_total"] - run["steps_left"]
    text = f"the run is {status.value}: {done} of {run['steps_total']} steps are done"
    if not reasons:
        reasons = (StepReason("", Reason.STRANDED, "no step is open and the run is not ended: a defect; run doctor"),)
    return Explanation(run_id, status, text, reasons)


def _ended(run: dict[str, Any]) -> str:
    error = run["error"] or {}
    why = f" at step {error['step']!r}: {error['reason']}" if error.get("step") else ""
    return f"the run has ended: {run['status']}{why}"


async def _open_parents(
    conn: Connection, where: dict[str, Any], rows: Sequence[dict[str, Any]]
) -> dict[int, list[str]]:
    nos = [row["no"] for row in rows if row["state"] is None]
    found: dict[int, list[str]] = {}
    for row in await reads.rows(conn, EXPLAIN.open_parents, {**where, "nos": nos}):
        found.setdefault(row["no"], []).append(row["name"])
    return found


@dataclass(frozen=True, slots=True)
class _Look:
    """One look at a run: what the reasons of its steps share."""

    conn: Connection
    where: dict[str, Any]
    living: list[dict[str, Any]]
    parents: dict[int, list[str]]
    gates: list[dict[str, Any]]

    async def at(self, row: dict[str, Any]) -> StepReason:
        match row["state"]:
            case "leased":
                return self._leased(row)
            case "scheduled":
                return await self._scheduled(row)
            case "held":
                return await self._held(row)
            case "ready":
                return self._ready(row)
            case "waiting":
                return waiting(row)
            case "capped":
                text = (
                    f"ready for {row['ready_s']:.1f} s; its agent has as many runs under way as it may (`concurrency`)"
                )
                return StepReason(row["name"], Reason.AGENT_BUSY, text, {"ready_s": _s(row["ready_s"])})
            case _:
                return self._waiting(row)

    def _waiting(self, row: dict[str, Any]) -> StepReason:
        names = self.parents.get(row["no"], [])
        if not names:
            text = "every step it waits for is done and it is not ready: a defect; run doctor"
            return StepReason(row["name"], Reason.STRANDED, text)
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        return StepReason(row["name"], Reason.WAITS_FOR_STEPS, f"waits for {shown}", {"steps": names[:100]})

    def _leased(self, row: dict[str, Any]) -> StepReason:
        worker, beat = row["worker"] or "unknown", row["beat_ago_s"]
        facts = {
            "worker": row["worker"], "claim_no": row["claim_no"], "running_s": _s(row["running_s"]),
            "beat_ago_s": _s(beat), "deadline_in_s": _s(row["deadline_in_s"]),
        }  # fmt: skip
        if row["worker"] is None or row["expired_s"] > 0:
            text = f"the lease of worker {worker} expired; the next reaper gives the step back"
            return StepReason(row["name"], Reason.LEASE_EXPIRED, text, facts)
        if row["suspected"]:
            text = f"worker {worker} lost its liveness connection; it beats again or its lease ends within a second"
            return StepReason(row["name"], Reason.WORKER_SUSPECTED, text, facts)
        text = f"runs on worker {worker} for {row['running_s']:.1f} s; last beat {beat:.1f} s ago"
        if self.gates:
            # Which of them it may be waiting at only the worker knows: it has not asked for the call yet.
            shut = ", ".join(f"{g['name']} ({g['state'] if g['state'] != 'closed' else 'held'})" for g in self.gates)
            text, facts = f"{text}; shut for everybody: {shut}", {**facts, "gates": self.gates}
        return StepReason(row["name"], Reason.RUNNING, text, facts)

    async def _scheduled(self, row: dict[str, Any]) -> StepReason:
        given = await reads.rows(self.conn, EXPLAIN.last_word, {**self.where, "type": "step.released", "no": row["no"]})
        last = await reads.rows(self.conn, EXPLAIN.last_word, {**self.where, "type": "step.failed", "no": row["no"]})
        if given and not (last and last[0]["at"] > given[0]["at"]):
            shut = ", ".join(g["name"] for g in self.gates) or "a gate"
            text = f"given back until {shut} lets it through, in {max(0.0, row['due_in_s']):.1f} s at the latest"
            return StepReason(row["name"], Reason.GATE_SHUT, text, {"gates": self.gates, "in_s": _s(row["due_in_s"])})
        error = (last[0]["detail"] or {}).get("message") if last else None
        attempt, in_s = row["failures"] + 1, max(0.0, row["due_in_s"])
        text = f"attempt {attempt} of {row['max_attempts']} in {in_s:.1f} s; the last one failed: {error or 'unknown'}"
        facts = {"attempt": attempt, "of": row["max_attempts"], "in_s": _s(in_s), "last_error": error}
        return StepReason(row["name"], Reason.RETRY_SCHEDULED, text, facts)

    async def _held(self, row: dict[str, Any]) -> StepReason:
        last = await reads.rows(self.conn, EXPLAIN.last_word, {**self.where, "type": "run.paused", "no": None})
        by, since = (last[0]["data"].get("by"), last[0]["at"].isoformat()) if last else (None, None)
        if last and (budget := last[0]["data"].get("budget")):
            of = f"{budget['scope']}'s" if budget["scope"] == "agent" else "run's"
            text = (
                f"the {of} budget of {budget['meter']} ({budget['cap']}) is used up since {since}; "
                + ("it goes on as the window moves, or" if budget.get("window_s") else "it goes on")
                + (" when the agent's limit is raised" if budget["scope"] == "agent" else " after POST /runs/ID/budget")
            )
            return StepReason(row["name"], Reason.BUDGET, text, {"since": since, "budget": budget})
        text = f"the run is paused by {by or 'unknown'} since {since}; resume it"
        return StepReason(row["name"], Reason.PAUSED, text, {"by": by, "since": since})

    def _ready(self, row: dict[str, Any]) -> StepReason:
        queue, tool, since = row["queue"], row["tool"], f"ready for {row['ready_s']:.1f} s"
        facts = {"ready_s": _s(row["ready_s"]), "queue": queue, "tool": tool, "live_workers": len(self.living)}
        if not self.living:
            text = f"{since}, and no worker is alive; start `durable-agent worker`"
            return StepReason(row["name"], Reason.NO_LIVE_WORKER, text, facts)
        offering = [w for w in self.living if tool in w["offers"]]
        if not offering:
            text = f"{since}, and no live worker offers tool {tool!r}; start one with the module that defines it"
            return StepReason(row["name"], Reason.NO_WORKER_OFFERS, text, facts)
        serving = [w for w in offering if queue in w["queues"]]
        if not serving:
            text = f"{since}, and no live worker that offers {tool!r} serves queue {queue!r}; set DURABLE_AGENT_QUEUES"
            return StepReason(row["name"], Reason.NO_WORKER_SERVES_QUEUE, text, facts)
        free = sum(max(0, w["free"]) for w in serving)
        text = f"{since}; {len(serving)} workers can take it, with {free} free slots"
        return StepReason(row["name"], Reason.READY, text, {**facts, "free_slots": free})


def waiting(row: dict[str, Any]) -> StepReason:
    """Return the reason of a step with an open wait: for what or whom, since when, until when, and what to do."""
    if row["wait"] is None:
        text = "it waits and nothing is asked: a defect; run doctor"
        return StepReason(row["name"], Reason.STRANDED, text)
    due, wait, asked = row["wait_due_in_s"], row["wait"], row["wait_request"] or {}
    facts = {
        "wait": str(wait), "name": row["wait_name"], "waiting_s": _s(row["waiting_s"]), "due_in_s": _s(due),
        "request": asked,
    }  # fmt: skip
    since = f"for {row['waiting_s']:.1f} s"
    until = f", at most {max(0.0, due):.1f} s more" if due is not None else ""
    match row["wait_kind"]:
        case "approval":
            who = (
                "anybody with scope operate"
                if row["allow_self"]
                else "anybody with scope operate but who started the run"
            )
            text = f"waits {since} for an approval by {who}{until}: `durable-agent waits approve {wait}`"
            return StepReason(row["name"], Reason.WAITS_FOR_APPROVAL, text, {**facts, "answerable_by": who})
        case "input":
            text = f"waits {since} for an answer{until}: `durable-agent waits respond {wait} VALUE`"
            facts["answerable_by"] = "anybody with scope operate"
            return StepReason(row["name"], Reason.WAITS_FOR_INPUT, text, facts)
        case "signal":
            text = f"waits {since} for signal {row['wait_name']!r}{until}: POST /runs/ID/signals/{row['wait_name']}"
            return StepReason(row["name"], Reason.WAITS_FOR_SIGNAL, text, facts)
        case "timer":
            return StepReason(
                row["name"], Reason.WAITS_FOR_TIMER, f"sleeps for {max(0.0, due or 0.0):.1f} s more", facts
            )
        case "steps":
            text = f"waits {since} for {row['spawned_left']} of the steps it added"
            return StepReason(row["name"], Reason.WAITS_FOR_SPAWNED_STEPS, text, {**facts, "left": row["spawned_left"]})
        case "run":
            text = f"waits {since} for run {row['child_run']}; explain that one"
            return StepReason(row["name"], Reason.WAITS_FOR_RUN, text, {**facts, "run": str(row["child_run"])})
        case _:
            text = (
                f"nobody knows {since} whether its call of {asked.get('tool')!r} happened ({asked.get('message')}); ask its "
                f"receiver for key {asked.get('key')}, then `durable-agent waits settle {wait} happened|send_again|fail`"
            )
            return StepReason(row["name"], Reason.UNKNOWN_EFFECT, text, facts)


def _s(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
