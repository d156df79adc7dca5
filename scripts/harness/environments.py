"""Environments of other systems: each installed once, from exact versions, beside one another, and used again."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

INSTALL_TIMEOUT_S: Final = 600


class NotInstalled(Exception):
    """A system that cannot be installed here; the message says why in a line."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a system's environment holds."""

    name: str
    python: tuple[str, ...]
    npm: tuple[str, ...] = ()

    @property
    def mark(self) -> str:
        """What changes when anything of it does."""
        told = json.dumps([self.python, self.npm, sys.version_info[:2]])
        return hashlib.sha256(told.encode()).hexdigest()[:12]


def wanted(file: Path) -> dict[str, Wanted]:
    """Return what a file of versions asks for, by name."""
    return {
        name: Wanted(name, tuple(given["python"]), tuple(given.get("npm", ())))
        for name, given in tomllib.loads(file.read_text()).items()
    }


def default_directory() -> Path:
    """Return where environments are kept: the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "durable-agent" / "peers"


def install(one: Wanted, directory: Path) -> Path:
    """Return the folder of an environment that holds what is wanted; it is made when it is not there.

    Raises NotInstalled. Two at a time wait for each other; a half-made environment is made anew, one of other versions removed.
    """
    folder = directory / f"{one.name}-{one.mark}"
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / f"{one.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / ".installed").exists():
            shutil.rmtree(folder, ignore_errors=True)
            _run([sys.executable, "-m", "venv", str(folder)], folder)
            pip = [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
            _run([*pip, *one.python], folder)
            if one.npm:
                npm = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(folder / "npm")]
                _run([*npm, *one.npm], folder)
            (folder / ".installed").touch()
            for other in directory.glob(f"{one.name}-*"):
                if other != folder:
                    shutil.rmtree(other, ignore_errors=True)
    return folder


def _run(command: Sequence[str], folder: Path) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise NotInstalled(f"{Path(command[0]).name}: {error}") from None
    if done.returncode != 0:
        shutil.rmtree(folder, ignore_errors=True)
        said = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
        raise NotInstalled(f"{Path(command[0]).name}: {said[-1] if said else f'ended with {done.returncode}'}")
