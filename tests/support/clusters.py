"""A data directory made once: whoever starts on a copy of it is spared initdb and the migrations, which are not what it tests."""

from __future__ import annotations

import atexit
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from durable_agent.embedded import EmbeddedPostgres
from durable_agent.migrate import upgrade
from tests.support.postgres import bin_dir, place


@cache
def _made() -> Path:
    folder = tempfile.TemporaryDirectory(prefix="durable-agent-tests-", dir=place())
    atexit.register(folder.cleanup)
    Path(folder.name).chmod(0o755)
    made = Path(folder.name) / "data"
    with EmbeddedPostgres(made, bin_dir=bin_dir()) as running:
        upgrade(running.urls.url)
    for own in ("port", "owner.lock"):
        (made / own).unlink()
    return made


def copied(to: Path) -> None:
    """Make `to`, which is empty or not there, a data directory whose server was stopped and whose schema is at its head."""
    to.mkdir(exist_ok=True)
    subprocess.run(["cp", "-a", f"{_made()}/.", str(to)], check=True)
