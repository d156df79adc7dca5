"""Prices: what an operator set of models, for the processes that call them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from durable_agent.core.events import dumps
from durable_agent.core.records import Tenant
from durable_agent.db import reads
from durable_agent.db.pool import Database
from durable_agent.errors import NotFound


async def prices_of(db: Database, tenant: Tenant) -> list[dict[str, Any]]:
    """Return the rows: provider, name, price, window_tokens. Raises DatabaseUnavailable."""
    async with db.reading() as conn:
        return await reads.rows(conn, reads.MODELS.list_models, {"tenant": tenant})


async def set_model(
    db: Database, tenant: Tenant, provider: str, name: str, *, price: Mapping[str, Any] | None, window_tokens: int | None
) -> None:  # fmt: skip
    """Set the price and the window of a model; None: what is built in."""
    params = {
        "tenant": tenant, "provider": provider, "name": name, "window_tokens": window_tokens,
        "price": dumps(price).decode() if price else None,
    }  # fmt: skip
    async with db.transaction() as conn:
        await conn.execute(reads.MODELS.set_model, params)


async def drop_model(db: Database, tenant: Tenant, provider: str, name: str) -> None:
    """Forget what was set of a model. Raises NotFound."""
    async with db.transaction() as conn:
        done = await conn.execute(reads.MODELS.drop_model, {"tenant": tenant, "provider": provider, "name": name})
    if done.rowcount == 0:
        raise NotFound(f"nothing is set of model {provider}:{name}", model=f"{provider}:{name}")
