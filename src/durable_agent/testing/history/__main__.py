"""Check a history in files: exit code 0 when it breaks no invariant, 1 when it does, 2 when it cannot be read."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import orjson

from durable_agent.testing.history.documents import Unreadable
from durable_agent.testing.history.files import check_files, told


def main() -> int:
    """Check the files that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m durable_agent.testing.history", description=__doc__)
    parser.add_argument("exports", nargs="+", type=Path, metavar="EXPORT", help="what `runs export` writes")
    for name in ("client", "receiver", "watchers", "budgets", "heads"):
        parser.add_argument(f"--{name}", type=Path, metavar="FILE", help="a log in JSON lines")
    parser.add_argument("--deadlocks", type=int, help="what pg_stat_database counted")
    parser.add_argument("--under-way", action="store_true", help="runs that have not ended are not stuck")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    try:
        report = check_files(
            given.exports, client=given.client, receiver=given.receiver, watchers=given.watchers, budgets=given.budgets,
            heads=given.heads, deadlocks=given.deadlocks, at_rest=not given.under_way,
        )  # fmt: skip
    except (Unreadable, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    if given.json:
        print(orjson.dumps(report.to_json(), option=orjson.OPT_INDENT_2, default=str).decode())
    else:
        print("\n".join(told(report)))
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
