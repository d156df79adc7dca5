"""What runs beside something else ends with it, also where the first cancel is not heard."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from durable_agent.core.outcomes import Exchange
from durable_agent.tasks import beside
from durable_agent.testing import FakeBackend
from tests.worker.test_leases import idle


async def deaf() -> None:
    """Go on after a cancel, as one does in whom `asyncio.wait_for` swallowed it."""
    with suppress(asyncio.CancelledError):
        await asyncio.Event().wait()
    await asyncio.Event().wait()


async def broken() -> None:
    """End by an error."""
    raise ValueError("broken")


async def test_the_error_of_one_ends_what_does_not_hear_the_first_cancel() -> None:
    with pytest.raises(ExceptionGroup) as raised:
        async with asyncio.timeout(30), beside({"deaf": deaf(), "broken": broken()}):
            await asyncio.Event().wait()
    assert [str(error) for error in raised.value.exceptions] == ["broken"]


async def test_what_runs_beside_a_block_ends_with_it() -> None:
    async with asyncio.timeout(30), beside({"deaf": deaf()}) as group:
        beat = group.create_task(asyncio.sleep(0))
    assert beat.done()
    assert {task.get_name() for task in asyncio.all_tasks()}.isdisjoint({"deaf"})


async def test_a_worker_ends_although_its_exchange_did_not_hear(tmp_path: Path) -> None:
    asked = asyncio.Event()

    class Deaf(FakeBackend):
        async def exchange(self, *_: Any, **__: Any) -> Exchange:
            if asked.is_set():
                await asyncio.Event().wait()
            asked.set()
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            return Exchange((), (), (), more=True)

    worker = idle(tmp_path)
    worker.backend = Deaf()
    worker.beat(time.monotonic(), frozenset())
    async with asyncio.timeout(30):
        working = asyncio.create_task(worker.run())
        await asked.wait()
        working.cancel()
        await asyncio.wait([working])
    assert working.cancelled()
