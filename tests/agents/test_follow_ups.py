"""A conversation goes on in a run of its own, also one that did not fit a row."""

from __future__ import annotations

from typing import Any

from durable_agent.settings import Settings
from tests.support.server import serving, working

ASKED = "What is 2+3? " + "Tell me all. " * 200


async def test_a_conversation_larger_than_a_row_is_gone_on_with(settings: Settings, tmp_path: Any) -> None:
    small = settings.model_copy(update={"payload_limit_bytes": 1024})
    async with serving(settings) as api, working(small, artifacts=str(tmp_path)):

        async def ended(answer: Any) -> Any:
            assert answer.status_code == 201, answer.text
            await api.watch(answer.json()["id"])
            return (await api.http.get(f"/runs/{answer.json()['id']}")).json()

        await api.http.post("/agents", json={"name": "r", "system_prompt": "Answer.", "allowed_tools": ["calculator"]})
        first = await ended(await api.http.post("/runs", json={"agent": "r", "input": ASKED}))
        assert "$artifact" in first["steps"][0]["output"]
        second = await ended(await api.http.post(f"/runs/{first['id']}/messages", json={"message": "And 4*5?"}))
        assert second["status"] == "completed", second
        third = await ended(await api.http.post(f"/runs/{second['id']}/messages", json={"message": "And 6*7?"}))
        assert third["status"] == "completed", third
