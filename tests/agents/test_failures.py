"""A provider's failure is the same to a step whichever way its model was asked."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest
from pydantic_ai import exceptions as known

from durable_agent.agents.failures import failure_of
from durable_agent.agents.requests import step_error
from durable_agent.errors import FatalError, RateLimited, RetryableError, StepError, UnknownOutcome


def http(status: int, kind: Any = known.ModelHTTPError) -> Exception:
    body = {"error": {"message": "it does not work"}}
    if kind is known.ModelHTTPError:
        return known.ModelHTTPError(status, "m", body)
    made: Exception = known.ModelHTTPError.for_category(
        kind, status_code=status, model_name="m", body=body, retry_after=7.0
    )
    return made


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (http(429, known.ModelRateLimitError), RateLimited),
        (http(429), RateLimited),
        (http(503, known.ModelUnavailableError), RateLimited),
        (known.ModelOverloadedError("m", "busy"), RateLimited),
        (http(402, known.ModelQuotaExceededError), FatalError),
        (http(400), FatalError),
        (http(401, known.ModelAuthenticationError), FatalError),
        (known.ModelRequestRejectedError("m", "no such field"), FatalError),
        *((http(status), RetryableError) for status in (408, 409, 424, 425, 500, 502)),
        (known.ModelServerError("m", "broke"), RetryableError),
        (known.ModelConnectionError("m", "nobody there", phase="connect"), RetryableError),
        (known.ModelConnectionError("m", "no room", phase="pool"), RetryableError),
        (known.ModelConnectionError("m", "cut", phase="read"), UnknownOutcome),
        (known.ModelAPIError("m", "broke", in_stream=True), RetryableError),
        (known.ModelAPIError("m", "unreadable"), UnknownOutcome),
    ],
)
def test_what_a_providers_error_is(error: known.ModelAPIError, kind: type[StepError]) -> None:
    found, told = failure_of(error), step_error(error)
    assert found is not None
    assert (found.kind, type(told)) == (kind, kind)
    assert str(told) == f"m: {found.message}"
    assert told.retry_after_s == found.retry_after_s


def test_a_providers_wish_to_wait_and_its_sentence_are_kept() -> None:
    told = step_error(http(503, known.ModelUnavailableError))  # type: ignore[arg-type]
    assert (str(told), told.retry_after_s) == ("m: HTTP 503: it does not work", 7.0)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (httpx2.ReadError("cut"), UnknownOutcome),
        (TimeoutError(), UnknownOutcome),
        (known.UnexpectedModelBehavior("odd"), RetryableError),
        (known.UserError("wrong"), FatalError),
    ],
)
def test_what_else_may_fail(error: Exception, kind: type[StepError]) -> None:
    found = failure_of(error)
    assert found is not None
    assert found.kind is kind


def test_a_mistake_of_ours_is_no_providers_failure() -> None:
    assert failure_of(KeyError("x")) is None


def test_what_a_provider_says_can_be_stored() -> None:
    said = known.ModelHTTPError(400, "m", {"error": {"message": "no \ud800\x00" + "x" * 5000}})
    message = str(step_error(said))
    assert message.encode()
    assert "\x00" not in message
    assert len(message) < 600
