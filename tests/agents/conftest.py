"""What several modules of agents' tests work with: stubbed providers, tool servers' connections, a site to read."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from durable_agent.agents.catalog import Catalog
from durable_agent.agents.mcp import Sessions
from durable_agent.agents.tools import WebTools
from durable_agent.egress import Egress
from durable_agent.flow.model import ChatModel
from tests.support.asking import MODELS, environment
from tests.support.providers import ProviderStub, provider_stub
from tests.support.pydantic_agents import forget
from tests.support.sites import Site


@pytest.fixture
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """No keys, no proxies, no role of the machine: what the process's own environment says stays out."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
        monkeypatch.setenv(name.lower(), "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")


@pytest.fixture
async def stub() -> AsyncIterator[ProviderStub]:
    async with provider_stub() as made:
        yield made


@pytest.fixture(params=sorted(MODELS))
def provider(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model(stub: ProviderStub, provider: str) -> ChatModel:
    return Catalog.from_env(environment(stub.url)).resolve(MODELS[provider])


@pytest.fixture
async def sessions() -> AsyncIterator[Sessions]:
    """The connections of one worker that may reach this machine's ports and start commands."""
    async with Sessions(egress=Egress(allow=["127.0.0.0/8"]), allow_stdio=True) as made:
        yield made


@pytest.fixture
def web(home: Site) -> WebTools:
    """Tools that may go to that site only, and search there."""
    return WebTools(Egress(allow=[home.authority]), "duckduckgo", home.url("/html/"))


@pytest.fixture
def nothing_happened() -> None:
    """No agent has done anything yet."""
    forget()
