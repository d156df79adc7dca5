"""Migrations: whole or not at all, one at a time, and never backwards."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from durable_agent import migrate
from durable_agent.cli.processes import require_schema
from durable_agent.embedded import ROLE
from durable_agent.errors import DatabaseUnavailable, SchemaMismatch


@pytest.fixture
def empty(admin_url: str) -> Iterator[str]:
    """The URL of a database with nothing in it."""
    name = f"m_{uuid4().hex[:16]}"
    with psycopg.connect(admin_url, autocommit=True) as conn:
        conn.execute(f"create database {name} owner {ROLE}".encode())
        yield make_conninfo(admin_url, dbname=name, user=ROLE)
        conn.execute(f"drop database {name} with (force)".encode())


def _tables(url: str) -> set[str]:
    with psycopg.connect(url, autocommit=True) as conn:
        return {row[0] for row in conn.execute("select tablename from pg_tables where schemaname = 'public'")}


def test_an_empty_database_has_no_schema_and_gets_one(empty: str) -> None:
    assert migrate.check(empty) == migrate.SchemaState(None, migrate.head())
    assert migrate.upgrade(empty) == migrate.head()
    assert migrate.check(empty).ok
    assert {"runs", "steps", "queue", "events", "workers"} <= _tables(empty)


def test_any_number_may_migrate_at_once(empty: str) -> None:
    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(migrate.upgrade, [empty] * 6)) == {migrate.head()}
    assert migrate.check(empty).ok


def test_a_migration_that_fails_leaves_nothing_and_says_on_what(empty: str) -> None:
    with psycopg.connect(empty, autocommit=True) as conn:
        conn.execute("create table queue (theirs int)")
    with pytest.raises(SchemaMismatch, match='relation "queue" already exists'):
        migrate.upgrade(empty)
    assert _tables(empty) - {"alembic_version"} == {"queue"}
    assert migrate.current(empty) is None
    with psycopg.connect(empty, autocommit=True) as conn:
        conn.execute("drop table queue")
    assert migrate.upgrade(empty) == migrate.head()


@pytest.mark.parametrize("change", ["STD0DST,J{day}/2,J{other}/2", "STD0DST,J{other}/2,J{day}/2"])
def test_a_servers_own_time_zone_changes_nothing(admin_url: str, empty: str, change: str) -> None:
    """An hour is left out, or comes twice, on the Sunday after next: within the fortnight that is made ahead."""
    monday = datetime.now(UTC).date()
    monday -= timedelta(days=monday.weekday())
    day = (monday + timedelta(days=13)).timetuple().tm_yday
    zone = change.format(day=min(day, 365), other=(day + 180) % 365 + 1)
    with psycopg.connect(admin_url, autocommit=True) as conn:
        conn.execute(f"alter database {conninfo_to_dict(empty)['dbname']} set timezone = '{zone}'".encode())
    assert migrate.upgrade(empty) == migrate.head()
    with psycopg.connect(empty, autocommit=True) as conn:
        conn.execute("set timezone = 'UTC'")
        for parent in ("runs", "steps", "events", "effects"):
            weeks = conn.execute("select right(child, 8), starts, ends from partition_ranges(%s)", (parent,)).fetchall()
            assert len(weeks) >= 3
            for name, low, high in weeks:
                bounds = (
                    "select uuid_floor(%(at)s::timestamptz), uuid_floor(%(at)s::timestamptz + interval '168 hours')"
                )
                assert conn.execute(bounds, {"at": name}).fetchone() == (low, high)


def test_a_newer_schema_is_left_alone(empty: str) -> None:
    migrate.upgrade(empty)
    with psycopg.connect(empty, autocommit=True) as conn:
        conn.execute("update alembic_version set version_num = '9999'")
    with pytest.raises(SchemaMismatch, match="newer than this code's"):
        migrate.upgrade(empty)
    with pytest.raises(SchemaMismatch, match=r"9999, .*: upgrade durable-agent"):
        require_schema(empty)
    assert migrate.current(empty) == "9999"


def test_a_database_that_cannot_be_reached_is_named_as_such() -> None:
    with pytest.raises(DatabaseUnavailable, match="cannot be reached"):
        migrate.upgrade("postgresql://nobody@127.0.0.1:1/nothing")


def test_a_database_of_the_first_schema_is_brought_to_this_one_with_its_runs(empty: str) -> None:
    first = runpy.run_path(str(migrate.scripts() / "versions/0001_engine.py"))
    run = "01900000-0000-7000-8000-000000000001"
    with psycopg.connect(empty, autocommit=True) as conn:
        for statement in first["STATEMENTS"]:
            conn.execute(statement)
        conn.execute("create table alembic_version (version_num varchar(32) not null primary key)")
        conn.execute("insert into alembic_version values ('0001')")
        conn.execute(
            "insert into runs (tenant, id, status, steps_total, steps_left, last_seq, chain, created_at, lane)"
            " values (1, %s, 'running', 1, 1, 0, '', now(), '')",
            (run,),
        )
        conn.execute(
            "insert into queue (tenant, run_id, no, route, ord, state, claim_no, failures, crashes, max_crashes, deadline_s,"
            " queued_at) values (1, %s, 0, 1, 1, 'ready', 0, 0, 0, 3, 60, now())",
            (run,),
        )
    assert migrate.upgrade(empty) == migrate.head()
    with psycopg.connect(empty, autocommit=True) as conn:
        assert conn.execute("select waiting, origin from runs").fetchall() == [(0, None)]
        assert conn.execute("select state, effect from queue").fetchall() == [("ready", None)]
        weeks = "select count(*) from pg_inherits where inhparent = %s::regclass"
        assert conn.execute(weeks, ("effects",)).fetchone() == conn.execute(weeks, ("runs",)).fetchone()
        conn.execute("select drop_ended_partitions(now() - interval '30 days')")


def test_what_it_says_does_not_hang_on_the_shells_encoding(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "SQL_ASCII")
    assert migrate.upgrade(empty) == migrate.head()
    assert migrate.check(empty) == migrate.SchemaState(migrate.head(), migrate.head())


@pytest.fixture
def guest(empty: str, admin_url: str) -> Iterator[str]:
    """The URL of a role that may do nothing in a migrated database."""
    migrate.upgrade(empty)
    role = f"g_{uuid4().hex[:16]}"
    with psycopg.connect(admin_url, autocommit=True) as conn:
        conn.execute(f"create role {role} login password 'guest'".encode())
        yield make_conninfo(empty, user=role, password="guest")
        with psycopg.connect(empty, autocommit=True) as owner:
            owner.execute(f"revoke all on all tables in schema public from {role}".encode())
        conn.execute(f"drop role {role}".encode())


def test_a_role_without_rights_is_told_so_and_no_migration_is_blamed(guest: str) -> None:
    for asked in (migrate.check, migrate.upgrade):
        with pytest.raises(DatabaseUnavailable, match=r"refuses its role.*permission denied"):
            asked(guest)


def test_a_role_that_may_only_read_is_no_engines(guest: str, empty: str) -> None:
    role = conninfo_to_dict(guest)["user"]
    with psycopg.connect(empty, autocommit=True) as conn:
        conn.execute(f"grant select on all tables in schema public to {role}".encode())
    assert migrate.check(guest) == migrate.SchemaState(migrate.head(), migrate.head(), usable=False)
    with pytest.raises(SchemaMismatch, match="may not write"):
        require_schema(guest)
