"""The simulated store answers as the engine on PostgreSQL does, command by command, row by row."""

from __future__ import annotations

from random import Random

import pytest

from durable_agent.testing.simulation import Mutant
from tests.support.runs import Engine
from tests.testing.twins import TOOLS, Twins

TRACES, COMMANDS = 10, 40
# Wrong versions that one session driven by hand can show.
SHOWN = (Mutant.NO_FENCE, Mutant.FORGETFUL, Mutant.UNCOUNTED, Mutant.CHECK_THEN_SPEND, Mutant.RESET_CLAIM)


async def follow(engine: Engine, seed: int, mutant: Mutant | None = None) -> None:
    hand = engine.hand(tools=tuple(TOOLS))
    hand.beat(1e6)
    twins = Twins(engine, hand, Random(seed))
    twins.store.mutant = mutant
    try:
        for _ in range(COMMANDS):
            await twins.step()
    except AssertionError as error:
        error.add_note("\n".join(twins.told[-12:]))
        raise


@pytest.mark.parametrize("seed", range(TRACES))
async def test_the_same_commands_have_the_same_answers_and_rows(engine: Engine, seed: int) -> None:
    await follow(engine, seed)


@pytest.mark.parametrize("mutant", SHOWN)
async def test_a_store_that_is_not_the_engine_is_told_apart(engine: Engine, mutant: Mutant) -> None:
    for seed in range(TRACES):
        try:
            await follow(engine, seed, mutant)
        except (AssertionError, LookupError):
            return
    raise AssertionError(f"{TRACES} traces, and nobody saw that {mutant.says}")
