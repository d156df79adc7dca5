"""The statements as a whole: every worker's write is fenced, every key begins with the tenant, hot plans are look-ups."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from durable_agent.db.pool import ENGINE_SETTINGS
from durable_agent.db.reads import READS
from durable_agent.db.sql import load, parse
from durable_agent.engine.caps import AGENTS
from durable_agent.engine.journal import JOURNAL, QUEUE
from durable_agent.engine.spend import BUDGETS
from tests.support.postgres import Database
from tests.support.runs import Engine, run_of, step

FAMILIES = sorted(path.name.removesuffix(".sql") for path in (files("durable_agent.db") / "sql").iterdir())
EVERY = {(family, name): text for family in FAMILIES for name, text in load(family).texts.items()}

# Who else may write a queue or step row, and why no lease is asked: each holds the run's lock and acts for no attempt.
NOT_BY_WORKERS = {
    "lease_steps": "makes the lease; guarded by the claim number seen",
    "enqueue_steps": "a new row",
    "look": "moves no step, only its place in the queue",
    "resolve_steps": "pending steps have no lease",
    "cancel_steps": "control: ends every lease of the run",
    "hold_steps": "control: touches no leased row",
    "unhold_steps": "control: touches no leased row",
    "add_steps": "new rows",
    "wake_step": "an answer: a waiting step has no lease",
    "mark_undone": "steps that succeeded have no lease",
    "doubt_effects": "control: the run's end, which ends every lease of it",
    "settle_effect": "a person's word: a waiting step has no lease",
    "charge_steps": "what a lease that ends held is charged, in the transaction that ends it",
    "charge_runs": "the run's end, which ends every lease of it",
    "book": "asks for the effect's own key and the claim that made it; only lowers what was charged",
    "under_way": "under the runs' locks; touches no effect of a live lease",
    "leave_doubt": "of steps that the same transaction ended under the fence",
    "release_capped": "a run that has not begun has no lease",
    "forget": "redrive", "revive": "redrive", "recount": "redrive", "enqueue": "redrive",
}  # fmt: skip
WRITES = re.compile(r"\b(update|insert into|delete from)\s+(queue|steps|effects|artifacts)\b")


def test_every_statement_that_ends_an_attempt_carries_the_fence() -> None:
    fenced = set()
    for (family, name), text in EVERY.items():
        if WRITES.search(text) and name not in NOT_BY_WORKERS:
            assert re.search(r"k\.claim_no = \w\.claim_no and k\.token = \w\.token", text), (
                f"{family}.{name} has no fence"
            )
            fenced.add(name)
    assert fenced == {"finish_steps", "requeue_steps", "intend_effects", "record_effects", "store_artifacts"}


def test_a_statement_of_that_name_exists_for_every_exception() -> None:
    names = {name for _, name in EVERY}
    assert set(NOT_BY_WORKERS) <= names


def test_every_statement_on_tenant_rows_names_the_tenant() -> None:
    tables = re.compile(
        r"\b(?:from|join|update|into)\s+(runs|steps|queue|events|dead_letters|idempotency_keys|routes)\b"
    )
    # Those that look over all tenants on purpose: the process's upkeep and doctor.
    for (family, name), text in EVERY.items():
        if tables.search(text) and family not in ("health", "sessions", "retention") and name not in ("stats", "owned"):
            assert "tenant" in text, f"{family}.{name} does not name the tenant"


@pytest.mark.parametrize("family", FAMILIES)
def test_each_statement_says_what_it_is_for(family: str) -> None:
    text = (files("durable_agent.db") / "sql" / f"{family}.sql").read_text()
    for name, body in parse(text).items():
        assert "\n-- " in f"\n{body.split('*/', 1)[1].strip()}", f"{family}.{name} has no line of purpose"


def test_every_primary_key_begins_with_the_tenant(database: Database) -> None:
    rows = database.execute(
        "select c.relname, a.attname from pg_constraint k join pg_class c on c.oid = k.conrelid "
        "join pg_attribute a on a.attrelid = c.oid and a.attnum = k.conkey[1] "
        "where k.contype = 'p' and c.relnamespace = 'public'::regnamespace and c.relname <> 'alembic_version'"
    )
    assert {(table, column) for table, column in rows if column != "tenant"} == set()


def _plan(conn: psycopg.Connection[Any], text: str) -> str:
    """Return the generic plan: the one a prepared statement has, made without knowing any parameter."""
    return "\n".join(_explained(conn, text, "costs off"))


def _explained(conn: psycopg.Connection[Any], text: str, how: str) -> list[Any]:
    names: list[str] = []

    def numbered(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in names:
            names.append(name)
        return f"${names.index(name) + 1}" + {"now": "::timestamptz", "session": "::uuid"}.get(name, "")

    prepared = re.sub(r"%\((\w+)\)s", numbered, text.rstrip().rstrip(";")).replace("%%", "%")
    conn.execute(f"prepare planned as {prepared}".encode())
    nulls = ", ".join(["null"] * len(names))
    rows = conn.execute(f"explain ({how}) execute planned{f'({nulls})' if names else ''}".encode()).fetchall()
    conn.execute("deallocate planned")
    return [row[0] for row in rows]


@pytest.fixture
def pinned(database: Database) -> Any:
    """A connection with the engine's plan settings."""
    with psycopg.connect(database.url, autocommit=True) as conn:
        conn.execute(ENGINE_SETTINGS)
        yield conn


