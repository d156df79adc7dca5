"""W8: what effects, waits and replays cost."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

from durable_agent.core.records import DEFAULT_TENANT, RetryPolicy, RunSpec, StepKind, StepSpec
from durable_agent.core.waits import Decision
from durable_agent.db.doorbell import EVENTS, READY, Bell, Listener
from durable_agent.db.pool import Database
from durable_agent.engine.answer import answer
from durable_agent.engine.fork import RECORDED, fork
from harness.stand import Bench, run, step
from harness.zygote import Zygote

STEPS, EFFECTS = 100, 20


def recorded_effects(bench: Bench, zygote: Zygote) -> float:
    """Return recorded effects a second: 100 steps of 20 safe effects, one after the other in each step."""
    specs = [RunSpec((step("calls", tool="calls", input={"times": EFFECTS}),))] * STEPS
    return bench.drain(zygote, specs) * EFFECTS


def resume(bench: Bench, zygote: Zygote, times: int = 10) -> list[float]:
    """Return milliseconds from the claim to the success of an attempt that meets 1,000 recorded effects."""
    bench.clean()
    retry = RetryPolicy(max_attempts=2, base_s=0.0)
    spec = RunSpec((step("calls", tool="calls", input={"times": 1000, "fails": 1}, retry=retry),))
    with bench.workers(zygote, 1):
        for _ in range(times):
            run(bench.fill([spec]))
            bench.until("select count(*)::int from runs where finished_at is null", 0)
    rows = bench.query(
        "select extract(epoch from max(at) filter (where type = 'step.succeeded') - max(at) filter (where type = 'step.claimed'))"
        " from events group by run_id"
    )
    return [float(row[0]) * 1000 for row in rows]


def approvals(bench: Bench, zygote: Zygote, times: int = 100) -> list[float]:
    """Return milliseconds from the answer of an approval to the claim of its step, one at a time on an idle engine."""
    bench.clean()
    spec = RunSpec((StepSpec("ask", StepKind.APPROVAL, "approval", {}),))
    with bench.workers(zygote):
        run(bench.fill([spec] * times))
        bench.until("select count(*)::int from runs where status = 'waiting_for_approval'", times)
        time.sleep(1.0)
        return run(_answer_all(bench.url, [row[0] for row in bench.query("select id from waits")]))  # type: ignore[no-any-return]


async def _answer_all(url: str, waits: list[UUID]) -> list[float]:
    found = []
    async with Database.open(url, size=2) as db:
        bell, listener = Bell(db), Listener(db, [EVENTS])
        async with asyncio.TaskGroup() as group:
            loops = [group.create_task(bell.run()), group.create_task(listener.run())]
            for wait in waits:
                began_s = time.perf_counter()
                run_id = await answer(db, DEFAULT_TENANT, wait, Decision.APPROVED, by="bench")
                bell.ring(READY)
                while not await _claimed_again(db, run_id):
                    await listener.wait(0.05)
                found.append((time.perf_counter() - began_s) * 1000)
                await asyncio.sleep(0.02)
            for loop in loops:
                loop.cancel()
    return found


async def _claimed_again(db: Database, run_id: UUID) -> bool:
    async with db.reading() as conn:
        query = "select count(*) from events where tenant = 1 and run_id = %s and type = 'step.claimed'"
        row = await (await conn.execute(query, (run_id,))).fetchone()
    return bool(row and row[0] >= 2)


def replay(bench: Bench, zygote: Zygote, times: int = 3) -> float:
    """Return the seconds that a recorded replay of a run of 1,000 steps takes, with an effect in each."""
    bench.clean()
    spec = RunSpec(tuple(step(f"s{n}", tool="calls", input={"times": 1}) for n in range(1000)))
    with bench.workers(zygote):
        run(bench.fill([spec]))
        bench.until("select count(*)::int from runs where finished_at is null", 0)
        ((origin,),) = bench.query("select id from runs")
        found = []
        for _ in range(times):
            run(_replay(bench.url, origin))
            bench.until("select count(*)::int from runs where finished_at is null", 0)
            ((took,),) = bench.query(
                "select extract(epoch from max(finished_at) - max(created_at)) from runs where id = (select max(id::text)::uuid from runs)"
            )
            found.append(float(took))
    return statistics.median(found)


async def _replay(url: str, origin: Any) -> None:
    async with Database.open(url, size=2) as db:
        bell = Bell(db)
        task = asyncio.create_task(bell.run())
        await fork(db, DEFAULT_TENANT, origin, start=0, mode=RECORDED, edits={}, by="bench")
        bell.ring(READY)
        await asyncio.sleep(0.1)
        task.cancel()


def measure(bench: Bench, zygote: Zygote, repeat: int, quantiles: Callable[[list[float]], Any]) -> dict[str, Any]:
    """Return the figures of W8."""
    return {
        "W8 recorded effects/s (100 steps of 20)": statistics.median(
            recorded_effects(bench, zygote) for _ in range(repeat)
        ),
        "W8 resume with 1,000 effects, ms": quantiles(resume(bench, zygote)),
        "W8 approval answered to running, ms": quantiles(approvals(bench, zygote)),
        "W8 recorded replay of 1,000 steps, s": replay(bench, zygote),
    }
