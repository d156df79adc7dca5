"""The statements as a whole: every worker's write is fenced, every key begins with the tenant, hot plans are look-ups."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any
from uuid import UUID

import psycopg
import pytest

from durable_agent.db.pool import ENGINE_SETTINGS
from durable_agent.db.sql import load, parse
from durable_agent.engine.journal import JOURNAL, QUEUE
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
    "forget": "redrive", "revive": "redrive", "recount": "redrive", "enqueue": "redrive",
}  # fmt: skip
WRITES = re.compile(r"\b(update|insert into|delete from)\s+(queue|steps)\b")


def test_every_statement_that_ends_an_attempt_carries_the_fence() -> None:
    fenced = set()
    for (family, name), text in EVERY.items():
        if WRITES.search(text) and name not in NOT_BY_WORKERS:
            assert re.search(r"q\.claim_no = \w\.claim_no and q\.token = \w\.token", text), (
                f"{family}.{name} has no fence"
            )
            fenced.add(name)
    assert fenced == {"finish_steps", "requeue_steps"}


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


def _plan(conn: psycopg.Connection[Any], text: str, params: dict[str, Any]) -> str:
    rows = conn.execute(f"explain (costs off) {text.rstrip().rstrip(';')}".encode(), params).fetchall()
    return "\n".join(row[0] for row in rows)


@pytest.fixture
def pinned(database: Database) -> Any:
    """A connection with the engine's plan settings."""
    with psycopg.connect(database.url, autocommit=True) as conn:
        conn.execute(ENGINE_SETTINGS)
        yield conn


async def test_the_pick_reads_the_ready_index_in_claim_order(engine: Engine, pinned: Any) -> None:
    await engine.submit(run_of(step("a")))
    params = {"tenant": 1, "routes": "{1}", "limits": "{5}", "froms": "{0}", "solo": True}
    plan = _plan(pinned, QUEUE.pick, params)
    assert "queue_ready" in plan
    assert "Sort" not in plan
    assert "Seq Scan" not in plan


def test_plans_made_while_the_queue_was_empty_are_the_same(pinned: Any) -> None:
    pinned.execute("vacuum analyze")
    pick = _plan(pinned, QUEUE.pick, {"tenant": 1, "routes": "{1}", "limits": "{5}", "froms": "{0}", "solo": True})
    turns = _plan(pinned, QUEUE.turns, {})
    for plan in (pick, turns):
        assert "queue_ready" in plan
        assert "queue_pk" not in plan
        assert "Sort" not in plan


KEYS = {"tenants": "{1}", "runs": "{01890000-0000-7000-8000-000000000000}", "nos": "{0}"}
FENCE = {**KEYS, "claim_nos": "{1}", "tokens": "{01890000-0000-7000-8000-000000000000}", "now": datetime(2026, 1, 1, tzinfo=UTC), "session": UUID(int=1)}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "more"),
    [
        (QUEUE.lease_steps, {}),
        (QUEUE.requeue_steps, {"states": "{ready}", "delays": "{null}", "failures": "{0}", "crashes": "{0}", "last_tokens": "{null}"}),
        (QUEUE.finish_steps, {"statuses": "{succeeded}", "outputs": "{null}", "errors": "{null}", "failures": "{0}",
                              "crashes": "{0}", "workers": "{w}", "done_tokens": "{null}"}),
        (JOURNAL.settling, {}),
        (JOURNAL.children, {}),
    ],
    ids=["lease_steps", "requeue_steps", "finish_steps", "settling", "children"],
)  # fmt: skip
def test_a_write_by_key_stays_a_look_up_by_key(pinned: Any, text: str, more: dict[str, Any]) -> None:
    plan = _plan(pinned, text, {**FENCE, **more})
    assert "Seq Scan" not in plan
    assert "queue_ready" not in plan
    assert "queue_leased" not in plan
