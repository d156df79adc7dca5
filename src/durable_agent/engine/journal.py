"""What one transaction decided, gathered in memory and written in a few statements.

A verb locks its runs, asks the core, tells the journal, and writes it as the last thing it does: events get their
numbers and hashes under the run's lock, so that a run's history is contiguous and in commit order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any
from uuid import UUID

from durable_agent.core.events import digest, dumps, link, micros
from durable_agent.core.outcomes import Used
from durable_agent.core.records import RunId, Tenant
from durable_agent.core.states import RunEvent, RunStatus, StepEvent, next_run
from durable_agent.db.arrays import literals
from durable_agent.db.pool import Connection
from durable_agent.db.sql import load

QUEUE = load("queue")
JOURNAL = load("journal")
EFFECTS = load("effects")
WAITS = load("waits")

RunKey = tuple[int, UUID]
StepKey = tuple[int, UUID, int]
STEP_KEY = ("tenants", "runs", "nos")
USED = ("calls", "input_tokens", "output_tokens", "microusd")
NOTHING_USED = (0, 0, 0, 0)
NO_USE = MappingProxyType(dict.fromkeys(USED, "{}"))


@dataclass(slots=True)
class Head:
    """A locked run: what of its row a transaction may change. `at` is where the row lies (ctid), which the lock keeps true.

    `waiting` counts its open waits, `parent` is the run that waits for it, `origin` the one it descends
    from, `agent` the one that may let another run begin when this one ends, `ending` is how it ends once compensated, `used`
    what this transaction adds to its calls of models, their input and output tokens and their cost.
    """

    tenant: Tenant
    id: RunId
    status: RunStatus
    steps_total: int
    steps_left: int
    last_seq: int
    chain: bytes
    at: str
    seen: int
    waiting: int = 0
    parent: UUID | None = None
    origin: UUID | None = None
    budgeted: bool = False
    agent: UUID | None = None
    error: bytes | None = None
    ending: str | None = None
    started: bool = False
    used: tuple[int, int, int, int] = NOTHING_USED

    def use(self, used: Used) -> None:
        """Add what a call of a model used to the run's totals."""
        calls, sent, written, cost = self.used
        self.used = calls + 1, sent + used.input_tokens, written + used.output_tokens, cost + used.microusd

    @property
    def key(self) -> RunKey:
        """The run's key in the journal."""
        return self.tenant, self.id


@dataclass(slots=True)
class Row:
    """A statement, the columns it takes as arrays, and the rows gathered for it."""

    statement: str
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]] = field(default_factory=list)

    def add(self, *values: Any) -> None:
        """Gather one row; values in the order of the columns."""
        self.rows.append(values)


