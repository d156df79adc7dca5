"""W9: checkpoints a second of LangGraph's own saver and of the fenced one, side by side on the same server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, cast
from uuid import uuid4

from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from durable_agent import __version__
from durable_agent.agents.checkpoints import FencedSaver, setup
from durable_agent.core.port import Offer
from durable_agent.core.records import DEFAULT_TENANT, Claim, RunSpec, SessionId
from durable_agent.db.doorbell import READY, Bell, Listener
from durable_agent.db.pool import Database
from durable_agent.engine.backend import PostgresBackend
from durable_agent.engine.submit import Submission, submit
from durable_agent.telemetry import Counters
from harness.stand import Bench, run, step

RUNS, PUTS, CONNECTIONS = 16, 60, 8


def puts(bench: Bench, repeat: int) -> tuple[float, float]:
    """Return puts a second of the stock saver and of the fenced one: 16 runs at once, a saver each, 8 connections."""
    bench.clean()
    return run(_measure(bench.url, repeat))  # type: ignore[no-any-return]


async def _measure(url: str, repeat: int) -> tuple[float, float]:
    await setup(url)
    stock, fenced = [], []
    kwargs = {
        "autocommit": True,
        "prepare_threshold": 0,
        "row_factory": dict_row,
        "options": "-c search_path=langgraph",
    }
    async with (
        Database.open(url, size=CONNECTIONS) as db,
        AsyncConnectionPool(url, min_size=CONNECTIONS, max_size=CONNECTIONS, kwargs=kwargs) as pool,
    ):
        backend, claims = await _claims(db)
        for _ in range(repeat + 1):
            stock.append(await _timed(lambda claim: AsyncPostgresSaver(cast(Any, pool)), claims))
            fenced.append(
                await _timed(
                    lambda claim: FencedSaver(fenced=lambda: backend.fenced(claim.lease), reading=backend.reading),
                    claims,
                )
            )
    return sorted(stock[1:])[repeat // 2], sorted(fenced[1:])[repeat // 2]


async def _claims(db: Database) -> tuple[PostgresBackend, list[Claim]]:
    offer = Offer(SessionId(uuid4()), "bench", ("default",), ("noop",), RUNS, "here", 1, __version__)
    backend = PostgresBackend(db, offer, Bell(db), Listener(db, [READY]), Counters())
    await submit(db, DEFAULT_TENANT, [Submission(RunSpec((step("a"),))) for _ in range(RUNS)])
    claims: list[Claim] = []
    while len(claims) < RUNS:
        claims += (await backend.exchange([], free=RUNS - len(claims), solo=True)).claims
    return backend, claims


async def _timed(saver_of: Callable[[Claim], Any], claims: list[Claim]) -> float:
    began_s = time.perf_counter()
    await asyncio.gather(*(_put(saver_of(claim), f"{claim.lease.run_id}/{uuid4()}") for claim in claims))
    return RUNS * PUTS / (time.perf_counter() - began_s)


async def _put(saver: Any, thread: str) -> None:
    config: Any = {"configurable": {"thread_id": thread, "checkpoint_ns": ""}}
    for number in range(PUTS):
        checkpoint = empty_checkpoint()
        versions: dict[str, str | int | float] = {"messages": f"{number + 1:032}.0"}
        checkpoint["channel_values"] = {"messages": ["x" * 100] * 10}
        checkpoint["channel_versions"] = versions
        config = await saver.aput(config, checkpoint, {"source": "loop", "step": number}, versions)
