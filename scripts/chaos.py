"""Chaos: kill, freeze, drain and crash a working system, then check what its record says.

    python scripts/chaos.py --minutes 5 --seed 1

Starts its own PostgreSQL, API, workers and a counting receiver outside the database. Prints one table and exits 1 on a
violation, 2 when too few faults landed for the result to mean anything. `--mutant no-fence` takes the fence out of a
copy of the sources: the campaign must then fail, or it proves nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

from harness import aimed
from harness.faults import Faults
from harness.history import Report, check_calls, check_run
from harness.person import attend
from harness.receiver import Receiver, receiver
from harness.workload import mixed
from harness.zygote import Zygote

from durable_agent.cli.client import events
from durable_agent.cli.processes import dying_with
from durable_agent.core.records import DEFAULT_TENANT
from durable_agent.db.pool import Database
from durable_agent.embedded import EmbeddedPostgres
from durable_agent.engine.explain import explain
from durable_agent.engine.submit import Memory, Submission, submit
from durable_agent.errors import DurableAgentError
from durable_agent.migrate import upgrade

WORKERS = 6
OPEN_RUNS = 60
API_PORT = 4199

# Short leases, so that faults follow each other quickly; the rules do not depend on the lengths.
SHORT = {
    "DURABLE_AGENT_LEASE_TTL_S": "1.5", "DURABLE_AGENT_BEAT_S": "0.3", "DURABLE_AGENT_TICK_S": "0.2",
    "DURABLE_AGENT_POLL_S": "1", "DURABLE_AGENT_DRAIN_GRACE_S": "1", "MAX_CONCURRENT_TASKS": "8",
    "DURABLE_AGENT_LOG_LEVEL": "warning", "DURABLE_AGENT_MAX_CRASHES": "100000",
}  # fmt: skip


@dataclass(slots=True)
class Campaign:
    """What a campaign submitted and watched."""

    runs: dict[UUID, str] = field(default_factory=dict)
    watched: int = 0
    watch_faults: list[str] = field(default_factory=list)
    refused: int = 0
    told: Counter[str] = field(default_factory=Counter)
    ended: asyncio.Event = field(default_factory=asyncio.Event)


def main() -> int:
    """Run a campaign and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--campaign", choices=["faults", "effects"], default="faults",
        help="effects: workers die exactly between a call's request and the storing of its result",
    )  # fmt: skip
    parser.add_argument(
        "--kills", type=int, default=1000, help="how many such deaths; the campaign then takes its time"
    )
    parser.add_argument("--database-url", help="an external PostgreSQL, which is then not crashed")
    parser.add_argument("--mutant", choices=["no-fence"], help="break the sources first; the campaign must fail")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="durable-agent-chaos-", dir="/var/tmp", ignore_cleanup_errors=True) as made:
        directory = Path(made)
        directory.chmod(0o755)
        with ExitStack() as stack:
            return asyncio.run(campaign(given, directory, stack))


async def campaign(given: argparse.Namespace, directory: Path, stack: ExitStack) -> int:
    """Start the stack, let the faults loose, wait for the end, check."""
    postgres, url, admin_url = _database(given, directory, stack)
    world = stack.enter_context(receiver(directory / "receiver.log"))
    environment = {
        **SHORT, "DATABASE_URL": url, "DATABASE_DIRECT_URL": url, "CHAOS_RECEIVER": f"127.0.0.1:{world.port}",
    }  # fmt: skip
    source = mutated(directory, given.mutant) if given.mutant else None
    zygote = Zygote(["harness.tools"], environment, directory / "workers.log", source)
    stack.callback(zygote.close)
    stack.enter_context(_api(environment, directory))
    workers = {f"w{n}": zygote.spawn(f"w{n}") for n in range(WORKERS)}
    rng = random.Random(given.seed)
    faults = Faults(rng, zygote, admin_url, postgres, workers)
    done = Campaign()
    began_s = time.monotonic()
    async with Database.open(url, size=3) as db:
        person = asyncio.create_task(attend(db, world, done.ended, done.told, resend=given.campaign == "effects"))
        if given.campaign == "effects":
            await aimed.rage(given, db, faults, done, world)
        else:
            await _rage(given, db, faults, done, rng)
        stuck = await _settle(db, done)
        done.ended.set()
        await person
        report = await _check(db, done, world)
        repeated = check_calls(report, world.calls, world.whats)
        report.violations += stuck + done.watch_faults
    if faults.deadlocks:
        report.violations.append(f"P4: {faults.deadlocks} deadlocks")
    took_s = time.monotonic() - began_s
    return _print(given, faults, report, done, repeated, world, took_s)


