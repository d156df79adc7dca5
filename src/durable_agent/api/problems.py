"""Errors as problem documents (Source: RFC 9457). Nothing of the server's inside leaves it."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import orjson
import psycopg
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from durable_agent.db.pool import TRANSIENT, first_line
from durable_agent.errors import DurableAgentError, GraphInvalid
from durable_agent.telemetry import logger

log = logger("api")

PROBLEM = "application/problem+json"


def problem(status: int, code: str, detail: str, headers: dict[str, str] | None = None, **facts: Any) -> Response:
    """Return a problem document; `code` is the stable end of its type, `detail` says what is wrong with this request."""
    title = code.replace("-", " ").capitalize()
    body = {"type": f"urn:durable-agent:problem:{code}", "title": title, "status": status, "detail": detail, **facts}
    return Response(orjson.dumps(body, default=str), status, headers, PROBLEM)


def from_error(error: DurableAgentError) -> Response:
    """Return the document of one of our own errors."""
    facts = {name: value for name, value in error.facts.items() if value is not None}
    if isinstance(error, GraphInvalid):
        facts["problems"] = [{"step": p.step, "code": p.code, "message": p.message} for p in error.problems]
    headers = (
        {"Retry-After": "1"} if error.retryable else {"WWW-Authenticate": "Bearer"} if error.status == 401 else None
    )
    return problem(error.status, error.code, error.message, headers, **facts)


def from_validation(errors: list[Any]) -> Response:
    """Return the document of a request that does not fit its model, naming every field."""
    found = [
        {"field": ".".join(str(part) for part in error["loc"] if part != "body") or "body", "message": error["msg"]}
        for error in errors[:50]
    ]
    first = found[0]
    return problem(422, "invalid-request", f"{first['field']}: {first['message']}", field=first["field"], errors=found)


def install(app: FastAPI) -> None:
    """Answer every error of the app with a problem document."""

    @app.exception_handler(DurableAgentError)
    async def ours(_: Request, error: DurableAgentError) -> Response:
        return from_error(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        return from_validation(list(error.errors()))

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> Response:
        code = {404: "not-found", 405: "method-not-allowed", 413: "body-too-large", 400: "bad-request"}.get(
            error.status_code, "http"
        )
        return problem(error.status_code, code, str(error.detail), dict(error.headers or {}))

    @app.exception_handler(psycopg.DataError)
    async def refused(_: Request, error: psycopg.DataError) -> Response:
        # A value that no row can have (a NUL in an id): nothing was found or changed by it.
        return problem(422, "invalid-request", f"a value is not one PostgreSQL can hold: {first_line(error)}")

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        if isinstance(error, TRANSIENT):
            log.warning("database_unavailable", path=request.url.path, error=type(error).__name__)
            return problem(503, "database-unavailable", "PostgreSQL cannot be reached; try again", {"Retry-After": "1"})
        incident = str(uuid4())
        log.error("unexpected", incident=incident, path=request.url.path, exc_info=error)
        return problem(
            500, "internal", f"an unexpected error; the server's log has it under {incident}", incident=incident
        )

    for transient in TRANSIENT:
        app.add_exception_handler(transient, unexpected)


# What every route may answer besides success, for the OpenAPI document.
RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
    for status, text in {
        400: "The request cannot be read", 401: "No key, or one that does not work", 403: "A scope, Host or Origin is missing",
        404: "No such thing", 409: "The state does not allow it", 413: "The body is too large",
        422: "A field is wrong; `field` names it", 503: "PostgreSQL cannot be reached",
    }.items()
}  # fmt: skip

PROBLEM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "description": "stable: urn:durable-agent:problem:CODE"},
        "title": {"type": "string", "description": "the type in words"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "what is wrong with this request"},
        "field": {"type": "string"},
        "run_id": {"type": "string"},
        "problems": {"type": "array", "items": {"type": "object"}},
    },
}
