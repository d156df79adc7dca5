"""Runs: start, read, control, export, explain."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime
from typing import IO, Annotated, Any, Final
from uuid import UUID

import orjson
from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.responses import Response, StreamingResponse

from durable_agent.api.schemas import BatchRequest, ControlRequest, ReplayRequest, RunRequest, check_value, depth
from durable_agent.api.state import State, reply, state_of
from durable_agent.api.stream import sse
from durable_agent.api.views import cursor_of, read_cursor, run_view
from durable_agent.core.records import RunSpec
from durable_agent.core.states import RunStatus
from durable_agent.db import reads
from durable_agent.db.doorbell import CONTROL, EVENTS, READY
from durable_agent.db.keys import Principal
from durable_agent.engine import agents, control
from durable_agent.engine.explain import explain
from durable_agent.engine.export import export
from durable_agent.engine.fork import Edit, diff, fork
from durable_agent.engine.graphs import graph_of
from durable_agent.engine.rows import SUBMIT
from durable_agent.engine.submit import Submission, Submitted
from durable_agent.errors import CallerError, Conflict, InvalidRequest, NotFound

router = APIRouter(tags=["runs"])

# orjson reads more levels than the 254 that it writes; of a value in it, `max_depth` allows 200 at most.
MAX_BODY_DEPTH: Final = 240


def asks(scope: str) -> Any:
    """Return the dependency that admits who has a scope."""

    async def admit(request: Request) -> Principal:
        return await state_of(request).guard.admit(request, scope)

    return Depends(admit)


Reader = Annotated[Principal, asks("read")]
Writer = Annotated[Principal, asks("write")]
Operator = Annotated[Principal, asks("operate")]


async def body_of(request: Request) -> bytes:
    """Return the request's body."""
    return await request.body()


def parsed(model: type[BaseModel], body: bytes) -> Any:
    """Return the body as the model.

    Raises RequestValidationError, InvalidRequest for one that is nested too deep, CallerError for what is no JSON at all.
    """
    try:
        value = orjson.loads(body) if body else {}
    except orjson.JSONDecodeError as error:
        raise CallerError(f"the body is no JSON document: {error}") from None
    _check_depth(value)
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False)) from None


def _check_depth(body: Any) -> None:
    """Return if a body can be written again, as its digest is. Raises InvalidRequest naming its part that is too deep."""
    if depth(body) > MAX_BODY_DEPTH:
        parts = body.items() if isinstance(body, dict) else ()
        field = next((name[:200] for name, part in parts if depth(part) >= MAX_BODY_DEPTH), "body")
        raise InvalidRequest(f"{field} is nested deeper than {MAX_BODY_DEPTH}", field=field)


