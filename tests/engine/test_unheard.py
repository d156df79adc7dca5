"""What is said of a commit whose answer was lost: that nobody knows. Of what failed before it: that it did not happen."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import UUID

import pytest

from durable_agent.core.records import DEFAULT_TENANT
from durable_agent.db.pool import Database as Pools
from durable_agent.engine import control
from durable_agent.engine.fork import LIVE, fork
from durable_agent.engine.submit import Submission, submit
from durable_agent.errors import DatabaseUnavailable
from tests.support.runs import Engine, run_of, step
from tests.support.unheard import BEGUN, COMMITTED, Way, way_to

Verb = Callable[[Pools, UUID], Awaitable[object]]


async def another_run(pools: Pools, run: UUID) -> object:
    return await submit(pools, DEFAULT_TENANT, [Submission(run_of(step("a")))])


async def a_fork(pools: Pools, run: UUID) -> object:
    return await fork(pools, DEFAULT_TENANT, run, start=0, mode=LIVE, edits={}, by="me")


async def a_pause(pools: Pools, run: UUID) -> object:
    return await control.pause(pools, DEFAULT_TENANT, run, actor="me")


VERBS = {another_run: "the run was stored", a_fork: "the run was started", a_pause: "was changed"}
# A fork reads in a transaction before it writes in another.
READS = {a_fork: 1}


@pytest.fixture
async def way(engine: Engine) -> AsyncIterator[Way]:
    async with way_to(engine.url) as made:
        yield made


async def seen(engine: Engine) -> tuple[int, list[str]]:
    async with engine.pools.reading() as conn:
        rows = await (await conn.execute("select status from runs order by id")).fetchall()
    return len(rows), [row[0] for row in rows]


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
async def test_a_commit_whose_answer_is_lost_may_have_happened(engine: Engine, way: Way, verb: Verb) -> None:
    run = await engine.submit(run_of(step("a")))
    before = await seen(engine)
    async with Pools.open(way.url, engine.url, size=2) as pools:
        async with pools.transaction() as conn:
            await conn.execute("select")
        way.cut_at, way.spared = COMMITTED, READS.get(verb, 0)
        with pytest.raises(DatabaseUnavailable, match=f"^nobody knows whether .*{VERBS[verb]}"):
            await verb(pools, run)
    assert way.lost == 1
    assert await seen(engine) != before


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
async def test_what_failed_before_its_commit_did_not_happen(engine: Engine, way: Way, verb: Verb) -> None:
    run = await engine.submit(run_of(step("a")))
    before = await seen(engine)
    async with Pools.open(way.url, engine.url, size=2) as pools:
        async with pools.transaction() as conn:
            await conn.execute("select")
        way.cut_at, way.spared = BEGUN, READS.get(verb, 0)
        with pytest.raises(DatabaseUnavailable, match=VERBS[verb].replace("was", "was not")):
            await verb(pools, run)
    assert await seen(engine) == before


async def test_what_postgresql_refused_did_not_happen(engine: Engine) -> None:
    run = await engine.submit(run_of(step("a")))
    async with engine.held(run), engine.pools.transaction() as conn:
        await conn.execute("set lock_timeout = 1")
    async with engine.held(run):
        with pytest.raises(DatabaseUnavailable, match="was not changed"):
            await a_pause(engine.pools, run)
