"""Gate: what a provider or a tool lets through is decided in one row for the whole fleet, under its lock."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from durable_agent.core.gate import BreakerState, Gate, Heard, Passing, hear, pass_through
from durable_agent.core.records import Tenant
from durable_agent.db.batch import batch
from durable_agent.db.pool import Connection, Database
from durable_agent.db.sql import load

GATES = load("gates")

# A session that says nothing for so long holds no slot any more; it says so again at a third of that.
SLOT_TTL_S = 15.0


async def passing(
    db: Database, tenant: Tenant, name: str, session: UUID, tokens: Sequence[int], *, in_use: int
) -> Passing:
    """Let the first of some asks through, each of so many tokens; `in_use` are the session's own calls under way."""
    where: dict[str, Any] = {"tenant": tenant, "name": name, "session": session}
    async with db.transaction() as conn, batch(conn) as pipeline:
        row = await conn.execute(GATES.lock_gate, where)
        slots = await conn.execute(GATES.slots_taken, where)
        await pipeline.sync()
        found = _gate(await row.fetchone())
        if found is None:
            return Passing(tuple(0.0 for _ in tokens))
        gate, now = found
        free = None
        if gate.concurrency is not None:
            ((taken,),) = await slots.fetchall()
            free = max(0, gate.concurrency - taken - in_use)
        moved, done = pass_through(gate, now, tokens, who=str(session), free=free)
        if moved != gate:
            await _put(conn, where, moved)
        if gate.concurrency is not None:
            await _hold(conn, where, in_use + len(done.starts))
            done = replace(done, counted=True)
    return done


async def hold_slots(db: Database, tenant: Tenant, name: str, session: UUID, slots: int) -> None:
    """Keep a session's slots, or give them back."""
    async with db.transaction() as conn:
        await _hold(conn, {"tenant": tenant, "name": name, "session": session}, slots)


async def heard(
    db: Database, tenant: Tenant, name: str, session: UUID, what: Heard, *, wait_s: float | None = None,
    error: str | None = None,
) -> None:  # fmt: skip
    """Take note of how a call behind a gate ended."""
    where = {"tenant": tenant, "name": name}
    async with db.transaction() as conn, batch(conn) as pipeline:
        if what is not Heard.WORKED:
            await conn.execute(GATES.ensure_gate, where)
        row = await conn.execute(GATES.lock_gate, where)
        await pipeline.sync()
        found = _gate(await row.fetchone())
        if found is None:
            return
        gate, now = found
        after = hear(gate, now, what, who=str(session), wait_s=wait_s, jitter=random.random())
        if after != gate:
            await _put(conn, where, after, error)


async def set_gate(db: Database, tenant: Tenant, name: str, limits: Mapping[str, int | None]) -> None:
    """Set what a gate lets the whole fleet take: `requests_per_minute`, `tokens_per_minute`, `concurrency`."""
    async with db.transaction() as conn:
        await conn.execute(GATES.set_gate, {"tenant": tenant, "name": name, **limits})


def _gate(row: tuple[Any, ...] | None) -> tuple[Gate, float] | None:
    """Return a gate and the engine's time from a locked row."""
    if row is None:
        return None
    now, requests, tokens, at_once, requests_at, tokens_at, held_until, state, failures, retry_at, probe = row
    found = Gate(
        requests, tokens, at_once, requests_at, tokens_at, held_until, BreakerState(state), failures, retry_at, probe
    )
    return found, now


async def _hold(conn: Connection, where: Mapping[str, Any], slots: int) -> None:
    await conn.execute(GATES.put_slots, {**where, "slots": slots, "ttl_s": SLOT_TTL_S})


async def _put(conn: Connection, where: dict[str, Any], gate: Gate, error: str | None = None) -> None:
    params = {
        "requests_at": gate.requests_at, "tokens_at": gate.tokens_at, "held_until": gate.held_until,
        "state": gate.state.value, "failures": gate.failures, "retry_at": gate.retry_at, "probe": gate.probe,
        "error": error[:500] if error else None,
    }  # fmt: skip
    await conn.execute(GATES.put_gate, {**where, **params})
