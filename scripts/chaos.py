"""Chaos: hurt a working system in one kind of way after another, then check what its record says.

    python scripts/chaos.py --minutes 5 --seed 1
    python scripts/chaos.py --campaign network --minutes 3 --seed 1 --json network.json

Starts its own PostgreSQL, API, workers and a counting receiver outside the database. Prints one table and exits 1 on a
violation, 2 when too few faults landed for the result to mean anything, 3 when this machine lacks what the campaign
needs. `--mutant NAME` breaks a copy of the engine first: the campaign must then fail, or it proves nothing.
`--faults off` runs the same stack and the same checks and hurts nobody: nothing may then be reported. The campaigns:

"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from harness.broken import BROKEN
from harness.history import Report, check_calls
from harness.person import attend
from harness.provenance import provenance
from harness.stack import Campaign, Stack

from durable_agent.db.pool import Database

# Each is a module of the harness of that name, with a class `Run`.
CAMPAIGNS = {
    "faults": "kills, aimed zombies, drains, cut listeners, crashes of PostgreSQL",
    "effects": "workers die exactly between a call's request and the storing of its result",
    "network": "partitions of one way and of both, delay, resets, commits whose answer is lost, packet loss",
    "failover": "the primary dies and its standby is promoted: synchronous, then asynchronous",
    "clock": "the database's clock jumps by up to an hour; two workers live a day away",
    "disk": "the disk of PostgreSQL fills up and is freed again",
    "pooler": "the default faults, everything through PgBouncer in transaction mode",
    "snapshot": "a session holds an old snapshot open during the default faults",
    "memory": "a step takes more memory than its worker may have",
}


def main() -> int:
    """Run a campaign and return the exit code."""
    told = "\n".join(f"    {name:<10} {about}" for name, about in CAMPAIGNS.items())
    parser = argparse.ArgumentParser(
        description=f"{__doc__}{told}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--campaign", choices=list(CAMPAIGNS), default="faults")
    parser.add_argument("--kills", type=int, default=1000, help="effects: how many deaths; it then takes its time")
    parser.add_argument("--database-url", help="faults, effects: an external PostgreSQL, which is then not crashed")
    parser.add_argument("--patience", type=float, default=120.0, help="seconds in which everything must end afterwards")
    parser.add_argument("--faults", choices=["on", "off"], default="on", help="off: the same without any fault")
    parser.add_argument("--mutant", choices=list(BROKEN), help="break the engine first; the campaign must fail")
    parser.add_argument("--json", metavar="FILE", nargs="?", const="-", help="write the result; without FILE, print it")
    given = parser.parse_args()
    # Whoever ends us gets a tidy end: servers, namespaces and mounts are not left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="durable-agent-chaos-", dir="/var/tmp", ignore_cleanup_errors=True) as made:
        directory = Path(made)
        directory.chmod(0o755)
        with ExitStack() as exits:
            made_of: type[Campaign] = import_module(f"harness.campaigns.{given.campaign}").Run
            return asyncio.run(run(made_of(given, directory, exits)))


async def run(campaign: Campaign) -> int:
    """Start the stack, let the faults loose, wait for the end, check."""
    given, began = campaign.given, datetime.now(UTC)
    missing = campaign.missing()
    if given.mutant and given.mutant not in campaign.mutants:
        missing = f"it is no proof against {given.mutant}, but against {', '.join(campaign.mutants) or 'none'}"
    if missing:
        print(f"the campaign {given.campaign} cannot run here: {missing}")
        return 3
    stack = Stack(given, campaign.directory, campaign.exits, campaign.place(), campaign.modules)
    stack.clock_is_sane = campaign.clock_is_sane
    campaign.hire(stack)
    load, faults, began_s = stack.load, stack.faults, time.monotonic()
    async with Database.open(stack.place.own_url, size=3) as db:
        person = asyncio.create_task(attend(db, stack.world, load.ended, load.told, resend=campaign.resend))
        supervisor = asyncio.create_task(stack.supervise())
        if given.faults == "off":
            await load.during([], given.minutes * 60)
        else:
            await campaign.rage(stack, db)
            await campaign.calm(stack)
        stuck = await load.settled(db, given.patience)
        load.ended.set()
        await asyncio.gather(person, supervisor)
        report = await campaign.checked(stack, db)
        repeated = check_calls(report, stack.world, faults.woken)
        report.violations += stuck + load.watch_faults
    if stack.ended["at work"]:
        report.violations.append(f"R13: {stack.ended['at work']} workers ended by themselves: {last_words(stack)}")
    if faults.deadlocks:
        report.violations.append(f"P4: {faults.deadlocks} deadlocks")
    if stack.place.postgres is not None:
        report.violations += [
            f"PostgreSQL ended by a fault of its own: {line}" for line in campaign.crashes(stack.place.postgres)
        ]
    counts = {**campaign.figures(stack, report), **counted(campaign, stack, report, repeated)}
    result = {
        "campaign": given.campaign, "seed": given.seed, "minutes": given.minutes, "faults": given.faults,
        "mutant": given.mutant or "none", "began": began.isoformat(timespec="seconds"),
        "took_s": round(time.monotonic() - began_s, 1), "postgres": stack.version, **provenance(),
        "landed": dict(sorted(faults.landed.items())), "counts": counts, "violations": report.violations,
    }  # fmt: skip
    return verdict(campaign, result)


def counted(campaign: Campaign, stack: Stack, report: Report, repeated: Counter[str]) -> dict[str, Any]:
    """Return what the record, the receiver and the watchers say, in figures."""
    load, world = stack.load, stack.world
    table: dict[str, Any] = {
        "runs": report.runs, "steps": report.steps, "events": report.events, "lost": report.lost,
        "double committed": report.double, "leases lost": report.leases_lost, "fenced writes": report.fenced,
        "recorded effects": report.effects, "external calls": world.calls.total(),
        **{f"repeated under the same key: {what}": repeated[what] for what in sorted({*world.whats.values(), "work"})},
        "of these, calls of class verify by a process that had just woken": repeated["late"],
        **{f"a person said: {word}": count for word, count in sorted(load.told.items())},
        "keys with two results": sum("receiver's result" in v for v in report.violations),
        "submissions answered by nothing": load.refused, "runs watched to the end": load.watched,
        "deadlocks": stack.faults.deadlocks, "workers that found no database when they started": stack.ended["at the start"],
    }  # fmt: skip
    waits = sorted(
        (report.claims[run, no, claim + 1] - at).total_seconds()
        for at, held in stack.faults.kills
        for run, no, claim in held
        if (run, no, claim + 1) in report.claims
    )
    if waits and campaign.clock_is_sane:
        table["kill to next claim, p50 s"] = round(statistics.median(waits), 3)
        table["kill to next claim, p99 s"] = round(waits[int(len(waits) * 0.99)], 3)
    return table


def last_words(stack: Stack) -> str:
    """Return what the workers' log says of errors that nobody caught, without those of a start."""
    log = (stack.directory / "workers.log").read_text(errors="replace")
    ends = set(re.findall(r"^[ |]*((?:psycopg|durable_agent)\.[\w.]+: .*)", log, re.MULTILINE))
    ends = {end for end in ends if "DatabaseUnavailable" not in end}
    return "; ".join(sorted(ends)[:3]) or "the log does not say why"


