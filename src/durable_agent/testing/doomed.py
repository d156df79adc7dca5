"""A worker that kills itself at a commit: `DURABLE_AGENT_CRASH=N:before` or `N:after`, counted from 1; 0 never."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from typing import Any, cast

from durable_agent.cli.processes import run, worker
from durable_agent.core.outcomes import Exchange, Outcome, Verdict
from durable_agent.core.port import AuthorTransaction, Backend
from durable_agent.settings import read_settings
from durable_agent.telemetry import configure_logging


class Doomed:
    """A backend that ends its process before or after the nth commit that says something."""

    def __init__(self, backend: Backend, commit: int, side: str) -> None:
        self._backend = backend
        self._left = commit
        self._side = side

    def _passes(self) -> bool:
        """Count a commit; tell whether it is the one."""
        self._left -= 1
        return self._left == 0

    async def exchange(self, outcomes: Sequence[Outcome], *, free: int, solo: bool) -> Exchange:
        """Exchange, or die."""
        if not outcomes:
            answer = await self._backend.exchange(outcomes, free=free, solo=solo)
            # A claim can only be counted when it was made; before it there is nothing to lose.
            if answer.claims and self._passes():
                die()
            return answer
        here = self._passes()
        if here and self._side == "before":
            die()
        answer = await self._backend.exchange(outcomes, free=free, solo=solo)
        if here:
            die()
        return answer

    async def begin(self) -> AuthorTransaction:
        """Open a transaction whose commit is counted too."""
        return DoomedTransaction(await self._backend.begin(), self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)  # what commits nothing of the engine's is as ever


class DoomedTransaction:
    """An author's transaction whose commit may be the last."""

    def __init__(self, transaction: AuthorTransaction, doom: Doomed) -> None:
        self._transaction = transaction
        self._doom = doom

    @property
    def connection(self) -> Any:
        """As ever."""
        return self._transaction.connection

    async def settle(self, outcome: Outcome) -> Verdict:
        """Commit, or die."""
        here = self._doom._passes()
        if here and self._doom._side == "before":
            die()
        verdict = await self._transaction.settle(outcome)
        if here:
            die()
        return verdict

    async def rollback(self) -> None:
        """As ever."""
        await self._transaction.rollback()


def die() -> None:
    """End this process as `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)


def main(modules: Sequence[str]) -> None:
    """Run the worker."""
    commit, side = os.environ.pop("DURABLE_AGENT_CRASH").split(":")
    settings = read_settings()
    configure_logging(settings.log_level, settings.log_format)
    run(worker(settings, modules, wrap=lambda backend: cast(Backend, Doomed(backend, int(commit), side))))
