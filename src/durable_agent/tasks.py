"""Ending tasks for sure."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any


@asynccontextmanager
async def beside(loops: Mapping[str, Coroutine[Any, Any, Any]]) -> AsyncIterator[asyncio.TaskGroup]:
    """Run loops beside the block, each as a task of its name; when it is left, all have ended.

    The first error of a loop, or of a task that is made in the group yielded, ends the block, and is raised in an
    ExceptionGroup as the group raises it. A group alone cancels the others once: one that does not hear it would keep the
    process, which then does its work no more and does not end.
    """
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(loop, name=name) for name, loop in loops.items()]
        try:
            yield group
        finally:
            await ended(tasks)


async def ended(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks and return when they have ended.

    Once is not enough: `asyncio.wait_for`, which the pool waits with, swallows a cancel that comes as it succeeds
    (until Python 3.12).
    """
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=0.2)
