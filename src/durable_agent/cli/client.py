"""The API as the command line uses it, and how its answers end a command."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import orjson
from tenacity import (
    Retrying,
    retry_if_exception_type,
    retry_if_not_exception_type,
    stop_after_delay,
    wait_random_exponential,
)

from durable_agent.errors import CallerError, Conflict, DurableAgentError, NotFound, OutsideError
from durable_agent.tls import trusted_by

DEFAULT_URL = "http://127.0.0.1:4000"
# How often the stream is tried again without hearing anything, about half a minute in all.
MAX_SILENT_TRIES = 20


class ServerFault(DurableAgentError):
    """The API failed on its side; its log says more."""


class Unreachable(OutsideError):
    """Nothing answers at the URL."""

    def __init__(self, url: str, error: object) -> None:
        super().__init__(f"nothing answers at {url} ({error}); start `durable-agent up`, or give --url")


def headers() -> dict[str, str]:
    """Return the headers that authenticate, when DURABLE_AGENT_API_KEY is set."""
    key = os.environ.get("DURABLE_AGENT_API_KEY")
    return {"Authorization": f"Bearer {key}"} if key else {}


@contextmanager
def connected(url: str) -> Iterator[httpx2.Client]:
    """Yield a client; raises Unreachable naming the URL and what to do."""
    try:
        with httpx2.Client(
            base_url=url, headers=headers(), timeout=30.0, trust_env=False, verify=trusted_by(url)
        ) as client:
            yield client
    except (httpx2.TransportError, httpx2.InvalidURL) as error:
        raise Unreachable(url, error) from None


def call(url: str, method: str, path: str, **options: Any) -> Any:
    """Return the JSON answer. Raises with the server's words: see `refusal`; Unreachable."""
    with connected(url) as client:
        answer = client.request(method, path, **options)
    if answer.is_success:
        return orjson.loads(answer.content) if answer.content else None
    raise refusal(answer)


def call_patiently(url: str, path: str) -> Any:
    """Return the JSON answer of a GET; an API whose database is away is asked again for half a minute."""
    for attempt in Retrying(
        retry=retry_if_exception_type(OutsideError) & retry_if_not_exception_type(Unreachable),
        stop=stop_after_delay(30.0), wait=wait_random_exponential(0.1, max=2.0), reraise=True,
    ):  # fmt: skip
        with attempt:
            return call(url, "GET", path)


def refusal(answer: httpx2.Response) -> DurableAgentError:
    """Return the error that a refusing answer stands for: CallerError, NotFound, Conflict, OutsideError or ServerFault."""
    try:
        document = orjson.loads(answer.content)
        text = str(document.get("detail") or document["title"])
        for problem in document.get("problems", ())[1:]:
            text += f"\n  {problem['message']}"
        for error in document.get("errors", ())[1:]:
            text += f"\n  {error['field']}: {error['message']}"
    except (orjson.JSONDecodeError, KeyError, TypeError):
        text = f"HTTP {answer.status_code}: {answer.text[:200]}"
    match answer.status_code:
        case 401:
            return CallerError(f"{text}; set DURABLE_AGENT_API_KEY (`durable-agent keys create` makes a key)")
        case 404:
            return NotFound(text)
        case 409:
            return Conflict(text)
        case 429 | 502 | 503 | 504:
            return OutsideError(text)
        case status if status >= 500:
            return ServerFault(text)
        case _:
            return CallerError(text)


async def events(url: str, run_id: str, *, after: int = 0) -> AsyncGenerator[dict[str, Any]]:
    """Yield a run's events from the API's WebSocket until its end, reconnecting by cursor.

    Raises NotFound, CallerError, and Unreachable when nothing is heard for about half a minute of trying.
    """
    from websockets.asyncio.client import connect
    from websockets.exceptions import ConnectionClosed, InvalidHandshake

    base = url.replace("http", "ws", 1).rstrip("/")
    tries = 0
    while True:
        code, reason = 1006, ""
        try:
            async with connect(f"{base}/ws/{run_id}?after={after}", additional_headers=headers(), proxy=None) as socket:
                async for text in socket:
                    event = orjson.loads(text)
                    if event["seq"] is None:
                        continue  # a piece of an answer that is being written: not part of the history
                    after, tries = event["seq"], 0
                    yield event
                code, reason = socket.close_code or 1006, socket.close_reason or ""
        except ConnectionClosed as closed:
            if closed.rcvd is not None:
                code, reason = closed.rcvd.code, closed.rcvd.reason
        except (OSError, InvalidHandshake) as error:
            reason = str(error)
        if code == 1000:
            return
        if code == 4404:
            raise NotFound(reason or f"run {run_id} does not exist")
        if code >= 4400:
            raise CallerError(reason or f"the server closed the stream with {code}")
        tries += 1
        if tries > MAX_SILENT_TRIES:
            raise Unreachable(url, reason or f"the stream was closed with {code}")
        await asyncio.sleep(min(2.0, 0.05 * 2.0**tries))
