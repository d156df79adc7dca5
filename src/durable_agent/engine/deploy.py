"""Deploy: whether new code can take over the runs that are open, before it is rolled out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from durable_agent.db import reads
from durable_agent.db.pool import Database
from durable_agent.engine.graphs import GRAPHS

# Return why a tool of the new code does not take an input, or None.
Accepts = Callable[[str, str, Any], str | None]


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One thing that open runs need and the new code does not have: how many steps need it, and one of them."""

    what: str
    advice: str
    run_id: UUID
    step: str
    steps: int = 1


async def check_deploy(db: Database, versions: Mapping[str, str], accepts: Accepts) -> tuple[int, list[Mismatch]]:
    """Return how many unfinished steps were looked at, and what the new code lacks for them.

    `versions` are the new code's graphs; `accepts(kind, tool, input)` says why it cannot run such a step. A run keeps
    the steps it was submitted with, so another version of its graph is told, not a danger to it.
    """
    found: dict[str, Mismatch] = {}
    run, no, looked = UUID(int=0), -1, 0
    async with db.reading() as conn:
        while page := await reads.rows(conn, GRAPHS.open_steps, {"run": run, "no": no}):
            for row in page:
                looked += 1
                for what, advice in _lacks(row, versions, accepts):
                    known = found.get(what)
                    found[what] = Mismatch(
                        what, advice, known.run_id if known else row["id"], known.step if known else row["name"],
                        known.steps + 1 if known else 1,
                    )  # fmt: skip
            run, no = page[-1]["id"], page[-1]["no"]
    return looked, list(found.values())


def _lacks(row: Mapping[str, Any], versions: Mapping[str, str], accepts: Accepts) -> list[tuple[str, str]]:
    lacks = []
    why = accepts(row["kind"], row["tool"], row["input"])
    if why is not None:
        lacks.append(
            (why, "keep a worker with the old code until these runs have ended, or keep the name and its arguments")
        )
    if row["compensate"] and (why := accepts("", row["compensate"], None)) is not None:
        lacks.append((why, "it undoes what open runs did: keep it"))
    pinned, new = row["graph_version"], versions.get(row["graph"] or "")
    if pinned is not None and new is not None and new != pinned:
        text = f"graph {row['graph']!r}: open runs are pinned to version {pinned}, the new code has {new}"
        lacks.append((text, "they end as they were submitted; their tools must still fit"))
    if pinned is not None and new is None:
        lacks.append((f"graph {row['graph']!r} is not in the new code", "open runs end as they were submitted"))
    return lacks
