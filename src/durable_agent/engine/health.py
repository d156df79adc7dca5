"""Health: the engine's invariants and its PostgreSQL, examined, with what to do."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from durable_agent import migrate
from durable_agent.core.events import ChainBroken, verify
from durable_agent.core.records import Tenant
from durable_agent.db import reads
from durable_agent.db.pool import Connection, Database, is_pooled
from durable_agent.db.sql import load
from durable_agent.engine.export import row_faults

HEALTH = load("health")


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, what was found, and what to do about it."""

    check: str
    level: Level
    fact: str
    advice: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the finding as JSON."""
        return asdict(self)


Check = Callable[[Connection], Awaitable[list[Finding]]]


async def examine(url: str, direct_url: str, *, runs: int | None, ttl_s: float) -> list[Finding]:
    """Return the findings of every check; `runs` limits how many histories are checked (None: all)."""
    async with Database.open(url, direct_url, size=2) as db, db.reading() as conn:
        findings = await _schema(conn)
        if findings[0].level is Level.FAIL:
            return findings
        for check in (_server, _transactions, _queue_table, _partitions, _invariants):
            findings += await check(conn)
        findings += await _histories(conn, runs)
        findings += await _pooler(db)
    return findings


def _finding(check: str, good: bool, fact: str, advice: str, bad: Level = Level.WARN) -> Finding:
    return Finding(check, Level.OK, fact) if good else Finding(check, bad, fact, advice)


async def registered(db: Database, host: str, pids: Sequence[int | None]) -> bool:
    """Tell whether each of a machine's processes holds a live worker session; one that does not run has none."""
    if None in pids:
        return False
    async with db.reading() as conn:
        found = await (await conn.execute(HEALTH.registered, {"host": host, "pids": list(pids)})).fetchall()
    return {pid for (pid,) in found} >= set(pids)


async def _schema(conn: Connection) -> list[Finding]:
    row = await (await conn.execute("select to_regclass('alembic_version')")).fetchone()
    found = None
    if row and row[0]:
        revision = await (await conn.execute(reads.READS.schema_revision)).fetchone()
        found = revision[0] if revision else None
    head = migrate.head()
    return [
        _finding(
            "schema", found == head, f"revision {found}", f"run `durable-agent migrate` to reach {head}", Level.FAIL
        )
    ]


async def _server(conn: Connection) -> list[Finding]:
    s = (await reads.rows(conn, HEALTH.server, {}))[0]
    major, off = s["version"] // 10_000, abs(s["now_s"] - time.time())
    lossy = [name for name in ("fsync", "full_page_writes", "synchronous_commit") if s[name] == "off"]
    share = s["connections"] / s["max_connections"]
    return [
        _finding("version", major >= 15, f"PostgreSQL {major}", "15 is the oldest supported; upgrade", Level.FAIL),
        _finding("durability", not lossy, f"off: {', '.join(lossy) or 'nothing'}",
                 "a crash may take committed steps back: set them on", Level.FAIL),
        _finding("autovacuum", s["autovacuum"] == "on", s["autovacuum"], "the queue bloats without it: set autovacuum on", Level.FAIL),
        _finding("role", not s["superuser"], "superuser" if s["superuser"] else "no superuser",
                 "row-level security does not bind a superuser: use a role of the engine's own"),
        _finding("notify queue", s["notify_queue"] < 0.5, f"{s['notify_queue']:.0%} full",
                 "some session listens and does not read: look for old `idle in transaction` listeners"),
        _finding("connections", share < 0.8, f"{s['connections']} of {s['max_connections']}",
                 "raise max_connections, or put PgBouncer before DATABASE_URL"),
        _finding("clock", off < 1.0 and abs(s["moved_s"]) < 1.0, f"{off:.2f} s from this machine's",
                 "leases follow the database's clock only, but times in logs will not match: run NTP on both"),
    ]  # fmt: skip


async def _transactions(conn: Connection) -> list[Finding]:
    t = (await reads.rows(conn, HEALTH.transactions, {}))[0]
    return [
        _finding("oldest transaction", t["oldest_s"] < 300, f"{t['oldest_s']:.0f} s",
                 "it keeps dead rows from being removed: end it (pg_stat_activity, pg_terminate_backend)"),
        _finding("oldest snapshot", t["xmin_age"] < 1_000_000, f"{t['xmin_age']} transactions behind",
                 "as above; also look for prepared transactions and replication slots"),
        _finding("idle in transaction", t["idle"] == 0, f"{t['idle']} sessions for more than 30 s",
                 "set idle_in_transaction_session_timeout for those clients"),
    ]  # fmt: skip