def _database(given: argparse.Namespace, directory: Path, stack: ExitStack) -> tuple[EmbeddedPostgres | None, str, str]:
    if given.database_url:
        upgrade(given.database_url)
        return None, given.database_url, given.database_url
    postgres = EmbeddedPostgres(directory / "postgres")
    urls = stack.enter_context(postgres).urls
    upgrade(urls.url)
    return postgres, urls.url, urls.admin_url.removesuffix("/postgres") + "/durable_agent"


@contextmanager
def _api(environment: dict[str, str], directory: Path) -> Iterator[None]:
    with (directory / "api.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "durable_agent", "api", "--port", str(API_PORT)],
            env={**os.environ, **environment}, stdout=log, stderr=log, preexec_fn=dying_with(os.getpid()),
        )  # fmt: skip
        try:
            yield
        finally:
            process.terminate()
            process.wait(20)


async def _rage(given: argparse.Namespace, db: Database, faults: Faults, done: Campaign, rng: random.Random) -> None:
    seconds = given.minutes * 60
    loops = [
        faults.kill(), faults.kill(), faults.freeze(), faults.freeze(), faults.drain(), faults.cut(),
        faults.crash(max(5.0, seconds / 14)), faults.watch_deadlocks(),
        _submit(db, faults, done, random.Random(given.seed + 1)), *(_watch(done, faults) for _ in range(5)),
    ]  # fmt: skip
    async with asyncio.TaskGroup() as group:
        for loop in loops:
            group.create_task(loop)
        await asyncio.sleep(seconds)
        faults.over.set()
    faults.thaw(list(faults.workers.values()))
    await faults.count_deadlocks()


async def _submit(db: Database, faults: Faults, done: Campaign, rng: random.Random) -> None:
    """Keep a number of runs open; each is sent twice under one key (I10)."""
    memory, count = Memory(), 0
    while not faults.over.is_set():
        open_runs = await faults.query("select count(*) from runs where finished_at is null")
        if not open_runs or open_runs[0][0] >= OPEN_RUNS:
            await faults.pause(0.1, 0.3)
            continue
        count += 1
        key = f"chaos-{count}"
        one = Submission(mixed(rng), key, sha256(key.encode()).digest())
        ids = set()
        while len(ids) == 0 or not faults.over.is_set():
            try:
                ids |= {(await submit(db, DEFAULT_TENANT, [one], memory=memory))[0].run_id for _ in range(2)}
                break
            except DurableAgentError:
                done.refused += 1  # PostgreSQL is down; the same key goes again
                await faults.pause(0.1, 0.3)
        if len(ids) > 1:
            done.watch_faults.append(f"I10: key {key} gave {len(ids)} runs")
        done.runs.update(dict.fromkeys(ids, key))


async def _watch(done: Campaign, faults: Faults) -> None:
    """Follow runs by WebSocket to their ends: every event once and in order, through every fault (I9)."""
    chooser = random.Random()
    while not faults.over.is_set():
        await faults.pause(0.2, 0.4)
        if not done.runs:
            continue
        run_id, expected = chooser.choice(list(done.runs)[-20:]), 1
        try:
            async with asyncio.timeout(60):
                async for event in events(f"http://127.0.0.1:{API_PORT}", str(run_id)):
                    if event["seq"] != expected:
                        done.watch_faults.append(f"I9: a watcher of {run_id} got {event['seq']} for {expected}")
                    expected = event["seq"] + 1
                done.watched += 1
        except (TimeoutError, DurableAgentError):
            continue


