"""What happened within a window: counted once, in its slice, of one's own tenant, at a cost that has a bound."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from durable_agent.api import board
from durable_agent.api.board import STATS, Board
from durable_agent.core.records import DEFAULT_TENANT, Tenant
from durable_agent.db.pool import Database as Pools
from durable_agent.settings import Settings
from tests.support.postgres import Database
from tests.support.server import Api, serving, working

NOOP = {"name": "a", "tool": "noop"}
FATAL = {"name": "a", "tool": "flaky", "input": {"how": "fatal"}}
SPEAKS = {"name": "llm_call.say", "input": {"prompt": "Say something"}}


@pytest.fixture
async def api(settings: Settings) -> AsyncIterator[Api]:
    async with serving(settings) as made:
        yield made


async def stats(api: Api, window_s: int = 3600) -> dict[str, Any]:
    answer = await api.http.get("/stats", params={"window_s": window_s})
    assert answer.status_code == 200, answer.text
    return answer.json()  # type: ignore[no-any-return]


async def worked(api: Api, settings: Settings) -> None:
    """Have a run of two steps completed, one failed, one that speaks completed, one cancelled, one left open."""
    async with working(settings):
        for steps in ([NOOP, {**NOOP, "name": "b"}], [FATAL], [SPEAKS]):
            await api.watch(await api.start(*steps))
    for _ in range(2):
        run = await api.start(NOOP)
    await api.http.post(f"/runs/{run}/cancel")


async def test_each_thing_is_counted_once_and_in_its_slice(api: Api, settings: Settings, database: Database) -> None:
    await worked(api, settings)
    now = await stats(api)
    assert now["runs_by_status"] == {"completed": 2, "failed": 1, "cancelled": 1, "pending": 1}
    assert (now["window_s"], now["slice_s"]) == (3600, 60)
    totals = {name: sum(series) for name, series in now["series"].items()}
    [(tokens, microusd)] = database.execute(
        "select sum(input_tokens + output_tokens)::int, sum(microusd)::int from runs"
    )
    assert totals == {"started": 5, "completed": 2, "failed": 1, "steps": 4, "microusd": microusd, "tokens": tokens}
    assert totals["tokens"] > 0
    for name, series in now["series"].items():
        assert len(series) == 60
        assert sum(series[-2:]) == totals[name], "what happened just now is in the latest slices"
    database.move_clock(1800)
    later = await stats(api, 3540)  # another window: not the answer that is remembered
    for name, series in later["series"].items():
        assert sum(series[28:31]) == totals[name]
    database.move_clock(3700)
    past = await stats(api, 3600 - 60)
    assert past["runs_by_status"] == {"completed": 2, "failed": 1, "cancelled": 1, "pending": 1}


async def test_what_lies_before_the_window_is_not_counted_and_what_is_open_is(
    api: Api, settings: Settings, database: Database
) -> None:
    await worked(api, settings)
    database.move_clock(3700)
    past = await stats(api)
    assert past["runs_by_status"] == {"pending": 1}
    assert {sum(series) for series in past["series"].values()} == {0}


async def test_another_tenant_s_runs_are_not_ours(api: Api, settings: Settings, database: Database) -> None:
    await worked(api, settings)
    async with Pools.open(database.url, size=2) as db:
        theirs, ours = await Board(db).stats(Tenant(2), 3600), await Board(db).stats(DEFAULT_TENANT, 3600)
    assert theirs["runs_by_status"] == {}
    assert sum(map(sum, theirs["series"].values())) == 0
    assert sum(ours["series"]["started"]) == 5


async def test_a_hundred_dashboards_ask_the_database_once(database: Database) -> None:
    async with Pools.open(database.url, size=4) as db:
        asked = Board(db)
        before = db.read.get_stats().get("requests_num", 0)
        many = await asyncio.gather(*(asked.stats(DEFAULT_TENANT, 3600) for _ in range(100)))
        await asked.stats(DEFAULT_TENANT, 3600)
        assert db.read.get_stats()["requests_num"] - before == 1
        assert all(one is many[0] for one in many)
        # Who asks for something else, or later, is told of that.
        assert (await asked.stats(DEFAULT_TENANT, 60))["window_s"] == 60
        assert db.read.get_stats()["requests_num"] - before == 2


async def test_an_answer_is_forgotten_in_time(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "FRESH_S", 0.0)
    monkeypatch.setattr(board, "SHARE", 0)
    async with Pools.open(database.url, size=2) as db:
        asked = Board(db)
        first = await asked.stats(DEFAULT_TENANT, 3600)
        assert (await asked.stats(DEFAULT_TENANT, 3600))["at"] > first["at"]


async def test_who_goes_away_does_not_take_the_answer_from_the_others(database: Database) -> None:
    async with Pools.open(database.url, size=2) as db:
        asked = Board(db)
        gone = asyncio.create_task(asked.stats(DEFAULT_TENANT, 3600))
        stays = asyncio.create_task(asked.stats(DEFAULT_TENANT, 3600))
        await asyncio.sleep(0)
        gone.cancel()
        assert (await stays)["window_s"] == 3600


async def test_of_very_many_runs_the_newest_are_counted_and_since_when_is_said(
    api: Api, settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await worked(api, settings)
    whole = await stats(api)
    monkeypatch.setattr(board, "MOST", 2)
    some = await stats(api, 1800)
    assert whole["counted_from"] < some["counted_from"] < some["at"]
    assert sum(some["series"]["completed"]) + sum(some["series"]["failed"]) < 3
    assert some["runs_by_status"]["pending"] == 1


@pytest.mark.parametrize("window_s", [59, 604_801, "x"])
async def test_a_window_that_is_none_is_refused(api: Api, window_s: Any) -> None:
    answer = await api.http.get("/stats", params={"window_s": window_s})
    assert (answer.status_code, answer.json()["field"]) == (422, "query.window_s")


def test_the_past_is_not_read(database: Database) -> None:
    """With many runs that ended long ago, nothing scans the runs, their steps or their effects."""
    database.execute(
        "insert into runs (tenant, id, status, steps_total, steps_left, last_seq, chain, created_at, finished_at, lane, calls)"
        " select 1, uuidv, 'completed', 1, 0, 1, '', at, at, '', 1"
        " from (select n, now() - interval '10 days' + n * interval '1 second' as at,"
        "   (lpad(to_hex((extract(epoch from now() - interval '10 days') * 1000)::bigint + n), 12, '0') || '7000'"
        "    || lpad(to_hex(n), 16, '8'))::uuid as uuidv from generate_series(1, 20000) n) x"
    )
    database.execute("analyze runs")
    text = re.sub(r"%\((\w+)\)s", lambda m: {"tenant": "1", "window_s": "3600", "most": "20000"}[m[1]], STATS.within)
    with psycopg.connect(database.url, autocommit=True) as conn:
        conn.execute("set jit = off")
        rows = conn.execute(f"explain (analyze, costs off, timing off) {text}".encode()).fetchall()
    plan = "\n".join(row[0] for row in rows)
    assert "Index Scan Backward using runs_" in plan, plan
    assert "Index Cond: ((tenant = 1) AND (finished_at > " in plan
    read = [int(rows) for rows in re.findall(r"on (?:runs|steps|effects)_\w+ \w+ \(actual rows=(\d+)", plan)]
    assert sum(read) == 0, plan
    for scan in re.findall(
        r"Seq Scan on (?:runs|steps|effects)_\w+[^\n]*\n(?:[^\n]*Rows Removed by Filter: (\d+))?", plan
    ):
        assert scan in ("", "0"), plan
