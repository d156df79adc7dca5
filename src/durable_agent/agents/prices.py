"""What a call of a model costs, after it and at most before it, in whole micro-dollars, rounded up.

The tokens are the truth and the cost is derived: `source` says from what. An operator's row beats the table of
`genai-prices`, which lies in the package and is read without the network; an offline model is free.
One US dollar for a million tokens is one micro-dollar for a token, so a row's rates are micro-dollars for a token.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from durable_agent.flow.model import Usage

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, Provider

Source = Literal["operator", "genai-prices", "offline", "none"]

_TABLE_NAMES = {"bedrock": "aws"}
# No call asks for a cache of an hour, whose writes are dearer still.
_TEXT_IN = ("input_mtok", "cache_read_mtok", "cache_write_mtok")
_TEXT_OUT = ("output_mtok",)


@dataclass(frozen=True, slots=True)
class PriceRow:
    """An operator's price in US dollars for a million tokens; a cache rate left out is the input's."""

    input_usd: Decimal
    output_usd: Decimal
    cache_read_usd: Decimal | None = None
    cache_write_usd: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Price:
    """The dearest a model may be, in micro-dollars for a token, whatever its tier, its cache and the hour of the day."""

    source: Source
    input_microusd: Decimal
    output_microusd: Decimal


NO_OVERRIDES: Mapping[str, PriceRow] = {}


def cost_microusd(
    provider: str, model: str, usage: Usage, overrides: Mapping[str, PriceRow] = NO_OVERRIDES
) -> tuple[int, Source]:
    """Return what a call cost and from where its price is; 0 and "none" for a model that nobody has a price for.

    `overrides` are rows by `provider:model` or by `model`.
    """
    if provider == "offline":
        return 0, "offline"
    if (row := _override(provider, model, overrides)) is not None:
        return _whole(_cost_by_row(row, usage)), "operator"
    if (found := _listed(provider, model)) is None:
        return 0, "none"
    from genai_prices import Usage as Counted

    of, info = found
    cached = usage.cache_read_tokens + usage.cache_write_tokens
    counted = Counted(
        input_tokens=max(usage.input_tokens, cached), output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cache_read_tokens, cache_write_tokens=usage.cache_write_tokens,
    )  # fmt: skip
    return _whole(info.calc_price(counted, of).total_price * 1_000_000), "genai-prices"


def bound_microusd(
    provider: str, model: str, input_tokens: int, max_output_tokens: int,
    overrides: Mapping[str, PriceRow] = NO_OVERRIDES,
) -> int | None:  # fmt: skip
    """Return what a call may cost at most: every token at its dearest. None when no price is known."""
    price = price_of(provider, model, overrides)
    if price is None:
        return None
    return _whole(price.input_microusd * input_tokens + price.output_microusd * max_output_tokens)


def price_of(provider: str, model: str, overrides: Mapping[str, PriceRow] = NO_OVERRIDES) -> Price | None:
    """Return a model's dearest price; None when nobody has one."""
    if provider == "offline":
        return Price("offline", Decimal(0), Decimal(0))
    if (row := _override(provider, model, overrides)) is not None:
        dearest = max(row.input_usd, row.cache_read_usd or row.input_usd, row.cache_write_usd or row.input_usd)
        return Price("operator", dearest, row.output_usd)
    return _dearest(provider, model, int(time.time() // 3600))


def window_tokens(provider: str, model: str) -> int | None:
    """Return the size of a model's context window as the table has it; None when it does not."""
    found = _listed(provider, model)
    return found[1].context_window if found else None


def _override(provider: str, model: str, overrides: Mapping[str, PriceRow]) -> PriceRow | None:
    return overrides.get(f"{provider}:{model}") or overrides.get(model)


def _cost_by_row(row: PriceRow, usage: Usage) -> Decimal:
    read = row.input_usd if row.cache_read_usd is None else row.cache_read_usd
    write = row.input_usd if row.cache_write_usd is None else row.cache_write_usd
    fresh = max(0, usage.input_tokens - usage.cache_read_tokens - usage.cache_write_tokens)
    inputs = row.input_usd * fresh + read * usage.cache_read_tokens + write * usage.cache_write_tokens
    return inputs + row.output_usd * usage.output_tokens


@lru_cache(maxsize=256)
def _listed(provider: str, model: str) -> tuple[Provider, ModelInfo] | None:
    """Return a model's entry in the table if it has a price for text."""
    try:
        from genai_prices.data_snapshot import get_snapshot
    except ImportError:
        return None
    name = _TABLE_NAMES.get(provider, provider)
    try:
        found = get_snapshot().find_provider_model(model, None, name, None)
    except LookupError:
        return None
    info = found[1]
    hour = int(time.time() // 3600)
    return found if _rates(info, _TEXT_IN, hour) and _rates(info, _TEXT_OUT, hour) else None


@lru_cache(maxsize=1024)
def _dearest(provider: str, model: str, hour: int) -> Price | None:
    """Return the dearest a model may be by the table in the day after this hour, counted since the epoch."""
    if (found := _listed(provider, model)) is None:
        return None
    _, info = found
    return Price("genai-prices", max(_rates(info, _TEXT_IN, hour)), max(_rates(info, _TEXT_OUT, hour)))


def _rates(info: ModelInfo, kinds: tuple[str, ...], hour: int) -> list[Decimal]:
    """Return every rate a model's tokens of these kinds may have in the day after an hour, in all tiers."""
    priced = [info.get_prices(datetime.fromtimestamp((hour + ahead) * 3600, UTC)) for ahead in range(26)]
    return [rate for one in priced for kind in kinds for rate in _tiers(getattr(one, kind))]


def _tiers(price: Any) -> Iterator[Decimal]:
    match price:
        case None:
            return
        case Decimal():
            yield price
        case _:
            yield price.base
            yield from (tier.price for tier in price.tiers)


def _whole(microusd: Decimal) -> int:
    return int(microusd.to_integral_value(ROUND_CEILING))
