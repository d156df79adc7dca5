"""LangGraph's saver under a lease, on a real PostgreSQL: conformance, the fence, the tables."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.conformance.test_utils import generate_checkpoint, generate_config, generate_metadata
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from durable_agent.agents.langgraph import FencedSaver, checkpointer, setup
from durable_agent.core.records import Claim
from durable_agent.db.pool import Connection
from durable_agent.db.together import Together
from durable_agent.engine.fence import Fence
from durable_agent.engine.forget import forget
from durable_agent.errors import FatalError, LeaseLost, SchemaMismatch
from tests.agents.stage import Stage, stage_on
from tests.support.postgres import Database
from tests.support.runs import Engine, run_of, step


@pytest.fixture
async def stage(engine: Engine, database: Database) -> Stage:
    await setup(database.url)
    return await stage_on(engine, database)


async def saver_of(stage: Stage, claim: Claim, **more: Any) -> FencedSaver:
    return await checkpointer(stage.context(claim), **more)


def rows(database: Database) -> list[Any]:
    """Return all that the checkpoint tables hold."""
    tables = ("checkpoints", "checkpoint_writes", "checkpoint_blobs", "step_effects")
    return [sorted(map(str, database.execute(f"select * from langgraph.{table}"))) for table in tables]


async def put(saver: FencedSaver, thread: str, **values: Any) -> Any:
    """Store a checkpoint with these values, each at a version of its own."""
    versions: Any = dict.fromkeys(values, str(uuid4()))
    checkpoint = generate_checkpoint(channel_values=values, channel_versions=versions)
    return await saver.aput(generate_config(thread), checkpoint, generate_metadata(run_id="r"), versions)


async def kept(saver: FencedSaver, thread: str) -> Any:
    """Return the values of a thread's latest checkpoint."""
    found = await saver.aget_tuple(generate_config(thread))
    return found.checkpoint["channel_values"] if found else None


WRITES: dict[str, Callable[[FencedSaver, str, Any], Any]] = {
    "aput": lambda saver, thread, config: put(saver, thread, x=[1]),
    "aput_writes": lambda saver, thread, config: saver.aput_writes(config, [("x", 1)], str(uuid4())),
    "adelete_thread": lambda saver, thread, config: saver.adelete_thread(thread),
    "acopy_thread": lambda saver, thread, config: saver.acopy_thread(thread, str(uuid4())),
    "aprune": lambda saver, thread, config: saver.aprune([thread]),
    "aprune all": lambda saver, thread, config: saver.aprune([thread], strategy="delete"),
    "adelete_for_runs": lambda saver, thread, config: saver.adelete_for_runs(["r"]),
}


async def test_the_conformance_suite_passes_in_full_while_a_zombie_writes(stage: Stage) -> None:
    zombie = await saver_of(stage, await stage.claim())
    saver = await saver_of(stage, await stage.claim_again())
    refused: list[str] = []

    async def harm() -> None:
        """Do to every thread there is whatever a saver can do."""
        while True:
            for (thread,) in stage.database.execute("select distinct thread_id from langgraph.checkpoints"):
                for name, write in WRITES.items():
                    config = generate_config(str(thread), checkpoint_id="1")
                    with pytest.raises(LeaseLost):
                        await write(zombie, str(thread), config)
                    refused.append(name)
            await asyncio.sleep(0)

    @checkpointer_test(name="fenced")
    async def factory() -> AsyncIterator[FencedSaver]:
        await put(saver, str(uuid4()), x=[1])
        yield saver

    async with asyncio.TaskGroup() as group:
        task = group.create_task(harm())
        report = await validate(factory)
        task.cancel()
    found = {name: (one.tests_passed, one.tests_failed, one.failures) for name, one in report.results.items()}
    assert all(passed and not failed for passed, failed, _ in found.values()), found
    assert len(found) == 8
    assert report.passed_all()
    assert set(refused) == set(WRITES)


@pytest.mark.parametrize("name", WRITES)
async def test_a_saver_whose_lease_is_gone_writes_nothing(stage: Stage, name: str) -> None:
    saver = await saver_of(stage, await stage.claim())
    config = await put(saver, "t", x=[1])
    await put(saver, "t", x=[2])
    before = rows(stage.database)
    await stage.claim_again()
    with pytest.raises(LeaseLost):
        await WRITES[name](saver, "t", config)
    assert rows(stage.database) == before
    assert await kept(saver, "t") == {"x": [2]}  # reading needs no lease


