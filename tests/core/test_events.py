"""The chain reveals every edit; the fold refuses what the machines refuse."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_agent.core.events import ChainBroken, StoredEvent, digest, fold, genesis, link, micros, verify

RUN = UUID(int=7)
AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
STORY: list[tuple[str, int | None, dict[str, Any]]] = [
    ("run.created", None, {}), ("step.ready", 0, {}), ("run.started", None, {}), ("step.claimed", 0, {"claim_no": 1}),
    ("step.lease_lost", 0, {"claim_no": 1, "crashes": 1}), ("step.claimed", 0, {"claim_no": 2}), ("step.succeeded", 0, {"claim_no": 2}),
    ("step.ready", 1, {}), ("step.claimed", 1, {"claim_no": 1}), ("step.failed", 1, {"claim_no": 1}),
    ("step.claimed", 1, {"claim_no": 2}), ("step.succeeded", 1, {"claim_no": 2}), ("run.completed", None, {}),
]  # fmt: skip
PARENTS = [[], [0]]


def history() -> list[StoredEvent]:
    events, previous = [], genesis(RUN)
    for seq, (kind, no, data) in enumerate(STORY, 1):
        detail = orjson.dumps({"message": "x"}) if kind == "step.failed" else None
        text = orjson.dumps({**data, **({"detail_sha256": digest(detail)} if detail else {})})
        previous = link(previous, seq=seq, kind=kind, step_no=no, at_us=micros(AT), data=text)
        events.append(StoredEvent(seq, kind, no, AT, text, detail, previous))
    return events


def test_a_whole_history_verifies_also_when_a_detail_was_erased() -> None:
    events = history()
    head = events[-1].hash
    assert verify(RUN, events, head=head, last_seq=len(STORY)) == len(STORY)
    assert verify(RUN, [replace(e, detail=None) for e in events], head=head) == len(STORY)


@given(
    st.integers(0, len(STORY) - 1), st.sampled_from(["drop", "edit", "retime", "retype", "swap", "detail", "renumber"])
)
def test_every_edit_of_a_history_is_revealed(index: int, how: str) -> None:
    events = history()
    head, victim = events[-1].hash, events[index]
    match how:
        case "drop":
            del events[index]
        case "edit":
            events[index] = replace(victim, data=b'{"x":1}')
        case "retime":
            events[index] = replace(victim, at=AT.replace(microsecond=1))
        case "retype":
            events[index] = replace(victim, type="step.other")
        case "swap":
            events[index - 1], events[index] = events[index], events[index - 1]
        case "detail":
            events[9] = replace(events[9], detail=b'{"message":"y"}')
        case _:
            events[index] = replace(victim, step_no=5)
    with pytest.raises(ChainBroken):
        verify(RUN, events, head=head, last_seq=len(STORY))


def test_an_edit_whose_own_hash_is_made_anew_is_revealed_by_the_next_event() -> None:
    events = history()
    for index in range(len(events) - 1):
        victim, before = events[index], events[index - 1].hash if index else genesis(RUN)
        forged = link(
            before, seq=victim.seq, kind=victim.type, step_no=victim.step_no, at_us=micros(AT), data=b'{"x":1}'
        )
        edited = replace(victim, data=b'{"x":1}', detail=None, hash=forged)
        with pytest.raises(ChainBroken) as broken:
            verify(RUN, [*events[:index], edited, *events[index + 1 :]])
        assert broken.value.seq == victim.seq + 1


def test_a_cut_tail_is_revealed_by_the_head() -> None:
    events = history()
    assert verify(RUN, events[:-2]) == len(STORY) - 2
    with pytest.raises(ChainBroken):
        verify(RUN, events[:-2], head=events[-1].hash)


def story(*changes: tuple[int, tuple[str, int | None, dict[str, Any]] | None]) -> list[str]:
    told = list(STORY)
    for index, change in changes:
        if change is None:
            told[index] = ("step.fenced", 0, {})
        else:
            told[index] = change
    return fold(PARENTS, ((seq, *event) for seq, event in enumerate(told, 1))).faults


def test_a_sound_story_folds_into_the_rows() -> None:
    run = fold(PARENTS, ((seq, *event) for seq, event in enumerate(STORY, 1)))
    assert run.faults == []
    assert (run.status, run.steps_left) == ("completed", 0)
    assert [(s.status.value, s.claim_no, s.failures, s.crashes) for s in run.steps.values()] == [
        ("succeeded", 2, 0, 1), ("succeeded", 2, 1, 0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("index", "event", "words"),
    [
        (6, ("step.succeeded", 0, {"claim_no": 1}), "holds the lease"),
        (5, ("step.claimed", 0, {"claim_no": 3}), "expected 2"),
        (4, ("step.fenced", 0, {}), "not allowed in state running"),
        (7, ("step.succeeded", 0, {"claim_no": 2}), "not allowed in state succeeded"),
        (6, ("step.fenced", 0, {}), "before its parents"),
        (0, ("step.ready", 0, {}), "does not begin with run.created"),
        (2, ("run.created", None, {}), "created twice"),
    ],
)
def test_a_story_that_breaks_an_invariant_is_refused(index: int, event: Any, words: str) -> None:
    assert any(words in fault for fault in story((index, event)))
