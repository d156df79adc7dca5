"""The simulated store answers as the engine on PostgreSQL does, command by command, row by row."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from durable_agent.core.outcomes import Failed, Outcome, Succeeded, Suspended
from durable_agent.core.records import FailureClass, Lease, WaitKind
from durable_agent.testing.simulation import Mutant
from tests.support.runs import Engine, run_of, step
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


@pytest.mark.parametrize("last", ["left", "ended with the run"])
async def test_a_redriven_step_waits_on_for_what_it_had_added_in_both(engine: Engine, last: str) -> None:
    hand = engine.hand(tools=tuple(TOOLS))
    hand.beat(1e6)
    twins = Twins(engine, hand, Random(0))
    run = await twins.both_submit(run_of(step("m"), step("other")))
    items = (step("m.x.a"), step("m.x.b"), step("m.x.c", when="false"))

    async def say(told: dict[str, Callable[[Lease], Outcome]]) -> None:
        await twins._claim()
        found = {mine.name: (mine, theirs) for _, (mine, theirs) in sorted(twins.claims.items())}
        twins.now_s += 1.0
        await twins.both_settle(
            [(made(one.lease), made(two.lease)) for name, made in told.items() for one, two in [found[name]]]
        )
        await twins.compare()

    def done(lease: Lease) -> Outcome:
        return Succeeded(lease, b"1")

    def dead(lease: Lease) -> Outcome:
        return Failed(lease, FailureClass.INVALID_INPUT, "Error", "it failed")

    await say({"m": lambda lease: Suspended(lease, WaitKind.STEPS, "x", {}, "sha", steps=items)})
    if last == "left":
        await say({"m.x.a": done, "m.x.b": dead})
        await twins.both_redrive(run)
        await say({"m.x.b": dead})
        await twins.both_redrive(run)
        await say({"m.x.b": done, "other": done})
    else:
        await say({"m.x.a": done})
        await say({"m.x.b": done, "other": dead})
        await twins.both_redrive(run)
        await say({"other": done})
    await say({"m": done})
    assert (await engine.run(run))["status"] == "completed"
