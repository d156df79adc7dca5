"""Agents on real workers against a real socket: killed in the middle of their loop, limited, paused, watched."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from harness.llm import Llm, provider, stub
from harness.zygote import Zygote

from durable_agent.settings import Settings
from tests.support.postgres import Database
from tests.support.server import Api, serving

KILLS = int(os.environ.get("TEST_AGENT_KILLS", "6"))
CAP = 400_000
MODULES = ["tests.support.agent_tools"]


@asynccontextmanager
async def workers(database: Database, llm: Llm, tmp_path: Path, **more: str) -> AsyncIterator[Zygote]:
    """Yield what forks workers that know the provider and nobody else."""
    given = {
        "DATABASE_URL": database.url, "OPENAI_BASE_URL": llm.url, "OPENAI_API_KEY": "none", "DURABLE_AGENT_MODEL": "openai:stub",
        "TEST_WORK_URL": database.url, "DURABLE_AGENT_ARTIFACTS": str(tmp_path / "artifacts"), "DURABLE_AGENT_TICK_S": "0.1",
        "DURABLE_AGENT_LOG_LEVEL": "warning", **more,
    }  # fmt: skip
    zygote = Zygote(MODULES, given, tmp_path / "workers.log", source=Path.cwd())
    try:
        yield zygote
    finally:
        zygote.close()


async def ended(api: Api, run: str) -> dict[str, Any]:
    """Return a run when it has ended."""
    await api.watch(run)
    return (await api.http.get(f"/runs/{run}")).json()  # type: ignore[no-any-return]


async def an_agent(api: Api, **more: Any) -> None:
    given = {"name": "worker", "tools": ["work"], "max_steps": 30, "max_tokens": 200, **more}
    answer = await api.http.post("/agents", json=given)
    assert answer.status_code == 201, answer.text


async def a_run(api: Api, **more: Any) -> str:
    answer = await api.http.post("/runs", json={"agent": "worker", "input": "go", **more})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def test_a_worker_killed_in_the_middle_of_an_agent_again_and_again_and_nothing_recorded_is_asked_twice(
    settings: Settings, database: Database, tmp_path: Path
) -> None:
    database.execute("create table worked (key text, n int, at timestamptz default clock_timestamp())")
    rng, landed = random.Random(11), 0
    async with provider(calls=20, delay_s=0.02) as llm, serving(settings) as api:
        await an_agent(api)
        async with workers(database, llm, tmp_path) as zygote:
            pid = zygote.spawn("w0")
            due: set[int] = set()
            asked: Counter[int] = Counter()

            async def on_request(key: str) -> None:
                # Killed now and then while it waits for the model, or just after it heard it; a step that never got on
                # between its deaths would be sealed, and rightly so.
                asked[pid] += 1
                if landed < KILLS and pid not in due and asked[pid] > 2 and rng.random() < 0.5:
                    due.add(pid)
                    asyncio.get_running_loop().call_later(rng.choice([0.0, 0.01, 0.022, 0.03]), kill, pid)

            def kill(victim: int) -> None:
                nonlocal pid, landed
                os.kill(victim, signal.SIGKILL)
                landed += 1
                pid = zygote.spawn(f"w{landed}")

            llm.on_request = on_request
            while landed < KILLS:
                run = await ended(api, await a_run(api))
                assert run["status"] == "completed", run["error"]
                assert run["steps"][0]["output"]["text"] == "done after 20"
                sends = check_effects(database, UUID(run["id"]))
                for key, count in sends.items():
                    assert llm.keys[key] <= count, f"{key} was asked {llm.keys[key]} times and sent {count}"
    assert landed >= KILLS


def check_effects(database: Database, run: UUID) -> dict[str, int]:
    """Return how often each call of the model was sent; none came to the tool twice but under its own key."""
    rows = database.execute(
        "select name, key, sends, state from effects where run_id = %s and name in ('llm', 'work') order by no", run
    )
    models = [row for row in rows if row[0] == "llm"]
    tools = [row for row in rows if row[0] == "work"]
    assert (len(models), len(tools)) == (21, 20)
    assert {row[3] for row in rows} == {"done"}
    worked = dict(database.execute("select key, count(*)::int from worked group by key"))
    for _, key, sends, _ in tools:
        assert 1 <= worked[key] <= sends  # type: ignore[operator]
    return {str(key): int(str(sends)) for _, key, sends, _ in models}


async def test_one_budget_for_many_branches_is_never_overshot_though_workers_die(
    settings: Settings, database: Database, tmp_path: Path
) -> None:
    rng = random.Random(3)
    async with provider(calls=3, delay_s=0.01) as llm, serving(settings) as api:
        async with workers(database, llm, tmp_path, MAX_CONCURRENT_TASKS="32") as zygote:
            pids = [zygote.spawn(f"w{i}") for i in range(2)]
            steps = [
                {"name": f"b{i}", "kind": "agent", "maxCrashes": 1000,
                 "input": {"pattern": "pipeline", "llm": "default", "tools": ["work"], "max_tokens": 100}}
                for i in range(64)
            ]  # fmt: skip
            run = await api.start(*steps, budget={"tokens": CAP, "onLimit": "pause"})
            most, kills = 0, 0
            while True:
                (row,) = database.execute("select spent, reserved from budgets where meter = 'tokens'")
                most = max(most, int(str(row[0])) + int(str(row[1])))
                status = (await api.http.get(f"/runs/{run}")).json()["status"]
                if status in ("paused", "completed"):
                    break
                if kills < 4 and row[1] and len(llm.came) > 20 * (kills + 1):
                    victim = pids.pop(rng.randrange(len(pids)))
                    os.kill(victim, signal.SIGKILL)
                    kills += 1
                    pids.append(zygote.spawn(f"x{kills}"))
            assert kills == 4
            while True:  # what was under way when it was paused goes to its end
                (row,) = database.execute("select count(*) from queue where state = 'leased'")
                if row[0] == 0:
                    break
                await asyncio.sleep(0.02)
            ((cap, spent, reserved),) = database.execute(
                "select cap, spent, reserved from budgets where meter = 'tokens'"
            )
        assert most <= CAP
        assert int(str(spent)) <= int(str(cap))
        assert reserved == 0


@pytest.mark.parametrize("limits", [{"requests_per_minute": 1200}, {"concurrency": 3}])
async def test_eight_workers_keep_to_the_limits_of_one_credential(
    settings: Settings, database: Database, tmp_path: Path, limits: dict[str, int]
) -> None:
    # The provider has a thread of its own, so that what it notes is when a request came, not when this loop had time.
    with stub(calls=3, delay_s=0.02) as llm:
        await limited(settings, database, tmp_path, limits, llm)


async def limited(settings: Settings, database: Database, tmp_path: Path, limits: dict[str, int], llm: Llm) -> None:
    async with serving(settings) as api:
        await an_agent(api, tools=["work"])
        answer = await api.http.put("/gates/provider:openai", json=limits)
        assert answer.status_code == 200
        async with workers(database, llm, tmp_path) as zygote:
            for i in range(8):
                zygote.spawn(f"w{i}")
            runs = [await a_run(api) for _ in range(16)]
            for run in runs:
                assert (await ended(api, run))["status"] == "completed"
    times = sorted(at for at, _ in llm.came)
    assert len(times) == 64
    if "concurrency" in limits:
        assert llm.most_at_once <= 3
    else:
        # Any three seconds: how long a request is on its way differs from one to the next on a busy machine.
        assert max(sum(first <= at < first + 3.0 for at in times) for first in times) <= 3 * 20


async def test_after_a_429_nobody_asks_before_its_time(settings: Settings, database: Database, tmp_path: Path) -> None:
    held: list[float] = []

    def refuse() -> tuple[int, dict[str, str]] | None:
        if len(llm.came) == 12:
            held.append(llm.came[-1][0])
            return 429, {"Retry-After": "2"}
        return None

    async with provider(calls=3, delay_s=0.05, refuse=refuse) as llm, serving(settings) as api:
        await an_agent(api)
        async with workers(database, llm, tmp_path) as zygote:
            for i in range(4):
                zygote.spawn(f"w{i}")
            runs = [await a_run(api) for _ in range(12)]
            for run in runs:
                assert (await ended(api, run))["status"] == "completed"
    said = held[0]
    # What had been committed as sent when the refusal was heard may still come; after that nothing does.
    intended = database.execute(
        "select count(*) from effects where name = 'llm' and at > to_timestamp(%s) and at < to_timestamp(%s)",
        said + 0.25,
        said + 2.0,
    )
    assert intended == [(0,)]
    assert not [at for at, _ in llm.came if said + 0.5 < at < said + 2.0]


async def test_cancel_stops_the_call_of_a_model_and_books_what_is_known(
    settings: Settings, database: Database, tmp_path: Path
) -> None:
    async with provider(calls=1, delay_s=60.0) as llm, serving(settings) as api:
        await an_agent(api)
        asked = asyncio.Event()

        async def on_request(key: str) -> None:
            asked.set()

        llm.on_request = on_request
        async with workers(database, llm, tmp_path) as zygote:
            zygote.spawn("w")
            run = await a_run(api, budget={"tokens": 5000})
            await asked.wait()
            before = (await api.http.get(f"/runs/{run}/budget")).json()["limits"][0]
            assert before["reserved"] > 0
            assert (await api.http.post(f"/runs/{run}/cancel")).status_code == 202
            assert (await ended(api, run))["status"] == "cancelled"
            after = (await api.http.get(f"/runs/{run}/budget")).json()["limits"][0]
            assert after["reserved"] == 0
            assert after["spent"] <= before["reserved"]
