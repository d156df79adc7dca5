"""Models and what they cost; the gates of providers and tools: limits, holds, breakers."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from durable_agent.api.resources import GateRequest, ModelRequest
from durable_agent.api.runs import Operator, Reader, body_of, parsed, takes
from durable_agent.api.state import reply, state_of
from durable_agent.db import reads
from durable_agent.engine import gate, prices

router = APIRouter(tags=["models"])

# Names are keys of an index, which holds no more than some thousand bytes.
Named = Annotated[str, Path(min_length=1, max_length=200)]


@router.get("/models")
async def list_models(request: Request, who: Reader) -> Response:
    """List the models that an operator set something of: their prices and windows."""
    return reply({"items": await prices.prices_of(state_of(request).db, who.tenant)})


@router.put("/models/{provider}/{name:path}", openapi_extra=takes(ModelRequest))
async def set_model(request: Request, provider: Named, name: Named, who: Operator) -> Response:
    """Set the price or the window of a model; workers go by it within half a minute."""
    asked: ModelRequest = parsed(ModelRequest, await body_of(request))
    price = asked.price.model_dump(mode="json", exclude_none=True) if asked.price else None
    await prices.set_model(
        state_of(request).db, who.tenant, provider, name, price=price, window_tokens=asked.window_tokens
    )
    return reply({"provider": provider, "name": name, "price": price, "window_tokens": asked.window_tokens})


@router.delete("/models/{provider}/{name:path}", status_code=204)
async def drop_model(request: Request, provider: Named, name: Named, who: Operator) -> Response:
    """Forget what was set of a model: the built-in price holds again."""
    await prices.drop_model(state_of(request).db, who.tenant, provider, name)
    return Response(status_code=204)


@router.get("/gates")
async def list_gates(request: Request, who: Reader) -> Response:
    """List the gates: `provider:NAME` and `tool:NAME`, with their limits, what holds them, and whether they work."""
    async with state_of(request).db.reading() as conn:
        return reply({"items": await reads.rows(conn, gate.GATES.list_gates, {"tenant": who.tenant})})


@router.put("/gates/{name}", openapi_extra=takes(GateRequest))
async def set_gate(request: Request, name: Named, who: Operator) -> Response:
    """Set what a gate lets the whole fleet take; `provider:anthropic`, say. Null is no limit."""
    asked: GateRequest = parsed(GateRequest, await body_of(request))
    await gate.set_gate(state_of(request).db, who.tenant, name, asked.model_dump())
    return reply({"name": name, **asked.model_dump()})
