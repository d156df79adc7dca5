"""Doctor: silent on a sound engine, and every kind of defect planted in the tables is found by its own check."""

from __future__ import annotations

from uuid import UUID

import pytest
from psycopg.conninfo import make_conninfo

from durable_agent.core.outcomes import Emitted, Failed
from durable_agent.core.records import DEFAULT_TENANT, FailureClass, RetryPolicy
from durable_agent.engine import control
from durable_agent.engine.health import Finding, Level, examine, registered
from durable_agent.errors import DatabaseUnavailable
from tests.support.postgres import Database
from tests.support.runs import Engine, ok, run_of, step

# The suite's server runs without durability, and doctor must say so: see the test of it.
OF_THE_SUITE = {"durability"}


async def doctor(database: Database, *, direct_url: str | None = None) -> dict[str, Finding]:
    """Return the findings by check."""
    return {f.check: f for f in await examine(database.url, direct_url or database.url, runs=None)}


async def half_done(engine: Engine) -> UUID:
    """Start a run and leave it so: a succeeded, b runs, c waits for b, d is ready, e waits for c and d."""
    run = await engine.submit(run_of(step("a"), step("b", "a"), step("c", "b"), step("d", "a"), step("e", "c", "d")))
    hand = engine.hand()
    (a,) = await hand.claim()
    await hand.succeed(a, {"rows": 3})
    assert [claim.name for claim in await hand.claim(1)] == ["b"]
    return run


async def test_a_sound_engine_has_no_findings(engine: Engine, database: Database) -> None:
    await half_done(engine)
    hand = engine.hand()
    never = RetryPolicy(max_attempts=1)
    for failing in (False, True):
        await engine.submit(run_of(step("a", retry=never), step("b", "a")))
        for _ in range(2):
            for claim in await hand.claim(1):
                await (hand.fail(claim, FailureClass.BUG) if failing else hand.settle(ok(claim)))
    findings = await doctor(database)
    bad = {check: finding for check, finding in findings.items() if finding.level is not Level.OK}
    assert set(bad) == OF_THE_SUITE
    assert findings["histories"].fact.startswith("3 runs")
    assert all(finding.advice == "" for check, finding in findings.items() if check not in OF_THE_SUITE)


async def test_what_only_the_history_checker_derives_is_found_too(engine: Engine, database: Database) -> None:
    engine.runs.remove(run := await engine.submit(run_of(step("a"))))
    (claim,) = await engine.hand("w0").claim()
    await engine.hand("w1").succeed(claim)  # the rows and the fold have nothing against a token that was passed on
    finding = (await doctor(database))["histories"]
    assert (finding.level, finding.fact) == (
        Level.FAIL, f"1 faults in 1 runs: run {run}: I2: step 'a': step.succeeded by w1, and w0 holds the lease"
    )  # fmt: skip


PLANTED = {
    "a waiting step whose parents are done": (
        "stranded steps",
        "update steps set status = 'pending' where name = 'd'; delete from queue where no = 3",
    ),
    "a step that waits for one too few": ("dependency counts", "update steps set deps_left = 1 where name = 'e'"),
    "a queue row of an ended run": (
        "orphaned queue rows",
        "update runs set status = 'cancelled', finished_at = engine_now()",
    ),
    "a queue row of no run": ("orphaned queue rows", "update queue set run_id = gen_random_uuid() where no = 3"),
    "a queued step without its queue row": ("orphaned queue rows", "delete from queue where no = 3"),
    "a lease of an unknown session": ("ownerless leases", "delete from workers"),
    "a lease that nobody took back": (
        "ownerless leases",
        "update workers set lease_until = engine_now() - interval '2 min'",
    ),
    "a run that counts its steps wrong": ("step counts", "update runs set steps_left = steps_left - 1"),
    "an event edited": ("histories", "update events set data = '{\"claim_no\":2}' where seq = 4"),
    "an event's detail edited": ("histories", 'update events set detail = \'{"goal":"x"}\' where seq = 1'),
    "an event's time edited": ("histories", "update events set at = at + interval '1 us' where seq = 2"),
    "an event deleted": ("histories", "delete from events where seq = 3"),
    "the tail cut": ("histories", "delete from events where seq = (select max(seq) from events)"),
    "two events exchanged": (
        "histories",
        "update events set seq = 1000 where seq = 2; update events set seq = 2 where seq = 3;"
        " update events set seq = 3 where seq = 1000",
    ),
    "a status without its event": ("histories", "update runs set status = 'paused'"),
    "an output that was not recorded": ("histories", "update steps set output = '{\"rows\":4}' where name = 'a'"),
    "a claim that was not recorded": ("histories", "update queue set claim_no = 7 where state = 'leased'"),
    "an edge removed": ("histories", "update steps set parents = '{3}', deps_left = 1 where name = 'e'"),
    "a step renamed": ("histories", "update steps set name = 'x' where name = 'c'"),
}


