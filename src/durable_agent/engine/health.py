"""Health: the engine's invariants and its PostgreSQL, examined, with what to do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from durable_agent import migrate
from durable_agent.core.events import ChainBroken
from durable_agent.core.records import Tenant
from durable_agent.db import reads
from durable_agent.db.pool import TRANSIENT, Connection, Database, first_line, is_pooled
from durable_agent.db.sql import load
from durable_agent.engine.export import faults_in, lines_of
from durable_agent.errors import NotFound

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
Progress = Callable[[int, int], None]


async def examine(
    url: str, direct_url: str, *, runs: int | None, progress: Progress = lambda done, of: None
) -> list[Finding]:
    """Return the findings of every check; `runs` limits how many histories are checked (None: all).

    `progress` is told how many of them are done. Raises DatabaseUnavailable.
    """
    schema = await asyncio.to_thread(migrate.check, url)
    findings = [
        _finding("schema", schema.ok, f"revision {schema.current}",
                 f"{schema.advice}: this code needs {schema.head}", Level.FAIL)
    ]  # fmt: skip
    if not schema.ok:
        return findings
    async with Database.open(url, direct_url, size=2) as db:
        async with db.reading() as conn:
            for check in (_server, _transactions, _queue_table, _partitions, _workers, _invariants):
                findings += await check(conn)
            findings += await _histories(conn, runs, progress)
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


async def _server(conn: Connection) -> list[Finding]:
    s = (await reads.rows(conn, HEALTH.server, {}))[0]
    major, off = s["version"] // 10_000, abs(s["now_s"] - time.time())
    lossy = [name for name in ("fsync", "full_page_writes", "synchronous_commit") if s[name] == "off"]
    share = s["connections"] / s["max_connections"]
    return [
        _finding("version", major >= 15, f"PostgreSQL {major}", "15 is the oldest supported; upgrade", Level.FAIL),
        _finding("durability", not lossy, f"off: {', '.join(lossy)}" if lossy else "nothing is switched off",
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
    scope = "" if t["sees_all"] else " (of this role's sessions; grant it pg_monitor to see all)"
    return [
        _finding("oldest transaction", t["oldest_s"] < 300, f"{t['oldest_s']:.0f} s{scope}",
                 "it keeps dead rows from being removed: end it (pg_stat_activity, pg_terminate_backend)"),
        _finding("oldest snapshot", t["xmin_age"] < 1_000_000, f"{t['xmin_age']} transactions behind",
                 "as above; it may also be a prepared transaction or a replication slot"),
        _finding("idle in transaction", t["idle"] == 0, f"{t['idle']} sessions for more than 30 s{scope}",
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


async def _workers(conn: Connection) -> list[Finding]:
    found = await reads.rows(conn, HEALTH.unserved, {})
    named = "; ".join(f"{r['steps']} of tool {r['tool']!r} in queue {r['queue']!r}" for r in found[:5])
    fact = f"ready for more than a minute, and no live worker takes them: {named}" if found else "all are offered"
    return [_finding("ready steps", not found, fact, "start a worker with those tools and queues; see `runs explain`")]


_REPORT = "a defect: keep `durable-agent runs export` of the run for the report"
_INVARIANTS = (
    ("stranded steps", HEALTH.stranded, f"{_REPORT}, then cancel it"),
    ("dependency counts", HEALTH.miscounted_deps, _REPORT),
    ("orphaned queue rows", HEALTH.orphans, _REPORT),
    ("ownerless leases", HEALTH.ownerless, "nobody gives them back: does any API or worker run?"),
    ("step counts", HEALTH.miscounted, _REPORT),
    ("waits", HEALTH.miswaited, _REPORT),
)


async def _invariants(conn: Connection) -> list[Finding]:
    findings = []
    for check, statement, advice in _INVARIANTS:
        rows = await reads.rows(conn, statement, {})
        first = " ".join(f"{name} {value}" for name, value in rows[0].items()) if rows else ""
        fact = f"{len(rows)}{'+' if len(rows) == 20 else ''} wrong, first: {first}" if rows else "none wrong"
        findings.append(_finding(check, not rows, fact, advice, Level.FAIL))
    return findings


async def _histories(conn: Connection, limit: int | None, progress: Progress) -> list[Finding]:
    rows = await (await conn.execute(HEALTH.sample, {"limit": limit})).fetchall()
    faults: list[str] = []
    for done, (tenant, run_id) in enumerate(rows, 1):
        faults += [f"run {run_id}: {fault}" for fault in await check_history(conn, Tenant(tenant), run_id)]
        progress(done, len(rows))
    fact = f"{len(rows)} runs: every chain holds, every row is what its events say, no invariant is broken"
    if faults:
        fact = f"{len(faults)} faults in {len(rows)} runs: {'; '.join(faults[:5])}"
    return [_finding("histories", not faults, fact, _REPORT, Level.FAIL)]


async def check_history(conn: Connection, tenant: Tenant, run_id: UUID) -> Sequence[str]:
    """Return what is wrong with one run: numbering and chain (I9, I13), rows against events, and every invariant. One snapshot."""
    try:
        _, _, faults = faults_in([line async for line in lines_of(conn, tenant, run_id)])
    except NotFound:
        return ()
    except ChainBroken as broken:
        return (str(broken),)
    return faults


async def _pooler(db: Database) -> list[Finding]:
    advice = "LISTEN and fast recovery are off: set DATABASE_DIRECT_URL past the pooler"
    try:
        async with await db.direct("doctor") as conn:
            row = await (await conn.execute("select pg_backend_pid()")).fetchone()
            direct = row is not None and not is_pooled(conn, row[0])
    except TRANSIENT as error:
        return [Finding("pooler", Level.FAIL, f"DATABASE_DIRECT_URL cannot be reached: {first_line(error)}", advice)]
    words = {True: "direct", False: "through a pooler"}
    fact = f"DATABASE_URL is {words[not db.pooled]}, DATABASE_DIRECT_URL is {words[direct]}"
    return [_finding("pooler", direct, fact, advice)]
