"""Every exception of the product, in one file, in three branches and two signals.

    DurableAgentError
    ├── CallerError            the caller's mistake: fix the request, do not repeat it
    │   ├── InvalidRequest         422  a field is wrong; `field` names it
    │   │   ├── GraphInvalid           the steps do not form a graph; `problems` names each step
    │   │   └── ConditionInvalid       a `when` does not compile
    │   ├── PayloadRejected        422  a value that JSON or the size limit refuses
    │   ├── NotFound               404  no such id for this tenant
    │   ├── Conflict               409  the state does not allow the verb
    │   │   └── KeyReused              422  same Idempotency-Key, other body
    │   ├── Unauthenticated        401
    │   └── Forbidden              403
    ├── LostRace               somebody else won; the loser changes nothing
    └── OutsideError           the world failed: retry later
        ├── DatabaseUnavailable    503
        ├── SchemaMismatch         503
        └── EmbeddedPostgresError  500
    StepError                  what a handler raises to choose its failure class
    ├── RetryableError             transient, with an optional Retry-After
    ├── RateLimited                rate_limited, with Retry-After
    ├── FatalError                 invalid_input: never retried
    ├── BudgetExceeded         budget: what may be spent is spent, or nobody can say what a call would cost
    ├── UnknownOutcome             it may have happened: the effect's class decides what follows
    ├── EffectRefused              unknown_effect: a person decided that it counts as failed
    └── Decided                    cancelled: somebody, or nobody in time, decided against it
        ├── Rejected                   an approval was rejected
        ├── Expired                    nobody answered in time
        └── Refused                    a policy refuses it
    Signal (BaseException)     not errors: an author's `except Exception` cannot swallow them
    ├── LeaseLost              the attempt no longer owns its step and must stop
    ├── Suspend                the attempt ends here and its step waits
    ├── Divergence             what is asked for is not what was recorded
    └── Unrecorded             what is asked for leaves no record: a replay takes the step's result as it is

Messages say what happened, to which id, and what to do next.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar


class DurableAgentError(Exception):
    """The root. `status` is the HTTP status, `code` the stable last part of the problem `type`."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.message = message
        self.facts = facts


class CallerError(DurableAgentError):
    """The request is wrong; sending it again changes nothing."""

    status = 400
    code = "bad-request"


class InvalidRequest(CallerError):
    """A field is wrong; `facts["field"]` names it."""

    status = 422
    code = "invalid-request"


@dataclass(frozen=True, slots=True)
class Problem:
    """One defect of a submitted graph: the step it is about, a stable code and a sentence."""

    step: str
    code: str
    message: str


class GraphInvalid(InvalidRequest):
    """The submitted steps do not form a graph; every problem found is listed (50 at most)."""

    code = "graph-invalid"

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        first = problems[0]
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        super().__init__(f"{first.message}{more}", field="steps", step=first.step)
        self.problems = problems


class ConditionInvalid(InvalidRequest):
    """A `when` expression does not compile."""

    code = "condition-invalid"


class PayloadRejected(CallerError):
    """A value cannot be stored: not JSON, not Unicode, too deep or too large."""

    status = 422
    code = "payload-rejected"


class NotFound(CallerError):
    """No such thing for this tenant."""

    status = 404
    code = "not-found"


class Conflict(CallerError):
    """The thing exists and its state does not allow the verb; the message names the state."""

    status = 409
    code = "conflict"


class KeyReused(Conflict):
    """An Idempotency-Key came back with another body."""

    status = 422
    code = "idempotency-key-reused"


class Unauthenticated(CallerError):
    """No key, or one that is unknown, expired or revoked."""

    status = 401
    code = "unauthenticated"


class Forbidden(CallerError):
    """The key lacks a scope, or the Host or Origin is not allowed."""

    status = 403
    code = "forbidden"


class LostRace(DurableAgentError):
    """A guarded write matched no row: somebody else decided first. Nothing was changed."""

    status = 409
    code = "lost-race"


class OutsideError(DurableAgentError):
    """The world failed; the same request may succeed later."""

    status = 503
    code = "unavailable"
    retryable = True


class DatabaseUnavailable(OutsideError):
    """PostgreSQL cannot be reached or refuses work."""

    code = "database-unavailable"


class SchemaMismatch(OutsideError):
    """The database's schema is not the one this code was made for."""

    code = "schema-mismatch"
    retryable = False


class EmbeddedPostgresError(OutsideError):
    """The embedded PostgreSQL cannot be started, stopped or used."""

    status = 500
    code = "embedded-postgres"
    retryable = False


class StepError(Exception):
    """What a handler raises to say how its failure is to be treated.

    `failure_class` is one of the names of `core.records.FailureClass`; `retry_after_s` (seconds)
    overrides the back-off when given.
    """

    failure_class: str = "bug"

    def __init__(self, message: str = "", *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RetryableError(StepError):
    """A passing fault: try again after the back-off."""

    failure_class = "transient"


class RateLimited(StepError):
    """The other side asked to slow down; `retry_after_s` is honoured."""

    failure_class = "rate_limited"


class FatalError(StepError):
    """Trying again cannot help: the step is dead-lettered at once."""

    failure_class = "invalid_input"


class UnknownOutcome(StepError):
    """It may have happened and may not have: raise it where a call was sent and its answer did not come."""

    failure_class = "transient"


class EffectRefused(StepError):
    """Nobody knew whether an effect had happened, and a person decided that it counts as failed."""

    failure_class = "unknown_effect"


class BudgetExceeded(StepError):
    """A budget does not allow it: what belongs to it is spent, or nobody can bound what the call may cost."""

    failure_class = "budget"


class Decided(StepError):
    """Somebody decided against it: trying again would only ask for the same answer."""

    failure_class = "cancelled"


class Rejected(Decided):
    """An approval was rejected, or nobody gave it in time."""


class Expired(Decided):
    """Nobody answered in time."""


class Refused(Decided):
    """A policy refuses it."""


class Signal(BaseException):
    """Control flow, not failure."""


class LeaseLost(Signal):
    """The attempt's lease is gone; its handler stops and none of its writes will be accepted."""


class Suspend(Signal):
    """The attempt ends and its step waits; `outcome` says for what."""

    def __init__(self, outcome: Any) -> None:
        super().__init__("the step waits")
        self.outcome = outcome


class Divergence(Signal):
    """The handler asked for something else than what was recorded; nothing was called."""


class Unrecorded(Signal):
    """In a replay: the handler does what leaves no record (a transaction), so the step's recorded result stands."""


def innermost(error: BaseException) -> BaseException:
    """Return the first error inside nested groups: a task group wraps what ends it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
