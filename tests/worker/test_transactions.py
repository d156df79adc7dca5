"""What a handler did beside its own transaction, when that is not committed: nobody does it again in silence."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest

from durable_agent import Context, tool
from durable_agent.settings import Settings
from tests.support.postgres import Database
from tests.support.runs import Engine, run_of, step
from tests.support.server import working
from tests.worker.test_worker import until

MODULES = ("tests.worker.test_transactions",)
PAID: list[str] = []
WHERE: dict[str, Any] = {}


@tool("pay_and_note", effect="manual")
async def pay_and_note(ctx: Context, how: str = "well") -> str:
    """Pay somebody, once, and keep a note of it with the step's result."""
    async with ctx.transaction() as conn:
        PAID.append(ctx.idempotency_key)
        if how == "when told":
            await WHERE["go"].wait()
        if how == "cut":
            await asyncio.to_thread(WHERE["database"].execute, f"select pg_terminate_backend({conn.info.backend_pid})")
        if how == "refused at the commit":
            await conn.execute("insert into notes (id, other) values (1, 99)")
    return "paid"


@pytest.fixture(autouse=True)
def notes(database: Database) -> None:
    PAID.clear()
    WHERE.update(database=database, go=asyncio.Event())
    database.execute("create table others (id int primary key)")
    database.execute("create table notes (id int, other int references others deferrable initially deferred)")


@pytest.mark.parametrize("how", ["cut", "refused at the commit"])
async def test_a_manual_call_whose_transaction_was_not_committed_waits_for_a_person(
    engine: Engine, settings: Settings, database: Database, how: str
) -> None:
    run = await engine.submit(run_of(step("a", tool="pay_and_note", input={"how": how})))
    async with working(settings, MODULES):
        await until(database, ASKED, 1)
    assert (await engine.run(run))["steps"]["a"]["status"] == "waiting"
    assert len(PAID) == 1


async def test_a_manual_call_that_is_drained_while_its_transaction_is_settled_waits_for_a_person(
    engine: Engine, settings: Settings, database: Database
) -> None:
    run = await engine.submit(run_of(step("a", tool="pay_and_note", input={"how": "when told"})))
    with psycopg.connect(database.url) as held:
        async with working(settings, MODULES):
            await until(database, "select count(*)::int from queue where state = 'leased'", 1)
            held.execute("select from runs where id = %s for no key update", (run,))
            WHERE["go"].set()
            await until(database, BLOCKED.format("="), 1)
            # What the drain makes of it waits for the run, too.
            letting_go = asyncio.create_task(until(database, BLOCKED.format("<>"), 1))
            letting_go.add_done_callback(lambda _: held.rollback())
    async with working(settings, MODULES):
        await until(database, ASKED, 1)
    assert len(PAID) == 1


BLOCKED = """select count(*)::int from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'
             and application_name {} 'durable-agent author'"""
ASKED = "select count(*)::int from waits where kind = 'unknown_effect' and state = 'open'"
