"""The API as the command line uses it, and how its answers end a command."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import orjson

from durable_agent.errors import DurableAgentError, NotFound, OutsideError

DEFAULT_URL = "http://127.0.0.1:4000"


class Refused(DurableAgentError):
    """The API answered with a problem document."""


class Unreachable(OutsideError):
    """Nothing answers at the URL."""


def headers() -> dict[str, str]:
    """Return the headers that authenticate, when DURABLE_AGENT_API_KEY is set."""
    key = os.environ.get("DURABLE_AGENT_API_KEY")
    return {"Authorization": f"Bearer {key}"} if key else {}


@contextmanager
def connected(url: str) -> Iterator[httpx2.Client]:
    """Yield a client; raises Unreachable naming the URL and what to do."""
    try:
        with httpx2.Client(base_url=url, headers=headers(), timeout=30.0, trust_env=False) as client:
            yield client
    except httpx2.TransportError as error:
        raise Unreachable(f"nothing answers at {url} ({error}); start `durable-agent up`, or give --url") from None


def call(url: str, method: str, path: str, **options: Any) -> Any:
    """Return the JSON answer. Raises NotFound, Refused with the server's words, Unreachable."""
    with connected(url) as client:
        answer = client.request(method, path, **options)
    if answer.is_success:
        return orjson.loads(answer.content) if answer.content else None
    raise refusal(answer)


def refusal(answer: httpx2.Response) -> DurableAgentError:
    """Return the error an answer stands for."""
    try:
        document = orjson.loads(answer.content)
        title = document["title"]
        for problem in document.get("problems", ())[1:]:
            title += f"\n  {problem['message']}"
        for error in document.get("errors", ())[1:]:
            title += f"\n  {error['field']}: {error['message']}"
    except (orjson.JSONDecodeError, KeyError, TypeError):
        title = f"HTTP {answer.status_code}: {answer.text[:200]}"
    return NotFound(title) if answer.status_code == 404 else Refused(title)


async def events(url: str, run_id: str, *, after: int = 0) -> AsyncIterator[dict[str, Any]]:
    """Yield a run's events from the API's WebSocket until its end, reconnecting by cursor. Raises NotFound, Refused."""
    from websockets.asyncio.client import connect
    from websockets.exceptions import ConnectionClosed

    base = url.replace("http", "ws", 1).rstrip("/")
    failures = 0
    while True:
        try:
            async with connect(f"{base}/ws/{run_id}?after={after}", additional_headers=headers(), proxy=None) as socket:
                failures = 0
                async for text in socket:
                    event = orjson.loads(text)
                    after = event["seq"]
                    yield event
            code, reason = socket.close_code, socket.close_reason
        except ConnectionClosed as closed:
            received = closed.rcvd
            code, reason = (received.code, received.reason) if received else (1006, "")
        except OSError as error:
            failures += 1
            if failures > 20:
                raise Unreachable(
                    f"nothing answers at {url} ({error}); start `durable-agent up`, or give --url"
                ) from None
            code, reason = 1006, ""
        if code == 1000:
            return
        if code == 4404:
            raise NotFound(reason or f"run {run_id} does not exist")
        if code is not None and code >= 4400:
            raise Refused(reason or f"the server closed the stream with {code}")
        await asyncio.sleep(min(2.0, 0.1 * 2.0 ** min(failures, 5)))
