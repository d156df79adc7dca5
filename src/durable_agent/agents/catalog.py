"""Which models there are: by name, from the keys that the environment holds.

A name is `provider:model`, a well-known model's own name, `default` or `offline`. Nothing is imported and nobody is asked
until a model is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from durable_agent.agents import prices, providers
from durable_agent.agents.offline import OfflineModel
from durable_agent.agents.providers import PydanticAIModel
from durable_agent.errors import FatalError
from durable_agent.flow.model import ChatModel

if TYPE_CHECKING:
    from pydantic_ai.models import Model

DEFAULT_VARIABLE: Final = "DURABLE_AGENT_MODEL"
OFFLINE: Final = "offline"

_DEFAULTS: Final = {
    "anthropic": "claude-sonnet-5-5",
    "openai": "gpt-6.1-terra",
    "google": "gemini-3.8-flash",
    "bedrock": "global.anthropic.claude-sonnet-5-5",
}
_WELL_KNOWN: Final = (
    ("claude-", "anthropic"),
    ("gpt-", "openai"),
    ("chatgpt-", "openai"),
    ("o1", "openai"),
    ("o3", "openai"),
    ("o4", "openai"),
    ("gemini-", "google"),
)
# For what the table of prices does not know; the first prefix that fits. What nobody knows gets the least.
_WINDOWS: Final = (
    ("claude-", 200_000),
    ("gpt-4o", 128_000),
    ("gpt-", 400_000),
    ("o1", 200_000),
    ("o3", 200_000),
    ("o4", 200_000),
    ("gemini-", 1_000_000),
    ("anthropic.", 200_000),
    ("amazon.nova", 128_000),
)
_LEAST_WINDOW_TOKENS: Final = 128_000
_AWS_GEOGRAPHIES: Final = ("us.", "eu.", "apac.", "jp.", "au.", "global.")
_AWS_KEYS: Final = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
_AWS_HINTS: Final = (
    "AWS_BEARER_TOKEN_BEDROCK", "AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Available:
    """A provider, whether its key was found, and the model that it stands for in `default`."""

    provider: str
    has_key: bool
    default_model: str


class Catalog:
    """The models of a process. `extra` are models by their full name, which come before all others."""

    def __init__(self, env: Mapping[str, str], extra: Mapping[str, ChatModel] | None = None) -> None:
        self._env = {name: value.strip() for name, value in env.items() if value.strip()}
        self._extra = dict(extra or {})
        self._models: dict[str, ChatModel] = {}

    def __repr__(self) -> str:
        return f"Catalog({', '.join(one.provider for one in self.available() if one.has_key)})"

    @classmethod
    def from_env(cls, env: Mapping[str, str], extra: Mapping[str, ChatModel] | None = None) -> Catalog:
        """Return the catalog of the providers whose usual variables are set."""
        return cls(env, extra)

    def available(self) -> list[Available]:
        """Return every provider in the order in which `default` is looked for; the offline one last."""
        found = [
            Available(name, self._missing(name) is None and self._hinted(name), of) for name, of in _DEFAULTS.items()
        ]
        return [*found, Available(OFFLINE, True, OFFLINE)]

    def resolve(self, name: str = "default") -> ChatModel:
        """Return the model of a name, the same each time.

        Raises FatalError for a name that says no provider, and for a provider without a key, naming the variable.
        """
        if name in self._extra:
            return self._extra[name]
        if name == "default":
            return self.resolve(self._default())
        provider, model = _parted(name)
        full = f"{provider}:{model}"
        if full in self._extra:
            return self._extra[full]
        if full not in self._models:
            self._models[full] = self._model(provider, model)
        return self._models[full]

    def _default(self) -> str:
        if chosen := self._env.get(DEFAULT_VARIABLE):
            if chosen == "default":
                raise FatalError(f"{DEFAULT_VARIABLE} names itself: set it to provider:model")
            return chosen
        first = next(one for one in self.available() if one.has_key)
        return f"{first.provider}:{first.default_model}"

    def _model(self, provider: str, model: str) -> ChatModel:
        if provider == OFFLINE:
            return OfflineModel(model)
        if provider not in _DEFAULTS:
            known = ", ".join([*_DEFAULTS, OFFLINE])
            raise FatalError(f"model {provider}:{model}: there is no provider {provider!r}; use one of {known}")
        if missing := self._missing(provider):
            raise FatalError(f"model {provider}:{model} needs a key: set {missing}")
        make, secrets = self._maker(provider, model)
        return PydanticAIModel(provider, model, partial(window_tokens, provider, model), make=make, secrets=secrets)

    def _missing(self, provider: str) -> str | None:
        """Return the variable that a provider lacks."""
        match provider:
            case "anthropic":
                return None if self._env.get("ANTHROPIC_API_KEY") else "ANTHROPIC_API_KEY"
            case "openai":
                # A server of one's own often asks for no key.
                return None if self._first("OPENAI_API_KEY", "OPENAI_BASE_URL") else "OPENAI_API_KEY"
            case "google":
                return None if self._first("GEMINI_API_KEY", "GOOGLE_API_KEY") else "GEMINI_API_KEY"
            case _:
                return None if self._first("AWS_REGION", "AWS_DEFAULT_REGION") else "AWS_REGION"

    def _hinted(self, provider: str) -> bool:
        """Whether credentials show. A machine's own role at AWS shows only when asked: it must be named to be used."""
        return provider != "bedrock" or self._first(*_AWS_HINTS) is not None

    def _maker(self, provider: str, model: str) -> tuple[Callable[[], Model], tuple[str, ...]]:
        match provider:
            case "anthropic":
                key = self._env["ANTHROPIC_API_KEY"]
                return partial(providers.anthropic, model, key=key, base_url=self._first("ANTHROPIC_BASE_URL")), (key,)
            case "openai":
                key = self._first("OPENAI_API_KEY") or "none"
                return partial(providers.openai, model, key=key, base_url=self._first("OPENAI_BASE_URL")), (key,)
            case "google":
                key = self._first("GEMINI_API_KEY", "GOOGLE_API_KEY") or ""
                url = self._first("GEMINI_BASE_URL", "GOOGLE_BASE_URL")
                return partial(providers.google, model, key=key, base_url=url), (key,)
            case _:
                return self._bedrock(model)

    def _bedrock(self, model: str) -> tuple[Callable[[], Model], tuple[str, ...]]:
        token = self._first("AWS_BEARER_TOKEN_BEDROCK")
        names = {name: self._env[name.upper()] for name in _AWS_KEYS if name.upper() in self._env}
        credentials = {} if token or "aws_secret_access_key" not in names else names
        if not credentials and not token and (profile := self._first("AWS_PROFILE")):
            credentials = {"profile_name": profile}
        make = partial(
            providers.bedrock, model, region=self._first("AWS_REGION", "AWS_DEFAULT_REGION") or "", token=token,
            endpoint_url=self._first("AWS_ENDPOINT_URL_BEDROCK_RUNTIME"), credentials=credentials,
        )  # fmt: skip
        return make, (token or "", names.get("aws_secret_access_key", ""), names.get("aws_session_token", ""))

    def _first(self, *names: str) -> str | None:
        return next((self._env[name] for name in names if name in self._env), None)


def window_tokens(provider: str, model: str) -> int:
    """Return the size of a model's context window: the table's, else that of its family, else a small one."""
    family = model
    for prefix in _AWS_GEOGRAPHIES:
        family = family.removeprefix(prefix)
    guessed = next((size for prefix, size in _WINDOWS if family.startswith(prefix)), _LEAST_WINDOW_TOKENS)
    return prices.window_tokens(provider, model) or guessed


def _parted(name: str) -> tuple[str, str]:
    """Return the provider and the model that a name says."""
    provider, colon, model = name.partition(":")
    if name == OFFLINE:
        return OFFLINE, OFFLINE
    if colon and model:
        return provider, model
    for prefix, known in _WELL_KNOWN:
        if name.startswith(prefix):
            return known, name
    raise FatalError(
        f"model {name!r} says no provider: write provider:model, for example anthropic:{name or 'claude-…'}"
    )
