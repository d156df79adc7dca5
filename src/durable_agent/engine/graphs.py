"""Graphs: workers register what their modules define; a run by name takes the version that was registered last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from durable_agent.core.events import dumps
from durable_agent.core.records import Limit, Tenant
from durable_agent.db import reads
from durable_agent.db.pool import Database
from durable_agent.db.sql import load
from durable_agent.errors import NotFound

GRAPHS = load("graphs")

# Name, version, steps as POST /runs takes them, the input's JSON Schema if there is one, the limits of its runs.
Registered = tuple[str, str, list[dict[str, Any]], dict[str, Any] | None, list[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Named:
    """A registered graph: its version, its steps as POST /runs takes them, the limits of its runs, its input's schema."""

    version: str
    steps: list[Any]
    budget: tuple[Limit, ...]
    input_schema: dict[str, Any] | None


async def register(db: Database, tenant: Tenant, graphs: Sequence[Registered]) -> None:
    """Make the graphs known; one that is known already becomes the newest of its versions again."""
    async with db.transaction() as conn:
        for name, version, steps, schema, budget in graphs:
            params = {
                "tenant": tenant, "name": name, "version": version, "spec": dumps(steps).decode(),
                "input_schema": dumps(schema).decode() if schema is not None else None,
                "budget": dumps(budget).decode() if budget else None,
            }  # fmt: skip
            await conn.execute(GRAPHS.register, params)


async def graph_of(db: Database, tenant: Tenant, name: str | None) -> Named | None:
    """Return the newest version of a graph; None for no name. Raises NotFound."""
    if name is None:
        return None
    async with db.reading() as conn:
        rows = await reads.rows(conn, reads.READS.get_graph, {"tenant": tenant, "name": name, "version": None})
    if not rows:
        raise NotFound(f"graph {name!r} is not registered; start a worker with the module that defines it", graph=name)
    limits = tuple(Limit(one["meter"], one["cap"], one["on_limit"]) for one in rows[0]["budget"] or ())
    return Named(rows[0]["version"], rows[0]["steps"], limits, rows[0]["input_schema"])
