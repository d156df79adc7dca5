"""Caps: an agent has so many runs under way and no more, whoever begins, ends, pauses or changes what at the same time."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import psycopg
import pytest

from durable_agent.core.outcomes import Suspended, Verdict
from durable_agent.core.records import DEFAULT_TENANT, FailureClass, RunSpec, WaitKind
from durable_agent.db import reads
from durable_agent.engine import agents, control
from durable_agent.engine.caps import AGENTS, release_all
from durable_agent.engine.exchange import exchange
from durable_agent.engine.fork import fork
from durable_agent.errors import Conflict
from tests.engine.test_budgets import budgets, intent, result
from tests.support.postgres import Database
from tests.support.runs import Engine, ok, run_of, step


async def agent_of(engine: Engine, concurrency: int | None = 1, name: str = "researcher", **more: Any) -> UUID:
    config = {"concurrency": concurrency, **more}
    return await agents.create(engine.pools, DEFAULT_TENANT, name, config)


def spec(agent: UUID, *, capped: bool = True) -> RunSpec:
    return run_of(step("agent", capped=capped), agent=agent, lane="researcher")


def states(database: Database) -> list[Any]:
    return [row[0] for row in database.execute("select state from queue order by run_id")]


async def put(engine: Engine, agent: UUID, name: str = "researcher", **config: Any) -> None:
    await agents.change(engine.pools, DEFAULT_TENANT, agent, name, config, by="me")


@pytest.mark.parametrize("how", ["no limit", "a higher limit", "deleted"])
async def test_runs_that_waited_begin_when_their_limit_is_gone(engine: Engine, database: Database, how: str) -> None:
    agent = await agent_of(engine)
    for _ in range(4):
        await engine.submit(spec(agent))
    assert states(database) == ["ready", "capped", "capped", "capped"]
    match how:
        case "no limit":
            await put(engine, agent)
        case "a higher limit":
            await put(engine, agent, concurrency=3)
        case _:
            await agents.drop(engine.pools, DEFAULT_TENANT, agent)
    assert states(database) == ["ready"] * 3 + ["capped" if how == "a higher limit" else "ready"]


async def test_runs_that_were_held_when_their_limit_went_begin_at_the_next_look(
    engine: Engine, database: Database
) -> None:
    agent = await agent_of(engine)
    runs = [await engine.submit(spec(agent)) for _ in range(3)]
    with psycopg.connect(database.url) as other:
        other.execute("select 1 from runs where id = %s for no key update", (runs[1],))
        await agents.drop(engine.pools, DEFAULT_TENANT, agent)
        assert states(database) == ["ready", "capped", "ready"]
    assert await release_all(engine.pools) == 1
    assert states(database) == ["ready"] * 3


async def test_of_two_runs_that_are_started_at_once_one_begins(engine: Engine, database: Database) -> None:
    agent = await agent_of(engine)
    with psycopg.connect(database.url) as other:
        # As a submit that has begun its run and has not committed.
        other.execute(AGENTS.lock_agents.encode(), {"tenants": [1], "agents": [agent]})
        first = await engine.submit(spec(agent, capped=False))
        second = asyncio.create_task(engine.submit(spec(agent)))
        await engine.blocked()
        other.commit()
    await second
    assert states(database) == ["ready", "capped"]
    assert (await engine.run(first))["status"] == "pending"


async def test_submits_and_ends_at_once_never_have_more_under_way_than_they_may(
    engine: Engine, database: Database
) -> None:
    agent = await agent_of(engine, 2)
    await asyncio.gather(*(engine.submit(spec(agent)) for _ in range(12)))
    assert states(database).count("ready") == 2
    hand = engine.hand()
    ended = 0
    while claims := await hand.claim():
        assert len(claims) <= 2
        await asyncio.gather(
            *(control.cancel(engine.pools, DEFAULT_TENANT, c.lease.run_id, actor="me") for c in claims)
        )
        ended += len(claims)
        await release_all(engine.pools)
        assert states(database).count("ready") <= 2
    assert ended == 12


async def test_a_run_that_is_paused_waits_on_and_has_its_turn_when_it_is_resumed(
    engine: Engine, database: Database
) -> None:
    agent = await agent_of(engine)
    first, second, third = [await engine.submit(spec(agent)) for _ in range(3)]
    await control.pause(engine.pools, DEFAULT_TENANT, second, actor="me")
    await control.cancel(engine.pools, DEFAULT_TENANT, first, actor="me")
    assert states(database) == ["capped", "ready"]
    assert await release_all(engine.pools) == 0
    await control.cancel(engine.pools, DEFAULT_TENANT, third, actor="me")
    assert states(database) == ["capped"]
    await control.resume(engine.pools, DEFAULT_TENANT, second, actor="me")
    hand = engine.hand()
    (claim,) = await hand.claim()
    assert claim.lease.run_id == second


async def test_a_run_that_is_being_paused_is_not_let_begin(engine: Engine, database: Database) -> None:
    agent = await agent_of(engine)
    first, second, _ = [await engine.submit(spec(agent)) for _ in range(3)]
    with psycopg.connect(database.url) as other:
        other.execute("update runs set status = 'paused' where id = %s", (second,))
        await control.cancel(engine.pools, DEFAULT_TENANT, first, actor="me")
        assert states(database) == ["capped", "ready"]
        other.rollback()


async def test_a_live_fork_of_an_agents_run_waits_for_its_turn_as_any_other(engine: Engine, database: Database) -> None:
    agent, hand = await agent_of(engine), engine.hand(tools=("noop",))
    first = await engine.submit(spec(agent))
    (claim,) = await hand.claim()
    await hand.succeed(claim)
    await engine.submit(spec(agent))
    engine.runs.append(await fork(engine.pools, DEFAULT_TENANT, first, mode="live", start=0, edits={}, by="me"))
    assert states(database) == ["ready", "capped"]
    await put(engine, agent, concurrency=2)
    assert states(database) == ["ready", "ready"]


async def test_redriven_runs_wait_for_their_turn_as_those_that_are_started(engine: Engine, database: Database) -> None:
    agent, hand = await agent_of(engine), engine.hand(tools=("noop",))
    for _ in range(3):
        run = await engine.submit(run_of(*(step(name, capped=True) for name in "ab"), agent=agent, lane="researcher"))
        first, second = await hand.claim()
        assert first.lease.run_id == second.lease.run_id == run
        await hand.fail(first, FailureClass.INVALID_INPUT)
    await engine.submit(spec(agent))
    assert len(await control.redrive(engine.pools, DEFAULT_TENANT, actor="me")) == 3
    assert states(database) == ["capped"] * 6 + ["ready"]
    (claim,) = await hand.claim()
    await hand.succeed(claim)
    assert states(database) == ["ready"] * 2 + ["capped"] * 4


async def test_workers_are_woken_by_an_end_only_when_another_run_begins(engine: Engine) -> None:
    agent = await agent_of(engine)
    for _ in range(2):
        await engine.submit(spec(agent))
    hand = engine.hand()
    for left in (True, False):
        (claim,) = await hand.claim()
        done = await exchange(engine.pools, hand.room, [ok(claim)], free=0, solo=True)
        assert done.answer.verdicts == (Verdict.OK,)
        assert done.ready_left is left


async def test_a_run_that_another_started_has_no_place_and_no_name_of_the_agent(
    engine: Engine, database: Database
) -> None:
    agent = await agent_of(engine, 2)
    first = await engine.submit(spec(agent))
    hand = engine.hand()
    (claim,) = await hand.claim()
    await hand.settle(Suspended(claim.lease, WaitKind.RUN, "run", {}, "x", run=run_of(step("inner"))))
    (inner,) = await hand.claim()
    child = inner.lease.run_id
    for _ in range(2):
        await engine.submit(spec(agent))
    assert states(database) == ["waiting", "leased", "ready", "capped"]
    asked = intent(inner, 1, 100)
    await hand.settle(asked)
    await hand.settle(result(asked, 30))
    async with engine.pools.reading() as conn:
        (row,) = await reads.rows(conn, AGENTS.list_agents, {"tenant": DEFAULT_TENANT})
        everything = {
            "before": None,
            "status": None,
            "graph": None,
            "q": None,
            "since": None,
            "until": None,
            "limit": 9,
        }
        where = {**everything, "tenant": DEFAULT_TENANT}
        listed = {r["id"]: r["agent"] for r in await reads.rows(conn, reads.READS.list_runs, {**where, "agent": None})}
        named = await reads.rows(conn, reads.READS.list_runs, {**where, "agent": "researcher"})
    assert (row["open_runs"], row["runs"], row["tokens"]) == (3, 3, 30)
    assert (listed[first], listed[child]) == ("researcher", None)
    assert child not in {r["id"] for r in named}
    assert len(named) == 3
    await hand.succeed(inner)
    assert states(database) == ["waiting", "ready", "capped"]
    with pytest.raises(Conflict, match="no agent's"):
        await agents.follow_up(engine.pools, DEFAULT_TENANT, child, "more")


async def test_an_agents_limits_are_changed_while_an_exchange_holds_them(engine: Engine, database: Database) -> None:
    """The exchange locks the agent's budgets and then its row: who changes both takes them in that order."""
    limit = {"meter": "tokens", "window_s": 0, "cap": 10, "on_limit": "pause"}
    agent = await agent_of(engine, budgets=[limit])
    with psycopg.connect(database.url) as other:
        other.execute("select 1 from budgets where owner = %s for no key update", (agent,))
        changing = asyncio.create_task(put(engine, agent, concurrency=1, budgets=[{**limit, "cap": 20}]))
        await engine.blocked()
        other.execute(AGENTS.lock_agents.encode(), {"tenants": [1], "agents": [agent]})
        other.commit()
    await changing
    assert budgets(database.url, agent) == {"tokens": (20, 0, 0)}


@pytest.mark.parametrize("at_once", [False, True])
async def test_a_name_that_another_agent_has_is_refused(engine: Engine, at_once: bool) -> None:
    first = await agent_of(engine, name="a")
    second = await agent_of(engine, name="b")
    if at_once:
        done = await asyncio.gather(put(engine, first, name="c"), put(engine, second, name="c"), return_exceptions=True)
        refused = [one for one in done if one is not None]
        assert [type(one) for one in refused] == [Conflict]
    else:
        with pytest.raises(Conflict, match="another agent is named 'a'"):
            await put(engine, second, name="a")
