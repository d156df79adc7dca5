"""The models of one worker: the catalog of its environment, with the prices and windows that the operator set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from durable_agent.agents import prices
from durable_agent.agents.catalog import Catalog
from durable_agent.agents.prices import PriceRow
from durable_agent.flow.model import ChatModel, Named, Usage
from durable_agent.telemetry import logger

log = logger("models")


class WorkerModels:
    """See `flow.model.Models`. `set_prices` replaces what the operator set."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self._prices: Mapping[str, PriceRow] = {}
        self._windows: Mapping[str, int] = {}

    @classmethod
    def from_env(cls, env: Mapping[str, str], extra: Mapping[str, ChatModel] | None = None) -> WorkerModels:
        """Return the models that an environment has keys for; without any, the offline one."""
        return cls(Catalog.from_env(env, extra))

    def set_prices(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take the operator's rows: provider, name, `price` in US dollars for a million tokens, `window_tokens`."""
        named = {f"{row['provider']}:{row['name']}": row for row in rows}
        self._prices = {
            name: price_row(row["price"]) for name, row in named.items() if row["price"] and _priced(name, row)
        }
        self._windows = {name: row["window_tokens"] for name, row in named.items() if row["window_tokens"]}

    def resolve(self, name: str) -> ChatModel:
        """See `flow.model.Models.resolve`."""
        return self.catalog.resolve(name)

    def window_tokens(self, model: ChatModel) -> int:
        """Return the size of a model's context window, as the operator set it or as it is known."""
        return self._windows.get(f"{model.provider}:{model.name}", model.window_tokens)

    def bound_microusd(self, model: Named, input_tokens: int, max_tokens: int) -> int | None:
        """See `flow.model.Models.bound_microusd`."""
        return prices.bound_microusd(model.provider, model.name, input_tokens, max_tokens, self._prices)

    def cost_microusd(self, provider: str, model: str, usage: Usage) -> tuple[int, str]:
        """See `flow.model.Models.cost_microusd`."""
        return prices.cost_microusd(provider, model, usage, self._prices)


def _priced(name: str, row: Mapping[str, Any]) -> bool:
    """Whether a row's price is one. What is none is logged, and taken as not set."""
    try:
        given = [Decimal(str(row["price"][key])) for key in PRICE_KEYS if row["price"].get(key) is not None]
    except InvalidOperation:
        given = [Decimal("NaN")]
    if all(rate.is_finite() and 0 <= rate <= MOST_USD for rate in given):
        return True
    log.warning("price_is_none", model=name, price=row["price"])
    return False


def price_row(price: Mapping[str, Any]) -> PriceRow:
    """Return a price as it is stored: decimal strings of US dollars for a million tokens."""
    given = {key: Decimal(str(price[key])) if price.get(key) is not None else None for key in PRICE_KEYS}
    return PriceRow(
        given["input_usd"] or Decimal(0), given["output_usd"] or Decimal(0), given["cache_read_usd"],
        given["cache_write_usd"],
    )  # fmt: skip


# What a million tokens cost at most: with it, no count of tokens costs more than a row of the database holds.
MOST_USD = 100_000
PRICE_KEYS = ("input_usd", "output_usd", "cache_read_usd", "cache_write_usd")
