"""The history checker: what is right passes, and each invariant that is broken is found, named and shown."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durable_agent.testing.history import INVARIANTS, Document, Unreadable, check_files, read_log, read_runs
from tests.support import postgres
from tests.testing.mutations import AS_READ, FORGED, Mutation, claims_without_a_release
from tests.testing.stories import History, make, said


@pytest.fixture(scope="module")
def made(admin_url: str) -> Iterator[History]:
    """One history for all tests; each changes a copy of it."""
    with postgres.cloned(admin_url) as database:
        yield make(database.url)


def test_a_history_that_is_right_breaks_nothing(made: History) -> None:
    report = made.check()
    assert [str(one) for one in report.violations] == []
    assert (report.runs, report.unknown, report.fenced, report.leases_lost) == (6, 1, 1, 3)
    assert report.events == sum(len(made.events(name)) for name in made.runs)
    assert (report.effects, report.calls, report.frames) == (3, 3, len(made.watchers) - 2 * len(made.runs))
    assert set(report.untold) == {"I8", "I14", "P3"}


def test_what_no_document_tells_of_is_said(made: History) -> None:
    report = made.check(client=None, receiver=None, watchers=None, budgets=None, deadlocks=None, at_rest=False)
    assert report.violations == []
    assert {"I8", "I9, watchers", "I10", "I11, calls", "I12, at rest", "P1", "P4"} <= set(report.untold)


@pytest.mark.parametrize(
    ("invariant", "mutate"), [(name, one) for name, all_ in FORGED.items() for one in all_], ids=lambda v: getattr(v, "__name__", v)
)  # fmt: skip
def test_what_the_engine_must_not_do_is_found_under_its_name(made: History, invariant: str, mutate: Mutation) -> None:
    history = made.copy()
    guilty = mutate(history)
    for name in history.runs:
        history.forge(name)
    found = [one for one in history.check(watchers=None).violations if one.invariant == invariant]
    assert found, [str(one) for one in history.check(watchers=None).violations]
    shown = [[one.get("seq") for one in violation.excerpt] for violation in found]
    wanted = {line["seq"] for line in guilty}
    assert any(wanted <= set(seqs) for seqs in shown), (wanted, shown, [str(one) for one in found])
    assert max(map(len, shown)) <= 4


@pytest.mark.parametrize(
    ("invariant", "mutate"), [(name, one) for name, all_ in AS_READ.items() for one in all_], ids=lambda v: getattr(v, "__name__", v)
)  # fmt: skip
def test_what_the_logs_or_the_text_deny_is_found_under_its_name(
    made: History, invariant: str, mutate: Mutation
) -> None:
    history = made.copy()
    guilty = mutate(history)
    found = [one for one in history.check().violations if one.invariant == invariant]
    assert found, [str(one) for one in history.check().violations]
    marks, wanted = [set(map(mark, violation.excerpt)) for violation in found], set(map(mark, guilty))
    assert any(wanted <= shown for shown in marks), (wanted, marks)


def mark(line: Document) -> tuple[str, object]:
    """Return what tells a line from the others."""
    return next(
        (name, line[name]) for name in ("seq", "key", "run_id", "owner", "no", "sha256", "deadlocks") if name in line
    )


def test_every_invariant_that_documents_tell_of_has_a_mutation() -> None:
    assert set(FORGED) | set(AS_READ) == set(INVARIANTS) - {"I8", "I14", "P3"}


def test_an_unknown_outcome_stays_unknown(made: History) -> None:
    """A submission whose answer was lost may have a run or none; either is right, and neither is guessed."""
    history = made.copy()
    history.client[0] = {**history.client[0], "answer": "unknown"}
    report = history.check()
    assert report.violations == []
    assert report.unknown == 2


def test_a_tool_that_is_a_step_calls_with_a_key_of_its_own(made: History) -> None:
    history, run = made.copy(), made.row("chain", "run")["id"]
    call = {"key": "1" * 64, "run": run, "step": "a", "result": "x"}
    history.receiver += [call, call]  # a lost lease: the same call under the same key
    assert history.check().violations == []
    other = {**call, "key": "2" * 64}
    history.receiver.append(other)
    assert [one.excerpt for one in history.check().violations] == [(other,)]
    known = {(run, 0): "2" * 64}
    assert [one.excerpt for one in history.check(own_keys=known).violations] == [(call,)]


def test_a_run_that_waits_for_a_named_cause_is_at_rest_and_one_whose_cause_is_gone_is_stuck(made: History) -> None:
    history = made.copy()
    history.drop("waiting", history.row("waiting", "wait"))
    assert {one.invariant for one in history.check().violations} == {"I7", "P1"}


def test_what_undoes_a_run_may_spend_more_than_it_had(made: History) -> None:
    history = made.copy()
    history.budgets = [{**history.budgets[0], "owner": history.row("undone", "run")["id"], "spent": 5000}]
    assert history.check().violations == []


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_event_is_dropped_repeated_or_moved_is_found(made: History, data: st.DataObject) -> None:
    history = made.copy()
    name = data.draw(st.sampled_from(sorted(history.runs)))
    events = history.events(name)
    one = data.draw(st.sampled_from(range(len(events))))
    match data.draw(st.sampled_from(["drop", "repeat", "move"])):
        case "drop":
            history.drop(name, events[one])
        case "repeat":
            history.put(name, events[one], events[data.draw(st.sampled_from(range(len(events))))])
        case _:
            other = data.draw(st.sampled_from([n for n in range(len(events)) if n not in (one, one - 1)]))
            moved = events[one]
            history.drop(name, moved)
            history.put(name, moved, events[other])
    assert history.check(watchers=None).violations


# What says that something was said, or refused: where the chain is forged, too, nothing else knows of it.
QUIET = {"step.emitted", "step.fenced"}


@pytest.mark.parametrize("how", ["drop", "repeat"])
def test_whatever_event_moves_something_is_not_missed_even_where_the_chain_is_forged(made: History, how: str) -> None:
    missed = []
    for name, index in [(run, n) for run in made.runs for n in range(len(made.events(run)))]:
        history = made.copy()
        line = history.events(name)[index]
        if how == "drop":
            history.drop(name, line)
        else:
            history.put(name, line, line)
        history.forge(name)
        if not history.check(watchers=None).violations and line["type"] not in QUIET:
            missed.append((name, line["type"], said(line)))
    assert missed == []


def test_files_are_checked_and_told_by_the_command(made: History, tmp_path: Path) -> None:
    history = made.copy()
    claims_without_a_release(history)
    history.forge("buy")
    files = {}
    for name in ("client", "receiver", "watchers", "budgets"):
        files[name] = tmp_path / f"{name}.jsonl"
        files[name].write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in getattr(made, name)))
    for name, source in (("right", made), ("wrong", history)):
        text = b"".join(orjson.dumps(line) + b"\n" for lines in source.runs.values() for line in lines)
        (tmp_path / f"{name}.jsonl").write_bytes(text)
    assert check_files([tmp_path / "right.jsonl"], **files, deadlocks=0).violations == []
    command = [sys.executable, "-m", "durable_agent.testing.history"]
    done = subprocess.run([*command, tmp_path / "wrong.jsonl"], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "VIOLATION  I4: run" in done.stdout
    assert done.stdout.count('"type":"step.claimed"') >= 2
    done = subprocess.run([*command, tmp_path / "none.jsonl"], capture_output=True, text=True, check=False)
    assert (done.returncode, "none.jsonl" in done.stderr, "Traceback" in done.stderr) == (2, True, False)


@pytest.mark.parametrize("text", [b"no json\n", b"[1]\n", b'{"record": "event"}\n', b'{"record": "run"}\n'])
def test_what_is_no_export_is_refused_with_its_line(text: bytes) -> None:
    with pytest.raises(Unreadable, match="line 1"):
        list(read_runs([text]))


def test_the_last_line_of_a_log_may_be_cut_off() -> None:
    assert read_log([b'{"key": "a"}\n', b'{"key": "b'], "key") == [{"key": "a"}]
    with pytest.raises(Unreadable, match="line 1"):
        read_log([b"{}\n"], "key")
