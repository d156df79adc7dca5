"""What an agent is: its model, what it is told, what it may call, and how far it may go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from durable_agent.errors import FatalError

MAX_STEPS: Final = 25
MAX_TOKENS: Final = 4096
RESULT_CHARS: Final = 20_000


@dataclass(frozen=True, slots=True)
class Config:
    """One agent as its run pinned it.

    `tools` are names of tools that its worker offers; `servers` are tool servers, each with its name and the tools and the
    digest that were approved. A person approves each call of what `approve` names. `max_steps` counts calls of the model.
    """

    name: str = "agent"
    model: str = "default"
    system: str = ""
    tools: tuple[str, ...] = ()
    servers: tuple[Mapping[str, Any], ...] = ()
    approve: tuple[str, ...] = ()
    max_steps: int = MAX_STEPS
    max_tokens: int = MAX_TOKENS
    temperature: float | None = None
    result_chars: int = RESULT_CHARS
    compact_at: float = 0.85

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Config:
        """Return the configuration in a step's input. Raises FatalError naming what is of another kind."""
        known = {one.name for one in fields(cls)}
        given = {key: item for key, item in value.items() if key in known and item is not None}
        for key in ("tools", "servers", "approve"):
            if key in given:
                if not isinstance(given[key], list | tuple):
                    raise FatalError(f"agent: {key} must be a list, not {given[key]!r}")
                given[key] = tuple(given[key])
        for key, least in (("max_steps", 1), ("max_tokens", 1), ("result_chars", 100)):
            if key in given and (not isinstance(given[key], int) or given[key] < least):
                raise FatalError(f"agent: {key} must be a whole number of at least {least}, not {given[key]!r}")
        return cls(**given)