async def test_a_lease_is_not_taken_away_in_the_middle_of_a_write(stage: Stage) -> None:
    claim = await stage.claim()
    begun, go_on = asyncio.Event(), asyncio.Event()

    class Slow(Fence):
        @asynccontextmanager
        async def transaction(self) -> AsyncIterator[Connection]:
            async with super().transaction() as conn:
                await (await conn.execute("select 1")).fetchone()  # what is gathered goes out with the first question
                begun.set()
                await go_on.wait()
                yield conn

    pools = stage.engine.pools
    first = await saver_of(stage, claim)
    config = await put(first, "t", x=[1])
    saver = FencedSaver(fenced=lambda: Slow(pools, claim.lease, Together(pools)), reading=pools.reading)
    async with asyncio.TaskGroup() as group:
        group.create_task(saver.aput_writes(config, [("x", 2)], "task"))
        await begun.wait()
        with (
            psycopg.connect(stage.database.url, autocommit=True) as conn,
            pytest.raises(psycopg.errors.LockNotAvailable),
        ):
            conn.execute("select 1 from queue for update nowait")
        # Meanwhile savers of other attempts go on: nothing is shared but the pool.
        other = await saver_of(stage, claim)
        await put(other, "u", x=[2])
        assert await kept(other, "u") == {"x": [2]}
        assert stage.database.execute("select count(*) from langgraph.checkpoint_writes") == [(0,)]
        go_on.set()
    assert stage.database.execute("select count(*) from langgraph.checkpoint_writes") == [(1,)]


async def test_checkpoints_of_several_attempts_are_committed_together_and_each_is_refused_by_itself(
    engine: Engine,
) -> None:
    await setup(engine.url)
    for _ in range(7):
        await engine.submit(run_of(step("a")))
    zombie, hand, pools = engine.hand(), engine.hand(), engine.pools
    (lost,) = await zombie.claim(1)
    zombie.beat(ttl_s=-1)
    await engine.reap()
    claims = [lost, *await hand.claim(7)]
    together = Together(pools)
    savers = [
        FencedSaver(fenced=lambda claim=claim: Fence(pools, claim.lease, together), reading=pools.reading)
        for claim in claims
    ]
    values: list[Any] = [{"x": [1]}, {"text": "nul \x00"}, *({"x": [1]} for _ in savers[2:])]
    values[7] = {"x": ["y" * 100_000]}  # too large to go with others
    with psycopg.connect(engine.url) as other:
        # One whose lease somebody is about to end, and one whose thread somebody prunes: they wait, and keep nobody waiting.
        run, thread = claims[2].lease.run_id, "3"
        other.execute("select from queue where run_id = %s for update", (run,))
        other.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", (thread,))
        puts = [
            asyncio.create_task(put(saver, str(no), **given))
            for no, (saver, given) in enumerate(zip(savers, values, strict=True))
        ]
        done = await asyncio.gather(puts[0], puts[1], *puts[4:], return_exceptions=True)
        assert [type(one) for one in done] == [LeaseLost, FatalError, *[dict] * 4]
        await engine.blocked(2)
        other.rollback()
    await asyncio.gather(*puts[2:4])
    with psycopg.connect(engine.url) as conn:
        found = conn.execute("select thread_id from langgraph.checkpoints order by 1").fetchall()
    assert found == [("2",), ("3",), ("4",), ("5",), ("6",), ("7",)]


@pytest.mark.parametrize(
    ("values", "together"),
    [({"x": [1]}, True), ({"x": ["y" * 100_000]}, False), ({"text": "y" * 100_000}, False)],
)
async def test_a_large_checkpoint_goes_alone_wherever_its_size_lies(
    stage: Stage, values: dict[str, Any], together: bool
) -> None:
    claim, ran = await stage.claim(), list[str]()

    class Told(Together):
        async def run(self, query: str, params: Any) -> list[Any]:
            ran.append(query)
            return await super().run(query, params)

    pools = stage.engine.pools
    await saver_of(stage, claim)
    fence = Fence(pools, claim.lease, Told(pools))
    saver = FencedSaver(fenced=lambda: fence, reading=pools.reading)
    await put(saver, "t", **values)
    assert bool(ran) is together
    assert await kept(saver, "t") == values


async def test_the_effects_of_a_task_are_done_with_when_its_own_writes_are_stored(stage: Stage) -> None:
    claim, go_on = await stage.claim(), threading.Event()

    class Slow(JsonPlusSerializer):
        def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
            if obj == "held":
                go_on.wait()
            return super().dumps_typed(obj)

    saver = await saver_of(stage, claim)
    config = await put(saver, "t", x=[1])
    saver = FencedSaver(
        fenced=lambda: stage.context(claim).link.fenced(claim), reading=stage.engine.pools.reading,
        effects_of={"a": (1,), "b": (2,)}.__getitem__,
    )  # fmt: skip
    saver.serde = Slow()
    held = asyncio.create_task(saver.aput_writes(config, [("x", "held")], "a"))
    await asyncio.sleep(0)  # it is begun, and waits for its writes to be serialised
    await saver.aput_writes(config, [("x", "at once")], "b")
    assert await saver.effects("t") == {2}
    go_on.set()
    await held
    assert await saver.effects("t") == {1, 2}


async def test_nothing_is_written_past_the_fence(stage: Stage) -> None:
    saver = await saver_of(stage, await stage.claim())
    await put(saver, "t", x=[1])
    for pipeline in (False, True):
        with pytest.raises(RuntimeError, match="no fence"):
            async with saver._cursor(pipeline=pipeline) as cursor:
                await cursor.execute("delete from checkpoints")
    assert await kept(saver, "t") == {"x": [1]}