async def _settle(db: Database, done: Campaign) -> list[str]:
    """Wait until every run has ended (P1); return what is stuck, and why, after two minutes."""
    until_s = time.monotonic() + 120
    while time.monotonic() < until_s:
        try:
            async with db.reading() as conn:
                row = await (await conn.execute("select count(*) from runs where finished_at is null")).fetchone()
            if row is not None and row[0] == 0:
                return []
        except DurableAgentError:
            pass
        await asyncio.sleep(0.2)
    found = []
    async with db.reading() as conn:
        rows = await (await conn.execute("select id from runs where finished_at is null limit 5")).fetchall()
    for (run_id,) in rows:
        why = await explain(db, DEFAULT_TENANT, run_id)
        found.append(f"P1: run {run_id} did not end: {why.steps[0].text if why.steps else why.text}")
    return found


async def _check(db: Database, done: Campaign, world: Receiver) -> Report:
    report = Report()
    async with db.reading() as conn:
        row = await (await conn.execute("select secret from tenants where tenant = 1")).fetchone()
        secret = bytes(row[0]) if row else b""
        for run_id in done.runs:
            await check_run(conn, run_id, report, secret, world.results)
    return report


def mutated(directory: Path, mutant: str) -> Path:
    """Return a copy of the sources with the fence taken out, in the statement and in the verb."""
    source = directory / "mutant"
    shutil.copytree(Path(__file__).parents[1] / "src", source)
    shutil.copytree(Path(__file__).parents[1] / "alembic", directory / "alembic")
    verb = source / "durable_agent/engine/claim.py"
    sql = source / "durable_agent/db/sql/queue.sql"
    text, statements = verb.read_text(), sql.read_text()
    fence = "return self.claim_no == lease.claim_no and self.token == lease.token"
    written = [f" and k.claim_no = {name}.claim_no and k.token = {name}.token" for name in ("d", "f")]
    if mutant != "no-fence" or fence not in text or any(one not in statements for one in written):
        raise SystemExit(f"the mutant {mutant} does not fit the sources")
    verb.write_text(text.replace(fence, "return self.token is not None"))
    for one in written:
        statements = statements.replace(one, "")
    sql.write_text(statements)
    return source


def _print(
    given: argparse.Namespace, faults: Faults, report: Report, done: Campaign, repeated: Counter[str], world: Receiver,
    took_s: float,
) -> int:  # fmt: skip
    waits = sorted(
        (report.claims[run, no, claim + 1] - at).total_seconds()
        for at, held in faults.kills
        for run, no, claim in held
        if (run, no, claim + 1) in report.claims
    )
    p50 = statistics.median(waits) if waits else 0.0
    p99 = waits[int(len(waits) * 0.99)] if waits else 0.0
    table: dict[str, Any] = {
        "seed": given.seed, "minutes": given.minutes, "mutant": given.mutant or "none", "took_s": round(took_s, 1),
        **{f"faults landed: {kind}": count for kind, count in sorted(faults.landed.items())},
        "runs": report.runs, "steps": report.steps, "events": report.events, "lost": report.lost,
        "double committed": report.double, "leases lost": report.leases_lost, "fenced writes": report.fenced,
        "recorded effects": report.effects, "external calls": world.calls.total(),
        **{f"repeated under the same key: {what}": repeated[what] for what in sorted({*world.whats.values(), "work"})},
        **{f"a person said: {word}": count for word, count in sorted(done.told.items())},
        "keys with two results": 0 if not any("receiver's result" in v for v in report.violations) else "see below",
        "runs watched to the end": done.watched, "deadlocks": faults.deadlocks,
        "kill to next claim, p50 s": round(p50, 3), "kill to next claim, p99 s": round(p99, 3),
        "violations": len(report.violations),
    }  # fmt: skip
    if given.json:
        print(json.dumps(table, indent=2))
    else:
        width = max(map(len, table))
        print("\n".join(f"{name:<{width}}  {value}" for name, value in table.items()))
    for violation in report.violations[:20]:
        print(f"VIOLATION  {violation}")
    if report.violations:
        return 1
    enough = faults.landed["sigkill"] and (faults.landed["zombie"] or given.campaign == "effects")
    if not enough:
        print("too few faults landed for the result to mean anything")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
