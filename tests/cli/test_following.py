"""A run followed by its events, from the database itself as from the API."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from durable_agent.cli.database import run_events
from durable_agent.settings import Settings
from tests.support.postgres import Database
from tests.support.server import serving


async def test_what_a_model_is_saying_is_no_event_of_the_run(settings: Settings, database: Database) -> None:
    async with serving(settings) as api:
        run = await api.start({"name": "nobody_offers_this"})
        database.execute(
            "insert into deltas (tenant, run_id, step_no, effect, claim_no, piece, at, text)"
            " select tenant, id, 0, 0, 1, 0, engine_now(), 'Hello' from runs"
        )
        found: list[dict[str, Any]] = []
        async for event in run_events(database.url, database.url, UUID(run), 0):
            if not found:
                assert (await api.http.post(f"/runs/{run}/cancel")).status_code == 202
            found.append(event)
        assert found == await api.watch(run)
        assert found[-1]["type"] == "run.cancelled"
