"""What a worker may ask of the engine: the one interface with more than one real implementation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from durable_agent.core.records import Exchange, Outcome, SessionId, Token, Verdict


@dataclass(frozen=True, slots=True)
class Offer:
    """What a worker session is and can do; shown in the registry and matched by the claim.

    `effects` has the class of each tool that is not safe to call again after its attempt was lost.
    """

    session: SessionId
    worker: str
    queues: tuple[str, ...]
    tools: tuple[str, ...]
    concurrency: int
    host: str
    os_pid: int
    version: str
    effects: Mapping[str, str] = field(default_factory=dict)


class AuthorTransaction(Protocol):
    """A transaction an author writes in, which is committed with the step's result or not at all."""

    @property
    def connection(self) -> Any:
        """The connection to write on."""
        ...

    async def settle(self, outcome: Outcome) -> Verdict:
        """Settle the outcome and commit, or roll back. Raises DatabaseUnavailable when nobody knows which."""
        ...

    async def rollback(self) -> None:
        """Undo what was written."""
        ...


class Backend(Protocol):
    """The engine as a worker sees it. Every method may raise DatabaseUnavailable; the caller tries again."""

    async def exchange(self, outcomes: Sequence[Outcome], *, free: int, solo: bool) -> Exchange:
        """Settle the outcomes and claim up to `free` steps in one transaction.

        `solo` allows one step whose next lost lease would seal it. Verdicts come in the order of the outcomes; asking
        again with the same outcomes after an unknown commit is safe (R8).
        """
        ...

    async def begin(self) -> AuthorTransaction:
        """Open a transaction for an author on a connection of its own."""
        ...

    async def owned(self) -> frozenset[Token]:
        """Return the tokens this session still owns."""
        ...

    async def wait(self, timeout_s: float) -> frozenset[str]:
        """Return the hints that came (`ready`, `control`), or nothing after `timeout_s` seconds."""
        ...
