"""Graphs that workers registered, and the files that steps stored."""

from __future__ import annotations

import re
from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from durable_agent.api.runs import Reader
from durable_agent.api.state import reply, state_of
from durable_agent.db import reads
from durable_agent.errors import NotFound

router = APIRouter(tags=["graphs"])

# What may stand in a header; what else a step called its file's type, and what is longer, is sent as bytes of no known type.
MEDIA_TYPE: Final = re.compile(r"(?=.{3,200}\Z)[\w!#$&^.+-]+/[\w!#$&^.+-]+( *;[ -~]*)?", re.ASCII)


@router.get("/graphs")
async def list_graphs(request: Request, who: Reader) -> Response:
    """List the graphs that workers registered, each with its newest version."""
    async with state_of(request).db.reading() as conn:
        return reply({"items": await reads.rows(conn, reads.READS.list_graphs, {"tenant": who.tenant})})


@router.get("/graphs/{name}")
async def get_graph(
    request: Request, name: Annotated[str, Path(max_length=200)], who: Reader,
    version: Annotated[str | None, Query(max_length=64)] = None,
) -> Response:  # fmt: skip
    """Return a graph's steps, in its newest version unless another is named."""
    params = {"tenant": who.tenant, "name": name, "version": version}
    async with state_of(request).db.reading() as conn:
        rows = await reads.rows(conn, reads.READS.get_graph, params)
    if not rows:
        raise NotFound(f"graph {name!r} is not registered; start a worker with the module that defines it", graph=name)
    return reply(rows[0])


@router.get("/runs/{run_id}/artifacts")
async def list_artifacts(request: Request, run_id: UUID, who: Reader) -> Response:
    """List the files that a run's steps stored."""
    async with state_of(request).db.reading() as conn:
        if await reads.run(conn, who.tenant, run_id) is None:
            raise NotFound(f"run {run_id} does not exist", run_id=str(run_id))
        rows = await reads.rows(conn, reads.READS.list_artifacts, {"tenant": who.tenant, "run": run_id})
    return reply({"items": rows})


@router.get("/artifacts/{artifact_id}")
async def get_artifact(request: Request, artifact_id: UUID, who: Reader) -> Response:
    """Return a file's content, as a download: a browser never shows it as a page of ours."""
    state = state_of(request)
    async with state.db.reading() as conn:
        rows = await reads.rows(conn, reads.READS.get_artifact, {"tenant": who.tenant, "id": artifact_id})
    if not rows:
        raise NotFound(f"artifact {artifact_id} does not exist", artifact_id=str(artifact_id))
    found = rows[0]
    content = await state.artifacts.get(found["sha256"])
    name = "".join(c if c.isascii() and c.isprintable() and c not in '"\\' else "_" for c in found["name"])
    headers = {
        "Content-Disposition": f'attachment; filename="{name}"', "X-Content-Type-Options": "nosniff",
        "ETag": f'"{found["sha256"]}"',
    }  # fmt: skip
    media_type = found["media_type"] if MEDIA_TYPE.fullmatch(found["media_type"]) else "application/octet-stream"
    return Response(content, 200, headers, media_type)
