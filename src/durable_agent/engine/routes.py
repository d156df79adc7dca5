"""Routes: the small integers that stand for (tenant, queue, lane, tool) in the queue's index."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from durable_agent.db.pool import Connection
from durable_agent.engine.journal import QUEUE

RouteKey = tuple[int, str, str, str]


@dataclass(slots=True)
class Routes:
    """A process's memory of routes. They are never deleted, so what is known stays true."""

    ids: dict[RouteKey, int] = field(default_factory=dict)
    keys: dict[tuple[int, int], RouteKey] = field(default_factory=dict)

    async def ensure(self, conn: Connection, wanted: Collection[RouteKey]) -> None:
        """Know the ids of all routes wanted, making those that are missing (in commits of their own)."""
        missing = sorted({key for key in wanted if key not in self.ids})
        if not missing:
            return
        arrays = _columns(missing)
        await conn.execute(QUEUE.add_routes, arrays)
        self._learn(await (await conn.execute(QUEUE.routes_of, arrays)).fetchall())

    async def describe(self, conn: Connection, ids: Iterable[tuple[int, int]]) -> None:
        """Know what the (tenant, route) ids stand for."""
        unknown = [pair for pair in ids if pair not in self.keys]
        if unknown:
            cursor = await conn.execute(
                QUEUE.describe_routes,
                {"tenants": [tenant for tenant, _ in unknown], "routes": [route for _, route in unknown]},
            )
            self._learn(await cursor.fetchall())

    def _learn(self, rows: Iterable[tuple[int, int, str, str, str]]) -> None:
        for tenant, route, queue, lane, tool in rows:
            self.ids[tenant, queue, lane, tool] = route
            self.keys[tenant, route] = (tenant, queue, lane, tool)


def _columns(keys: Iterable[RouteKey]) -> dict[str, list[object]]:
    names = ("tenants", "queues", "lanes", "tools")
    return dict(zip(names, map(list, zip(*keys, strict=True)), strict=True))
