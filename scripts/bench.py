"""Bench: the engine's figures beside what the same server does for pgbench, in one run.

    python scripts/bench.py --repeat 3 --json results.json

W1 drain 5,000 one-step runs with 2 workers · W2 300 chains of 10 · W3 20 × (1 → 50 → 1) · W4 one run at a time ·
W5 submissions · W6 SIGKILL in a step → running elsewhere · W7 W1 beside 200,000 other steps ·
W8 recorded effects, resuming, approvals, replay · W9 agents, reservations · idle queries · memory · the console in
Chromium (needs `make console`).
PostgreSQL has its default settings but for room for WAL, with fsync on. Figures are medians of rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import orjson
from harness import agents, console, effects, yardstick
from harness.loopback import Connection, until_closed
from harness.provenance import provenance
from harness.stand import API_PORT, SLOTS, WORKERS, Bench, chain, fan, run, step
from harness.zygote import Zygote

from durable_agent.cli.processes import dying_with
from durable_agent.core.records import DEFAULT_TENANT, RunSpec
from durable_agent.db import reads
from durable_agent.db.doorbell import EVENTS, Bell, Listener
from durable_agent.db.pool import Database
from durable_agent.engine.submit import Memory, Submission, submit

OTHERS = 200_000
ALL = ("W1", "W2", "W3", "W4", "W5", "W6", "W7", "W8", "W9", "idle", "console")


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Return p50, p99 and the highest."""
    ordered = sorted(values)
    return {
        "p50": round(statistics.median(ordered), 2), "p99": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))], 2),
        "max": round(ordered[-1], 2),
    }  # fmt: skip


async def _one_at_a_time(url: str, count: int) -> list[float]:
    """W4 in process: milliseconds from submit to completed, heard by LISTEN."""
    memory, found = Memory(), []
    async with Database.open(url, size=3) as db:
        bell, listener = Bell(db), Listener(db, [EVENTS])
        async with asyncio.TaskGroup() as group:
            loops = [group.create_task(bell.run()), group.create_task(listener.run())]
            await listener.wait(5.0)
            for n in range(count + 20):
                began_s = time.perf_counter()
                (done,) = await submit(db, DEFAULT_TENANT, [Submission(chain(1))], memory=memory, bell=bell)
                while True:
                    async with reads.watching(db) as conn:
                        rows = await reads.rows(
                            conn, reads.READS.run_exists, {"tenant": DEFAULT_TENANT, "run": done.run_id}
                        )
                    if rows[0]["status"] == "completed":
                        break
                    await listener.wait(1.0)
                if n >= 20:
                    found.append((time.perf_counter() - began_s) * 1000)
                await asyncio.sleep(0.02)
            for loop in loops:
                loop.cancel()
    return found


async def _one_at_a_time_http(count: int) -> list[float]:
    """W4 over HTTP: milliseconds from POST to the close of the run's WebSocket."""
    connection, found = Connection(API_PORT), []
    body = orjson.dumps({"steps": [{"name": "noop"}]})
    for n in range(count + 20):
        began_s = time.perf_counter()
        status, answer = await connection.post_json("/runs", body)
        assert status == 201, answer
        await until_closed(API_PORT, f"/ws/{answer['id']}")
        if n >= 20:
            found.append((time.perf_counter() - began_s) * 1000)
        await asyncio.sleep(0.02)
    connection.close()
    return found


