"""Soak: half of the measured peak for a long time, with recorded effects, budgets and the audit chain; does anything drift?

    python scripts/soak.py --minutes 30 --json soak.json

The peak is what, in the median of three drains, two workers of 50 slots drain of the same runs: chains of four steps, each with two recorded calls that a budget
counts. Then so many runs are submitted a second, whatever becomes of them, and every few seconds it is noted how many steps were
done, how long steps waited to be claimed (a sample of the runs just finished, from their events), the backlog, dead tuples, the
sizes of the tables and the memory of every process. Finished runs are kept: the tables grow, per step by the same amount.

Exits 1 when something is lost or miscounted: a run that did not complete, a call that is missing or was made twice, a budget that
does not come to the calls made. Whether the goals of a steady system are met is told, and does not decide.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from harness.provenance import provenance
from harness.stand import WORKERS, Bench, run, step

from durable_agent.core.records import DEFAULT_TENANT, Limit, RunSpec
from durable_agent.db.doorbell import READY, Bell
from durable_agent.db.pool import Database
from durable_agent.engine.submit import Memory, Submission, submit

STEPS, CALLS = 4, 2
PEAK_RUNS: Final = 1000
TICK_S: Final = 0.1
WARM_SAMPLES: Final = 2
_OPEN = "select coalesce(sum(steps_left), 0)::int from runs where status in ('pending', 'running')"
# The events of runs that were submitted an interval ago, whatever has become of them: a sample of those that have finished
# would leave out the ones that wait. Ids are in order of time, so the newest are few pages.
_EVENTS = """
with r as (select tenant, id from runs where tenant = 1 order by id desc offset %s limit 300)
select e.run_id, e.seq, e.type, extract(epoch from e.at)::float8, extract(epoch from clock_timestamp())::float8
from r join events e on e.tenant = r.tenant and e.run_id = r.id
where e.type in ('run.created', 'step.claimed', 'step.succeeded') order by e.run_id, e.seq
"""
_TABLES = """
select relname, n_live_tup, n_dead_tup, pg_total_relation_size(relid) from pg_stat_user_tables
where n_live_tup + n_dead_tup > 0 order by relname
"""


@dataclass(frozen=True, slots=True)
class Sample:
    """What was seen at one moment: steps done since the sample before, waits of steps to be claimed, backlog, sizes, memory."""

    at_s: float
    steps_s: float
    claim_p50_ms: float | None
    claim_p99_ms: float | None
    backlog: int
    dead: dict[str, int]
    bytes: dict[str, int]
    rss_mb: dict[str, float]


def work() -> RunSpec:
    """Return a chain whose steps make recorded calls that a budget counts."""
    steps = [step(f"s{n}", *([f"s{n - 1}"] if n else []), tool="calls", input={"times": CALLS}) for n in range(STEPS)]
    return RunSpec(tuple(steps), budget=(Limit("tools", STEPS * CALLS), Limit("tool:ping", STEPS * CALLS)))


def drift(points: Sequence[tuple[float, float]]) -> float:
    """Return by what part of its mean a figure changes from the first to the last point, along the line of least squares."""
    if len(points) < 3 or not (mean := statistics.fmean(value for _, value in points)):
        return 0.0
    slope = statistics.linear_regression([at for at, _ in points], [value for _, value in points]).slope
    return slope * (points[-1][0] - points[0][0]) / mean


def waits_ms(events: Sequence[tuple[Any, int, str, float, float]], steps: int) -> list[float]:
    """Return how long steps of chains waited to be claimed, from (run, seq, type, seconds, now) in order of run and seq.

    A run's first step is ready when the run is created, the others when the one before has succeeded; one that is ready and not
    claimed has waited until now.
    """
    found: list[float] = []
    ready: dict[Any, float] = {}
    claimed: Counter[Any] = Counter()
    for run_id, _, kind, at_s, _ in events:
        if kind in ("run.created", "step.succeeded"):
            ready[run_id] = at_s
        elif (since_s := ready.pop(run_id, None)) is not None:
            claimed[run_id] += 1
            found.append((at_s - since_s) * 1000)
    now_s = events[-1][4] if events else 0.0
    return found + [(now_s - since_s) * 1000 for run_id, since_s in ready.items() if claimed[run_id] < steps]


def quantile(values: Sequence[float], part: float) -> float | None:
    """Return the value below which that part lies."""
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * part))], 2) if ordered else None


class Soak:
    """Submits at a rate and looks on."""

    def __init__(self, bench: Bench, rate: float) -> None:
        self.bench = bench
        self.rate = rate
        self.submitted = 0
        self.samples: list[Sample] = []

    async def submit(self, seconds: float) -> None:
        """Submit runs at the rate, in bunches; late ones are made up for, so that the rate is what it is said to be."""
        memory, spec = Memory(), work()
        began_s = time.monotonic()
        async with Database.open(self.bench.url, size=2) as db:
            bell = Bell(db)
            ringing = asyncio.create_task(bell.run())
            while (passed_s := time.monotonic() - began_s) < seconds:
                due = int(passed_s * self.rate / STEPS) - self.submitted
                if due > 0:
                    await submit(db, DEFAULT_TENANT, [Submission(spec)] * min(due, 500), memory=memory)
                    self.submitted += min(due, 500)
                    bell.ring(READY)
                await asyncio.sleep(TICK_S)
            ringing.cancel()

    async def watch(self, seconds: float, every_s: float, pids: dict[str, int]) -> None:
        """Note a sample every so often."""
        began_s = last_s = time.monotonic()
        done = before = 0
        while last_s - began_s + every_s <= seconds:
            await asyncio.sleep(max(0.0, last_s + every_s - time.monotonic()))
            submitted = self.submitted
            ((left,),) = await asyncio.to_thread(self.bench.query, _OPEN)
            now_s, so_far = time.monotonic(), submitted * STEPS - left
            waits = waits_ms(await asyncio.to_thread(self.bench.query, _EVENTS, submitted - before), STEPS)
            tables = await asyncio.to_thread(self.bench.query, _TABLES)
            sample = Sample(
                round(now_s - began_s, 1), round((so_far - done) / (now_s - last_s), 1), quantile(waits, 0.5), quantile(waits, 0.99),
                left, {name: dead for name, _, dead, _ in tables}, {name: size for name, _, _, size in tables},
                {name: rss_mb(pid) for name, pid in pids.items()},
            )  # fmt: skip
            self.samples.append(sample)
            told(sample)
            last_s, done, before = now_s, so_far, submitted


def rss_mb(pid: int) -> float:
    """Return a process's resident memory in MB; 0 for one that is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return 0.0
    return round(int(text.split("VmRSS:")[1].split()[0]) / 1024, 1)


