"""What a Context needs of the process that runs it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from durable_agent.core.records import Claim, Outcome, Verdict
from durable_agent.errors import FatalError
from durable_agent.flow.tools import Tool


class Link(Protocol):
    """The way from an attempt to the engine and to the tools of its worker."""

    async def tell(self, outcome: Outcome) -> Verdict:
        """Return when the outcome is committed. Raises LeaseLost when the fence refused it."""
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


class NoLink:
    """Where there is no engine to talk to: in a child process."""

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
