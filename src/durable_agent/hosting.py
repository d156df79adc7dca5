"""What the machine lets a server do: users, folders, processes, file systems."""

from __future__ import annotations

import contextlib
import os
import pwd
import socket
import subprocess
import tempfile
from pathlib import Path

from durable_agent.errors import EmbeddedPostgresError, InvalidRequest


def process_of(pid: int) -> tuple[str, str]:
    """Return when a process began, as the system tells it, and its command; both are empty if it is no more."""
    if Path("/proc/self").exists():
        # Only these say that it is gone; to have no descriptor left says nothing, and must not pass for it.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            command = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")
            return ("", "") if state == "Z" else (fields[18], command)
        return "", ""
    said = subprocess.run(["ps", "-o", "lstart=,command=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return said.stdout[:24], said.stdout[24:].strip()


def unprivileged_user() -> pwd.struct_passwd:
    """Return the user the server runs as when we are root, which PostgreSQL refuses to be."""
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise EmbeddedPostgresError("PostgreSQL refuses to run as root, and there is no user postgres or nobody")


def make_folder(path: Path, *, for_others: bool) -> None:
    """Make a folder and its missing parents; others may pass through those we made, and only those."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        folder.chmod(0o711 if for_others else 0o700)


def blocker(path: Path, user: pwd.struct_passwd) -> Path | None:
    """Return the first folder on the way that the user may not enter."""
    resolved = path.resolve()
    for folder in (*reversed(resolved.parents), resolved):
        status = folder.stat()
        shift = 6 if status.st_uid == user.pw_uid else 3 if status.st_gid == user.pw_gid else 0
        if not (status.st_mode >> shift) & 1:
            return folder
    return None


def processes_with(words: str) -> list[int]:
    """Return the processes whose command holds the words."""
    if Path("/proc/self").exists():
        pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        return [pid for pid in pids if words in process_of(pid)[1]]
    said = subprocess.run(["ps", "-axo", "pid=,command="], capture_output=True, text=True, check=False).stdout
    return [int(line.split()[0]) for line in said.splitlines() if words in line]


def read_note(path: Path) -> str:
    """Return what a note says; empty where there is none, or none that can be read as text."""
    with contextlib.suppress(FileNotFoundError, UnicodeDecodeError):
        return path.read_text().strip()
    return ""


def write_note(path: Path, text: str) -> None:
    """Make a file for its owner alone, whole or not at all: neither a crash nor a full disk leaves half of it."""
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        os.replace(draft, path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


def bound(host: str, port: int) -> socket.socket:
    """Return a socket on a port of this machine, on any free one for 0; it does not listen yet. Raises InvalidRequest."""
    # Named by its protocol: else asyncio leaves Nagle on, and every answer takes 40 ms.
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        text = f"port {port} on {host} cannot be bound: {error.strerror}; choose another --port"
        raise InvalidRequest(text, field="PORT") from None
    return sock


def without_libpq_variables() -> None:
    """Take out of this process's environment, and so of its children's, what libpq reads there (PGHOST, PGSSLMODE, PGTZ, …).

    They are about some other server: what leads to the embedded one is in its URL, and would be changed by them.
    """
    from psycopg.pq import Conninfo

    known = {option.envvar.decode() for option in Conninfo.get_defaults() if option.envvar}
    for name in known | {"PGTZ", "PGDATESTYLE", "PGGEQO", "PGSERVICEFILE", "PGSYSCONFDIR"}:
        os.environ.pop(name, None)


def filesystem(path: Path) -> str:
    """Return the type of the file system a path lies on; empty where the system does not tell."""
    mounts = Path("/proc/mounts")
    rows = [line.split() for line in mounts.read_text().splitlines()] if mounts.exists() else []
    over = [(len(row[1]), order, row[2]) for order, row in enumerate(rows) if path.is_relative_to(row[1])]
    return max(over)[2] if over else ""


def default_data_dir() -> Path:
    """Return where data lies when nobody says: the user's data directory, or root's in /var/lib."""
    if os.geteuid() == 0:
        return Path("/var/lib/durable-agent")
    return Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser() / "durable-agent"
