"""What comes in about agents, tool servers, models and gates: requests as pydantic models."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Literal

from pydantic import AliasChoices, Field, model_validator

from durable_agent.api.schemas import BudgetRequest, Model, Name, Text


class LimitRequest(Model):
    """One limit of an agent over all its runs: in all, or in a rolling window."""

    meter: Name = Field(pattern=r"^(tokens|tools|microusd|tool:.+)$")
    cap: int = Field(ge=0, le=2**53)
    window_s: int = Field(0, ge=0, le=31_536_000)
    on_limit: Literal["fail", "pause"] = "pause"


class AgentRequest(Model):
    """An agent: its model, what it is told, what it may call and how far it may go."""

    name: Name = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,99}$")
    model: Name = "default"
    system: Text | None = Field(
        None, max_length=100_000, validation_alias=AliasChoices("system", "system_prompt", "systemPrompt")
    )
    tools: list[Name] = Field(
        default_factory=list, max_length=100, validation_alias=AliasChoices("tools", "allowed_tools", "allowedTools")
    )
    tool_servers: list[Name] = Field(default_factory=list, max_length=20)
    approve: list[Name] = Field(default_factory=list, max_length=100)
    max_steps: int | None = Field(None, ge=1, le=1000)
    max_tokens: int | None = Field(None, ge=1, le=1_000_000)
    temperature: float | None = Field(None, ge=0, le=2)
    result_chars: int | None = Field(None, ge=100, le=1_000_000)
    deadline_s: float | None = Field(None, gt=0, le=604_800)
    concurrency: int | None = Field(None, ge=1, le=10_000)
    budget: BudgetRequest | None = None
    budgets: list[LimitRequest] = Field(default_factory=list, max_length=20)

    @model_validator(mode="after")
    def _one_limit_each(self) -> AgentRequest:
        keys = [(one.meter, one.window_s) for one in self.budgets]
        if len(set(keys)) != len(keys):
            raise ValueError("`budgets` limits the same meter twice in the same window")
        return self

    def to_config(self) -> dict[str, Any]:
        """Return the configuration as it is stored."""
        config = self.model_dump(mode="json", by_alias=False, exclude={"name", "budget"}, exclude_none=True)
        limits = self.budget.to_limits() if self.budget is not None else ()
        told = [{"meter": one.meter, "cap": one.cap, "on_limit": one.on_limit or "fail"} for one in limits]
        return {**config, "budget": told} if told else config


class MessageRequest(Model):
    """What is said to an agent that waits or has answered."""

    message: Any = Field(validation_alias=AliasChoices("message", "text", "input"))
    metadata: dict[str, Any] | None = None


class ToolServerRequest(Model):
    """Where a tool server is: a URL with the bearer token it asks for, or the command of an operator's own."""

    name: Name = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_\-]{0,62}$")
    url: Text | None = Field(None, max_length=2000, pattern=r"^https?://")
    command: list[Text] | None = Field(None, min_length=1, max_length=100)
    token: Text | None = Field(None, min_length=1, max_length=10_000, repr=False)

    @model_validator(mode="after")
    def _one_place(self) -> ToolServerRequest:
        if (self.url is None) == (self.command is None):
            raise ValueError("a tool server has a `url` or a `command`, one of them")
        if self.command is not None and self.token is not None:
            raise ValueError(
                "a `command` takes no token: let it be a script of yours that sets what the server asks for and starts it"
            )
        return self


class ApproveToolsRequest(Model):
    """What a person accepts of a tool server: the list of tools with this digest."""

    digest: Name


class PriceRequest(Model):
    """US dollars for a million tokens, as decimal numbers."""

    input_usd: Decimal = Field(ge=0, le=100_000)
    output_usd: Decimal = Field(ge=0, le=100_000)
    cache_read_usd: Decimal | None = Field(None, ge=0, le=100_000)
    cache_write_usd: Decimal | None = Field(None, ge=0, le=100_000)


class ModelRequest(Model):
    """What an operator says of a model: its price, its context window."""

    price: PriceRequest | None = None
    window_tokens: int | None = Field(None, ge=1000, le=100_000_000)


class GateRequest(Model):
    """What a provider's credential lets the whole fleet take; null: no limit."""

    requests_per_minute: int | None = Field(None, ge=1, le=10_000_000)
    tokens_per_minute: int | None = Field(None, ge=1, le=2**53)
    concurrency: int | None = Field(None, ge=1, le=100_000)