def verdict(campaign: Campaign, result: dict[str, Any]) -> int:
    """Print the result and return the exit code."""
    given = campaign.given
    if given.json == "-":
        print(json.dumps(result, indent=2))
    else:
        if given.json:
            Path(given.json).write_text(json.dumps(result, indent=2) + "\n")
            if result["violations"]:
                for name in ("workers.log", "receiver.log"):
                    shutil.copy(campaign.directory / name, Path(given.json).with_suffix(f".{name}"))
        flat = {name: value for name, value in result.items() if not isinstance(value, (dict, list))}
        flat |= {f"faults landed: {kind}": count for kind, count in result["landed"].items()}
        flat |= {**result["counts"], "violations": len(result["violations"])}
        width = max(map(len, flat))
        print("\n".join(f"{name:<{width}}  {value}" for name, value in flat.items()))
    often = Counter(violation.partition(":")[0] for violation in result["violations"])
    # The rarest first: what breaks one invariant a hundred times must not hide what breaks another once.
    for violation in sorted(result["violations"], key=lambda one: often[one.partition(":")[0]])[:20]:
        print(f"VIOLATION  {violation}")
    if len(often) > 1 or often.total() > 20:
        print("violations:", ", ".join(f"{name} {count}" for name, count in often.most_common()))
    if result["violations"]:
        return 1
    if given.faults == "off":
        reported = [name for name in ("leases lost", "fenced writes") if result["counts"][name]] + list(
            result["landed"]
        )
        print(f"faults were off, and yet: {', '.join(reported)}" if reported else "faults were off: none reported")
        return 1 if reported else 0
    absent = [kind for kind in campaign.must_land if not result["landed"].get(kind)]
    if absent:
        print(f"too few faults landed for the result to mean anything: no {', '.join(absent)}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
