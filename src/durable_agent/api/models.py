"""Models and what they cost; the gates of providers and tools: limits, holds, breakers."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from durable_agent.api.resources import GateRequest, ModelRequest
from durable_agent.api.runs import Operator, Reader, body_of, parsed, takes
from durable_agent.api.state import reply, state_of
from durable_agent.core.events import dumps
from durable_agent.db import reads
from durable_agent.engine.gate import GATES
from durable_agent.errors import NotFound

router = APIRouter(tags=["models"])


@router.get("/models")
async def list_models(request: Request, who: Reader) -> Response:
    """List the models that were used or that an operator set a price of, with what each was used for."""
    async with state_of(request).db.reading() as conn:
        return reply({"items": await reads.rows(conn, reads.MODELS.list_models, {"tenant": who.tenant})})


@router.put("/models/{provider}/{name:path}", openapi_extra=takes(ModelRequest))
async def set_model(request: Request, provider: str, name: str, who: Operator) -> Response:
    """Set the price or the window of a model; workers go by it within half a minute."""
    asked: ModelRequest = parsed(ModelRequest, await body_of(request))
    price = asked.price.model_dump(mode="json", exclude_none=True) if asked.price else None
    params: dict[str, Any] = {
        "tenant": who.tenant, "provider": provider, "name": name, "window_tokens": asked.window_tokens,
        "price": dumps(price).decode() if price else None,
    }  # fmt: skip
    async with state_of(request).db.transaction() as conn:
        await conn.execute(reads.MODELS.set_model, params)
    return reply({"provider": provider, "name": name, "price": price, "window_tokens": asked.window_tokens})


@router.delete("/models/{provider}/{name:path}", status_code=204)
async def drop_model(request: Request, provider: str, name: str, who: Operator) -> Response:
    """Forget what was set of a model: the built-in price holds again."""
    params = {"tenant": who.tenant, "provider": provider, "name": name}
    async with state_of(request).db.transaction() as conn:
        done = await conn.execute(reads.MODELS.drop_model, params)
    if done.rowcount == 0:
        raise NotFound(f"nothing is set of model {provider}:{name}", model=f"{provider}:{name}")
    return Response(status_code=204)


@router.get("/gates")
async def list_gates(request: Request, who: Reader) -> Response:
    """List the gates: `provider:NAME` and `tool:NAME`, with their limits, what holds them, and whether they work."""
    async with state_of(request).db.reading() as conn:
        return reply({"items": await reads.rows(conn, GATES.list_gates, {"tenant": who.tenant})})


@router.put("/gates/{name}", openapi_extra=takes(GateRequest))
async def set_gate(request: Request, name: str, who: Operator) -> Response:
    """Set what a gate lets the whole fleet take; `provider:anthropic`, say. Null is no limit."""
    asked: GateRequest = parsed(GateRequest, await body_of(request))
    async with state_of(request).db.transaction() as conn:
        await conn.execute(GATES.set_gate, {"tenant": who.tenant, "name": name, **asked.model_dump()})
    return reply({"name": name, **asked.model_dump()})
