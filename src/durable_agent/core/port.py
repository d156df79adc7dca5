"""What a worker may ask of the engine: the one interface with more than one real implementation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from durable_agent.core.gate import Heard, Passing
from durable_agent.core.outcomes import Exchange, Outcome, Verdict
from durable_agent.core.records import Lease, SessionId, Token


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


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of a model's answer, in order from 0 within its effect and claim."""

    lease: Lease
    effect: int
    piece: int
    text: str


@dataclass(frozen=True, slots=True)
class ToolServer:
    """A tool server as an operator registered it; `state` other than `ready` calls nothing."""

    name: str
    url: str | None
    command: tuple[str, ...]
    token: str | None = field(repr=False)
    state: str
    digest: str | None


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


class Gatekeeper(Protocol):
    """The gates of the fleet, as one worker asks them. Every method may raise DatabaseUnavailable."""

    async def passing(self, name: str, tokens: list[int], in_use: int) -> Passing:
        """Ask a gate to let so many calls through, each of so many tokens; `in_use` are those under way here."""
        ...

    async def heard(self, name: str, what: Heard, wait_s: float | None, error: str | None) -> None:
        """Tell how a call behind a gate ended."""
        ...

    async def hold_slots(self, name: str, slots: int) -> None:
        """Keep so many slots of a gate for this session."""
        ...


class Audience(Protocol):
    """Who watches models speak."""

    async def stream(self, deltas: Sequence[Delta]) -> None:
        """Show pieces of answers to who watches; they are not recorded, and may be lost."""
        ...


class Backend(Gatekeeper, Audience, Protocol):
    """The engine as a worker sees it. Every method may raise DatabaseUnavailable; the caller tries again."""

    async def exchange(self, outcomes: Sequence[Outcome], *, free: int, solo: bool) -> Exchange:
        """Settle the outcomes, or the first of them, and claim up to `free` steps in one transaction.

        `solo` allows one step whose next lost lease would seal it. Verdicts come in the order of the outcomes; those without
        one were left for the next exchange. Asking again with the same outcomes after an unknown commit is safe (R8).
        """
        ...

    async def begin(self) -> AuthorTransaction:
        """Open a transaction for an author on a connection of its own."""
        ...

    async def owned(self) -> frozenset[Token]:
        """Return the tokens this session still owns."""
        ...

    def disown(self, tokens: frozenset[Token]) -> None:
        """Take note of leases of this session under which nothing runs here: the next exchange gives back those that are live.

        What was done under them may have been lost with its record, so they are given back in doubt.
        """
        ...

    def fenced(self, lease: Lease) -> Any:
        """Return what writes to tables that are not the engine's while the lease is held (`engine.fence.Fence`)."""
        ...

    def reading(self) -> AbstractAsyncContextManager[Any]:
        """Yield a connection to read on."""
        ...

    async def tool_server(self, tenant: int, name: str) -> ToolServer | None:
        """Return a registered tool server as it is reached."""
        ...

    async def wait(self, timeout_s: float) -> frozenset[str]:
        """Return the hints that came (`ready`, `control`), or nothing after `timeout_s` seconds."""
        ...