def told(sample: Sample) -> None:
    """Print a sample."""
    print(
        f"{sample.at_s:>7.0f} s {sample.steps_s:>9,.0f} steps/s  claim p99 {sample.claim_p99_ms} ms  backlog {sample.backlog}  "
        f"dead {sum(sample.dead.values()):,}  {sum(sample.bytes.values()) / 1e6:,.0f} MB  rss {sample.rss_mb}",
        flush=True,
    )


def lost(bench: Bench, submitted: int) -> list[str]:
    """Return what does not come to what was submitted."""
    wrong = []
    checks = {
        "runs completed": ("select count(*)::int from runs where status = 'completed'", submitted),
        "steps succeeded": ("select count(*)::int from steps where status = 'succeeded'", submitted * STEPS),
        "calls recorded": ("select count(*)::int from effects where name = 'ping'", submitted * STEPS * CALLS),
        "calls on budgets": (
            "select coalesce(sum(spent), 0)::int from budgets where meter = 'tools'",
            submitted * STEPS * CALLS,
        ),
        "still reserved": ("select coalesce(sum(reserved), 0)::int from budgets", 0),
        "leases lost": ("select count(*)::int from events where type = 'step.lease_lost'", 0),
        "deadlocks": ("select coalesce(sum(deadlocks), 0)::int from pg_stat_database", 0),
    }
    for name, (query, expected) in checks.items():
        ((found,),) = bench.query(query)
        if found != expected:
            wrong.append(f"{name}: {found}, not {expected}")
    return wrong