async def _posts(total: int, clients: int) -> float:
    """W5: single POSTs a second."""
    body = orjson.dumps({"goal": "bench", "steps": [{"name": "noop"}]})

    async def client(count: int) -> None:
        connection = Connection(API_PORT)
        for _ in range(count):
            status, answer = await connection.post_json("/runs", body)
            assert status == 201, answer
        connection.close()

    await asyncio.gather(*(client(10) for _ in range(clients)))
    began_s = time.perf_counter()
    await asyncio.gather(*(client(total // clients) for _ in range(clients)))
    return total / (time.perf_counter() - began_s)


async def _bulk(batches: int) -> float:
    """W5: runs a second by POST /runs/batch, 1,000 a request."""
    body = orjson.dumps({"runs": [{"goal": "bench", "steps": [{"name": "noop"}]}] * 1000})
    connection = Connection(API_PORT)
    status, _ = await connection.post_json("/runs/batch", body)
    assert status == 201
    began_s = time.perf_counter()
    for _ in range(batches):
        await connection.post_json("/runs/batch", body)
    took_s = time.perf_counter() - began_s
    connection.close()
    return batches * 1000 / took_s


def recovery(bench: Bench, times: int) -> list[float]:
    """W6: seconds from SIGKILL in a 5 s step to the claim by another worker, at the default TTL of 30 s."""
    bench.clean()
    zygote, found = bench.zygote(5), []
    pids = [zygote.spawn("bench-0"), zygote.spawn("bench-1")]
    bench.until("select count(*)::int from workers where state = 'active'", 2)
    time.sleep(1.5)
    spec = RunSpec((step("long", tool="sleep", input={"delay_s": 5.0}, max_crashes=1000),))
    for _ in range(times):
        run(bench.fill([spec]))
        bench.until("select count(*)::int from queue where state = 'leased'", 1)
        ((run_id, claim_no, pid),) = bench.query(
            "select q.run_id, q.claim_no, w.os_pid from queue q join workers w on w.tenant = 0 and w.session = q.session"
        )
        killed_at = bench.query("select clock_timestamp()")[0][0]
        os.kill(pid, signal.SIGKILL)
        bench.until(f"select claim_no from queue where run_id = '{run_id}' and state = 'leased'", claim_no + 1, 40)
        ((at,),) = bench.query("select max(at) from events where run_id = %s and type = 'step.claimed'", run_id)
        found.append((at - killed_at).total_seconds())
        bench.query("delete from queue")
        bench.query("update steps set status = 'cancelled', finished_at = now() where finished_at is null")
        bench.query(
            "update runs set status = 'cancelled', finished_at = now(), steps_left = 0 where finished_at is null"
        )
        pids = [zygote.spawn("bench-x") if p == pid else p for p in pids]
        bench.until("select count(*)::int from workers where state = 'active' and lease_until > now()", 2)
        time.sleep(1.5)
    zygote.close()
    return found


def false_losses(bench: Bench, cuts: int) -> int:
    """Return how many leases were lost while the liveness connection of a live worker was cut so many times."""
    bench.clean()
    zygote = bench.zygote(5)
    with bench.workers(zygote, 2):
        bench.until("select count(*)::int from workers where state = 'active'", 2)
        time.sleep(1.5)
        run(bench.fill([RunSpec((step("long", tool="sleep", input={"delay_s": cuts * 0.35 + 2}),))]))
        bench.until("select count(*)::int from queue where state = 'leased'", 1)
        for _ in range(cuts):
            bench.query(
                "select pg_terminate_backend(w.backend_pid) from workers w join queue q on q.session = w.session limit 1"
            )
            time.sleep(0.35)
        bench.until("select count(*)::int from runs where status in ('pending', 'running')", 0)
        return int(bench.query("select count(*)::int from events where type = 'step.lease_lost'")[0][0])


def others(bench: Bench) -> None:
    """W7's ballast: 200,000 steps of other runs, a third finished, a third due in the future, a third of low priority."""
    bench.query(
        "insert into routes (tenant, queue, lane, tool) values (1, 'default', 'others', 'noop') on conflict do nothing"
    )
    ((route,),) = bench.query("select route from routes where lane = 'others'")
    bench.query(
        """
        with made as (
          select (lpad(to_hex((extract(epoch from clock_timestamp()) * 1000)::bigint - 3600000 + n), 12, '0') || '7'
                  || substr(replace(gen_random_uuid()::text, '-', ''), 14))::uuid as id, n, n %% 3 as kind
          from generate_series(1, %(n)s) n
        ), r as (
          insert into runs (tenant, id, status, steps_total, steps_left, last_seq, chain, created_at, finished_at, lane)
          select 1, id, case when kind = 0 then 'completed' else 'paused' end, 1, case when kind = 0 then 0 else 1 end, 0, '',
                 now(), case when kind = 0 then now() end, 'others' from made
        ), s as (
          insert into steps (tenant, run_id, no, status, deps_left, claim_no, max_attempts, max_crashes, route, ord, deadline_s,
                             done_token, finished_at, name, kind, tool, parents, children, retry)
          select 1, id, 0, case when kind = 0 then 'succeeded' else 'queued' end, 0, 1, 5, 3, %(route)s, 1900::bigint << 52, 3600,
                 case when kind = 0 then gen_random_uuid() end, case when kind = 0 then now() end, 'noop', 'tool_call', 'noop',
                 '{}', '{}', '{"base_s":1,"factor":2,"cap_s":60}' from made
        )
        insert into queue (tenant, run_id, no, route, ord, state, claim_no, failures, crashes, max_crashes, deadline_s, due_at,
                           queued_at)
        select 1, id, 0, %(route)s, 1900::bigint << 52, case when kind = 1 then 'scheduled' else 'ready' end, 0, 0, 0, 3, 3600,
               case when kind = 1 then now() + interval '1 day' end, now() from made where kind > 0
        """.replace("%(n)s", str(OTHERS))
        .replace("%(route)s", str(route))
        .replace("%%", "%")
    )
    bench.settle()


def idle(bench: Bench, seconds: float = 30.0) -> float:
    """Return the statements a second of one idle worker, counted in PostgreSQL's log."""
    bench.clean()
    zygote = bench.zygote()
    bench.query("alter database durable_agent set log_min_duration_statement = 0")
    log = bench.directory / "postgres/postgres.log"
    with bench.workers(zygote, 1):
        bench.until("select count(*)::int from workers where state = 'active'", 1)
        time.sleep(5)
        start = log.stat().st_size
        time.sleep(seconds)
        with log.open("rb") as lines:
            lines.seek(start)
            sent = len(re.findall(rb" ms  (?:execute|statement)", lines.read()))
    bench.query("alter database durable_agent reset log_min_duration_statement")
    return sent / seconds


def rss_mb(pid: int) -> float:
    """Return a process's resident memory in MB, its own pages and those it shares."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


def median_of(repeat: int, measure: Callable[[], float]) -> float:
    """Return the median of some measurements."""
    return statistics.median(measure() for _ in range(repeat))


def main() -> None:
    """Measure everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", help=f"comma-separated: {','.join(ALL)}")
    parser.add_argument("--minutes", type=float, default=1.0, help="how long a live run is watched in the console")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    wanted = set(given.only.split(",") if given.only else ALL)
    if unknown := wanted - set(ALL):
        parser.error(f"--only: there is no {', '.join(sorted(unknown))}; there are {', '.join(ALL)}")
    with (
        tempfile.TemporaryDirectory(prefix="durable-agent-bench-", dir="/var/tmp", ignore_cleanup_errors=True) as made,
        ExitStack() as stack,
    ):
        Path(made).chmod(0o755)
        bench = Bench(Path(made), stack)
        figures = measure_all(bench, wanted, given.repeat) if wanted != {"console"} else {"ratios": {}}
        if "console" in wanted:
            figures.update(console.measure(bench, given.minutes, quantiles))
    print(f"\n{'figure':<44} {'value':>12}  {'ratio':>7}")
    for name, value in figures.items():
        ratio = figures["ratios"].get(name, "")
        if isinstance(value, float):
            print(f"{name:<44} {value:>12,.1f}  {ratio:>7}")
        elif name != "ratios":
            print(f"{name:<44} {value}")
    if given.json:
        given.json.write_text(json.dumps(provenance() | figures, indent=2))


DRAINS: dict[str, tuple[str, Callable[[], list[RunSpec]]]] = {
    "W1": ("W1 5,000 one-step runs, steps/s", lambda: [chain(1)] * 5000),
    "W2": ("W2 300 chains of 10, steps/s", lambda: [chain(10)] * 300),
    "W3": ("W3 20 x (1, 50, 1), steps/s", lambda: [fan(50)] * 20),
}
# An exchange costs some milliseconds whatever it takes along: more slots make larger batches.
MANY = 200
W7 = "W7 W1 beside 200,000 others, steps/s"


def measure_all(bench: Bench, wanted: set[str], repeat: int) -> dict[str, Any]:
    """Return the figures by name; under `ratios` those of the drains to the yardstick, and of W7 to W1."""
    figures: dict[str, Any] = {"ratios": {}}
    stick = yardstick.measure(bench.postgres.bin_dir, bench.admin_url, bench.directory)
    for name, rates in stick.items():
        figures[f"yardstick: {name}/s by clients"] = {c: round(r) for c, r in rates.items()}
    pairs = stick["claim and complete"]
    zygote = bench.zygote()
    zygotes = {SLOTS: zygote, MANY: bench.zygote(MANY)} if wanted & DRAINS.keys() else {SLOTS: zygote}
    _measure_drains(bench, zygotes, wanted, repeat, max(pairs, key=lambda clients: pairs[clients]), figures)
    if "W4" in wanted or "W5" in wanted:
        _measure_api(bench, zygote, wanted, repeat, figures)
    if "W6" in wanted:
        found = recovery(bench, 20)
        figures["W6 SIGKILL to running elsewhere, s"] = quantiles(found)
        figures["W6 false losses in 50 cuts of liveness"] = str(false_losses(bench, 50))
    if "W8" in wanted:
        figures.update(effects.measure(bench, zygote, repeat, quantiles))
    if "W9" in wanted:
        made = agents.measure(bench, repeat, quantiles)
        figures["ratios"].update(made.pop("ratios"))
        figures.update(made)
    if "idle" in wanted:
        figures["idle worker, queries/s"] = idle(bench)
    return figures


def _measure_drains(
    bench: Bench, zygotes: dict[int, Zygote], wanted: set[str], repeat: int, clients: int, figures: dict[str, Any]
) -> None:
    """Measure in rounds, each with a yardstick of its own: a machine shared with others changes from minute to minute."""
    rates: dict[str, list[float]] = defaultdict(list)
    ratios: dict[str, list[float]] = defaultdict(list)
    for _ in range(repeat):
        if wanted & DRAINS.keys():
            pair = yardstick.pairs(bench.postgres.bin_dir, bench.admin_url, bench.directory, clients)
            rates["yardstick in the rounds, pairs/s"].append(pair)
        for key in sorted(wanted & DRAINS.keys()):
            name, specs = DRAINS[key]
            for slots, zygote in zygotes.items():
                told = name if slots == SLOTS else f"{name}, {slots} slots"
                rates[told].append(bench.drain(zygote, specs()))
                rates[f"{key}, {slots} slots: kB of WAL a step"].append(bench.wal_bytes / 1000)
                ratios[told].append(rates[told][-1] / pair)
        if "W7" in wanted:
            zygote = zygotes[SLOTS]
            alone = bench.drain(zygote, [chain(1)] * 5000)
            others(bench)
            rates[W7].append(bench.drain(zygote, [chain(1)] * 5000, keep=True))
            ratios[W7].append(rates[W7][-1] / alone)
    figures.update({name: statistics.median(found) for name, found in rates.items()})
    figures["ratios"] = {name: round(statistics.median(found), 2) for name, found in ratios.items()}


def _measure_api(bench: Bench, zygote: Zygote, wanted: set[str], repeat: int, figures: dict[str, Any]) -> None:
    bench.clean()
    with bench.api() as api_pid:
        if "W4" in wanted:
            with bench.workers(zygote):
                bench.until("select count(*)::int from workers where state = 'active'", WORKERS)
                figures["W4 in process, ms"] = quantiles(run(_one_at_a_time(bench.url, 200)))
                figures["W4 over HTTP and WebSocket, ms"] = quantiles(run(_one_at_a_time_http(200)))
        if "W5" in wanted:
            figures["W5 single POST /runs, runs/s"] = median_of(repeat, lambda: run(_posts(3000, 16)))
            figures["W5 POST /runs/batch, runs/s"] = median_of(repeat, lambda: run(_bulk(5)))
        figures["API memory, MB"] = rss_mb(api_pid)
    bench.clean()
    alone = subprocess.Popen(
        [sys.executable, "-m", "durable_agent", "worker", "harness.tools"],
        env={**os.environ, **bench.environment, "PYTHONPATH": str(Path(__file__).parent), "MAX_CONCURRENT_TASKS": "50"},
        preexec_fn=dying_with(os.getpid()),
    )
    run(bench.fill([chain(1)] * 2000))
    bench.until("select count(*)::int from runs where status in ('pending', 'running')", 0)
    figures["worker memory, MB"] = rss_mb(alone.pid)
    alone.terminate()
    alone.wait(20)


if __name__ == "__main__":
    main()