class Journal:
    """The changes of one transaction. `write` sends them in the lock order run → steps → queue."""

    def __init__(self, now: datetime, session: UUID | None = None) -> None:
        self.now = now
        self.session = session
        self._at_us = micros(now)
        self.heads: dict[RunKey, Head] = {}
        # fmt: off
        key, fence = STEP_KEY, ("claim_nos", "tokens")
        self.intended = Row(EFFECTS.intend_effects, (
            *key, *fence, "effects", "names", "classes", "states", "requests_sha256", "keys", "compensates", "approvals",
            "requests", "results", "reserved",
        ))
        self.recorded = Row(EFFECTS.record_effects, (
            *key, *fence, "effects", "states", "results", "errors", "usages", "microusd",
        ))
        self.stored = Row(EFFECTS.store_artifacts, (*key, *fence, "ids", "names", "media_types", "digests", "sizes"))
        self.consumed = Row(WAITS.consume_approvals, ("tenants", "ids"))
        self.waits = Row(WAITS.open_waits, (
            "tenants", "ids", "runs", "nos", "kinds", "names", "requests_sha256", "allow_self", "steps_left", "child_runs",
            "expires", "answered_by", "effect_nos", "requests", "answers",
        ))
        self.finished = Row(QUEUE.finish_steps, (
            *key, *fence, "statuses", "outputs", "errors", "failures", "crashes", "workers", "done_tokens", "compensates",
        ))
        self.requeued = Row(QUEUE.requeue_steps, (
            *key, *fence, "states", "delays", "failures", "crashes", "last_tokens", "effects",
        ))
        self.resolved = Row(JOURNAL.resolve_steps, ("ats", *key, "deps_left", "taken", "statuses", "errors"))
        self.enqueued = Row(QUEUE.enqueue_steps, (
            *key, "routes", "ords", "states", "claim_nos", "failures", "crashes", "max_crashes", "tokens", "deadlines",
            "effects",
        ))
        self.leased = Row(QUEUE.lease_steps, ("ats", *key, *fence, "effects"))
        self.doubted = Row(JOURNAL.leave_doubt, (*key, "effects"))
        self.dead = Row(JOURNAL.add_dead_letters, (*key, "names", "tools", "reasons", "failures", "messages"))
        self._events = Row(JOURNAL.add_events, ("tenants", "runs", "seqs", "step_nos", "types", "hashes", "data", "details"))
        # fmt: on

    def take(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Take the rows of `lock_runs` as heads."""
        for tenant, run_id, status, total, left, last_seq, chain, waiting, parent, origin, budgeted, agent, at in rows:
            self.heads[tenant, run_id] = Head(
                tenant, run_id, RunStatus(status), total, left, last_seq, chain, at, last_seq, waiting, parent, origin,
                budgeted, agent,
            )  # fmt: skip

    def append(
        self, head: Head, event: RunEvent | StepEvent, no: int | None = None, detail: Any = None, **data: Any
    ) -> None:
        """Append an event to the run's history; `detail` is what may be erased, the chain covers its digest."""
        detail_text: bytes | None = None
        if detail is not None:
            detail_text = dumps(detail)
            data["detail_sha256"] = digest(detail_text)
        text = dumps(data)
        head.last_seq += 1
        head.chain = link(head.chain, seq=head.last_seq, kind=event, step_no=no, at_us=self._at_us, data=text)
        self._events.add(
            head.tenant, head.id, head.last_seq, no, event.value, head.chain, text.decode(),
            detail_text.decode() if detail_text is not None else None,
        )  # fmt: skip

    def move(self, head: Head, event: RunEvent, detail: Any = None, **data: Any) -> None:
        """Move the run by the core's table and append the event. Raises IllegalTransition and changes nothing."""
        head.status = next_run(head.status, event)
        head.started = head.started or head.status is RunStatus.RUNNING
        self.append(head, event, None, detail, **data)

    @property
    def last_events(self) -> int:
        """How many events were appended."""
        return len(self._events.rows)

    async def write(self, conn: Connection) -> None:
        """Queue every statement on the pipeline. One that changes fewer rows than it is given raises LostRace at the sync."""
        await self.flush(conn)
        await self.send(conn, self._events)
        await self._write_heads(conn)

    async def flush(self, conn: Connection) -> None:
        """Queue what was gathered but the events and the heads, so that this transaction may look at it.

        Effects come before the end of their attempt, whose lease they show.
        """
        for row in (
            self.intended, self.recorded, self.stored, self.consumed, self.waits, self.finished, self.requeued, self.resolved,
            self.enqueued, self.leased, self.doubted, self.dead,
        ):  # fmt: skip
            await self.send(conn, row)
            row.rows.clear()

    async def send(self, conn: Connection, row: Row, beside: Mapping[str, str] = MappingProxyType({})) -> None:
        """Queue one statement with its rows as arrays, if there are any, and with other arrays beside them."""
        if row.rows:
            arrays = literals(row.columns, row.rows)
            more = {"now": self.now, "session": self.session, "rows": len(row.rows)}
            await conn.execute(row.statement, {**arrays, **beside, **more})

    async def _write_heads(self, conn: Connection) -> None:
        changed = [head for head in self.heads.values() if head.last_seq != head.seen]
        rows = Row(
            JOURNAL.put_runs,
            (
                "ats",
                "tenants",
                "runs",
                "seen",
                "statuses",
                "steps_left",
                "last_seqs",
                "chains",
                "errors",
                "started",
                "finished",
                "waiting",
                "steps_total",
                "endings",
            ),
        )
        for h in changed:
            error = h.error.decode() if h.error is not None else None
            rows.add(
                h.at, h.tenant, h.id, h.seen, h.status.value, h.steps_left, h.last_seq, h.chain, error, h.started,
                h.status.final, h.waiting, h.steps_total, h.ending,
            )  # fmt: skip
        used = any(head.used is not NOTHING_USED for head in changed)
        await self.send(conn, rows, literals(USED, [head.used for head in changed]) if used else NO_USE)


async def read_now(conn: Connection) -> Any:
    """Return a cursor over the engine's time, to be fetched after the sync."""
    return await conn.execute(JOURNAL.now)
