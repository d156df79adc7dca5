"""Waits: what people are asked, their answers, and signals."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
from fastapi import APIRouter, Header, Path, Query, Request
from starlette.responses import Response

from durable_agent.api.runs import Operator, Reader, Writer, body_of, parsed, takes
from durable_agent.api.schemas import ControlRequest, RespondRequest, SettleRequest, check_value
from durable_agent.api.state import reply, state_of
from durable_agent.api.views import cursor_of, read_cursor
from durable_agent.core.records import WaitKind
from durable_agent.core.waits import Decision
from durable_agent.db import reads
from durable_agent.db.doorbell import EVENTS, READY
from durable_agent.db.keys import Principal
from durable_agent.engine import answer
from durable_agent.errors import CallerError, InvalidRequest, NotFound

router = APIRouter(tags=["waits"])

MAX_NAME = 200
_OUTCOMES = {"happened": Decision.HAPPENED, "send_again": Decision.RESEND, "fail": Decision.FAILED}


@router.get("/waits")
async def list_waits(
    request: Request, who: Reader, state: Literal["open", "answered", "cancelled", "all"] = "open",
    kind: WaitKind | None = None, run_id: UUID | None = None, limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> Response:  # fmt: skip
    """List what people are asked (approvals, questions, unknown effects), the oldest first; what is over, the newest first.

    Another `kind` by name.
    """
    after = read_cursor(cursor)
    params = {
        "tenant": who.tenant, "state": None if state == "all" else state, "kind": kind.value if kind else None,
        "people": kind is None, "run": run_id, "after": after[0] if after else None, "limit": limit + 1,
    }  # fmt: skip
    listed = reads.WAITS.list_waits if state in ("open", "all") else reads.WAITS.past_waits
    async with state_of(request).db.reading() as conn:
        rows = await reads.rows(conn, listed, params)
    page = rows[:limit]
    more = cursor_of(str(page[-1]["id"])) if len(rows) > limit else None
    return reply({"items": page, "next_cursor": more})


@router.get("/waits/{wait_id}")
async def get_wait(request: Request, wait_id: UUID, who: Reader) -> Response:
    """Return one wait as it stands."""
    async with state_of(request).db.reading() as conn:
        rows = await reads.rows(conn, reads.WAITS.wait_of, {"tenant": who.tenant, "id": wait_id})
    if not rows:
        raise NotFound(f"wait {wait_id} does not exist", wait_id=str(wait_id))
    return reply(rows[0])


async def _answer(
    request: Request, who: Principal, wait_id: UUID, decision: Decision, reason: str | None, value: Any = None
) -> Response:
    state = state_of(request)
    run_id = await answer.answer(state.db, who.tenant, wait_id, decision, by=who.actor, reason=reason, value=value)
    state.bell.ring(EVENTS, READY)
    return reply({"id": str(wait_id), "run_id": str(run_id), "decision": decision.value, "by": who.actor}, 202)


@router.post("/waits/{wait_id}/approve", status_code=202, openapi_extra=takes(ControlRequest))
async def approve(request: Request, wait_id: UUID, who: Operator) -> Response:
    """Approve; the approval holds for exactly the tool and arguments it was asked for, once."""
    asked: ControlRequest = parsed(ControlRequest, await body_of(request))
    return await _answer(request, who, wait_id, Decision.APPROVED, asked.reason)


@router.post("/waits/{wait_id}/reject", status_code=202, openapi_extra=takes(ControlRequest))
async def reject(request: Request, wait_id: UUID, who: Operator) -> Response:
    """Reject an approval, or decline a question."""
    asked: ControlRequest = parsed(ControlRequest, await body_of(request))
    return await _answer(request, who, wait_id, Decision.REJECTED, asked.reason)


@router.post("/waits/{wait_id}/respond", status_code=202, openapi_extra=takes(RespondRequest))
async def respond(request: Request, wait_id: UUID, who: Operator) -> Response:
    """Answer a question; `value` is what the step gets."""
    asked: RespondRequest = parsed(RespondRequest, await body_of(request))
    check_value(asked.value, "value", state_of(request).settings)
    return await _answer(request, who, wait_id, Decision.RESPONDED, asked.reason, asked.value)


@router.post("/waits/{wait_id}/settle", status_code=202, openapi_extra=takes(SettleRequest))
async def settle(request: Request, wait_id: UUID, who: Operator) -> Response:
    """Say what became of a call that nobody heard the end of: it happened (with its result), send it again, or fail."""
    asked: SettleRequest = parsed(SettleRequest, await body_of(request))
    if asked.outcome != "happened" and asked.result is not None:
        raise InvalidRequest("a result belongs to outcome 'happened' only", field="result")
    check_value(asked.result, "result", state_of(request).settings)
    return await _answer(request, who, wait_id, _OUTCOMES[asked.outcome], asked.reason, asked.result)


@router.post("/runs/{run_id}/signals/{name}", status_code=202)
async def send_signal(
    request: Request, run_id: UUID, name: Annotated[str, Path(min_length=1, max_length=MAX_NAME)], who: Writer,
    idempotency_key: Annotated[str | None, Header(max_length=255, min_length=1)] = None,
) -> Response:  # fmt: skip
    """Deliver a signal with the body as its payload; one that comes early is kept. The same Idempotency-Key counts once."""
    state, body = state_of(request), await body_of(request)
    if not name.isprintable():
        raise InvalidRequest(f"a signal's name has 1 to {MAX_NAME} printable characters", field="name")
    try:
        payload = orjson.loads(body) if body else None
    except orjson.JSONDecodeError as error:
        raise CallerError(f"the body is no JSON document: {error}") from None
    check_value(payload, "payload", state.settings)
    new = await answer.signal(state.db, who.tenant, run_id, name, payload, key=idempotency_key, by=who.actor)
    state.bell.ring(EVENTS, READY)
    headers = {} if new else {"Idempotent-Replayed": "true"}
    return reply({"run_id": str(run_id), "name": name, "delivered": new}, 202 if new else 200, headers)
