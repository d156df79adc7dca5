"""Commands that go to the database itself: where it is, its keys, and a run followed without an API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

import orjson

from durable_agent.api.hub import Hub, follow
from durable_agent.api.views import run_view
from durable_agent.cli.processes import require_schema
from durable_agent.core.records import DEFAULT_TENANT
from durable_agent.db import keys, reads
from durable_agent.db.doorbell import EVENTS, Listener
from durable_agent.db.pool import Connection, Database
from durable_agent.embedded import EmbeddedPostgres
from durable_agent.engine.deploy import Mismatch, check_deploy
from durable_agent.errors import FatalError, InvalidRequest, NotFound
from durable_agent.flow.registry import Registry
from durable_agent.flow.tools import arguments_for
from durable_agent.hosting import default_data_dir, without_libpq_variables
from durable_agent.settings import Settings
from durable_agent.tasks import ended

T = TypeVar("T")


@contextmanager
def url_for(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield the database's URL and direct URL; the embedded server is used as it runs, or started for the while."""
    if settings.database_url is not None:
        yield settings.database_url, settings.direct_url or settings.database_url
        return
    directory = settings.data_dir or default_data_dir()
    without_libpq_variables()
    try:
        there = (directory / "postgres").exists()
        postgres = EmbeddedPostgres(directory)
        running = postgres.running() if there else None
    except OSError as error:
        raise InvalidRequest(f"{directory} cannot be read: {error}", field="--data-dir") from None
    if not there:
        raise InvalidRequest(
            f"no database: {directory} holds none; set DATABASE_URL or give --data-dir", field="DATABASE_URL"
        )
    if running is not None:
        yield running.url, running.url
        return
    with postgres:
        yield postgres.urls.url, postgres.urls.url


def _with_database(settings: Settings, call: Callable[[Connection], Awaitable[T]]) -> T:
    async def work(url: str) -> T:
        async with Database.open(url, size=2) as db, db.reading() as conn:
            return await call(conn)

    with url_for(settings) as (url, direct_url):
        require_schema(direct_url)
        return asyncio.run(work(url))


def run_shown(url: str, run_id: UUID) -> dict[str, Any]:
    """Return a run as the API shows it. Raises NotFound, DatabaseUnavailable."""

    async def work() -> dict[str, Any]:
        async with Database.open(url, size=2) as db, db.reading() as conn:
            found = await reads.run(conn, DEFAULT_TENANT, run_id)
            if found is None:
                raise NotFound(f"run {run_id} does not exist")
            return _plain(run_view(found, await reads.steps(conn, DEFAULT_TENANT, run_id)))

    return asyncio.run(work())


async def run_events(url: str, direct_url: str, run_id: UUID, after: int) -> AsyncGenerator[dict[str, Any]]:
    """Yield a run's events to its end; what its models are saying meanwhile is not part of the history."""
    async with Database.open(url, direct_url, size=2) as db:
        listener = Listener(db, [EVENTS])
        hub = Hub(db, listener)
        loops = [asyncio.create_task(loop) for loop in (listener.run(), hub.run())]
        try:
            async for page in follow(hub, db, DEFAULT_TENANT, run_id, after):
                for event in page:
                    if event["seq"] is not None:
                        yield _plain(event)
        finally:
            await ended(loops)


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """Return a value as a client of the API would have it."""
    plain: dict[str, Any] = orjson.loads(orjson.dumps(value, default=str))
    return plain


def create_key(settings: Settings, name: str, scopes: list[str], days: int | None) -> str:
    """Return a new key. Raises InvalidRequest for a scope that does not exist."""
    unknown = [scope for scope in scopes if scope not in keys.SCOPES]
    if unknown:
        raise InvalidRequest(
            f"scope {unknown[0]!r} does not exist; there are {', '.join(keys.SCOPES)}", field="--scopes"
        )
    expires_at = datetime.now(UTC) + timedelta(days=days) if days else None
    return _with_database(settings, lambda conn: keys.create(conn, DEFAULT_TENANT, name, scopes, expires_at))


def list_keys(settings: Settings) -> list[dict[str, Any]]:
    """Return the keys, without their secrets."""
    return _with_database(settings, lambda conn: keys.listed(conn, DEFAULT_TENANT))


def revoke_key(settings: Settings, key_id: str) -> bool:
    """End a key; tell whether it existed."""
    return _with_database(settings, lambda conn: keys.revoke(conn, DEFAULT_TENANT, key_id))


async def deploy_mismatches(url: str, registry: Registry) -> tuple[int, list[Mismatch]]:
    """Return how many open steps were looked at, and what the registry lacks for them."""

    def accepts(kind: str, tool: str, given: Any) -> str | None:
        found = registry.get(tool)
        if found is None:
            return f"tool {tool!r} is missing"
        if kind:
            try:
                found.bind(arguments_for(found, kind, given))
            except FatalError as error:
                return str(error)
        return None

    async with Database.open(url, size=2) as db:
        return await check_deploy(db, {graph.name: graph.version for graph in registry.graphs}, accepts)
