"""What a provider's failure is to a step, and what a provider says of its tokens: read in one place."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import httpx2

from durable_agent.core.text import plain
from durable_agent.errors import FatalError, RateLimited, RetryableError, StepError, UnknownOutcome
from durable_agent.flow.model import Usage, counted

# What a provider says of itself rather than of the request: it took too long, it lost a race, it broke while streaming.
_PASSING: Final = (408, 409, 424, 425)
_LIMITED: Final = (429, 503, 529)
_MESSAGE_CHARS: Final = 500


@dataclass(frozen=True, slots=True)
class Failure:
    """A failure of a call: its kind, what is said of it, and the seconds that the provider asks to wait."""

    kind: type[StepError]
    message: str
    retry_after_s: float | None = None

    def error(self, who: str) -> StepError:
        """Return it as an error of who failed."""
        return self.kind(plain(f"{who}: {self.message}"), retry_after_s=self.retry_after_s)


def failure_of(error: Exception) -> Failure | None:
    """Return what a failure of a call is; None for what is no provider's failure."""
    from pydantic_ai import exceptions as known

    match error:
        case known.ModelAPIError():
            return _of_provider(error)
        case httpx2.TransportError():
            return Failure(UnknownOutcome, f"the answer was cut off: {error}")
        case TimeoutError():
            return Failure(UnknownOutcome, "did not answer in time")
        case known.UnexpectedModelBehavior():
            return Failure(RetryableError, f"answered what nobody understands: {error}")
        case known.UserError():
            return Failure(FatalError, str(error))
        case _ if type(error).__module__.startswith(("botocore.", "google.")):
            return Failure(FatalError, f"could not be asked: {error}")
        case _:
            return None


def _of_provider(error: Any) -> Failure:
    from pydantic_ai import exceptions as known

    match error:
        case known.ModelQuotaExceededError():
            return Failure(FatalError, f"the account's quota or credit is used up: {_said(error)}")
        case known.ModelRateLimitError() | known.ModelUnavailableError():
            return Failure(RateLimited, _said(error), error.retry_after)
        case known.ModelHTTPError(status_code=status) if status in _LIMITED:
            return Failure(RateLimited, _said(error), error.retry_after)
        case known.ModelHTTPError(status_code=status) if status < 500 and status not in _PASSING:
            return Failure(FatalError, _said(error))
        case known.ModelHTTPError() | known.ModelServerError():
            return Failure(RetryableError, _said(error), error.retry_after)
        case known.ModelRequestRejectedError():
            return Failure(FatalError, _said(error))
        case known.ModelConnectionError(phase="pool" | "connect"):
            return Failure(RetryableError, f"could not be reached: {error}")
        case _ if error.in_stream:
            return Failure(RetryableError, _said(error), error.retry_after)
        case known.ModelRequestTimeout():
            return Failure(UnknownOutcome, "did not answer in time")
        case _:
            return Failure(UnknownOutcome, f"the answer was cut off: {error}")


def usage_of(told: Any, chars: int = 0, who: str = "") -> Usage:
    """Return the tokens that a provider told of, at least what so many characters of an answer are. See `counted`."""
    usage = counted(told, who)
    return replace(usage, output_tokens=max(usage.output_tokens, -(-chars // 4)))


def _said(error: Any) -> str:
    """Return the status and the sentence of a provider's refusal."""
    body = error.body
    for name in ("error", "Error"):
        body = body[name] if isinstance(body, dict) and isinstance(body.get(name), dict) else body
    sentence = (body.get("message") or body.get("Message")) if isinstance(body, dict) else body
    status = getattr(error, "status_code", None)
    return f"{f'HTTP {status}: ' if status else ''}{str(sentence or error)[:_MESSAGE_CHARS]}"