@pytest.mark.parametrize("planted", PLANTED)
async def test_a_planted_defect_is_found(engine: Engine, database: Database, planted: str) -> None:
    check, statements = PLANTED[planted]
    await half_done(engine)
    engine.runs.clear()  # its history does not fit its rows, and must not
    for statement in statements.split("; "):
        database.execute(statement)
    finding = (await doctor(database))[check]
    assert finding.level is Level.FAIL, finding
    assert finding.advice


async def test_a_finding_names_the_run(engine: Engine, database: Database) -> None:
    run = await half_done(engine)
    engine.runs.clear()
    database.execute("delete from events where seq = 3")
    assert f"run {run}: event 3 is missing" in (await doctor(database))["histories"].fact


async def test_work_that_nobody_takes_is_a_warning(engine: Engine, database: Database) -> None:
    await engine.submit(run_of(step("a", tool="charge_card", queue="payments")))
    engine.hand()
    assert (await doctor(database))["ready steps"].level is Level.OK
    database.execute("update queue set queued_at = queued_at - interval '2 min'")
    finding = (await doctor(database))["ready steps"]
    assert finding.level is Level.WARN
    assert "'charge_card' in queue 'payments'" in finding.fact


async def test_a_clock_that_was_moved_is_a_warning(database: Database) -> None:
    database.move_clock(5)
    assert (await doctor(database))["clock"].level is Level.WARN


async def test_missing_and_default_partitions_are_warnings(database: Database) -> None:
    database.execute(
        "insert into events (tenant, run_id, seq, at, type, hash, data)"
        " values (1, 'ffffffff-ffff-7fff-8fff-ffffffffffff', 1, now(), 'x', '', '{}')"
    )
    for (table,) in database.execute("select relname from pg_class where relname like 'runs\\_w%' and relkind = 'r'"):
        database.execute(f"drop table {table}")
    findings = await doctor(database)
    assert (findings["partitions"].level, findings["default partition"].level) == (Level.WARN, Level.WARN)


async def test_a_server_without_durability_and_a_superuser_are_told(database: Database) -> None:
    as_superuser = Database(make_conninfo(database.url, user="postgres"))
    findings = await doctor(as_superuser)
    assert findings["durability"].level is Level.FAIL
    assert "fsync" in findings["durability"].fact
    assert findings["role"].level is Level.WARN


async def test_another_schema_is_all_that_is_told(database: Database) -> None:
    database.execute("update alembic_version set version_num = '9999'")
    assert {check: f.level for check, f in (await doctor(database)).items()} == {"schema": Level.FAIL}


async def test_a_direct_url_that_leads_nowhere_is_found(database: Database) -> None:
    finding = (await doctor(database, direct_url=make_conninfo(database.url, port="1")))["pooler"]
    assert finding.level is Level.FAIL


async def test_no_database_is_unavailable() -> None:
    nowhere = "postgresql://nobody@127.0.0.1:1/nothing"
    with pytest.raises(DatabaseUnavailable):
        await examine(nowhere, nowhere, runs=None)


async def test_registered_means_every_process_of_this_machine(engine: Engine) -> None:
    engine.hand()  # host "here", process 1
    assert await registered(engine.pools, "here", [1])
    assert await registered(engine.pools, "here", [])
    assert not await registered(engine.pools, "here", [1, 2])
    assert not await registered(engine.pools, "here", [1, None])
    assert not await registered(engine.pools, "elsewhere", [1])


async def test_what_may_have_to_be_erased_is_no_part_of_the_chain(engine: Engine, database: Database) -> None:
    """A person's words and an error's message lie beside the event: erasing them leaves a history that verifies."""
    run = await engine.submit(run_of(step("a"), goal="a secret goal"))
    hand = engine.hand()
    (claim,) = await hand.claim()
    await hand.settle(Emitted(claim.lease, "note", "a secret note"))
    await hand.settle(Failed(claim.lease, FailureClass.TRANSIENT, "Error", "a secret message"))
    await control.cancel(engine.pools, DEFAULT_TENANT, run, actor="me", reason="a secret reason")
    secrets = "select count(*) from events where {}::text like '%secret%'"
    assert database.execute(secrets.format("detail")) == [(4,)]
    assert database.execute(secrets.format("data")) == [(0,)]
    database.execute("update events set detail = null")
    await engine.assert_sound()
