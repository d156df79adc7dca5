"""Stats: what happened within a window, and how the runs stand."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from durable_agent.api.runs import Reader
from durable_agent.api.state import reply, state_of

router = APIRouter(tags=["operations"])


@router.get("/stats")
async def get_stats(
    request: Request, who: Reader, window_s: Annotated[int, Query(ge=60, le=604_800)] = 3600
) -> Response:
    """Return what happened within a window, in sixty slices, the oldest first; how many runs are open, and how those of the
    window ended. Of very many runs the newest are counted: `counted_from` says since when."""
    return reply(await state_of(request).board.stats(who.tenant, window_s))
