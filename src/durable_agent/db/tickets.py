"""Tickets: what a browser's socket shows in place of a key, which would be logged with the address. Of each only its
SHA-256 is stored, so that any API process may take it, once."""

from __future__ import annotations

import hashlib
import secrets
from typing import Final

from durable_agent.core.records import Tenant
from durable_agent.db.keys import SCOPES, Principal
from durable_agent.db.pool import Connection
from durable_agent.db.sql import load

TICKETS = load("tickets")
TTL_S: Final = 30
_KEY: Final = "key:"


async def add(conn: Connection, who: Principal) -> str:
    """Return a new ticket of a principal, which is good once within the next TTL_S seconds."""
    ticket = secrets.token_urlsafe(32)
    key = who.actor.removeprefix(_KEY) if who.actor.startswith(_KEY) else None
    params = {"tenant": who.tenant, "digest": _digest(ticket), "key": key, "ttl_s": TTL_S}
    await conn.execute(TICKETS.add_ticket, params)
    return ticket


async def take(conn: Connection, ticket: str) -> Principal | None:
    """Return whose ticket it was, as his key stands now; None for one that is unknown, used or too old."""
    row = await (await conn.execute(TICKETS.take_ticket, {"digest": _digest(ticket)})).fetchone()
    if row is None:
        return None
    tenant, key, scopes = row
    return Principal(
        Tenant(tenant), frozenset(SCOPES if key is None else scopes), "local" if key is None else _KEY + key
    )


def _digest(ticket: str) -> bytes:
    return hashlib.sha256(ticket.encode()).digest()
