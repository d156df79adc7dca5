"""Who may come in: API keys, and for browsers the hosts and origins that may drive this engine.

While no key exists the API is open, and then it is bound to loopback only. A web page must not drive a local engine:
`Host` is checked on every request (DNS rebinding), `Origin` on every unsafe method and every WebSocket. A browser cannot
send a header with a WebSocket: it asks for a ticket and shows that.
"""

from __future__ import annotations

import ipaddress
import time
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from durable_agent.core.records import DEFAULT_TENANT
from durable_agent.db import keys, tickets
from durable_agent.db.keys import Principal
from durable_agent.db.pool import Database
from durable_agent.errors import Forbidden, Unauthenticated
from durable_agent.settings import Settings

_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_REMEMBER_S: Final = 2.0

OPEN: Final = Principal(DEFAULT_TENANT, frozenset(keys.SCOPES), "local")


class Guard:
    """The check every request passes. Whether keys exist, and which one works, is remembered for two seconds."""

    def __init__(self, settings: Settings, db: Database) -> None:
        self._db = db
        self._hosts = frozenset(settings.allowed_hosts)
        self._origins = frozenset(settings.allowed_origins)
        self._exist: tuple[float, bool] | None = None
        self._known: dict[str, tuple[float, Principal]] = {}

    async def admit(self, conn: HTTPConnection, scope: str) -> Principal:
        """Return who asks. Raises Forbidden (Host, Origin, scope) and Unauthenticated."""
        self._check_host(conn)
        if conn.scope["type"] == "websocket" or conn.scope.get("method") not in _SAFE:
            self._check_origin(conn)
        header = conn.headers.get("authorization")
        ticket = conn.query_params.get("ticket") if conn.scope["type"] == "websocket" and header is None else None
        principal = await (self._principal(header) if ticket is None else self._taken(ticket))
        if scope not in principal.scopes and "admin" not in principal.scopes:
            raise Forbidden(f"this key lacks the scope {scope!r}", scope=scope)
        return principal

    async def _principal(self, header: str | None) -> Principal:
        now_s = time.monotonic()
        if header is None:
            if self._exist is None or now_s > self._exist[0]:
                async with self._db.reading() as conn:
                    self._exist = (now_s + _REMEMBER_S, await keys.exist(conn))
            if self._exist[1]:
                raise Unauthenticated("a key is needed: send `Authorization: Bearer KEY`")
            return OPEN
        kind, _, presented = header.partition(" ")
        if kind.lower() != "bearer" or not presented:
            raise Unauthenticated("the Authorization header is not `Bearer KEY`")
        known = self._known.get(presented)
        if known is not None and now_s <= known[0]:
            return known[1]
        async with self._db.reading() as conn:
            found = await keys.find(conn, presented.strip())
        if found is None:
            self._known.pop(presented, None)
            raise Unauthenticated("this key does not work: it is unknown, expired or revoked")
        if len(self._known) > 10_000:
            self._known.clear()
        self._known[presented] = (now_s + _REMEMBER_S, found)
        return found

    async def _taken(self, ticket: str) -> Principal:
        async with self._db.reading() as conn:
            found = await tickets.take(conn, ticket)
        if found is None:
            raise Unauthenticated(
                "this ticket does not work: it is unknown, used or expired; POST /ws-tickets for another"
            )
        return found

    def _check_host(self, conn: HTTPConnection) -> None:
        host = host_of(conn.headers.get("host", ""))
        if not (is_loopback(host) or host in self._hosts):
            raise Forbidden(f"Host {host!r} is not allowed; add it to DURABLE_AGENT_ALLOWED_HOSTS", field="Host")

    def _check_origin(self, conn: HTTPConnection) -> None:
        origin = conn.headers.get("origin")
        if origin is None:
            # Only a browser sends Sec-Fetch-Site, and a browser that hides its origin is not trusted with a write.
            if conn.headers.get("sec-fetch-site", "none") in ("none", "same-origin"):
                return
            raise Forbidden("a browser's request without Origin is not allowed", field="Origin")
        own = conn.headers.get("host", "")
        if origin in self._origins or _netloc(origin) == own:
            return
        raise Forbidden(f"Origin {origin!r} is not allowed; add it to DURABLE_AGENT_ALLOWED_ORIGINS", field="Origin")


def host_of(header: str) -> str:
    """Return the host name of a Host header, without its port; nothing of one that cannot be read."""
    try:
        return (urlsplit(f"//{header}").hostname or "").lower()
    except ValueError:  # brackets that are not closed or hold no address
        return ""


def _netloc(origin: str) -> str:
    """Return the host and port of an Origin, or nothing."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine only."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
