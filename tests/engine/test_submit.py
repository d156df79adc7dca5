"""Submit: whole or not at all, once per key."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import psycopg
import pytest

from durable_agent.core.records import DEFAULT_TENANT
from durable_agent.db.doorbell import Bell
from durable_agent.engine.fork import LIVE, Edit, fork
from durable_agent.engine.submit import Submission, Submitted, Submitter, submit
from durable_agent.errors import GraphInvalid, InvalidRequest, KeyReused, PayloadRejected
from tests.support.postgres import Database
from tests.support.runs import Engine, run_of, step


async def test_equal_keys_at_once_make_one_run(engine: Engine) -> None:
    async def one() -> object:
        return (await submit(engine.pools, DEFAULT_TENANT, [Submission(run_of(step("a")), "key", b"same")]))[0]

    found = await asyncio.gather(*(one() for _ in range(16)))
    assert len({submitted.run_id for submitted in found}) == 1  # type: ignore[attr-defined]
    assert sum(submitted.created for submitted in found) == 1  # type: ignore[attr-defined]


async def test_a_key_with_another_body_is_refused(engine: Engine) -> None:
    await engine.submit(run_of(step("a")), "key", b"one")
    with pytest.raises(KeyReused, match="'key'"):
        await engine.submit(run_of(step("b")), "key", b"two")


async def test_a_batch_with_one_bad_run_stores_none(engine: Engine, database: Database) -> None:
    good, bad = Submission(run_of(step("a"))), Submission(run_of(step("a", "nowhere")))
    with pytest.raises(GraphInvalid, match="nowhere"):
        await submit(engine.pools, DEFAULT_TENANT, [good, bad])
    assert database.execute("select count(*) from runs") == [(0,)]


async def test_a_tool_nobody_offers_is_accepted_with_a_warning(engine: Engine) -> None:
    (done,) = await submit(engine.pools, DEFAULT_TENANT, [Submission(run_of(step("a", tool="nobody")))])
    assert "nobody" in done.warnings[0]
    engine.hand(tools=["somebody"])
    (known,) = await submit(engine.pools, DEFAULT_TENANT, [Submission(run_of(step("a", tool="somebody")))])
    assert known.warnings == ()


async def test_a_run_whose_roots_are_all_skipped_is_completed_at_once(engine: Engine) -> None:
    run = await engine.submit(run_of(step("a", when="input.go"), step("b", "a"), input={"go": False}))
    assert (await engine.run(run))["status"] == "completed"
    assert await engine.statuses(run) == {"a": "skipped", "b": "skipped"}


async def test_a_root_condition_that_cannot_be_decided_fails_the_run(engine: Engine) -> None:
    run = await engine.submit(run_of(step("a", when="input.missing"), step("b"), input={}))
    assert (await engine.run(run))["error"] == {"step": "a", "reason": "condition_error"}
    assert await engine.statuses(run) == {"a": "dead_letter", "b": "cancelled"}


async def test_a_batch_with_a_key_that_is_taken_stores_none(engine: Engine, database: Database) -> None:
    await engine.submit(run_of(step("a")), "a key", b"one body")
    batch_of = [Submission(run_of(step("b"))), Submission(run_of(step("c")), "a key", b"another body")]
    with pytest.raises(KeyReused):
        await submit(engine.pools, DEFAULT_TENANT, batch_of)
    assert database.execute("select count(*) from runs") == [(1,)]


async def test_what_is_wrong_with_one_of_a_group_it_alone_is_told(engine: Engine, database: Database) -> None:
    deep: Any = 1
    for _ in range(300):
        deep = [deep]
    specs = [run_of(step("good")) for _ in range(12)]
    specs[1] = run_of(step("nul", tool="x\x00"))
    specs[5] = run_of(step("large", tool=secrets.token_hex(20_000)))
    specs[10] = run_of(step("deep"), metadata={"a": deep})
    submitter = Submitter(engine.pools, Bell(engine.pools, enabled=False))
    asked = [asyncio.create_task(submitter.submit(DEFAULT_TENANT, Submission(spec))) for spec in specs]
    await asyncio.sleep(0)  # all of them wait before the first commit begins
    committing = asyncio.create_task(submitter.run())
    done = await asyncio.gather(*asked, return_exceptions=True)
    committing.cancel()
    assert {no: type(one) for no, one in enumerate(done) if not isinstance(one, Submitted)} == {
        1: psycopg.DataError, 5: PayloadRejected, 10: TypeError,
    }  # fmt: skip
    stored = {row[0] for row in database.execute("select id from runs")}
    assert stored == {one.run_id for one in done if isinstance(one, Submitted)}


# The square of this many items is just within what one evaluation may go through.
LONG, ITEMS = "input.l.all(a, input.l.all(b, a + b >= 0))", {"l": list(range(90))}


async def test_conditions_that_take_too_long_together_are_refused_by_the_step_they_came_to(engine: Engine) -> None:
    steps = [step(f"s{no}", when=LONG) for no in range(8000)]
    with pytest.raises(InvalidRequest, match=r"reached at step 's\d+'") as refused:
        await submit(engine.pools, DEFAULT_TENANT, [Submission(run_of(*steps, input=ITEMS))])
    assert refused.value.facts["step"].startswith("s")
    run = await engine.submit(run_of(*steps[:3], input=ITEMS))
    assert set((await engine.statuses(run)).values()) == {"ready"}


async def test_so_are_those_that_take_too_long_to_compile(engine: Engine) -> None:
    long = " && ".join(f"input.x[{no}].y == {no}" for no in range(80))
    steps = [step(f"s{no}", when=f"input.n == {no} && {long}") for no in range(1000)]
    with pytest.raises(InvalidRequest, match=r"reached at step 's\d+'"):
        await submit(engine.pools, DEFAULT_TENANT, [Submission(run_of(*steps, input={}))])


async def test_so_are_those_of_a_fork(engine: Engine) -> None:
    steps = [step(f"s{no}", "a", when=LONG) for no in range(8000)]
    run = await engine.submit(run_of(step("a"), *steps, input=ITEMS))
    given = Edit(has_output=True, output=1)
    with pytest.raises(InvalidRequest, match=r"reached at step 's\d+'"):
        await fork(engine.pools, DEFAULT_TENANT, run, start="a", mode=LIVE, edits={"a": given}, by="me")


async def test_a_graph_with_conditions_is_planned_beside_the_event_loop(engine: Engine) -> None:
    submitter = Submitter(engine.pools, Bell(engine.pools, enabled=False))
    plain = asyncio.create_task(submitter.submit(DEFAULT_TENANT, Submission(run_of(step("a", "nowhere")))))
    other = asyncio.create_task(submitter.submit(DEFAULT_TENANT, Submission(run_of(step("a", "nowhere", when=LONG)))))
    await asyncio.sleep(0)
    assert (plain.done(), other.done()) == (True, False)  # whatever the thread did, its answer is not here yet
    for task in (plain, other):
        with pytest.raises(GraphInvalid, match="nowhere"):
            await task
