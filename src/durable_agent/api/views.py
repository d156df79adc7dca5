"""What goes out: rows as the answers of the API, by an allow-list of fields, and cursors."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from durable_agent.errors import InvalidRequest

_RUN = (
    "id", "status", "goal", "graph", "input", "metadata", "error", "steps_total", "steps_left", "last_seq", "created_at",
    "started_at", "finished_at", "graph_version", "started_by", "parent_run", "parent_step", "origin", "mode", "from_step",
    "root", "calls", "input_tokens", "output_tokens", "microusd", "paused_for", "paused_until",
)  # fmt: skip
_STEP = (
    "no", "name", "kind", "tool", "status", "failures", "crashes", "claim_no", "max_attempts", "max_crashes", "not_before",
    "started_at", "finished_at", "worker", "queue", "priority", "timeout_s", "deadline_s", "retry", "input", "output", "error",
    "compensate", "shared", "edited", "calls", "tokens", "microusd",
)  # fmt: skip


def run_view(run: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a run with its steps; dependencies by name, `attempt` counting tries from 1."""
    names = [step["name"] for step in steps]
    return {
        **{name: run[name] for name in _RUN},
        "agent": run["lane"] if run["agent"] is not None and run["root"] is None else None,
        "agent_id": run["agent"],
        "steps": [
            {
                **{name: step[name] for name in _STEP},
                # A pending step has made no attempt; one that failed and waits is at its next.
                "attempt": step["failures"] + (step["status"] in ("ready", "running", "succeeded")),
                "depends_on": [names[no] for no in step["parents"]],
                "when": step["condition"],
                "compensates": _name(names, step["compensates"]),
                "spawned_by": _name(names, step["spawned_by"]),
            }
            for step in steps
        ],
    }


def _name(names: Sequence[str], no: int | None) -> str | None:
    return None if no is None else names[no]


def cursor_of(*parts: str) -> str:
    """Return an opaque cursor."""
    return base64.urlsafe_b64encode("|".join(parts).encode()).decode().rstrip("=")


def read_cursor(cursor: str | None, numbers: int = 0) -> tuple[UUID, list[int]] | None:
    """Return the id of a cursor and so many numbers of PostgreSQL's integer, or None. Raises InvalidRequest for what is none."""
    if cursor is None:
        return None
    try:
        id, *more = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().split("|")
        if len(more) != numbers or not all(one.isdecimal() and int(one) < 2**31 for one in more):
            raise ValueError
        return UUID(id), [int(one) for one in more]
    except (binascii.Error, UnicodeDecodeError, ValueError):
        raise InvalidRequest("cursor is not one this server gave; leave it out to start anew", field="cursor") from None
