"""Peers: the engine beside what one would pick instead, on the same PostgreSQL server, in the same run.

    python scripts/peers.py                                  all systems, W1 … W7, three rounds: an hour and more
    python scripts/peers.py --only absurd,dbos --shapes W1   some of it; durable-agent is always measured
    python scripts/peers.py --json FILE --markdown FILE      the result files

Each system is installed once, from the exact versions in `scripts/peers/versions.toml`, in an environment of its own. Each
measurement gets an empty database, two worker processes of 50 where the system has the notion, and its documents' settings
(durable-agent also with the 200 slots that its own advise for steps of milliseconds, in a row of its own); the systems take
turns, in another order every round. One that cannot be installed, fails or hangs is said to, and the others go on.
What each stores for a step is told with the table: the figures are no better than that is alike. How it is timed: `peers/driver.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import psycopg
from harness.comparison import HEADS, Told, parse, ratios, remarks, rows, table
from harness.environments import NotInstalled, default_directory, install, wanted
from harness.provenance import provenance

from durable_agent.cli.processes import dying_with
from durable_agent.embedded import EmbeddedPostgres, ServerUrls

HERE: Final = Path(__file__).resolve().parent / "peers"
# As installed, and with as many slots as its documents advise for steps of milliseconds.
OURS: Final = {"durable_agent": "durable-agent", "durable_agent_200": "durable-agent, 200 slots"}
# By the name one asks for: the name it goes by.
PEERS: Final = {
    **OURS, "restate": "Restate", "absurd": "absurd", "langgraph": "LangGraph + Postgres saver", "dbos": "DBOS",
    "pgqueuer": "PgQueuer", "procrastinate": "procrastinate",
}  # fmt: skip
# Runs of each shape; W4: runs one after the other, W6: kills.
COUNTS: Final = {"W1": 5000, "W2": 300, "W3": 20, "W4": 200, "W5": 3000, "W6": 5, "W7": 5000}
OTHERS: Final = 200_000
LIMIT_S: Final = {"W6": 420.0, "W7": 420.0}
LEAST: Final = {"W4": 20, "W6": 1}


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured: which systems in which environments, which shapes, how often, how large, for how long at most."""

    pythons: dict[str, Path]
    shapes: tuple[str, ...]
    repeat: int
    scale: float
    limit_s: float

    def turns(self) -> Iterator[tuple[int, str, str]]:
        """Yield round, shape and system; every round begins with another system."""
        names = list(self.pythons)
        for no in range(self.repeat):
            for shape in self.shapes:
                first = no % len(names)
                for name in names[first:] + names[:first]:
                    yield no, shape, name

    def count(self, shape: str) -> int:
        """Return how many runs a shape has at this scale."""
        return max(LEAST.get(shape, 2), round(COUNTS[shape] * self.scale))

    def others(self) -> int:
        """Return how many steps of others W7 has at this scale."""
        return max(1000, round(OTHERS * self.scale))


class Server:
    """The server all are measured on; every measurement has an empty database of its own."""

    def __init__(self, urls: ServerUrls, folder: Path) -> None:
        self.folder = folder
        self.admin = urls.admin_url.partition("?")[0].rpartition("/")[0]
        self.user = urls.url.partition("?")[0].rpartition("/")[0]

    def fresh(self) -> dict[str, str]:
        """Return where an empty database is and where files may be left, as a driver is told."""
        self.drop()
        with psycopg.connect(f"{self.admin}/postgres", autocommit=True) as conn:
            conn.execute("create database peer owner durable_agent")
            conn.execute("checkpoint")
        return {
            "PEER_URL": f"{self.user}/peer", "PEER_ADMIN_URL": f"{self.admin}/peer", "TMPDIR": str(self.folder),
        }  # fmt: skip

    def drop(self) -> None:
        """Leave nothing of the last measurement."""
        with psycopg.connect(f"{self.admin}/postgres", autocommit=True) as conn:
            conn.execute("drop database if exists peer with (force)")

    def version(self) -> str:
        """Return the server's version."""
        with psycopg.connect(f"{self.admin}/postgres") as conn:
            row = conn.execute("show server_version").fetchone()
        return row[0] if row else "unknown"


def measure(plan: Plan, server: Server, name: str, shape: str) -> Told:
    """Return what one driver tells; it and all it started are gone when this returns."""
    command = [
        str(plan.pythons[name]), str(HERE / f"on_{name}.py"), shape, "--count", str(plan.count(shape)),
        "--others", str(plan.others()),
    ]  # fmt: skip
    limit_s = max(plan.limit_s, LIMIT_S.get(shape, 0.0)) if plan.scale >= 1 else plan.limit_s
    try:
        return drive(PEERS[name], shape, command, {**server.fresh(), "PEER_SHAPE": shape}, limit_s)
    finally:
        server.drop()


