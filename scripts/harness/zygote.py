"""Workers forked from a process that has loaded everything: a kill then costs a fork, not a start of Python."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from durable_agent.cli.processes import worker_process
from durable_agent.settings import read_settings
from durable_agent.testing.nursery import Nursery


class Zygote:
    """What forks the workers of one environment; it dies with this process, and they with it."""

    def __init__(
        self, modules: Sequence[str], environment: Mapping[str, str], log: Path, source: Path | None = None,
        prefix: Sequence[str] = (),
    ) -> None:  # fmt: skip
        # A worker's own way to PostgreSQL: its URL, and the one without a pooler if that is another.
        self.urls: dict[str, tuple[str, ...]] = {}
        paths = [str(source)] if source else []
        given = {**environment, "PYTHONPATH": os.pathsep.join([*paths, str(Path(__file__).parents[1])])}
        self._nursery = Nursery("harness.zygote:work", modules, given, log=log, prefix=prefix)

    def spawn(self, name: str) -> int:
        """Return the pid of a new worker of that name."""
        ways = dict(zip(("DATABASE_URL", "DATABASE_DIRECT_URL"), self.urls.get(name, ()), strict=False))
        return self._nursery.spawn({"WORKER_ID": name, **ways})

    def close(self) -> None:
        """End the zygote and with it every worker."""
        self._nursery.close()


def work(modules: Sequence[str]) -> None:
    """Be a worker."""
    worker_process(read_settings(), modules)
