"""Statements of many tasks in one transaction: committed together, refused by themselves."""

from __future__ import annotations

import asyncio
import secrets

import psycopg
import pytest

from durable_agent.db.pool import TooLarge
from durable_agent.db.together import Together
from tests.support.postgres import Database
from tests.support.runs import Engine

ADD = "insert into noted (n) values (%(n)s::int / %(by)s::int) returning n, pg_current_xact_id()::text"


@pytest.fixture
def noted(database: Database) -> Database:
    database.execute("create table noted (n int)")
    return database


async def test_what_is_asked_for_at_a_time_is_one_transaction(engine: Engine, noted: Database) -> None:
    together = Together(engine.pools)
    answers = await asyncio.gather(*(together.run(ADD, {"n": n, "by": 1}) for n in range(5)))
    assert [n for ((n, _),) in answers] == list(range(5))
    assert len({transaction for ((_, transaction),) in answers}) == 1
    ((_, later),) = await together.run(ADD, {"n": 5, "by": 1})
    assert later not in {transaction for ((_, transaction),) in answers}


async def test_an_error_is_its_own_and_keeps_nobody_else_from_being_committed(engine: Engine, noted: Database) -> None:
    together = Together(engine.pools)
    asked = [together.run(ADD, given) for given in ({"n": 1, "by": 1}, {"n": 2, "by": 0}, {"n": object(), "by": 1})]
    done = await asyncio.gather(*asked, together.run(ADD, {"n": 4, "by": 1}), return_exceptions=True)
    assert [type(one) for one in done] == [list, psycopg.errors.DivisionByZero, psycopg.ProgrammingError, list]
    assert noted.execute("select n from noted order by n") == [(1,), (4,)]


async def test_a_value_too_large_for_an_index_is_no_outage(engine: Engine, noted: Database) -> None:
    noted.execute("alter table noted add text text unique")
    together = Together(engine.pools)
    large = together.run("insert into noted (text) values (%(text)s)", {"text": secrets.token_hex(20_000)})
    done = await asyncio.gather(together.run(ADD, {"n": 1, "by": 1}), large, return_exceptions=True)
    assert [type(one) for one in done] == [list, TooLarge]


async def test_who_is_cancelled_before_its_turn_asks_for_nothing(engine: Engine, noted: Database) -> None:
    together = Together(engine.pools)
    with psycopg.connect(engine.url) as other:
        other.execute("lock table noted")
        first = asyncio.create_task(together.run(ADD, {"n": 1, "by": 1}))
        await engine.blocked()
        gone, last = (asyncio.create_task(together.run(ADD, {"n": n, "by": 1})) for n in (2, 3))
        await asyncio.sleep(0)
        gone.cancel()
        first.cancel()  # it is on its way: committed or not, nobody hears of it
        other.rollback()
    await last
    await asyncio.gather(first, gone, return_exceptions=True)
    assert noted.execute("select n from noted order by n") == [(1,), (3,)]


async def test_an_outage_is_everybodys(engine: Engine, noted: Database) -> None:
    together = Together(engine.pools)
    with psycopg.connect(engine.url) as other:
        other.execute("lock table noted")
        asked = [asyncio.create_task(together.run(ADD, {"n": n, "by": 1})) for n in range(3)]
        for pid in await engine.blocked():
            other.execute("select pg_terminate_backend(%s)", (pid,))
        found = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(one, psycopg.OperationalError) for one in found)
    assert await together.run(ADD, {"n": 9, "by": 1})
