"""What a Context needs of the process that runs it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar

from durable_agent.core.outcomes import Outcome, Verdict
from durable_agent.core.records import Claim
from durable_agent.errors import FatalError
from durable_agent.flow.tools import Tool

T = TypeVar("T")


class Passage(Protocol):
    """A way through a gate: used by `through`, or given back."""

    async def through(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make the call and take note of how it ended."""
        ...

    def late(self) -> bool:
        """Whether its time is over: used now, it would be in somebody else's."""
        ...

    def give_back(self) -> None:
        """Free it: the call is not made."""
        ...


class Link(Protocol):
    """The way from an attempt to the engine and to the tools of its worker."""

    async def tell(self, outcome: Outcome) -> Verdict:
        """Return when the outcome is committed. Raises LeaseLost when the fence refused it."""
        ...

    async def still_ours(self) -> None:
        """Return while the lease is held for certain: asked before what must not be done twice. Raises LeaseLost."""
        ...

    def post(self, outcome: Outcome) -> None:
        """Hand the outcome over, to be committed before anything told later; the attempt ends if it is refused."""
        ...

    def find(self, name: str) -> Tool | None:
        """Return the worker's tool of that name."""
        ...

    async def invoke(self, tool: Tool, arguments: Mapping[str, Any], context: Any) -> Any:
        """Call the tool as its isolation asks for, with arguments that are bound already."""
        ...

    def transaction(self, claim: Claim) -> AbstractAsyncContextManager[Any]:
        """Open the transaction that will be committed with the step's result; yields its connection."""
        ...

    async def keep(self, text: bytes) -> bytes:
        """Return JSON that fits a row: the text, or what stands for it once it is in the artifact store."""
        ...

    async def whole(self, value: Any) -> Any:
        """Return a value as it was before `keep`."""
        ...

    async def put(self, content: bytes) -> str:
        """Return the digest of a content that is in the artifact store."""
        ...

    def models(self) -> Any:
        """Return the worker's models (see `flow.llm.Models`)."""
        ...

    def sessions(self) -> Any:
        """Return the worker's way to tool servers (see `agents.reach.Reach`)."""
        ...

    def say(self, effect: int, text: str) -> None:
        """Hand a piece of a model's answer to who watches; it is not recorded."""
        ...

    async def pass_gate(self, name: str | None, tokens: int) -> Passage:
        """Return the way through a gate once it lets the caller through; through none, at once. Raises RateLimited."""
        ...

    def fenced(self, claim: Claim) -> Any:
        """Return what writes while the attempt's lease is held (`engine.fence.Fence`)."""
        ...

    def reading(self) -> AbstractAsyncContextManager[Any]:
        """Open a connection of the engine's database to read on."""
        ...

    async def tool_server(self, name: str) -> Any:
        """Return how a registered tool server is reached (see `agents.mcp.Server`). Raises FatalError for none."""
        ...


class NoLink:
    """Where there is no engine to talk to: in a child process."""

    async def still_ours(self) -> None:
        """Know of no lease."""

    async def tell(self, outcome: Outcome) -> Verdict:
        """Refuse."""
        raise FatalError("a handler in a child process has no effects, waits or events; run it inline")

    def post(self, outcome: Outcome) -> None:
        """Refuse."""
        raise FatalError("a handler in a child process has no effects, waits or events; run it inline")

    def find(self, name: str) -> Tool | None:
        """Know nothing."""
        return None

    async def invoke(self, tool: Tool, arguments: Mapping[str, Any], context: Any) -> Any:
        """Refuse."""
        raise FatalError("a handler in a child process calls no tools; run it inline")

    def transaction(self, claim: Claim) -> AbstractAsyncContextManager[Any]:
        """Refuse."""
        raise FatalError("a handler in a child process has no transaction; run it inline")

    async def keep(self, text: bytes) -> bytes:
        """Return it as it is."""
        return text

    async def whole(self, value: Any) -> Any:
        """Return it as it is."""
        return value

    async def put(self, content: bytes) -> str:
        """Refuse."""
        raise FatalError("a handler in a child process stores no artifacts; run it inline")

    def models(self) -> Any:
        """Refuse."""
        raise FatalError("a handler in a child process calls no models; run it inline")

    def sessions(self) -> Any:
        """Refuse."""
        raise FatalError("a handler in a child process has no tool servers; run it inline")

    def say(self, effect: int, text: str) -> None:
        """Say it to nobody."""

    async def pass_gate(self, name: str | None, tokens: int) -> Passage:
        """Refuse."""
        raise FatalError("a handler in a child process passes no gates; run it inline")

    def fenced(self, claim: Claim) -> Any:
        """Refuse."""
        raise FatalError("a handler in a child process has no database; run it inline")

    def reading(self) -> AbstractAsyncContextManager[Any]:
        """Refuse."""
        raise FatalError("a handler in a child process has no database; run it inline")

    async def tool_server(self, name: str) -> Any:
        """Refuse."""
        raise FatalError("a handler in a child process has no tool servers; run it inline")
