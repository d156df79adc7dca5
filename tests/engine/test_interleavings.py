"""Interleavings: what the engine's verbs come to, statement by statement, is what their transactions come to one by one.

A sample of `scripts/interleave.py`, which plays every pair; and each mutant of the protocol caught by one pair.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import get_args

import pytest
from harness.commands import COMMANDS, ELSEWHERE, READS, verbs, writes
from harness.misrules import MISRULES, SHOWN_BY
from harness.orders import Cast, Director, directing, pairs, segments_of

from durable_agent.core.outcomes import Outcome
from tests.support.postgres import Database

# Where one command ends what the other one works on: these are played on every run of the suite, others are drawn.
ALWAYS = (
    ("cancel", "succeed"), ("last-parent", "other-parent"), ("claim", "cancel"), ("claim", "pause"), ("reap", "hand-over"),
    ("reap", "succeed"), ("reap", "intend"), ("answer", "refuse"), ("intend", "intend-child"), ("grant", "intend-too-much"),
    ("cancel", "finish-child"), ("redrive", "fail-last"), ("submit", "submit"), ("author", "reap"), ("fenced", "cancel"),
)  # fmt: skip
DRAWN, TRIPLES = 8, 30
SCENES = ("running", "failed", "ending")


@pytest.fixture
async def director(database: Database) -> AsyncIterator[Director]:
    async with directing(database.url, scenes=SCENES, until_first=True) as made:
        yield made


def test_no_verb_that_writes_is_forgotten() -> None:
    known = verbs()
    assert len(known) > 40
    covered = {verb for command in COMMANDS.values() for verb in command.covers}
    assert set(known) - covered - READS - ELSEWHERE == set(), (
        "a new verb: make it a command in scripts/harness/commands.py"
    )
    assert (READS | ELSEWHERE) - set(known) == set()
    assert [name for name in READS if writes(known[name])] == []


def test_no_outcome_is_forgotten() -> None:
    assert set(get_args(Outcome)) == {command.settles for command in COMMANDS.values()} - {None}


async def test_pairs_end_as_whole_transactions_do(director: Director) -> None:
    scenes = director.theatre.scenes
    casts = [cast for pair in ALWAYS for cast in pairs(scenes, pair)]
    others = list(pairs(scenes))
    casts += random.Random(1).sample(others, DRAWN)
    for cast in casts:
        await director.pair(cast)
        assert director.tally.violations == []
    assert director.tally.deadlocks == 0
    assert len(director.tally.met) > len(ALWAYS), "they hardly met: the sample shows nothing"


async def test_triples_end_as_whole_transactions_do(director: Director) -> None:
    rng = random.Random(1)
    scenes, commands = list(director.theatre.scenes.values()), sorted(COMMANDS)
    for _ in range(TRIPLES):
        await director.sample(Cast(rng.choice(scenes), tuple(rng.choices(commands, k=3))), rng)
        assert director.tally.violations == []
    assert director.tally.met


async def test_a_call_is_counted_only_under_its_lease(director: Director) -> None:
    ended = await director.play(Cast(director.theatre.scenes["running"], ("reap", "meter")), [(0, 99)])
    assert ended.outcome[0][1] == "(['lost'], [])"
    assert ended.faults == ()


@pytest.mark.parametrize("mutant", sorted(MISRULES))
async def test_a_wrong_protocol_is_caught(director: Director, mutant: str) -> None:
    with MISRULES[mutant]():
        for cast in pairs(director.theatre.scenes, SHOWN_BY[mutant].split(",")):
            await director.pair(cast)
    assert director.tally.violations


async def test_a_schedule_that_is_played_again_ends_the_same(director: Director) -> None:
    cast = Cast(director.theatre.scenes["running"], ("succeed", "finish-child"))
    first = await director.play(cast, [(0, 3), (1, 5), (0, 2)])
    again = await director.play(cast, segments_of(first.replay))
    assert (again.trace, again.outcome) == (first.trace, first.outcome)
    with pytest.raises(ValueError, match="no schedule"):
        segments_of("a3x1")
