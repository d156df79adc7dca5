"""The suite's PostgreSQL: one server a run, one template database, a clone of it for every test that asks.

`TEST_POSTGRES` chooses the server: `embedded`, or the number of one of Debian's (15). Durability is off here: the
tests that need it, those of the embedded server and of crashes, start servers of their own.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import shutil
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from durable_agent.embedded import ROLE, EmbeddedPostgres
from durable_agent.migrate import upgrade

FAST = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "max_connections": "300",
    "autovacuum_naptime": "60s",
}
TEMPLATE = "template_durable_agent"
ROOM_BYTES = 4 * 2**30


@dataclass(frozen=True, slots=True)
class Database:
    """A database of one test, at the schema's head."""

    url: str

    def move_clock(self, seconds: float) -> None:
        """Set the engine's clock ahead of the wall clock (behind it, if negative) for every connection at once."""
        self.execute(
            "create or replace function engine_now() returns timestamptz language sql volatile"
            f" as $$ select clock_timestamp() + interval '{seconds} seconds' $$"
        )

    def execute(self, query: str, *params: object) -> list[tuple[object, ...]]:
        """Run one statement and return its rows."""
        with psycopg.connect(self.url, autocommit=True) as conn:
            cursor = conn.execute(query.encode(), params or None)
            return cursor.fetchall() if cursor.description else []


def bin_dir() -> Path | None:
    """Return the folder of the binaries under test, or None for the embedded ones."""
    given = os.environ.get("TEST_POSTGRES", "embedded")
    return None if given == "embedded" else Path(f"/usr/lib/postgresql/{given}/bin")


def place() -> str:
    """Return where the server's files are put: in memory if there is room, for a clone is some hundred small files."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > ROOM_BYTES
    return str(memory) if roomy else "/var/tmp"


def kept(password: str) -> str:
    """Return what a server may keep of a password (RFC 5802), made in one round.

    The suite makes some ten thousand connections; at PostgreSQL's 4,096 rounds each costs as much as a test's statements do.
    """
    salt = os.urandom(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, 1)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    parts = [b64encode(part).decode() for part in (salt, stored, hmac.digest(salted, b"Server Key", "sha256"))]
    return "SCRAM-SHA-256$1:{}${}:{}".format(*parts)


@contextlib.contextmanager
def server(directory: Path) -> Iterator[str]:
    """Yield the superuser's URL of a running server whose template database is migrated."""
    with EmbeddedPostgres(directory, settings=FAST, bin_dir=bin_dir()) as running:
        admin = running.urls.admin_url
        with psycopg.connect(admin, autocommit=True) as conn:
            for role, url in ((ROLE, running.urls.url), ("postgres", admin)):
                conn.execute(f"alter role {role} password '{kept(str(conninfo_to_dict(url)['password']))}'")  # type: ignore[arg-type]
            conn.execute(f"create database {TEMPLATE} owner {ROLE}")  # type: ignore[arg-type]
        upgrade(make_conninfo(running.urls.url, dbname=TEMPLATE))
        yield admin
        assert running.crashes() == [], "no statement of ours may end the server"


@contextlib.contextmanager
def cloned(admin_url: str) -> Iterator[Database]:
    """Yield a clone of the template, owned by the engine's role; it is dropped afterwards, whoever is connected."""
    name = f"t_{uuid4().hex[:16]}"
    with psycopg.connect(admin_url, autocommit=True) as conn:
        # Clones are made one at a time: the template may have no other user meanwhile.
        conn.execute("select pg_advisory_lock(1)")
        conn.execute(f"create database {name} template {TEMPLATE} owner {ROLE} strategy file_copy")  # type: ignore[arg-type]
        conn.execute("select pg_advisory_unlock(1)")
        try:
            yield Database(make_conninfo(admin_url, dbname=name, user=ROLE))  # one password for both roles
        finally:
            conn.execute(f"drop database {name} with (force)")  # type: ignore[arg-type]
