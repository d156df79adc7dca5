"""Effects: the recorded calls of a run's steps, what was asked and what came of it."""

from __future__ import annotations

from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from durable_agent.api.runs import Reader
from durable_agent.api.state import reply, state_of
from durable_agent.api.views import cursor_of, read_cursor
from durable_agent.db import reads
from durable_agent.db.sql import load
from durable_agent.errors import NotFound

router = APIRouter(tags=["runs"])

EFFECTS = load("effects")
# A page ends before it is larger than this, however few its calls.
PAGE_BYTES: Final = 4_194_304
_LAST: Final = 2**31 - 1
_FIELDS: Final = (
    "step", "no", "name", "class", "state", "key", "sends", "result", "error", "usage", "microusd", "at", "ended_at", "claim_no",
    "worker",
)  # fmt: skip


@router.get("/runs/{run_id}/effects")
async def list_effects(
    request: Request, run_id: UUID, who: Reader, step: Annotated[str | None, Query(max_length=200)] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 500, cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> Response:  # fmt: skip
    """List the recorded calls of a run, or of one of its steps. A result that lies in the artifact store is the reference to it;
    of a request larger than the payload limit there is its digest and size."""
    state, (after_step, after_no) = state_of(request), _after(cursor)
    where = {"tenant": who.tenant, "run": run_id}
    async with state.db.reading() as conn:
        found = await reads.rows(conn, EFFECTS.numbered, {**where, "step": step})
        if not found:
            raise NotFound(f"run {run_id} does not exist", run_id=str(run_id))
        no = found[0]["no"]
        if step is not None and no is None:
            raise NotFound(f"step {step!r} is no step of run {run_id}", run_id=str(run_id), step=step)
        params = {
            **where, "first": 0 if no is None else no, "last": _LAST if no is None else no, "limit": limit,
            "after_step": after_step, "after_no": after_no,
            "most_bytes": state.settings.payload_limit_bytes, "page_bytes": PAGE_BYTES,
        }  # fmt: skip
        rows = await reads.rows(conn, EFFECTS.shown, params)
    more = rows and rows[-1]["left"] > 0
    last = cursor_of(str(run_id), str(rows[-1]["step_no"]), str(rows[-1]["no"])) if more else None
    items = [_view(row, state.settings.payload_limit_bytes) for row in rows]
    return reply({"items": items, "next_cursor": last})


def _after(cursor: str | None) -> tuple[int, int]:
    """Return the step and the number of the last effect of the page before. Raises InvalidRequest."""
    parts = read_cursor(cursor, 2)
    return (parts[1][0], parts[1][1]) if parts is not None else (-1, 0)


def _view(row: dict[str, Any], most_bytes: int) -> dict[str, Any]:
    large = (row["bytes"] or 0) > most_bytes
    request = {"$request": row["request_sha256"], "bytes": row["bytes"]} if large else row["request"]
    return {**{name: row[name] for name in _FIELDS}, "request": request}
