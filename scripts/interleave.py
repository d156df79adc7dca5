"""Interleave: every pair of the engine's verbs on one run, statement by statement, over real connections of a real PostgreSQL.

    python scripts/interleave.py [--pairs cancel,succeed …] [--depth 2] [--triples N --seed S] [--mutant NAME] [--json FILE]
    python scripts/interleave.py --replay running:cancel,succeed:a3b4a9

For each pair the first verb is interrupted before each of its statements, and the other one runs until it ends or waits for
a lock; then the same the other way round. Every schedule must end, in rows and answers, as some order of whole
transactions does, keep the invariants (folded events = rows, chain, budgets, leases, queue), and meet no deadlock (P4).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
from harness.commands import COMMANDS
from harness.misrules import MISRULES
from harness.orders import Cast, Director, directing, pairs, segments_of
from harness.provenance import provenance
from harness.scenes import SCENES

from durable_agent.embedded import EmbeddedPostgres
from durable_agent.migrate import upgrade
from durable_agent.telemetry import configure_logging

ROOT = Path(__file__).parents[1]
# Nothing here is about a crash of the server; a deadlock is to be found at once.
SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "deadlock_timeout": "50ms",
    "autovacuum": "off",
}
SHOWN = 20


def main() -> int:
    """Run the campaign and return 1 if anything was violated."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", help="only pairs with these commands (separated by commas); of two, that pair")
    parser.add_argument("--scenes", default=",".join(SCENES), help="only in these scenes (default: %(default)s)")
    parser.add_argument("--depth", type=int, default=1, choices=(1, 2), help="how many interruptions a schedule has")
    parser.add_argument("--sample", type=int, help="only so many of the pairs, drawn by the seed")
    parser.add_argument("--triples", type=int, default=0, help="so many drawn schedules of three commands as well")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mutant", choices=sorted(MISRULES), help="break the protocol first: this must be caught")
    parser.add_argument("--replay", metavar="SCENE:A,B[,C]:SCHEDULE", help="one schedule, as a violation prints it")
    parser.add_argument("--seconds", type=float, default=3600.0, help="begin no further pair after so long")
    parser.add_argument("--until-first", action="store_true", help="stop at the first violation")
    parser.add_argument("--database-url", help="an empty database of the engine's, instead of a server of its own")
    parser.add_argument("--json", metavar="FILE", help="write the result there, too")
    given = parser.parse_args()
    configure_logging("critical")  # leases are lost here by the thousand
    with ExitStack() as stack:
        url = given.database_url or stack.enter_context(_server())
        stack.enter_context(MISRULES[given.mutant]() if given.mutant else ExitStack())
        return _run(campaign(given, url))


def _run(main: Any) -> int:
    import uvloop

    return int(uvloop.run(main))


@contextmanager
def _server() -> Iterator[str]:
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else "/var/tmp"
    with tempfile.TemporaryDirectory(
        prefix="durable-agent-interleave-", dir=memory, ignore_cleanup_errors=True
    ) as made:
        Path(made).chmod(0o755)
        with EmbeddedPostgres(Path(made) / "postgres", settings=SETTINGS) as running:
            upgrade(running.urls.url)
            yield running.urls.url


async def campaign(given: argparse.Namespace, url: str) -> int:
    """Play what was asked for, print it, and return the exit code."""
    began_s = time.monotonic()
    scenes = [given.replay.split(":")[0]] if given.replay else given.scenes.split(",")
    async with directing(url, scenes=scenes, until_first=given.until_first) as director:
        if given.replay:
            return await _replay(given.replay, director)
        left = await _play(given, director, random.Random(given.seed), began_s)
        return _print(given, director, left, time.monotonic() - began_s)


async def _play(given: argparse.Namespace, director: Director, rng: random.Random, began_s: float) -> int:
    """Play the pairs and the triples; return how many pairs there was no time for."""
    scenes, tally = director.theatre.scenes, director.tally
    casts = list(pairs(scenes, given.pairs.split(",") if given.pairs else ()))
    if given.sample is not None:
        casts = rng.sample(casts, min(given.sample, len(casts)))
    for number, cast in enumerate(casts, 1):
        if director.enough or time.monotonic() - began_s > given.seconds:
            return len(casts) - number + 1
        await director.pair(cast, given.depth)
        if number % 100 == 0:
            print(
                f"{number} of {len(casts)} pairs, {tally.schedules} schedules, {len(tally.violations)} violations",
                file=sys.stderr,
            )
    for _ in range(given.triples):
        if not director.enough:
            commands = tuple(rng.choices(sorted(COMMANDS), k=3))
            await director.sample(Cast(rng.choice(list(scenes.values())), commands), rng)
    return 0


async def _replay(text: str, director: Director) -> int:
    scene, names, schedule = text.split(":")
    cast = Cast(director.theatre.scenes[scene], tuple(names.split(",")))
    ended = await director.judged(cast, segments_of(schedule))
    for number, marks in enumerate(ended.sent):
        print(f"{chr(ord('a') + number)} {cast.commands[number]}: {' '.join(mark.name for mark in marks)}")
    print(f"moves  {ended.trace}  (a capital waited for a lock)")
    for name, told in zip(cast.commands, ended.outcome[0], strict=True):
        print(f"{name} was told: {told}")
    for violation in director.tally.violations:
        print(f"VIOLATION  {violation}")
    return 1 if director.tally.violations else 0


def _print(given: argparse.Namespace, director: Director, left: int, took_s: float) -> int:
    tally = director.tally
    plays = tally.schedules + tally.wholes
    table: dict[str, Any] = {
        **provenance(), "PostgreSQL": director.watch.info.server_version,
        "psycopg": psycopg.__version__, "seed": given.seed, "depth": given.depth, "mutant": given.mutant or "none",
        "commands": len(COMMANDS), "casts": tally.casts, "pairs there was no time for": left, "casts that met at a lock": len(tally.met),
        "casts that only transactions explain": len(tally.split),
        "schedules": tally.schedules, "schedules left out as equal": tally.equal,
        "orders of whole transactions": tally.wholes, "waits for a lock": tally.blocked, "deadlocks": tally.deadlocks,
        "violations": len(tally.violations), "took_s": round(took_s, 1), "schedules a second": round(plays / took_s, 1),
    }  # fmt: skip
    width = max(map(len, table))
    print("\n".join(f"{name:<{width}}  {value}" for name, value in table.items()))
    for violation in tally.violations[:SHOWN]:
        print(f"VIOLATION  {violation}")
    if given.json:
        Path(given.json).write_text(json.dumps({**table, "found": tally.violations}, indent=2) + "\n")
    if tally.violations:
        return 1
    if not tally.met:
        print("no two commands met at a lock: the result means nothing")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
