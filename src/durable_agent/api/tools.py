"""Tool servers: registered by URL, discovered, and called only as they were approved."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request
from starlette.responses import Response

from durable_agent.api.resources import ApproveToolsRequest, ToolServerRequest
from durable_agent.api.runs import Operator, Reader, body_of, parsed, takes
from durable_agent.api.state import reply, state_of
from durable_agent.db import reads
from durable_agent.engine import servers
from durable_agent.engine.servers import SERVERS
from durable_agent.errors import Conflict, Forbidden, StepError

router = APIRouter(tags=["tool servers"])


@router.get("/tool-servers")
async def list_tool_servers(request: Request, who: Reader) -> Response:
    """List the tool servers; never their tokens."""
    async with state_of(request).db.reading() as conn:
        return reply({"items": await reads.rows(conn, SERVERS.list_servers, {"tenant": who.tenant})})


@router.post("/tool-servers", status_code=201, openapi_extra=takes(ToolServerRequest))
async def register_tool_server(request: Request, who: Operator) -> Response:
    """Register a tool server; its token is stored encrypted and never returned. Discover it next."""
    state = state_of(request)
    asked = _allowed(request, parsed(ToolServerRequest, await body_of(request)))
    made = await servers.register(
        state.db, who.tenant, asked.name, state.vault, url=asked.url, command=asked.command, token=asked.token
    )
    return reply(await servers.get(state.db, who.tenant, made), 201, {"Location": f"/tool-servers/{made}"})


@router.get("/tool-servers/{server_id}")
async def get_tool_server(request: Request, server_id: UUID, who: Reader) -> Response:
    """Return a tool server: the tools that were approved, and those it was last seen to offer."""
    return reply(await servers.get(state_of(request).db, who.tenant, server_id))


@router.put("/tool-servers/{server_id}", openapi_extra=takes(ToolServerRequest))
async def change_tool_server(request: Request, server_id: UUID, who: Operator) -> Response:
    """Change a tool server. Another address is another server: the stored token is dropped unless a new one is given."""
    state = state_of(request)
    asked = _allowed(request, parsed(ToolServerRequest, await body_of(request)))
    await servers.change(
        state.db,
        who.tenant,
        server_id,
        asked.name,
        state.vault,
        url=asked.url,
        command=asked.command,
        token=asked.token,
    )
    return reply(await servers.get(state.db, who.tenant, server_id))


@router.delete("/tool-servers/{server_id}", status_code=204)
async def drop_tool_server(request: Request, server_id: UUID, who: Operator) -> Response:
    """Forget a tool server and its token."""
    await servers.forget(state_of(request).db, who.tenant, server_id)
    return Response(status_code=204)


@router.post("/tool-servers/{server_id}/discover")
async def discover_tool_server(request: Request, server_id: UUID, who: Operator) -> Response:
    """Ask a tool server what it offers. The first list is taken as it is; one that differs from it is quarantined."""
    from durable_agent.agents.mcp import Server, discover
    from durable_agent.egress import Egress

    state = state_of(request)
    found = await servers.reached(state.db, who.tenant, server_id, state.vault)
    place = Server(found.name, found.url, found.command, found.token)
    try:
        offer = await discover(
            place, egress=Egress(allow=state.settings.egress_allow), allow_stdio=state.settings.allow_stdio
        )
    except StepError as error:
        await servers.not_seen(state.db, who.tenant, server_id, str(error), at=found)
        raise Conflict(
            f"tool server {found.name!r} cannot be discovered: {error}", tool_server=str(server_id)
        ) from None
    tools = [
        {
            "name": one.name, "description": one.description, "parameters": dict(one.parameters), "effect": one.effect,
            "digest": one.digest,
        }
        for one in offer.tools
    ]  # fmt: skip
    status = await servers.seen(state.db, who.tenant, server_id, tools, offer.digest, at=found)
    about = {"title": offer.title, "version": offer.version, "protocol": offer.protocol}
    return reply({"state": status, "digest": offer.digest, "tools": tools, "server": about})


@router.post("/tool-servers/{server_id}/approve", openapi_extra=takes(ApproveToolsRequest))
async def approve_tool_server(request: Request, server_id: UUID, who: Operator) -> Response:
    """Accept what a quarantined tool server offers, named by its digest."""
    state = state_of(request)
    asked: ApproveToolsRequest = parsed(ApproveToolsRequest, await body_of(request))
    await servers.approve(state.db, who.tenant, server_id, asked.digest)
    return reply(await servers.get(state.db, who.tenant, server_id))


def _allowed(request: Request, asked: Any) -> ToolServerRequest:
    """Return the request if it asks for nothing that only the machine's operator may."""
    if asked.command is not None and not state_of(request).settings.allow_stdio:
        raise Forbidden(
            "a tool server that is a command runs on the workers' machines: set DURABLE_AGENT_ALLOW_STDIO=true for the API "
            "and the workers to allow it",
            field="command",
        )
    return asked  # type: ignore[no-any-return]
