"""Prices: what an operator set of models, for the processes that call them."""

from __future__ import annotations

from typing import Any

from durable_agent.core.records import Tenant
from durable_agent.db import reads
from durable_agent.db.pool import TRANSIENT, Database, first_line
from durable_agent.errors import DatabaseUnavailable


async def prices_of(db: Database, tenant: Tenant) -> list[dict[str, Any]]:
    """Return the rows: provider, name, price, window_tokens. Raises DatabaseUnavailable."""
    try:
        async with db.reading() as conn:
            return await reads.rows(conn, reads.MODELS.list_models, {"tenant": tenant})
    except TRANSIENT as error:
        raise DatabaseUnavailable(f"the prices cannot be read: {first_line(error)}") from error
