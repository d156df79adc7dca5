"""Which model a name stands for, what is missing to reach it, and what it costs and holds."""

from __future__ import annotations

import pytest

from durable_agent.agents.catalog import Available, Catalog, window_tokens
from durable_agent.agents.offline import OfflineModel, ScriptedModel
from durable_agent.agents.prices import price_of
from durable_agent.errors import FatalError
from tests.support.asking import environment

pytestmark = pytest.mark.usefixtures("no_credentials")


def test_names_are_resolved_and_kept() -> None:
    catalog = Catalog.from_env(environment("http://127.0.0.1:1"))
    for name, provider in (
        ("claude-opus-4-5", "anthropic"),
        ("gpt-5", "openai"),
        ("o3-mini", "openai"),
        ("gemini-2.5-pro", "google"),
    ):
        found = catalog.resolve(name)
        assert (found.provider, found.name) == (provider, name)
        assert catalog.resolve(f"{provider}:{name}") is found
    assert catalog.resolve("bedrock:arn:aws:x").name == "arn:aws:x"
    assert isinstance(catalog.resolve("offline"), OfflineModel)
    assert catalog.resolve("offline:brief").name == "brief"


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, "offline:offline"),
        ({"AWS_REGION": "eu-west-1"}, "offline:offline"),
        ({"AWS_REGION": "eu-west-1", "AWS_PROFILE": "p"}, "bedrock:global.anthropic.claude-sonnet-5-5"),
        ({"GOOGLE_API_KEY": "k"}, "google:gemini-3.8-flash"),
        ({"GOOGLE_API_KEY": "k", "GEMINI_API_KEY": " "}, "google:gemini-3.8-flash"),
        ({"OPENAI_BASE_URL": "http://127.0.0.1:1/v1"}, "openai:gpt-6.1-terra"),
        ({"GOOGLE_API_KEY": "k", "OPENAI_API_KEY": "k"}, "openai:gpt-6.1-terra"),
        ({"OPENAI_API_KEY": "k", "ANTHROPIC_API_KEY": "k"}, "anthropic:claude-sonnet-5-5"),
        ({"OPENAI_API_KEY": "  "}, "offline:offline"),
        ({"OPENAI_API_KEY": "k", "DURABLE_AGENT_MODEL": "gpt-4o"}, "openai:gpt-4o"),
        ({"OPENAI_API_KEY": "k", "DURABLE_AGENT_MODEL": "offline"}, "offline:offline"),
    ],
)
def test_the_default_is_the_first_with_a_key(env: dict[str, str], expected: str) -> None:
    found = Catalog.from_env(env).resolve("default")
    assert f"{found.provider}:{found.name}" == expected


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("claude-opus-4-5", "ANTHROPIC_API_KEY"),
        ("openai:gpt-5", "OPENAI_API_KEY"),
        ("google:x", "GEMINI_API_KEY"),
        ("bedrock:x", "AWS_REGION"),
        ("mistral:x", "no provider 'mistral'"),
        ("llama", "provider:model"),
        ("openai:", "provider:model"),
        ("", "provider:model"),
    ],
)
def test_what_is_missing_is_named(name: str, said: str) -> None:
    with pytest.raises(FatalError, match=said):
        Catalog.from_env({}).resolve(name)


def test_a_default_of_itself_is_refused() -> None:
    with pytest.raises(FatalError, match="names itself"):
        Catalog.from_env({"DURABLE_AGENT_MODEL": "default"}).resolve("default")


def test_an_extra_model_comes_first() -> None:
    mine = ScriptedModel([])
    catalog = Catalog.from_env({}, {"openai:gpt-4o": mine, "mine": mine, "default": mine})
    assert catalog.resolve("mine") is catalog.resolve("gpt-4o") is catalog.resolve() is mine


def test_the_available_are_listed_and_have_prices_and_windows() -> None:
    found = Catalog.from_env({"GEMINI_API_KEY": "k"}).available()
    assert [(one.provider, one.has_key) for one in found] == [
        ("anthropic", False), ("openai", False), ("google", True), ("bedrock", False), ("offline", True),
    ]  # fmt: skip
    assert found[-1] == Available("offline", True, "offline")
    assert all(price_of(one.provider, one.default_model) for one in found)


@pytest.mark.parametrize(
    ("provider", "model", "size"),
    [
        ("anthropic", "claude-sonnet-4-5", 200_000),
        ("anthropic", "claude-of-tomorrow", 200_000),
        ("bedrock", "eu.anthropic.of-tomorrow", 200_000),
        ("openai", "gpt-4o", 128_000),
        ("openai", "gpt-5", 400_000),
        ("google", "gemini-of-tomorrow", 1_000_000),
        ("openai", "llama", 128_000),
    ],
)
def test_windows_have_a_safe_default(provider: str, model: str, size: int) -> None:
    assert window_tokens(provider, model) == size
