"""What the machine lets a server do: users, folders, processes, file systems."""

from __future__ import annotations

import contextlib
import os
import pwd
import subprocess
from pathlib import Path

from durable_agent.errors import EmbeddedPostgresError


def process_of(pid: int) -> tuple[str, str]:
    """Return when a process began, as the system tells it, and its command; both are empty if it is no more."""
    if Path("/proc/self").exists():
        with contextlib.suppress(OSError):
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
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "durable-agent"