def takes(model: type[BaseModel]) -> dict[str, Any]:
    """Return the OpenAPI of a body that is parsed by hand."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


@router.post("/runs", status_code=201, openapi_extra=takes(RunRequest))
async def start_run(
    request: Request, who: Writer, idempotency_key: Annotated[str | None, Header(max_length=255, min_length=1)] = None
) -> Response:
    """Start a run. The same Idempotency-Key and body give the same run (200); another body is refused (422)."""
    state, body = state_of(request), await body_of(request)
    asked: RunRequest = parsed(RunRequest, body)
    digest = hashlib.sha256(_canonical(body)).digest() if idempotency_key else None
    try:
        spec = await _spec(state, who, asked, {})
    except (InvalidRequest, NotFound, Conflict):
        # What it named may be gone since; the run that was started of it is not.
        known = await _known(state, who, idempotency_key, digest) if idempotency_key else None
        if known is None:
            raise
        submitted = known
    else:
        submitted = await state.submitter.submit(who.tenant, Submission(spec, idempotency_key, digest, who.actor))
    headers = {"Location": f"/runs/{submitted.run_id}"}
    if not submitted.created:
        headers["Idempotent-Replayed"] = "true"
    return reply(started(request, submitted), 201 if submitted.created else 200, headers)


@router.post("/runs/batch", status_code=201, openapi_extra=takes(BatchRequest))
async def start_runs(request: Request, who: Writer) -> Response:
    """Start up to 1,000 runs in one transaction: all of them, or none."""
    state = state_of(request)
    batch: BatchRequest = parsed(BatchRequest, await body_of(request))
    submissions, seen = [], dict[tuple[str, str | None], Any]()
    for index, one in enumerate(batch.runs):
        try:
            submissions.append(Submission(await _spec(state, who, one, seen), by=who.actor))
        except (InvalidRequest, NotFound, Conflict) as error:
            error.facts["run"] = index
            raise
    submitted = await state.submitter.submit_all(who.tenant, submissions)
    return reply({"items": [started(request, one) for one in submitted]}, 201)


async def _known(state: State, who: Principal, key: str, digest: bytes | None) -> Submitted | None:
    """Return the run that a key and a body stand for already."""
    async with state.db.reading() as conn:
        rows = await reads.rows(conn, SUBMIT.known_keys, {"tenants": [who.tenant], "keys": [key]})
    if not rows or bytes(rows[0]["digest"]) != digest:
        return None
    return Submitted(rows[0]["run_id"], rows[0]["status"] or RunStatus.PENDING.value, False, ())


async def _spec(state: State, who: Principal, asked: RunRequest, seen: dict[tuple[str, str | None], Any]) -> RunSpec:
    """Return the run that is asked for: of its own steps, of a graph or of an agent; these are read once, and then `seen`.

    Raises InvalidRequest, NotFound, Conflict.
    """
    if asked.agent is None:
        if ("graph", asked.graph) not in seen:
            seen["graph", asked.graph] = await graph_of(state.db, who.tenant, asked.graph)
        return asked.to_spec(state.settings, seen["graph", asked.graph])
    check_value(asked.input, "input", state.settings)
    check_value(asked.metadata, "metadata", state.settings)
    if ("agent", asked.agent) not in seen:
        seen["agent", asked.agent] = await agents.run_of(
            state.db, who.tenant, asked.agent, None, goal=None, metadata=None, budget=()
        )
    of: RunSpec = seen["agent", asked.agent]
    steps = tuple(replace(step, input={**step.input, "input": asked.input}) for step in of.steps)
    return replace(
        of, steps=steps, goal=asked.goal, input=asked.input, metadata=asked.metadata, budget=asked.limits or of.budget
    )


def _canonical(body: bytes) -> bytes:
    return orjson.dumps(orjson.loads(body), option=orjson.OPT_SORT_KEYS)


def started(request: Request, one: Submitted) -> dict[str, Any]:
    secure = "wss" if request.url.scheme == "https" else "ws"
    answer: dict[str, Any] = {
        "id": str(one.run_id),
        "status": one.status,
        "ws_url": f"{secure}://{request.headers.get('host', '')}{request.scope.get('root_path', '')}/ws/{one.run_id}",
    }
    if one.warnings:
        answer["warnings"] = list(one.warnings)
    return answer


@router.get("/runs")
async def list_runs(
    request: Request, who: Reader, status: Annotated[list[RunStatus] | None, Query()] = None,
    graph: Annotated[str | None, Query(max_length=200)] = None,
    agent: Annotated[str | None, Query(max_length=200)] = None, q: Annotated[str | None, Query(max_length=200)] = None,
    since: datetime | None = None, until: datetime | None = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50, cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> Response:  # fmt: skip
    """List runs, newest first. `cursor` is the `next_cursor` of the page before."""
    before = read_cursor(cursor)
    params = {
        "tenant": who.tenant, "status": [s.value for s in status] if status else None, "graph": graph, "agent": agent, "q": q,
        "since": since, "until": until, "limit": limit + 1, "before": before[0] if before else None,
    }  # fmt: skip
    async with state_of(request).db.reading() as conn:
        rows = await reads.rows(conn, reads.READS.list_runs, params)
    page = rows[:limit]
    more = cursor_of(str(page[-1]["id"])) if len(rows) > limit else None
    return reply({"items": page, "next_cursor": more})


@router.get("/runs/{run_id}")
async def get_run(request: Request, run_id: UUID, who: Reader) -> Response:
    """Return the run with its graph and every step as it stands."""
    async with state_of(request).db.reading() as conn:
        found = await reads.run(conn, who.tenant, run_id)
        if found is None:
            raise NotFound(f"run {run_id} does not exist", run_id=str(run_id))
        steps = await reads.steps(conn, who.tenant, run_id)
    return reply(run_view(found, steps))


@router.get("/runs/{run_id}/events")
async def get_events(
    request: Request, run_id: UUID, who: Reader, after: Annotated[int, Query(ge=0, le=2**31 - 1)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 500, accept: Annotated[str | None, Header()] = None,
    last_event_id: Annotated[str | None, Header(max_length=20)] = None,
) -> Response:  # fmt: skip
    """Return the events after a number; as a live stream when `Accept: text/event-stream`."""
    state = state_of(request)
    async with state.db.reading() as conn:
        if await reads.run(conn, who.tenant, run_id) is None:
            raise NotFound(f"run {run_id} does not exist", run_id=str(run_id))
        if accept and "text/event-stream" in accept:
            start = int(told) if (told := last_event_id or "").isascii() and told.isdecimal() else after
            stream = sse(state, who.tenant, run_id, start)
            return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        rows = await reads.events(conn, who.tenant, run_id, after=after, limit=limit + 1)
    items = [reads.frame(run_id, row) for row in rows[:limit]]
    return reply({"items": items, "next_after": items[-1]["seq"] if len(rows) > limit else None})


@router.get("/runs/{run_id}/export")
async def export_run(request: Request, run_id: UUID, who: Reader) -> Response:
    """Return the run's whole history as JSON lines, which `durable-agent runs verify FILE` checks by itself."""
    state = state_of(request)
    async with state.exports:
        file = await export(state.db, who.tenant, run_id, state.artifacts)
    length, _ = file.seek(0, os.SEEK_END), file.seek(0)
    headers = {"Content-Disposition": f'attachment; filename="run-{run_id}.jsonl"', "Content-Length": str(length)}
    return StreamingResponse(_pieces(file), media_type="application/jsonl", headers=headers)


