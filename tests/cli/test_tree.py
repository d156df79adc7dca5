"""What the terminal shows of a run: its events as a tree and as lines, safe whoever wrote them."""

from __future__ import annotations

import io
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

from durable_agent.cli.tree import MAX_STEPS, RunTree, console, events_table, line_of, shown
from durable_agent.core.states import RunEvent, RunStatus

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)


def run_of(*steps: str | tuple[str, list[str]], goal: str = "Find out") -> dict[str, Any]:
    """Return a run as the API shows it, as far as the tree looks."""
    named = [(s, []) if isinstance(s, str) else s for s in steps]
    return {"id": "018f", "goal": goal, "steps": [{"name": n, "depends_on": d} for n, d in named]}


def event(kind: str, step: str | None = None, seq: int = 1, at: datetime = NOW, **data: Any) -> dict[str, Any]:
    """Return an event as the stream sends it."""
    return {"seq": seq, "type": kind, "run_id": "018f", "step": step, "at": at.isoformat(), "data": data}


def drawn(tree: Any, width: int = 120) -> str:
    """Return what the terminal would show."""
    out = Console(file=io.StringIO(), width=width, markup=False, highlight=False, emoji=False)
    out.print(tree)
    return out.file.getvalue()  # type: ignore[attr-defined]


def test_a_step_is_followed_from_pending_to_its_end() -> None:
    tree = RunTree(run_of("a", ("b", ["a"])))
    shows = [drawn(tree)]
    for one in (
        event("run.started"),
        event("step.claimed", "a", attempt=1, claim_no=1, worker="w1"),
        event("step.failed", "a", attempt=1, of=3, message="no luck", retry_in_s=2.0),
        event("step.claimed", "a", attempt=2, claim_no=2, worker="w2"),
        event("step.lease_lost", "a", why="session_lost", worker="w2"),
        event("step.claimed", "a", attempt=2, claim_no=3, worker="w3"),
        event("step.succeeded", "a"),
        event("step.dead_letter", "b", reason="non_retryable", message="broken"),
        event("run.failed"),
    ):
        tree.apply(one)
        shows.append(drawn(tree))
    assert "a  pending" in shows[0]
    assert "a  running  w1" in shows[2]
    assert "a  ready  attempt 1 of 3 failed: no luck; again in 2.0 s" in shows[3]
    assert "a  ready  lost by w2 (session_lost)" in shows[5]
    assert "a  running  w3" in shows[6]
    assert "attempt 2, claim 3" in shows[6]
    assert "a  succeeded  w3  0.0 s" in shows[7]
    assert "b  dead_letter  non_retryable: broken" in shows[8]
    assert "018f  failed" in shows[9]


def test_the_elapsed_time_counts_from_the_claim_even_for_a_late_watcher() -> None:
    tree = RunTree(run_of("a"))
    began = datetime.fromtimestamp(time.time() - 600, UTC)
    tree.apply(event("step.claimed", "a", at=began, attempt=1, claim_no=1, worker="w"))
    assert "600." in drawn(tree) or "601." in drawn(tree)


def test_a_join_says_whom_else_it_waits_for() -> None:
    assert "c  pending  also after a" in drawn(RunTree(run_of("a", "b", ("c", ["a", "b"]))))


def test_a_long_chain_and_many_steps_stay_on_the_screen() -> None:
    chain = [("s0", []), *((f"s{n}", [f"s{n - 1}"]) for n in range(1, MAX_STEPS + 50))]
    text = drawn(RunTree(run_of(*chain)), width=100)
    assert "and 50 more steps" in text
    assert f"s{MAX_STEPS - 1}  pending" in text
    assert max(map(len, text.splitlines())) <= 100


def test_a_redriven_run_runs_again() -> None:
    tree = RunTree(run_of("a"))
    for kind in ("run.failed", "run.redriven"):
        tree.apply(event(kind))
    assert tree.status == "running"


def test_what_moves_no_run_leaves_its_status() -> None:
    tree = RunTree(run_of("a"))
    for kind in RunEvent:
        tree.apply(event(kind.value))
        assert tree.status in {status.value for status in RunStatus}
    for kind in (RunEvent.WAITING_FOR_INPUT, RunEvent.BUDGET_SET, RunEvent.EXTENDED, RunEvent.SIGNALLED):
        tree.apply(event(kind.value))
    assert tree.status == "waiting_for_input"


@pytest.mark.parametrize(
    "hostile", ["\x1b[2J\x1b[31mgone", "[/red] [bold]x", "a\r\nb", "\x00\x9b31m", "\u202eevil", ":smile:"]
)
def test_text_from_outside_reaches_the_terminal_only_as_text(hostile: str) -> None:
    one = event("step.failed", "a", attempt=1, of=3, message=hostile, **{hostile: [hostile]})
    tree = RunTree(run_of("a", goal=hostile))
    tree.apply(one)
    for text in (drawn(tree), drawn(events_table([one])), line_of(one) + "\n"):
        assert set(text) - {"\n"} <= {c for c in text if c.isprintable()}
    assert shown("plain ✔ text") == "plain ✔ text"
    assert "[bold]x" in drawn(RunTree(run_of("a", goal="[/red] [bold]x")))
    assert ":smile:" in drawn(RunTree(run_of("a", goal=":smile:")))


def test_a_line_has_everything_but_the_digests() -> None:
    line = line_of(event("step.succeeded", "a", seq=7, worker="w", output_sha256="f00", data={"x": 1}, nothing=None))
    assert line.split() == ["7", "03:04:05.678", "step.succeeded", "a", "worker=w", 'data={"x":1}']


def test_a_pipe_gets_whole_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    console().print(events_table([event("step.failed", "a", message="word " * 100)]))
    assert "word word" in capsys.readouterr().out
    console().print("x" * 400)
    assert capsys.readouterr().out == "x" * 400 + "\n"
