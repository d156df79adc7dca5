"""Runs told through a real API: start one, follow it, look at what it recorded."""

from __future__ import annotations

from typing import Any

import orjson

from tests.support.server import Api

MODULES = ("tests.support.outside",)


async def run(api: Api, tool: str, **given: Any) -> str:
    more = given.pop("step", {})
    step = {"name": "s", "tool": tool, "input": given, "retry": {"baseS": 0, "maxAttempts": 3}, **more}
    return await api.start(step)


async def end(api: Api, run_id: str) -> dict[str, Any]:
    """Return the run when it has ended."""
    await api.watch(run_id)
    return dict((await api.http.get(f"/runs/{run_id}")).json())


async def until(api: Api, run_id: str, kind: str) -> dict[str, Any]:
    """Return the first event of a kind, waiting for it."""
    async with api.socket(f"/ws/{run_id}") as ws:
        async for text in ws:
            event = orjson.loads(text)
            if event["type"] == kind:
                return dict(event)
    raise AssertionError(f"the run ended without {kind}")


async def wait_of(api: Api, run_id: str) -> dict[str, Any]:
    """Return the run's open wait."""
    await until(api, run_id, "step.waiting")
    (wait,) = (await api.http.get("/waits", params={"run_id": run_id})).json()["items"]
    return dict(wait)


async def effects(api: Api, run_id: str) -> list[dict[str, Any]]:
    """Return the run's recorded effects, by its export."""
    lines = (await api.http.get(f"/runs/{run_id}/export")).text.splitlines()
    return [record for line in lines if (record := orjson.loads(line))["record"] == "effect"]


async def next_wait(api: Api, run_id: str, *known: str) -> dict[str, Any]:
    """Return the first wait of the run that is not among those known, waiting for it."""
    async with api.socket(f"/ws/{run_id}") as ws:
        async for text in ws:
            event = orjson.loads(text)
            if event["type"] == "step.waiting" and event["data"]["wait"] not in known:
                return dict((await api.http.get(f"/waits/{event['data']['wait']}")).json())
    raise AssertionError("no further wait")
