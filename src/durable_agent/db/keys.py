"""API keys: `id.secret`, of which only the SHA-256 of the secret is stored."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from durable_agent.core.records import Tenant
from durable_agent.db.pool import Connection
from durable_agent.db.sql import load

KEYS = load("keys")
SCOPES: Final = ("read", "write", "operate", "admin")


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: a tenant, what he may do, and the name recorded as the actor."""

    tenant: Tenant
    scopes: frozenset[str]
    actor: str


async def find(conn: Connection, presented: str) -> Principal | None:
    """Return whose key was presented, or None; the comparison takes the same time whatever is wrong."""
    public, _, secret = presented.removeprefix("da_").partition(".")
    row = await (await conn.execute(KEYS.find_key, {"id": public})).fetchone()
    digest = bytes(row[1]) if row else bytes(32)
    if not hmac.compare_digest(digest, hashlib.sha256(secret.encode()).digest()) or row is None:
        return None
    return Principal(Tenant(row[0]), frozenset(row[2]), f"key:{public}")


async def exist(conn: Connection) -> bool:
    """Return whether any key works."""
    row = await (await conn.execute(KEYS.any_key)).fetchone()
    return bool(row and row[0])


async def create(conn: Connection, tenant: Tenant, name: str, scopes: list[str], expires_at: datetime | None) -> str:
    """Return a new key, which is shown this once."""
    public, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    digest = hashlib.sha256(secret.encode()).digest()
    await conn.execute(
        KEYS.add_key,
        {"tenant": tenant, "id": public, "name": name, "digest": digest, "scopes": scopes, "expires_at": expires_at},
    )
    return f"da_{public}.{secret}"


async def listed(conn: Connection, tenant: Tenant) -> list[dict[str, Any]]:
    """Return a tenant's keys without their secrets, newest first."""
    rows = await (await conn.execute(KEYS.list_keys, {"tenant": tenant})).fetchall()
    names = ("id", "name", "scopes", "created_at", "expires_at", "revoked_at")
    return [dict(zip(names, row, strict=True)) for row in rows]


async def revoke(conn: Connection, tenant: Tenant, public: str) -> bool:
    """End a key; tell whether the tenant had it."""
    cursor = await conn.execute(KEYS.revoke_key, {"tenant": tenant, "id": public.removeprefix("da_").split(".")[0]})
    return await cursor.fetchone() is not None
