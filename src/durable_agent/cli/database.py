"""Commands that go to the database itself: where it is, and its keys."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from durable_agent.core.records import DEFAULT_TENANT
from durable_agent.db import keys
from durable_agent.db.pool import Connection, Database
from durable_agent.embedded import EmbeddedPostgres, default_data_dir
from durable_agent.errors import InvalidRequest
from durable_agent.settings import Settings

T = TypeVar("T")


@contextmanager
def url_for(settings: Settings, data_dir: Path | None) -> Iterator[tuple[str, str]]:
    """Yield the database's URL and direct URL; the embedded server is used as it runs, or started for the while."""
    if settings.database_url is not None:
        yield settings.database_url, settings.direct_url or settings.database_url
        return
    directory = data_dir or settings.data_dir or default_data_dir()
    if not (directory / "postgres").exists():
        raise InvalidRequest(
            f"no database: {directory} holds none; set DATABASE_URL or give --data-dir", field="DATABASE_URL"
        )
    postgres = EmbeddedPostgres(directory)
    running = postgres.running()
    if running is not None:
        yield running.url, running.url
        return
    with postgres:
        yield postgres.urls.url, postgres.urls.url


def _with_database(settings: Settings, data_dir: Path | None, call: Callable[[Connection], Awaitable[T]]) -> T:
    async def work(url: str) -> T:
        async with Database.open(url, size=2) as db, db.reading() as conn:
            return await call(conn)

    with url_for(settings, data_dir) as (url, _):
        return asyncio.run(work(url))


def create_key(settings: Settings, data_dir: Path | None, name: str, scopes: list[str], days: int | None) -> str:
    """Return a new key. Raises InvalidRequest for a scope that does not exist."""
    unknown = [scope for scope in scopes if scope not in keys.SCOPES]
    if unknown:
        raise InvalidRequest(
            f"scope {unknown[0]!r} does not exist; there are {', '.join(keys.SCOPES)}", field="--scopes"
        )
    expires_at = datetime.now(UTC) + timedelta(days=days) if days else None
    return _with_database(settings, data_dir, lambda conn: keys.create(conn, DEFAULT_TENANT, name, scopes, expires_at))


def list_keys(settings: Settings, data_dir: Path | None) -> list[dict[str, Any]]:
    """Return the keys, without their secrets."""
    return _with_database(settings, data_dir, lambda conn: keys.listed(conn, DEFAULT_TENANT))


def revoke_key(settings: Settings, data_dir: Path | None, key_id: str) -> bool:
    """End a key; tell whether it existed."""
    return _with_database(settings, data_dir, lambda conn: keys.revoke(conn, DEFAULT_TENANT, key_id))