def summary(samples: Sequence[Sample]) -> dict[str, Any]:
    """Return how the figures drift, and whether the goals of a steady system are met; the first samples are warm-up."""
    warm = samples[WARM_SAMPLES:] if len(samples) > 3 * WARM_SAMPLES else samples
    p99 = [s.claim_p99_ms for s in warm if s.claim_p99_ms is not None]
    rss = {name: drift([(s.at_s, s.rss_mb[name]) for s in warm]) for name in warm[0].rss_mb}
    growth = [(b.at_s, sum(b.bytes.values()) - sum(a.bytes.values())) for a, b in pairwise(warm)]
    throughput = drift([(s.at_s, s.steps_s) for s in warm])
    found: dict[str, Any] = {
        "steps/s, median": statistics.median(s.steps_s for s in warm),
        "steps/s, drift": round(throughput, 4),
        "claim p99, median of samples, ms": statistics.median(p99) if p99 else None,
        "claim p99, worst sample, ms": max(p99, default=None),
        "dead tuples, most": {name: max(s.dead.get(name, 0) for s in warm) for name in warm[-1].dead},
        "bytes at the end": warm[-1].bytes,
        "growth of all tables, drift": round(drift(growth), 4),
        "rss, drift": {name: round(value, 4) for name, value in rss.items()},
        "backlog, most": max(s.backlog for s in warm),
    }
    found["goals"] = {
        "throughput falls by 5 % at most": throughput >= -0.05,
        "claim p99 of 100 ms at most (median of samples)": bool(p99) and statistics.median(p99) <= 100,
        "memory within 5 %": all(abs(value) <= 0.05 for value in rss.values()),
    }
    return found


def soak(bench: Bench, minutes: float, part: float) -> dict[str, Any]:
    """Return everything that was seen."""
    zygote = bench.zygote()
    peak = statistics.median(bench.drain(zygote, [work()] * PEAK_RUNS) for _ in range(3))
    rate, seconds = peak * part, minutes * 60
    print(f"peak {peak:,.0f} steps/s; {rate:,.0f} steps/s for {minutes:g} minutes", flush=True)
    bench.clean()
    watched = Soak(bench, rate)
    with bench.workers(zygote) as pids:
        bench.until("select count(*)::int from workers where state = 'active' and lease_until > now()", WORKERS)
        every_s = min(10.0, max(1.0, seconds / 30))
        named = {f"worker {n}": pid for n, pid in enumerate(pids)} | {"submitter": os.getpid()}

        async def both() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(watched.submit(seconds))
                group.create_task(watched.watch(seconds, every_s, named))

        run(both())
        bench.until("select count(*)::int from runs where status in ('pending', 'running')", 0, 300)
    wrong = lost(bench, watched.submitted)
    return {
        "peak steps/s": round(peak, 1), "part": part, "rate steps/s": round(rate, 1), "minutes": minutes,
        "runs": watched.submitted, "wrong": wrong, **summary(watched.samples), "samples": [asdict(s) for s in watched.samples],
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak; return 1 when something was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--part", type=float, default=0.5, help="of the measured peak (0.5)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # a tidy end: nothing is left running
    with (
        tempfile.TemporaryDirectory(prefix="durable-agent-soak-", dir="/var/tmp", ignore_cleanup_errors=True) as made,
        ExitStack() as stack,
    ):
        Path(made).chmod(0o755)
        bench = Bench(Path(made), stack)
        found = soak(bench, given.minutes, given.part)
        ((server,),) = bench.query("show server_version")
    found |= {**provenance(), "postgresql": server, "load at the end": os.getloadavg()[0]}
    for name, value in found.items():
        if name != "samples":
            print(f"{name:<36} {value}")
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")
    return 1 if found["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
