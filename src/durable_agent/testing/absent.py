"""What the engine in memory has not: gates that shut, a database, tool servers; and watchers, who are told at once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any
from uuid import UUID

from durable_agent.core.gate import Heard, Passing
from durable_agent.core.port import Delta, ToolServer
from durable_agent.core.records import Lease, Token
from durable_agent.errors import FatalError
from durable_agent.testing.state import FakeRun


def no_database() -> FatalError:
    """Return the refusal of what needs one."""
    return FatalError("there is no database in memory; test a step that writes to it on PostgreSQL")


class Absent:
    """The part of a backend that does nothing."""

    runs: dict[UUID, FakeRun]

    async def passing(self, name: str, tokens: list[int], in_use: int) -> Passing:
        """Let everything through."""
        return Passing(tuple(0.0 for _ in tokens))

    async def heard(self, name: str, what: Heard, wait_s: float | None, error: str | None) -> None:
        """Take no note: nothing is ever shut."""

    async def hold_slots(self, name: str, slots: int) -> None:
        """Count no slots."""

    async def stream(self, deltas: Sequence[Delta]) -> None:
        """Keep what was said with its run."""
        for delta in deltas:
            self.runs[delta.lease.run_id].said.append(delta.text)

    def disown(self, tokens: frozenset[Token]) -> None:
        """Take no note: nothing is ever forgotten."""

    def fenced(self, lease: Lease) -> Any:
        """Refuse: there is no database."""
        raise no_database()

    def reading(self) -> AbstractAsyncContextManager[Any]:
        """Refuse: there is no database."""
        raise no_database()

    async def tool_server(self, tenant: int, name: str) -> ToolServer | None:
        """Know none."""
        return None