async def _pieces(file: IO[bytes]) -> AsyncIterator[bytes]:
    with file:
        while piece := await asyncio.to_thread(file.read, 262_144):
            yield piece


@router.get("/runs/{run_id}/explain")
async def explain_run(request: Request, run_id: UUID, who: Reader) -> Response:
    """Say for each unfinished step why it is not moving: one reason of a closed list, with its facts."""
    return reply((await explain(state_of(request).db, who.tenant, run_id)).to_json())


@router.post("/runs/{run_id}/replay", status_code=201, openapi_extra=takes(ReplayRequest))
async def replay_run(request: Request, run_id: UUID, who: Writer) -> Response:
    """Start a run that shares what this one did before a step and makes the rest again, from its record or live."""
    state = state_of(request)
    asked: ReplayRequest = parsed(ReplayRequest, await body_of(request))
    edits = {}
    for name, edit in asked.edits.items():
        given = edit.model_fields_set
        if not given:
            raise InvalidRequest(f"the edit of step {name!r} changes nothing; give input or output", field="edits")
        check_value(edit.input, f"edits.{name}.input", state.settings)
        check_value(edit.output, f"edits.{name}.output", state.settings)
        edits[name] = Edit("input" in given, edit.input, "output" in given, edit.output)
    made = await fork(state.db, who.tenant, run_id, start=asked.from_step, mode=asked.mode, edits=edits, by=who.actor)
    state.bell.ring(EVENTS, READY)
    done = Submitted(made, RunStatus.PENDING.value, True, ())
    return reply(started(request, done), 201, {"Location": f"/runs/{made}"})


@router.get("/runs/{run_id}/diff/{other}")
async def diff_runs(request: Request, run_id: UUID, other: UUID, who: Reader) -> Response:
    """Compare two runs step by step: the first difference, outputs and times side by side."""
    return reply(await diff(state_of(request).db, who.tenant, run_id, other))


async def _control(request: Request, verb: Any, run_id: UUID, who: Principal) -> Response:
    state = state_of(request)
    asked: ControlRequest = parsed(ControlRequest, await body_of(request))
    status = await verb(state.db, who.tenant, run_id, actor=who.actor, reason=asked.reason)
    state.bell.ring(EVENTS, READY, CONTROL)
    return reply({"id": str(run_id), "status": status}, 202)


@router.post("/runs/{run_id}/cancel", status_code=202)
async def cancel_run(request: Request, run_id: UUID, who: Operator) -> Response:
    """Cancel the run; attempts in flight are stopped in under a second."""
    return await _control(request, control.cancel, run_id, who)


@router.post("/runs/{run_id}/pause", status_code=202)
async def pause_run(request: Request, run_id: UUID, who: Operator) -> Response:
    """Stop claiming the run's steps; attempts in flight begin no further effect."""
    return await _control(request, control.pause, run_id, who)


@router.post("/runs/{run_id}/resume", status_code=202)
async def resume_run(request: Request, run_id: UUID, who: Operator) -> Response:
    """Let a paused run go on."""
    return await _control(request, control.resume, run_id, who)
