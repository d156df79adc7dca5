"""HTTP tools: a call of a fixed address as a tool, with the idempotency key in its header and every outcome classified."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2

from durable_agent.core.records import RetryPolicy
from durable_agent.core.retry import RETRY_AFTER_CAP_S
from durable_agent.core.text import plain, storable, whole
from durable_agent.errors import FatalError, RateLimited, RetryableError, UnknownOutcome
from durable_agent.flow.context import Context
from durable_agent.flow.tools import Effect, Tool, tool
from durable_agent.tls import trusted

HEADER = "Idempotency-Key"
# What a request ends with before any of it was sent.
UNSENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)


def http_tool(
    name: str, url: str, *, method: str = "POST", effect: Effect = "manual", headers: Mapping[str, str] | None = None,
    timeout_s: float = 30.0, retry: RetryPolicy | None = None, compensate: str | None = None,
    verify: Callable[..., Any] | None = None,
) -> Tool:  # fmt: skip
    """Return a tool that sends its arguments as JSON (as a query for GET) and returns the JSON, else the text, it gets.

    Every request carries the call's `Idempotency-Key`. What could not be sent and 429 or 503 are tried again (honouring
    Retry-After); another 4xx is final; a 5xx and a lost answer leave the outcome unknown, which the effect class decides.
    """

    @tool(name, effect=effect, retry=retry, compensate=compensate, verify=verify, breaker=True)
    async def call(ctx: Context, **arguments: Any) -> Any:
        sent: dict[str, Any] = {"params": arguments} if method in ("GET", "HEAD", "DELETE") else {"json": arguments}
        given = {**(headers or {}), HEADER: ctx.idempotency_key}
        try:
            async with httpx2.AsyncClient(timeout=timeout_s, trust_env=False, verify=trusted()) as client:
                answer = await client.request(method, url, headers=given, **sent)
        except UNSENT as error:
            raise RetryableError(f"{method} {url} could not be sent: {error}") from error
        except httpx2.HTTPError as error:
            raise UnknownOutcome(f"{method} {url} was sent and not answered: {type(error).__name__}") from error
        return result_of(answer)

    return call


def result_of(answer: httpx2.Response) -> Any:
    """Return what an answer holds. Raises RateLimited, FatalError, UnknownOutcome by its status."""
    said = f"{answer.request.method} {answer.request.url}: HTTP {answer.status_code}"
    match answer.status_code:
        case 429 | 503:
            raise RateLimited(said, retry_after_s=retry_after_s(answer.headers.get("Retry-After")))
        case status if status >= 500:
            raise UnknownOutcome(f"{said}: {plain(_text(answer), 300)}")
        case status if status >= 300:
            raise FatalError(f"{said}: {plain(_text(answer), 300)}")
        case _:
            kind = answer.headers.get("content-type", "")
            return storable(answer.json()) if "json" in kind and answer.content else _text(answer)


def _text(answer: httpx2.Response) -> str:
    """Return the text of an answer, which names what it is encoded in: that may be anything, and make halves of characters."""
    try:
        return whole(answer.text)
    except Exception:  # codecs that are for no text have errors of their own
        return answer.content.decode(errors="replace")


def retry_after_s(value: str | None) -> float | None:
    """Return the seconds that a Retry-After header asks for, given as a number or as a date, an hour at most; None for
    none or nonsense."""
    if value is None:
        return None
    try:
        return min(max(0.0, float(value)), RETRY_AFTER_CAP_S)
    except ValueError:
        pass
    try:
        return min(max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()), RETRY_AFTER_CAP_S)
    except (TypeError, ValueError):
        return None