async def test_a_thread_is_pruned_when_nobody_writes_to_it(stage: Stage) -> None:
    saver = await saver_of(stage, await stage.claim())
    await put(saver, "t", x=[1])
    with psycopg.connect(stage.database.url) as writer:
        writer.execute("select pg_advisory_xact_lock_shared(hashtextextended('t', 0))")
        pruning = asyncio.create_task(saver.aprune(["t"]))
        waits = "select count(*) from pg_locks where locktype = 'advisory' and not granted"
        while stage.database.execute(waits) == [(0,)]:
            assert not pruning.done()
            await asyncio.sleep(0)
        copied = "insert into langgraph.checkpoints select thread_id, '', 'z', null, null, checkpoint, metadata"
        writer.execute(copied.encode() + b" from langgraph.checkpoints")
        writer.commit()
    await pruning
    assert stage.database.execute("select checkpoint_id from langgraph.checkpoints") == [("z",)]


@dataclass
class Own:
    """A type of an author's."""

    n: int


async def test_only_what_is_allowed_is_made_again(stage: Stage) -> None:
    claim = await stage.claim()
    strict, allowing = await saver_of(stage, claim), await saver_of(stage, claim, allow=[Own])
    await put(strict, "t", own=Own(1), big=2**70 + 1, text="plain")
    assert await kept(strict, "t") == {"own": {"n": 1}, "big": 2**70 + 1, "text": "plain"}
    assert (await kept(allowing, "t"))["own"] == Own(1)


async def test_what_postgresql_cannot_store_is_final(stage: Stage) -> None:
    saver = await saver_of(stage, await stage.claim())
    with pytest.raises(FatalError, match="cannot be stored"):
        await put(saver, "t", text="nul \x00")


async def test_the_tables_are_made_by_any_number_at_once_and_mended(database: Database, engine: Engine) -> None:
    saver = FencedSaver(fenced=lambda: pytest.fail("nothing is written"), reading=engine.pools.reading)
    with pytest.raises(SchemaMismatch, match="setup"):
        await saver.aget_tuple(generate_config("t"))
    await asyncio.gather(*(setup(database.url) for _ in range(4)))
    database.execute("delete from langgraph.checkpoint_migrations where v = 6")
    made = "select count(*) from pg_index i join pg_class c on c.oid = i.indexrelid where c.relnamespace = 'langgraph'::regnamespace"
    before = database.execute(made)
    database.execute("drop index langgraph.checkpoints_thread_id_idx")
    database.execute(
        "insert into langgraph.checkpoints values ('t', '', '1', null, null, '{}'), ('t', '', '2', null, null, '{}')"
    )
    with psycopg.connect(database.url, autocommit=True) as conn, pytest.raises(psycopg.errors.UniqueViolation):
        conn.execute("create unique index concurrently checkpoints_thread_id_idx on langgraph.checkpoints (thread_id)")
    database.execute("delete from langgraph.checkpoint_migrations where v >= 6")
    await setup(database.url)
    assert database.execute(made) == before
    assert database.execute(made + " and not i.indisvalid") == [(0,)]


async def test_what_graphs_of_dropped_runs_kept_is_forgotten(stage: Stage) -> None:
    claim = await stage.claim()
    saver, run = await saver_of(stage, claim), stage.engine.runs[0]
    kept = ["by an author", f"{run}/play", f"{run}/play/second", "01234567/short"]
    # Before the run's and after it, and more than fit one look.
    gone = [f"{first}0000000-0000-7000-8000-00000000000{n}/play" for first in "0f" for n in range(3)]
    for thread in kept:
        await put(saver, thread, x=[1])
    before = rows(stage.database)
    for thread in gone:
        await saver.aput_writes(await put(saver, thread, x=[1]), [("x", 1)], str(uuid4()))
        stage.database.execute("insert into langgraph.step_effects values (%s, 1)", thread)
    async with stage.engine.pools.transaction() as conn:
        with psycopg.connect(stage.database.url) as other:
            other.execute("select pg_advisory_xact_lock(hashtext('durable_agent.langgraph'))")
            assert await forget(conn, threads=2) == 0
        assert await forget(conn, threads=2) == len(gone)
        assert rows(stage.database) == before
        assert await forget(conn) == 0
        await stage.hand.succeed(claim)
        stage.database.move_clock(45 * 86_400.0)
        await stage.engine.upkeep.keep_partitions(conn)
        assert await forget(conn) == 2
    assert stage.database.execute("select distinct thread_id from langgraph.checkpoints order by 1") == [
        ("01234567/short",), ("by an author",),
    ]  # fmt: skip
    stage.engine.runs.clear()


async def test_a_database_without_graphs_has_none_to_forget(engine: Engine) -> None:
    async with engine.pools.transaction() as conn:
        assert await forget(conn) == 0


def test_what_is_not_installed_is_named() -> None:
    code = "import sys; sys.modules['langgraph.checkpoint.postgres.aio'] = None; import durable_agent.agents.langgraph"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert 'pip install "durable-agent[langgraph]"' in done.stderr.splitlines()[-1]
