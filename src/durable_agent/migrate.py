"""The schema's migrations: forward only, one at a time in the whole cluster, by Alembic.

Alembic and SQLAlchemy are loaded only here, so that no worker carries them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg

from durable_agent.db.pool import first_line
from durable_agent.errors import DatabaseUnavailable, SchemaMismatch

# Any constant will do, so long as every version uses the same one.
_LOCK: Final = 4_837_261_905
# Null where a table is not there, as before the migration that makes it.
_USABLE: Final = (
    "select bool_and(has_table_privilege(c.oid, 'select') and has_table_privilege(c.oid, 'insert')"
    " and has_table_privilege(c.oid, 'update')) from pg_class c"
    " where c.oid in (to_regclass('runs'), to_regclass('steps'), to_regclass('queue'), to_regclass('workers'))"
)
_REVISION: Final = re.compile(r'^revision = "(\w+)"', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class SchemaState:
    """The revision a database has and the one this code was made for; `usable`: whether our role may write its tables."""

    current: str | None
    head: str
    usable: bool = True

    @property
    def ok(self) -> bool:
        """Whether the code and the schema fit."""
        return self.current == self.head

    @property
    def newer(self) -> bool:
        """Whether the database has a schema that this code does not know."""
        return self.current is not None and self.current not in revisions()

    @property
    def advice(self) -> str:
        """What to do when they do not fit."""
        return "upgrade durable-agent" if self.newer else "run `durable-agent migrate`"


def scripts() -> Path:
    """Return the folder of the migrations: beside the sources, or inside the installed package."""
    package = Path(__file__).parent
    installed = package / "_alembic"
    return installed if installed.is_dir() else package.parents[1] / "alembic"


def revisions() -> list[str]:
    """Return the revisions this code knows, oldest first."""
    found = [
        _REVISION.search(path.read_text(encoding="utf-8")) for path in sorted((scripts() / "versions").glob("*.py"))
    ]
    return [match.group(1) for match in found if match]


def head() -> str:
    """Return the revision this code was made for."""
    return revisions()[-1]


def current(url: str) -> str | None:
    """Return the revision the database has, or None before the first. Raises DatabaseUnavailable."""
    return check(url).current


def check(url: str) -> SchemaState:
    """Return how the database's schema stands to this code. Raises DatabaseUnavailable."""
    try:
        with _connected(url) as conn:
            row = conn.execute("select to_regclass('alembic_version')").fetchone()
            if row is None or row[0] is None:
                return SchemaState(None, head())
            current = conn.execute("select version_num from alembic_version").fetchone()
            usable = conn.execute(_USABLE).fetchone()
            return SchemaState(current[0] if current else None, head(), usable is None or usable[0] is not False)
    except psycopg.Error as error:
        raise _unavailable(error) from error


def _connected(url: str) -> psycopg.Connection[Any]:
    return psycopg.connect(url, autocommit=True, connect_timeout=10, client_encoding="utf8")


def _unavailable(error: psycopg.Error) -> DatabaseUnavailable:
    """Return the error that one of PostgreSQL stands for, in words that are true of it."""
    match error:
        case psycopg.errors.InsufficientPrivilege():
            what = "refuses its role; use the one that owns the schema"
        case psycopg.OperationalError():
            what = "cannot be reached"
        case _:
            what = "cannot be used"
    return DatabaseUnavailable(f"PostgreSQL {what}: {first_line(error)}")


def upgrade(url: str) -> str:
    """Bring the schema to this code's revision and return it; any number of processes may do so at once.

    `url` must lead straight to PostgreSQL: the lock is a session's. Raises SchemaMismatch when the database is newer
    than this code, or refuses a statement (the whole migration is then undone); DatabaseUnavailable.
    """
    try:
        with _connected(url) as lock:
            lock.execute("select pg_advisory_lock(%s)", (_LOCK,))
            state = check(url)
            if state.newer:
                raise SchemaMismatch(
                    f"the database has schema {state.current}, newer than this code's"
                    f" {state.head}; upgrade durable-agent"
                )
            if not state.ok:
                _run_alembic(url)
            return state.head
    except psycopg.Error as error:
        raise _unavailable(error) from error


def _run_alembic(url: str) -> None:
    from alembic import command
    from alembic.config import Config
    from sqlalchemy.exc import DBAPIError

    config = Config()
    config.set_main_option("script_location", str(scripts()))
    config.attributes["url"] = url
    try:
        command.upgrade(config, "head")
    except (psycopg.Error, DBAPIError) as error:
        found = error.orig if isinstance(error, DBAPIError) else error
        if isinstance(found, psycopg.OperationalError):
            raise _unavailable(found) from error
        raise SchemaMismatch(
            f"the migration failed and changed nothing: {first_line(found or error)};"
            " give durable-agent a database of its own, whose owner it is"
        ) from error