def drive(peer: str, shape: str, command: Sequence[str], environment: Mapping[str, str], limit_s: float) -> Told:
    """Return what a driver tells, or that it failed or was not done in time; its whole process group has ended by then."""
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=errors, text=True,
            start_new_session=True, preexec_fn=dying_with(os.getpid()),
        )  # fmt: skip
        try:
            output, _ = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            return Told(peer, shape, failed=f"not done after {limit_s:g} s")
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        errors.seek(0)
        return parse(peer, shape, output) if process.returncode == 0 else Told(peer, shape, failed=_why(errors.read()))


def _why(said: str) -> str:
    """Return the last line of a traceback that names an error."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    named = [line for line in lines if "Error" in line or "Exception" in line or "refused" in line]
    return (named or lines or ["the driver said nothing"])[-1][:200]


def environments(names: Sequence[str], directory: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """Return the interpreters of the systems that are installed, and why the others are not."""
    pythons, missing = {}, {}
    asked = wanted(HERE / "versions.toml")
    for name in names:
        if name in OURS:
            pythons[name] = Path(sys.executable)
            continue
        print(f"installing {name} …", file=sys.stderr, flush=True)
        try:
            pythons[name] = install(asked[name], directory) / "bin" / "python"
        except NotInstalled as error:
            missing[PEERS[name]] = str(error)
    return pythons, missing


def facts(plan: Plan, server: Server, took_s: float) -> dict[str, Any]:
    """Return what the figures rest on."""
    return {
        **provenance(), "postgresql": server.version(), "repeat": plan.repeat, "scale": plan.scale, "seconds": round(took_s),
        "counts": {shape: plan.count(shape) for shape in plan.shapes},
    }  # fmt: skip


def run(plan: Plan, missing: dict[str, str], given: argparse.Namespace) -> int:
    """Measure, print, write; return how many measurements failed."""
    load, began_s, found = os.getloadavg()[0], time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="durable-agent-peers-", dir="/var/tmp", ignore_cleanup_errors=True) as made:
        Path(made).chmod(0o755)
        with EmbeddedPostgres(Path(made) / "postgres") as postgres:
            server = Server(postgres.urls, Path(made))
            for no, shape, name in plan.turns():
                told = measure(plan, server, name, shape)
                found.append(told)
                figures = (
                    told.failed or told.absent or {k: round(v, 2) for k, v in told.values.items() if v is not None}
                )
                print(f"round {no + 1} {shape} {PEERS[name]}: {figures}", file=sys.stderr, flush=True)
            known = facts(plan, server, time.monotonic() - began_s) | {"load before": round(load, 2)}
    made_rows = rows(found, missing)
    best = [(shape, own, *told) for own in OURS.values() for shape, told in ratios(made_rows, plan.shapes, own).items()]
    text = "\n\n".join([
        table(made_rows, plan.shapes),
        "\n".join(f"{shape}, {own}: {ratio:.1f} × the best of the others that keep a step's result ({whose})" for shape, own, ratio, whose in best),
        remarks(made_rows, plan.shapes),
        f"Medians of {plan.repeat}; every shape with an empty database; PostgreSQL {known['postgresql']} with the embedded server's "
        f"settings, fsync on; {known['cores']} cores shared by client, workers and servers, load {known['load before']} before; all "
        f"Python on uvloop; commit {known['commit']}; {known['seconds']} s.",
    ])  # fmt: skip
    print(text)
    if given.markdown:
        given.markdown.write_text(text + "\n")
    if given.json:
        given.json.write_text(
            json.dumps(known | {"not installed": missing, "told": [asdict(one) for one in found]}, indent=1) + "\n"
        )
    return sum(one.failed is not None for one in found) + len(missing)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare; return 0 when everything that was asked for could be measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="NAME,..", help=f"of {', '.join(PEERS)}")
    parser.add_argument("--shapes", metavar="W1,..", default=",".join(HEADS))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument(
        "--scale", type=float, default=1.0, help="of the number of runs; below 1 only to see that it works"
    )
    parser.add_argument(
        "--limit", type=float, default=180.0, metavar="SECONDS", help="for one measurement (W6, W7: 420)"
    )
    parser.add_argument("--dir", type=Path, default=default_directory(), help="where the environments are kept")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    given = parser.parse_args(arguments)
    shapes = tuple(given.shapes.split(","))
    asked = given.only.split(",") if given.only else list(PEERS)
    if unknown := [one for one in (*shapes, *asked) if one not in HEADS and one not in PEERS]:
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join((*PEERS, *HEADS))}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # a tidy end: nothing is left running
    names = list(dict.fromkeys(["durable_agent", *asked]))
    pythons, missing = environments(names, given.dir)
    failed = run(Plan(pythons, shapes, given.repeat, given.scale, given.limit), missing, given)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
