"""Tickets for the sockets of browsers."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from durable_agent.api.runs import Reader
from durable_agent.api.state import reply, state_of
from durable_agent.db import tickets

router = APIRouter(tags=["operations"])


@router.post("/ws-tickets", status_code=201)
async def make_ticket(request: Request, who: Reader) -> Response:
    """Make a ticket: `/ws/RUN?ticket=…` opens one WebSocket with what this key may see, once, within half a minute."""
    async with state_of(request).db.reading() as conn:
        ticket = await tickets.add(conn, who)
    return reply({"ticket": ticket, "expires_in_s": tickets.TTL_S}, 201, {"Cache-Control": "no-store"})
