"""What a call costs: tiers, caches, an operator's rows, what nobody has a price for, and the bound that holds for all."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_agent.agents.models import WorkerModels
from durable_agent.agents.prices import PriceRow, bound_microusd, cost_microusd, price_of, window_tokens
from durable_agent.flow.model import Usage

ROW = PriceRow(Decimal("2"), Decimal("10"), Decimal("0.5"), Decimal("2.5"))
LISTED = [
    ("anthropic", "claude-sonnet-4-5"),
    ("openai", "gpt-4o-mini"),
    ("openai", "gpt-5.6-terra"),
    ("google", "gemini-2.5-flash"),
    ("bedrock", "us.anthropic.claude-sonnet-4-5-20250929-v1:0"),
]


def test_cached_tokens_have_their_own_price() -> None:
    # 400 × 3 + 500 × 0.30 + 100 × 3.75 + 100 × 15
    usage = Usage(1000, 100, cache_read_tokens=500, cache_write_tokens=100)
    assert cost_microusd("anthropic", "claude-sonnet-4-5", usage) == (3225, "genai-prices")


def test_a_long_prompt_pays_the_higher_tier() -> None:
    short, _ = cost_microusd("anthropic", "claude-sonnet-4-5", Usage(200_000, 0))
    long, _ = cost_microusd("anthropic", "claude-sonnet-4-5", Usage(200_001, 0))
    assert (short, long) == (600_000, 1_200_006)


def test_it_is_rounded_up() -> None:
    assert cost_microusd("openai", "gpt-4o-mini", Usage(1, 0)) == (1, "genai-prices")
    assert cost_microusd("openai", "gpt-4o-mini", Usage()) == (0, "genai-prices")


def test_an_operators_row_is_believed() -> None:
    usage = Usage(1000, 100, cache_read_tokens=500, cache_write_tokens=100)
    # 400 × 2 + 500 × 0.5 + 100 × 2.5 + 100 × 10
    assert cost_microusd("anthropic", "claude-sonnet-4-5", usage, {"claude-sonnet-4-5": ROW}) == (2300, "operator")
    assert cost_microusd("mine", "own", Usage(1, 1), {"mine:own": ROW}) == (12, "operator")
    assert cost_microusd("mine", "own", Usage(1, 1), {"yours:own": ROW}) == (0, "none")


def test_a_row_without_cache_rates_takes_the_inputs() -> None:
    row = PriceRow(Decimal("2"), Decimal("10"))
    assert cost_microusd("mine", "own", Usage(10, 0, 5, 5), {"own": row}) == (20, "operator")
    assert bound_microusd("mine", "own", 10, 1, {"own": row}) == 30


def test_a_free_row_is_a_price() -> None:
    free = {"own": PriceRow(Decimal(0), Decimal(0))}
    assert cost_microusd("mine", "own", Usage(10, 10), free) == (0, "operator")
    assert bound_microusd("mine", "own", 10, 10, free) == 0


@pytest.mark.parametrize("of", [("openai", "no-such-model"), ("no-such-provider", "gpt-4o")])
def test_what_nobody_has_a_price_for_has_no_bound(of: tuple[str, str]) -> None:
    assert cost_microusd(*of, Usage(10, 10)) == (0, "none")
    assert bound_microusd(*of, 10, 10) is None
    assert price_of(*of) is None


def test_offline_models_are_free() -> None:
    assert cost_microusd("offline", "anything", Usage(10, 10)) == (0, "offline")
    assert bound_microusd("offline", "anything", 10, 10) == 0


def test_the_bound_takes_the_dearest_tier_and_cache_writes() -> None:
    # Above 200,000 tokens a cache write costs 7.50 and an output 22.50.
    assert bound_microusd("anthropic", "claude-sonnet-4-5", 1000, 100) == 9750


@given(
    of=st.sampled_from(LISTED), fresh=st.integers(0, 400_000), read=st.integers(0, 400_000),
    write=st.integers(0, 400_000), output=st.integers(0, 100_000), by_row=st.booleans(),
)  # fmt: skip
def test_no_call_costs_more_than_its_bound(
    of: tuple[str, str], fresh: int, read: int, write: int, output: int, by_row: bool
) -> None:
    rows = {of[1]: ROW} if by_row else {}
    usage = Usage(fresh + read + write, output, read, write)
    bound = bound_microusd(*of, usage.input_tokens, output, rows)
    assert bound is not None
    assert cost_microusd(*of, usage, rows)[0] <= bound


def test_a_provider_that_miscounts_its_cache_is_still_charged() -> None:
    cost, source = cost_microusd("anthropic", "claude-sonnet-4-5", Usage(10, 0, cache_read_tokens=1000))
    assert (cost, source) == (300, "genai-prices")


def test_windows_come_from_the_table() -> None:
    assert window_tokens("anthropic", "claude-sonnet-4-5") == 200_000
    assert window_tokens("openai", "no-such-model") is None


@pytest.mark.parametrize("rate", ["NaN", "Infinity", "-1", "1e30"])
def test_a_price_that_is_none_is_not_taken(rate: str) -> None:
    models = WorkerModels.from_env({})
    row = {"provider": "anthropic", "name": "house", "window_tokens": None}
    models.set_prices([{**row, "price": {"input_usd": "3", "output_usd": rate}}])
    assert models.cost_microusd("anthropic", "house", Usage(10, 10)) == (0, "none")
    models.set_prices([{**row, "price": {"input_usd": "3", "output_usd": "15"}}])
    assert models.cost_microusd("anthropic", "house", Usage(10, 10)) == (180, "operator")
