"""Dead letters, workers, keys, and what operators look at."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from durable_agent import migrate
from durable_agent.api.metrics import render
from durable_agent.api.problems import problem
from durable_agent.api.runs import Operator, Reader, asks, body_of, parsed, takes
from durable_agent.api.schemas import KeyRequest, RedriveRequest
from durable_agent.api.state import reply, state_of
from durable_agent.api.views import cursor_of, read_cursor
from durable_agent.core.records import RunId
from durable_agent.db import keys, reads
from durable_agent.db.doorbell import EVENTS, READY
from durable_agent.db.keys import Principal
from durable_agent.engine import control
from durable_agent.errors import DatabaseUnavailable, InvalidRequest, NotFound

router = APIRouter(tags=["operations"])

Admin = Annotated[Principal, asks("admin")]


@router.get("/dead-letters")
async def list_dead_letters(
    request: Request, who: Reader, reason: Annotated[str | None, Query(max_length=100)] = None,
    tool: Annotated[str | None, Query(max_length=200)] = None, run_id: UUID | None = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50, cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> Response:  # fmt: skip
    """List the steps that gave up, newest run first, with the count of each reason."""
    before = read_cursor(cursor, 1)
    params = {
        "tenant": who.tenant, "reason": reason, "tool": tool, "run": run_id, "limit": limit + 1,
        "before_run": before[0] if before else None, "before_no": before[1][0] if before else None,
    }  # fmt: skip
    async with state_of(request).db.reading() as conn:
        rows = await reads.rows(conn, reads.READS.list_dead_letters, params)
        counts = await (await conn.execute(reads.READS.count_dead_letters, {"tenant": who.tenant})).fetchall()
    page = rows[:limit]
    more = cursor_of(str(page[-1]["run_id"]), str(page[-1]["no"])) if len(rows) > limit else None
    return reply({"items": [_dead_letter(row) for row in page], "counts": dict(counts), "next_cursor": more})


def _dead_letter(row: dict[str, Any]) -> dict[str, Any]:
    return {"step": row.pop("name"), **row}


@router.post("/dead-letters/redrive", openapi_extra=takes(RedriveRequest))
async def redrive(request: Request, who: Operator) -> Response:
    """Give dead letters another chance: of a run, by filter, or `all`."""
    state = state_of(request)
    asked: RedriveRequest = parsed(RedriveRequest, await body_of(request))
    if not (asked.run_id or asked.step or asked.reason or asked.tool or asked.all):
        raise InvalidRequest("say which: run_id, step, reason, tool, or all: true", field="run_id")
    done = await control.redrive(
        state.db, who.tenant, run_id=RunId(asked.run_id) if asked.run_id else None, step=asked.step,
        reason=asked.reason, tool=asked.tool, limit=asked.limit, actor=who.actor, extra_attempts=asked.extra_attempts,
    )  # fmt: skip
    state.bell.ring(EVENTS, READY)
    return reply({"redriven": [{"run_id": str(run), "step": step} for run, step in done]})


@router.get("/workers")
async def list_workers(request: Request, who: Reader) -> Response:
    """List the worker sessions: state, load, last beat, what they offer."""
    async with state_of(request).db.reading() as conn:
        return reply({"items": await reads.rows(conn, reads.READS.list_workers, {})})


@router.get("/keys")
async def list_keys(request: Request, who: Admin) -> Response:
    """List the tenant's API keys, without their secrets."""
    async with state_of(request).db.reading() as conn:
        return reply({"items": await keys.listed(conn, who.tenant)})


@router.post("/keys", status_code=201, openapi_extra=takes(KeyRequest))
async def create_key(request: Request, who: Admin) -> Response:
    """Make an API key; the answer is the only place that shows it."""
    asked: KeyRequest = parsed(KeyRequest, await body_of(request))
    unknown = [scope for scope in asked.scopes if scope not in keys.SCOPES]
    if unknown:
        raise InvalidRequest(f"scope {unknown[0]!r} does not exist; there are {', '.join(keys.SCOPES)}", field="scopes")
    days = asked.expires_in_days
    expires_at = datetime.now(UTC) + timedelta(days=days) if days else None
    async with state_of(request).db.reading() as conn:
        key = await keys.create(conn, who.tenant, asked.name, asked.scopes, expires_at)
    return reply({"key": key, "name": asked.name, "scopes": asked.scopes, "expires_at": expires_at}, 201)


@router.delete("/keys/{key_id}", status_code=204)
async def revoke_key(request: Request, key_id: Annotated[str, Path(max_length=200)], who: Admin) -> Response:
    """End an API key."""
    async with state_of(request).db.reading() as conn:
        if not await keys.revoke(conn, who.tenant, key_id):
            raise NotFound(f"key {key_id!r} does not exist", key_id=key_id)
    return Response(status_code=204)


@router.get("/livez")
async def livez() -> Response:
    """Say that the process answers."""
    return reply({"status": "ok"})


@router.get("/readyz")
async def readyz(request: Request) -> Response:
    """Say whether the database answers and its schema is the one this code was made for."""
    head = migrate.head()
    try:
        async with state_of(request).db.reading() as conn:
            row = await (await conn.execute(reads.READS.schema_revision)).fetchone()
    except DatabaseUnavailable as error:
        return problem(503, "not-ready", error.message, {"Retry-After": "1"}, database="down")
    found = row[0] if row else None
    if found != head:
        return problem(
            503,
            "not-ready",
            f"the schema is {found or 'missing'}, this code needs {head}: run durable-agent migrate",
            schema=found,
        )
    return reply({"status": "ready", "database": "up", "schema": head})


@router.get("/healthz")
async def healthz(request: Request) -> Response:
    """Say how the engine does and what is stuck."""
    state = state_of(request)
    try:
        async with state.db.reading() as conn:
            stats = (await reads.rows(conn, reads.READS.stats, {}))[0]
    except DatabaseUnavailable as error:
        return problem(503, "database-unavailable", error.message, {"Retry-After": "1"})
    stuck = []
    if stats["ready"] and not stats["active"]:
        stuck.append("steps are ready and no worker is alive: start `durable-agent worker`")
    if (stats["oldest_ready_s"] or 0) > 60:
        stuck.append(f"the oldest ready step waits for {stats['oldest_ready_s']:.0f} s: see GET /runs/ID/explain")
    if state.counters.stranded:
        stuck.append("runs without work were found, a defect: run `durable-agent doctor`")
    listener = "up" if state.listener.up else "off" if not state.settings.listening else "down"
    return reply({"status": "stuck" if stuck else "ok", "stuck": stuck, "listener": listener, **stats})


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Return the figures in Prometheus' text format."""
    state = state_of(request)
    async with state.db.reading() as conn:
        stats = (await reads.rows(conn, reads.READS.stats, {}))[0]
    return Response(render(state, stats), media_type="text/plain; version=0.0.4; charset=utf-8")
