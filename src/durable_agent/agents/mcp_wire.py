"""The wire to an MCP server: each failure belongs to one call and says whether it was sent, and no end goes unnoticed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx2
import mcp_types as types

from durable_agent.agents.mcp_result import Unusable
from durable_agent.egress import media_type
from durable_agent.errors import FatalError, RateLimited, RetryableError, StepError, UnknownOutcome
from durable_agent.flow.http import UNSENT, retry_after_s

# What one answer may weigh on the wire: beyond it, it is not read to its end.
MAX_ANSWER_BYTES = 16 * 1024 * 1024


class Forgotten(RetryableError):
    """The server has forgotten the session: it was started anew, and has not seen the request."""


KINDS: Mapping[str, type[StepError]] = {
    kind.__name__: kind for kind in (FatalError, RateLimited, RetryableError, Unusable, UnknownOutcome, Forgotten)
}


class Wire(httpx2.AsyncBaseTransport):
    """Requests whose failure comes back as an answer to the one call they carry.

    Left to the library, a failed request ends the connection with every call on it, and its status is lost.
    """

    def __init__(self, client: httpx2.AsyncClient, name: str, mark: str) -> None:
        self._client = client
        self._name = name
        self._mark = mark

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        said = f"MCP server {self._name!r}"
        failure: StepError
        try:
            answer = await self._client.send(request, stream=True)
            try:
                return await self._judged(answer, said)
            except BaseException:
                await answer.aclose()
                raise
        except StepError as error:
            failure = error
        except UNSENT as error:
            failure = RetryableError(f"{said} cannot be reached: {error or type(error).__name__}")
        except httpx2.HTTPError as error:
            failure = UnknownOutcome(f"{said} was sent a request and did not answer: {type(error).__name__}")
        if request.method != "POST":
            raise httpx2.ReadError(str(failure))
        kind = next(one.__name__ for one in type(failure).__mro__ if one.__name__ in KINDS)
        data = {"mark": self._mark, "kind": kind, "retry_after_s": failure.retry_after_s}
        body = {"code": types.INTERNAL_ERROR, "message": str(failure), "data": data}
        return httpx2.Response(500, json={"jsonrpc": "2.0", "id": None, "error": body})

    async def _judged(self, answer: httpx2.Response, said: str) -> httpx2.Response:
        status, kind = answer.status_code, media_type(answer.headers)
        match status:
            case 401 | 403:
                raise FatalError(f"{said} refuses the token (HTTP {status})")
            case 429 | 503:
                after_s = retry_after_s(answer.headers.get("Retry-After"))
                raise RateLimited(f"{said} asks to slow down (HTTP {status})", retry_after_s=after_s)
            case 404 if "mcp-session-id" in answer.request.headers:
                raise Forgotten(f"{said} has forgotten the session")
            case 200 if kind not in ("application/json", "text/event-stream"):
                raise UnknownOutcome(f"{said} answers with {kind[:80]!r} in place of JSON")
        if status == 200 and kind == "text/event-stream":
            return answer
        # Of what is neither, nobody needs the body: the library would read that of a redirect, whatever its length.
        content = bytearray()
        if kind == "application/json":
            async for part in answer.aiter_bytes():
                content += part
                if len(content) > MAX_ANSWER_BYTES:
                    unread = f"{said} answered (HTTP {status}), but its answer has more than {MAX_ANSWER_BYTES} bytes"
                    raise Unusable(unread) if status == 200 else UnknownOutcome(unread)
        await answer.aclose()
        kept = [(name, value) for name, value in answer.headers.raw if name.lower() not in _OF_THE_BODY]
        return httpx2.Response(status, headers=kept, content=bytes(content))


_OF_THE_BODY = frozenset({b"content-encoding", b"content-length", b"transfer-encoding"})


@asynccontextmanager
async def watched(transport: Any, ended: Callable[[], None]) -> AsyncIterator[Any]:
    """Open a transport whose end is told at once, so that no call begins on a connection that is gone."""
    async with transport as (reading, writing):
        yield _Watched(reading, ended), writing


class _Watched:
    def __init__(self, stream: Any, ended: Callable[[], None]) -> None:
        self._stream = stream
        self._ended = ended

    @property
    def last_context(self) -> Any:
        return getattr(self._stream, "last_context", None)

    async def receive(self) -> Any:
        return await self._stream.receive()

    async def aclose(self) -> None:
        await self._stream.aclose()

    def __aiter__(self) -> _Watched:
        return self

    async def __anext__(self) -> Any:
        try:
            return await self._stream.__anext__()
        except (StopAsyncIteration, anyio.ClosedResourceError):
            self._ended()
            raise

    async def __aenter__(self) -> _Watched:
        await self._stream.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> Any:
        return await self._stream.__aexit__(*error)
