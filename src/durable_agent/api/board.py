"""The board: the figures of a dashboard, asked of the database once however many look at them."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

from durable_agent.core.records import Tenant
from durable_agent.core.states import RunStatus
from durable_agent.db import reads
from durable_agent.db.pool import Database
from durable_agent.db.sql import load

STATS = load("stats")
SLICES: Final = 60
SERIES: Final = ("started", "completed", "failed", "steps", "microusd", "tokens")
# So many ended runs are looked at, and as many open ones.
MOST: Final = 20_000
FRESH_S: Final = 1.0
# An answer that took long is kept for so many times as long: dashboards take at most this share of one connection.
SHARE: Final = 20
_KEPT: Final = 1000

Key = tuple[Tenant, int]


class Board:
    """The latest answers by tenant and window; however many ask at once, one query is made."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._known: dict[Key, tuple[float, dict[str, Any]]] = {}
        self._asking: dict[Key, asyncio.Task[dict[str, Any]]] = {}

    async def stats(self, tenant: Tenant, window_s: int) -> dict[str, Any]:
        """Return the figures as they were a moment ago. Raises DatabaseUnavailable."""
        key = tenant, window_s
        known = self._known.get(key)
        if known is not None and time.monotonic() < known[0]:
            return known[1]
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.create_task(self._ask(key))
            task.add_done_callback(lambda _: self._asking.pop(key))
        # Who goes away does not take the answer from the others.
        return await asyncio.shield(task)

    async def _ask(self, key: Key) -> dict[str, Any]:
        began_s = time.monotonic()
        params = {"tenant": key[0], "window_s": key[1], "most": MOST}
        async with self._db.reading() as conn:
            found = figures(await reads.rows(conn, STATS.within, params), key[1])
        now_s = time.monotonic()
        if len(self._known) >= _KEPT:
            self._known = {of: one for of, one in self._known.items() if one[0] > now_s}
        self._known[key] = now_s + max(FRESH_S, SHARE * (now_s - began_s)), found
        return found


def figures(rows: list[dict[str, Any]], window_s: int) -> dict[str, Any]:
    """Return the rows of a window as the API's answer."""
    series = {name: [0] * SLICES for name in SERIES}
    standing, span = {}, {}
    for row in rows:
        if row["series"] == "span":
            span = {"at": row["until"], "counted_from": row["since"]}
        elif row["slice"] is None:
            standing[row["series"]] = row["amount"]
        else:
            series[row["series"]][row["slice"]] = row["amount"]
    by_status = {status.value: standing[status.value] for status in RunStatus if status.value in standing}
    return {**span, "window_s": window_s, "slice_s": window_s / SLICES, "runs_by_status": by_status, "series": series}
