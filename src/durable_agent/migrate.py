"""The schema's migrations: forward only, one at a time in the whole cluster, by Alembic.

Alembic and SQLAlchemy are loaded only here, so that no worker carries them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg

from durable_agent.db.pool import first_line
from durable_agent.errors import DatabaseUnavailable, SchemaMismatch

# Any constant will do, so long as every version uses the same one.
_LOCK: Final = 4_837_261_905
_REVISION: Final = re.compile(r'^revision = "(\w+)"', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class SchemaState:
    """The revision a database has and the one this code was made for."""

    current: str | None
    head: str

    @property
    def ok(self) -> bool:
        """Whether the code and the schema fit."""
        return self.current == self.head


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
        with psycopg.connect(url, autocommit=True, connect_timeout=10) as conn:
            row = conn.execute("select to_regclass('alembic_version')").fetchone()
            if row is None or row[0] is None:
                return SchemaState(None, head())
            current = conn.execute("select version_num from alembic_version").fetchone()
            return SchemaState(current[0] if current else None, head())
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable(f"PostgreSQL cannot be reached: {first_line(error)}") from error


def upgrade(url: str) -> str:
    """Bring the schema to this code's revision and return it; any number of processes may do so at once.

    `url` must lead straight to PostgreSQL: the lock is a session's. Raises SchemaMismatch when the database is newer
    than this code, or refuses a statement (the whole migration is then undone); DatabaseUnavailable.
    """
    try:
        with psycopg.connect(url, autocommit=True, connect_timeout=10) as lock:
            lock.execute("select pg_advisory_lock(%s)", (_LOCK,))
            state = check(url)
            if state.current is not None and state.current not in revisions():
                raise SchemaMismatch(
                    f"the database has schema {state.current}, newer than this code's"
                    f" {state.head}; upgrade durable-agent"
                )
            if not state.ok:
                _run_alembic(url)
            return state.head
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable(f"PostgreSQL cannot be reached: {first_line(error)}") from error
    except psycopg.Error as error:
        raise SchemaMismatch(
            f"the migration failed and changed nothing: {first_line(error)};"
            " give durable-agent a database of its own, whose owner it is"
        ) from error


def _run_alembic(url: str) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(scripts()))
    config.attributes["url"] = url
    command.upgrade(config, "head")