async def test_the_pick_reads_the_ready_index_in_claim_order(engine: Engine, pinned: Any) -> None:
    await engine.submit(run_of(step("a")))
    plan = _plan(pinned, QUEUE.pick)
    assert "queue_ready" in plan
    assert "Sort" not in plan
    assert "Seq Scan" not in plan


def test_plans_made_while_the_queue_was_empty_are_the_same(pinned: Any) -> None:
    pinned.execute("vacuum analyze")
    for plan in (_plan(pinned, QUEUE.pick), _plan(pinned, QUEUE.turns)):
        assert "queue_ready" in plan
        assert "queue_pk" not in plan
        assert "Sort" not in plan


BY_KEY = {
    "pick": QUEUE.pick,
    "lease_steps": QUEUE.lease_steps,
    "requeue_steps": QUEUE.requeue_steps,
    "finish_steps": QUEUE.finish_steps,
    "resolve_steps": JOURNAL.resolve_steps,
    "put_runs": JOURNAL.put_runs,
    "lock_runs": JOURNAL.lock_runs,
    "settling": JOURNAL.settling,
    "pending": JOURNAL.pending,
    "outputs": JOURNAL.outputs,
}
WHOLE_KEY = re.compile(
    r"Index Cond: .*tenant = .*(run_id = .*\bno = |\bid = )|TID Cond: |Index Cond: .*tenant = .*route = .*ord >= "
)


@pytest.mark.parametrize("runs", [0, 1, 20])
@pytest.mark.parametrize("name", BY_KEY)
async def test_a_look_up_by_key_is_one_whatever_the_statistics_say(
    engine: Engine, pinned: Any, name: str, runs: int
) -> None:
    """With statistics of empty tables and little in them, reading a whole index looks as cheap as a look-up."""
    pinned.execute("vacuum analyze")
    for _ in range(runs):
        await engine.submit(run_of(step("a"), step("b", "a")))
    plan = _plan(pinned, BY_KEY[name])
    scans = [node for node in plan.split("->") if "Index Scan" in node or "Tid Scan" in node]
    assert scans, plan
    for scan in scans:
        assert WHOLE_KEY.search(scan), plan
    assert "Seq Scan" not in plan


OF_SOME_RUNS = {
    "lock_agents": AGENTS.lock_agents,
    "release_capped": AGENTS.release_capped,
    "set_budgeted": BUDGETS.set_budgeted,
    "tree_of": BUDGETS.tree_of,
    "lock_spenders": BUDGETS.lock_spenders,
    "under_way": BUDGETS.under_way,
}
NARROW = re.compile(r"Index Cond: .*(\bid = |run_id = |root = |agent = )|TID Cond: |using queue_capped")


@pytest.mark.parametrize("runs", [0, 1, 20])
@pytest.mark.parametrize("name", OF_SOME_RUNS)
async def test_what_is_about_a_tree_or_an_agent_reads_no_other_runs(
    engine: Engine, pinned: Any, name: str, runs: int
) -> None:
    pinned.execute("vacuum analyze")
    for _ in range(runs):
        await engine.submit(run_of(step("a"), agent=uuid4()))
    plan = _plan(pinned, OF_SOME_RUNS[name])
    scans = [node for node in plan.split("->") if "Index Scan" in node or "Tid Scan" in node]
    assert scans, plan
    for scan in scans:
        assert NARROW.search(scan), plan
    assert "Seq Scan" not in plan
    assert "Materialize" not in plan


@pytest.mark.parametrize("runs", [0, 1, 20])
async def test_the_socket_of_all_runs_reads_the_new_events_of_the_open_runs(
    engine: Engine, pinned: Any, runs: int
) -> None:
    pinned.execute("vacuum analyze")
    for _ in range(runs):
        await engine.submit(run_of(step("a")))
    plan = _plan(pinned, READS.run_events_since)
    scans = [node for node in plan.split("->") if ("Scan" in node and " on events" in node) or " on runs" in node]
    assert len(scans) > 5
    for scan in scans:
        wanted = (
            r"run_id = .*\bseq [=>] |Scan Backward .*\n.*run_id = "
            if " on events" in scan
            else "tenant_(id|finished_at)_idx"
        )
        assert re.search(wanted, scan), plan
    assert "Seq Scan" not in plan


def _nodes(node: dict[str, Any], within: str | None = None) -> Iterator[tuple[str | None, dict[str, Any]]]:
    """Yield a plan's nodes, each with the subquery of its own that it is part of."""
    within = node.get("Subplan Name") or within
    yield within, node
    for child in node.get("Plans", ()):
        yield from _nodes(child, within)


def test_no_statement_that_looks_again_at_a_row_reads_a_partition_in_a_subquery(pinned: Any) -> None:
    """There PostgreSQL 18.4 prunes by what it has freed, and ends with a segmentation fault (decisions/0011).

    It looks again at a row that was changed before it could be locked. What only changes rows does so under its run's lock.
    """
    looked_at = set()
    for (family, name), text in EVERY.items():
        if not re.search(r"\bfor no key update\b|\bfor update\b", text):
            continue
        ((plan,),) = _explained(pinned, text, "costs off, format json")
        nodes = list(_nodes(plan["Plan"]))
        if any(node["Node Type"] == "LockRows" for _, node in nodes):
            looked_at.add(name)
            for within, node in nodes:
                by_key = re.search(r"\b(run_)?id = ", node.get("Index Cond", ""))
                partition = re.match(r"(runs|steps|events|effects)_", node.get("Relation Name", ""))
                assert not (within and by_key and partition), f"{family}.{name}: {within}"
    assert {"pick", "lock_runs", "lock_budgets", "release_capped"} <= looked_at
