"""Tool servers: where they are, the secret they ask for, and the list of tools that was approved of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from psycopg.errors import UniqueViolation
from uuid_utils.compat import uuid7

from durable_agent.core.events import dumps
from durable_agent.core.port import ToolServer
from durable_agent.core.records import Tenant
from durable_agent.core.text import plain
from durable_agent.db import reads
from durable_agent.db.pool import Database
from durable_agent.db.sql import load
from durable_agent.errors import Conflict, NotFound
from durable_agent.vault import Vault

SERVERS = load("servers")


async def tool_server(db: Database, tenant: Tenant, name: str, vault: Vault) -> ToolServer | None:
    """Return a server as it is reached, its secret in clear; None for a name that is not registered."""
    async with db.reading() as conn:
        rows = await reads.rows(conn, SERVERS.reach_server, {"tenant": tenant, "name": name})
    return _reached(rows[0], vault) if rows else None


async def get(db: Database, tenant: Tenant, server_id: UUID) -> dict[str, Any]:
    """Return a server's row, without its secret. Raises NotFound."""
    row = dict(await _row(db, tenant, server_id))
    row["has_token"] = row.pop("token") is not None
    return row


async def register(
    db: Database, tenant: Tenant, name: str, vault: Vault, *, url: str | None, command: Sequence[str] | None,
    token: str | None,
) -> UUID:  # fmt: skip
    """Add a server and return its id. Raises Conflict for a name that is taken, InvalidRequest for a secret without a key."""
    params = _params(tenant, uuid7(), name, url, command, vault.lock(token) if token else None)
    async with db.transaction() as conn:
        row = await (await conn.execute(SERVERS.add_server, params)).fetchone()
    if row is None:
        raise _taken(name)
    return params["id"]  # type: ignore[no-any-return]


async def change(
    db: Database, tenant: Tenant, server_id: UUID, name: str, vault: Vault, *, url: str | None,
    command: Sequence[str] | None, token: str | None,
) -> None:  # fmt: skip
    """Give a server another name, address or secret; at another address the stored secret is dropped.

    Raises NotFound, Conflict for a name that is taken, InvalidRequest for a secret without a key.
    """
    old = await _row(db, tenant, server_id)
    moved = (old["url"], list(old["command"] or ())) != (url, list(command or ()))
    sealed = vault.lock(token) if token else None if moved else old["token"]
    params = {**_params(tenant, server_id, name, url, command, sealed), "moved": moved}
    async with db.transaction() as conn:
        try:
            done = await conn.execute(SERVERS.put_server, params)
        except UniqueViolation:
            raise _taken(name) from None
    if done.rowcount == 0:
        raise _unknown(server_id)


async def forget(db: Database, tenant: Tenant, server_id: UUID) -> None:
    """Drop a server and its secret. Raises NotFound."""
    async with db.transaction() as conn:
        row = await (await conn.execute(SERVERS.drop_server, {"tenant": tenant, "id": server_id})).fetchone()
    if row is None:
        raise _unknown(server_id)


async def reached(db: Database, tenant: Tenant, server_id: UUID, vault: Vault) -> ToolServer:
    """Return a server as it is reached. Raises NotFound."""
    return _reached(await _row(db, tenant, server_id), vault)


async def seen(
    db: Database, tenant: Tenant, server_id: UUID, tools: Sequence[Mapping[str, Any]], digest: str, *, at: ToolServer
) -> str:
    """Take note of what a server offers; return its state: `quarantined` when that is not what was approved.

    `at` is where it was asked. Raises Conflict when it is somewhere else by now.
    """
    return await _found(db, SERVERS.seen, tenant, server_id, at, tools=dumps(list(tools)).decode(), digest=digest)


async def not_seen(db: Database, tenant: Tenant, server_id: UUID, error: str, *, at: ToolServer) -> None:
    """Take note that a server could not be asked. Raises as `seen`."""
    await _found(db, SERVERS.not_seen, tenant, server_id, at, error=plain(error))


async def _found(db: Database, statement: str, tenant: Tenant, server_id: UUID, at: ToolServer, **what: str) -> str:
    params = {"tenant": tenant, "id": server_id, "url": at.url, "command": list(at.command) or None, **what}
    async with db.transaction() as conn:
        row = await (await conn.execute(statement, params)).fetchone()
    if row is None:
        raise Conflict(
            f"tool server {at.name!r} was changed or dropped while it was asked: discover it again",
            tool_server=str(server_id),
        )
    return str(row[0])


async def approve(db: Database, tenant: Tenant, server_id: UUID, digest: str) -> None:
    """Accept the list of tools with this digest. Raises NotFound, Conflict (the server offers another one by now)."""
    row = await _row(db, tenant, server_id)
    async with db.transaction() as conn:
        done = await conn.execute(SERVERS.approve, {"tenant": tenant, "id": server_id, "digest": digest})
        if done.rowcount == 0:
            raise Conflict(
                f"tool server {row['name']!r} was last seen with digest {row['seen_digest']}, not {digest}: look at it again",
                field="digest",
            )


def _reached(row: Mapping[str, Any], vault: Vault) -> ToolServer:
    token = vault.open(bytes(row["token"])) if row["token"] is not None else None
    return ToolServer(row["name"], row["url"], tuple(row["command"] or ()), token, row["state"], row["digest"])


async def _row(db: Database, tenant: Tenant, server_id: UUID) -> Mapping[str, Any]:
    async with db.reading() as conn:
        rows = await reads.rows(conn, SERVERS.get_server, {"tenant": tenant, "id": server_id, "name": None})
    if not rows:
        raise _unknown(server_id)
    return rows[0]


def _params(
    tenant: Tenant, server_id: UUID, name: str, url: str | None, command: Sequence[str] | None, token: bytes | None
) -> dict[str, Any]:
    place = list(command) if command else None
    return {"tenant": tenant, "id": server_id, "name": name, "url": url, "command": place, "token": token}


def _taken(name: str) -> Conflict:
    return Conflict(f"a tool server named {name!r} exists; choose another name, or change that one", field="name")


def _unknown(server_id: UUID) -> NotFound:
    return NotFound(f"tool server {server_id} does not exist", tool_server=str(server_id))
