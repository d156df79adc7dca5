"""The simulation finds nothing in the protocol, finds each wrong version of it, and is the same wherever it is played."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import Counter
from random import Random

import pytest

from durable_agent.testing.simulation import Mutant, play
from durable_agent.testing.simulation.loop import Process, VirtualLoop

SEEDS, SHARE, WITHIN = 2000, 250, 500
# Each must land in every share, or it proves less than it says.
FAULTS = {
    "killed", "killed by its step", "frozen", "drained", "woken beside its successor", "aimed at a call", "answer lost",
    "message lost", "message delayed", "database away", "hint lost", "hint doubled",
}  # fmt: skip


@pytest.mark.parametrize("first", range(0, SEEDS, SHARE))
def test_no_seed_breaks_an_invariant_and_every_fault_lands(first: int) -> None:
    faults: Counter[str] = Counter()
    figures: Counter[str] = Counter()
    for seed in range(first, first + SHARE):
        played = play(seed)
        assert played.violations == (), f"python scripts/simulate.py --seed {seed} --trace"
        faults.update(played.faults)
        figures.update(played.figures)
    assert {name for name, count in faults.items() if count} >= FAULTS
    least = min(
        figures[name] for name in ("runs", "effects", "calls", "leases lost", "fenced writes", "unknown outcomes")
    )
    assert least > 20


def test_a_seed_without_faults_counts_none() -> None:
    for seed in range(20):
        played = play(seed, faults=False)
        assert (played.violations, played.faults) == ((), {})
        assert played.figures["leases lost"] == 0


@pytest.mark.parametrize("mutant", list(Mutant))
def test_a_wrong_version_is_found(mutant: Mutant) -> None:
    assert any(play(seed, mutant=mutant).violations for seed in range(WITHIN))


def test_a_seed_is_the_same_history_in_every_process() -> None:
    script = (
        "from durable_agent.testing.simulation import play\n"
        "print([play(seed).digest for seed in range(12)])\n"
    )  # fmt: skip
    told = {
        subprocess.run(
            [sys.executable, "-c", script], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert told == {f"{[play(seed).digest for seed in range(12)]}\n"}


def test_a_frozen_process_waits_while_time_goes_on_and_a_killed_one_never_goes_on() -> None:
    loop, told = VirtualLoop(Random(1)), list[tuple[str, float]]()
    sleeper, victim = Process("sleeper"), Process("victim")

    async def ticks(name: str) -> None:
        for _ in range(4):
            await asyncio.sleep(1.0)
            told.append((name, loop.time()))

    async def play_it() -> None:
        loop.spawn(sleeper, ticks("sleeper"))
        loop.spawn(victim, ticks("victim"))
        await asyncio.sleep(1.5)
        sleeper.frozen = True
        victim.kill()
        await asyncio.sleep(10.0)
        loop.thaw(sleeper)
        await asyncio.sleep(10.0)

    loop.run_until_complete(play_it())
    loop.close()
    assert told == [("sleeper", 1.0), ("victim", 1.0), ("sleeper", 11.5), ("sleeper", 12.5), ("sleeper", 13.5)] or told == [
        ("victim", 1.0), ("sleeper", 1.0), ("sleeper", 11.5), ("sleeper", 12.5), ("sleeper", 13.5)
    ]  # fmt: skip
