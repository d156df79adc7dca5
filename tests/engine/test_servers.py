"""Tool servers as rows: a change that meets no row says so."""

from __future__ import annotations

import pytest

from durable_agent.core.records import DEFAULT_TENANT
from durable_agent.engine import servers
from durable_agent.errors import NotFound
from durable_agent.vault import Vault
from tests.acceptance.test_tool_servers import meanwhile
from tests.support.postgres import Database
from tests.support.runs import Engine


async def test_a_server_that_is_dropped_while_it_is_changed_is_not_found(engine: Engine, database: Database) -> None:
    vault, url = Vault(None), "https://example.org/mcp"
    made = await servers.register(engine.pools, DEFAULT_TENANT, "depot", vault, url=url, command=None, token=None)
    changed = servers.change(engine.pools, DEFAULT_TENANT, made, "depot", vault, url=url, command=None, token=None)
    with pytest.raises(NotFound):
        await meanwhile(database, "delete from tool_servers", changed)