async def _queue_table(conn: Connection) -> list[Finding]:
    found = await reads.rows(conn, HEALTH.dead_tuples, {})
    q = found[0] if found else {"dead": 0, "live": 0}
    good = q["dead"] < 50_000 or q["dead"] < 5 * q["live"]
    return [_finding("queue table", good, f"{q['live']} live rows, {q['dead']} dead",
                     "autovacuum does not keep up: look at the oldest snapshot, then `vacuum queue`")]  # fmt: skip


async def _partitions(conn: Connection) -> list[Finding]:
    p = (await reads.rows(conn, HEALTH.partitions, {}))[0]
    return [
        _finding("partitions", p["next_week"], f"{p['count']} of runs; next week's {'exists' if p['next_week'] else 'is missing'}",
                 "a running API or worker makes them; the engine's role must own its tables"),
        _finding("default partition", not p["outside"], "holds runs" if p["outside"] else "empty",
                 "a submitter's clock is far off: its run ids lie outside every week"),
    ]  # fmt: skip


async def _invariants(conn: Connection) -> list[Finding]:
    found = []
    for check, statement, good, advice in (
        (
            "stranded steps",
            HEALTH.stranded,
            "none",
            "a defect: keep `runs export` of the run for the report, then cancel it",
        ),
        ("orphaned queue rows", HEALTH.orphans, "none", "a defect: keep `runs export` of the run for the report"),
        ("ownerless leases", HEALTH.ownerless, "none", "no process reaps: is any API or worker running?"),
        ("step counts", HEALTH.miscounted, "all fit", "a defect: keep `runs export` of the run for the report"),
    ):
        rows = await reads.rows(conn, statement, {})
        fact = good if not rows else f"{len(rows)} found, first: " + " ".join(str(v) for v in rows[0].values())
        found.append(_finding(check, not rows, fact, advice, Level.FAIL))
    return found


async def _histories(conn: Connection, limit: int | None) -> list[Finding]:
    rows = await (await conn.execute(HEALTH.sample, {"limit": limit})).fetchall()
    faults: list[str] = []
    for tenant, run_id in rows:
        faults += [f"run {run_id}: {fault}" for fault in await check_history(conn, Tenant(tenant), run_id)]
    fact = f"{len(rows)} runs: every chain holds, every row is what its events say" if not faults else faults[0]
    return [_finding("histories", not faults, fact, f"{len(faults)} faults; keep `runs export` of the run", Level.FAIL)]


async def check_history(conn: Connection, tenant: Tenant, run_id: UUID) -> Sequence[str]:
    """Return what is wrong with one run: numbering and chain (I9, I13), and rows against folded events. One snapshot."""
    async with conn.transaction():
        await conn.execute("set transaction isolation level repeatable read, read only")
        run = await reads.run(conn, tenant, run_id)
        if run is None:
            return ()
        steps = await reads.steps(conn, tenant, run_id)
        rows: list[dict[str, Any]] = []
        while page := await reads.events(conn, tenant, run_id, after=rows[-1]["seq"] if rows else 0, limit=5000):
            rows += page
    events = [reads.stored(row) for row in rows]
    try:
        verify(run_id, events, head=bytes.fromhex(run["chain"]), last_seq=run["last_seq"])
    except ChainBroken as broken:
        return (str(broken),)
    return row_faults(run, steps, events)


async def _pooler(db: Database) -> list[Finding]:
    async with await db.direct("doctor") as conn:
        row = await (await conn.execute("select pg_backend_pid()")).fetchone()
        direct = row is not None and not is_pooled(conn, row[0])
    fact = f"DATABASE_URL is {'pooled' if db.pooled else 'direct'}, DATABASE_DIRECT_URL is {'direct' if direct else 'pooled'}"
    return [
        _finding("pooler", direct, fact, "LISTEN and fast recovery are off: set DATABASE_DIRECT_URL past the pooler")
    ]
