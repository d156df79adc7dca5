"""The upkeep's pace: slow while nothing is leased and hints are heard, at full speed otherwise."""

from __future__ import annotations

import asyncio

from durable_agent.engine.reap import IDLE
from tests.support.runs import Engine, run_of, step


async def test_an_idle_engine_is_looked_at_less_often_until_something_is_leased(engine: Engine) -> None:
    upkeep = engine.upkeep
    upkeep.relaxed = lambda: True
    assert await upkeep._tick(0.0) >= upkeep.tick_s * IDLE * 0.9
    await engine.submit(run_of(step("a")))
    (claim,) = await engine.hand().claim()
    assert await upkeep._tick(0.0) <= upkeep.tick_s * 1.1
    await engine.hand().succeed(claim)


async def test_without_hints_the_pace_stays(engine: Engine) -> None:
    engine.upkeep.relaxed = lambda: False
    assert await engine.upkeep._tick(0.0) <= engine.upkeep.tick_s * 1.1


async def test_a_hint_ends_the_long_pause(engine: Engine) -> None:
    engine.upkeep.tick_s = 0.01
    pause = asyncio.create_task(engine.upkeep._pause(3600.0))
    engine.upkeep.stir()
    async with asyncio.timeout(20):
        await pause
