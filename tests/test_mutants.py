"""The mutants: each fits the tree, says which tests kill it, and the runner tells a kill from what is none."""

from __future__ import annotations

from dataclasses import replace
from difflib import unified_diff
from pathlib import Path

import pytest

from scripts.mutants import MUTANTS, ROOT, Copy, Mutant, Unreadable, applies, judge, listing, load, mutants, try_mutant

FEWEST = 100
RULE = "src/durable_agent/core/retry.py"
TESTS = ("tests/core/test_rules.py::test_the_third_lost_lease_seals",)
HEAD = "Breaks: a rule\nRule: P2\nKilled by: {test}\n\n"
LINE = "    return Requeue() if crashes < max_crashes else Seal()\n"


def mutant_of(place: Path, line: str) -> Mutant:
    """Return a mutant that puts another line in place of the one that seals a poison pill."""
    before = (ROOT / RULE).read_text()
    assert before.count(LINE) == 1
    lines = [text.splitlines(keepends=True) for text in (before, before.replace(LINE, line))]
    path = place / "000-made.patch"
    path.write_text(HEAD.format(test=TESTS[0]) + "".join(unified_diff(*lines, f"a/{RULE}", f"b/{RULE}", n=1)))
    return load(path)


def test_every_mutant_fits_the_tree() -> None:
    assert {one.name: wrong for one in mutants() if (wrong := applies(one))} == {}


def test_there_are_as_many_as_there_were_and_each_changes_the_sources() -> None:
    found = mutants()
    assert len(found) >= FEWEST
    assert [one.name.split("-")[0] for one in found] == [f"{n:03}" for n in range(1, len(found) + 1)]
    assert {name for one in found for name in one.touched if not name.startswith("src/durable_agent/")} == set()


def test_every_test_that_kills_a_mutant_exists() -> None:
    named = {test.split("[")[0] for one in mutants() for test in one.tests}
    absent = [
        test for test in sorted(named)
        if not (ROOT / test.split("::")[0]).is_file()
        or f"def {test.split('::')[1]}(" not in (ROOT / test.split("::")[0]).read_text()
    ]  # fmt: skip
    assert absent == []


def test_the_page_lists_them_as_they_are() -> None:
    assert (MUTANTS / "README.md").read_text() == listing(), "python scripts/mutants.py --list > docs/mutants/README.md"


def test_a_patch_that_does_not_say_what_it_is_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "001-mute.patch"
    path.write_text("Breaks: a rule\n\n--- a/x\n+++ b/x\n")
    with pytest.raises(Unreadable, match="001-mute"):
        load(path)


def test_a_patch_that_does_not_fit_says_so(tmp_path: Path) -> None:
    made = mutant_of(tmp_path, "    return Requeue()\n")
    assert applies(made) == ""
    made.path.write_text(made.path.read_text().replace(f"-{LINE}", "-    return Seal()\n"))
    assert "patch does not apply" in applies(made)


@pytest.mark.parametrize(
    ("code", "printed", "verdict"),
    [
        (0, "1 passed in 0.1s", "SURVIVED"),
        (1, "FAILED tests/test_a.py::test_it - AssertionError: assert 1 == 2", "killed"),
        (1, "____ ERROR at teardown of test_it ____\nERROR tests/test_a.py::test_it - AssertionError", "killed"),
        (1, "____ ERROR at setup of test_it ____\nERROR tests/test_a.py::test_it - ImportError", "VOID"),
        (2, "____ ERROR collecting tests/test_a.py ____\nERROR tests/test_a.py - SyntaxError", "VOID"),
        (4, "ERROR: not found: tests/test_a.py::test_it", "VOID"),
        (5, "no tests ran in 0.01s", "VOID"),
        (None, "", "VOID"),
    ],
)
def test_only_a_test_that_ran_and_failed_is_a_kill(code: int | None, printed: str, verdict: str) -> None:
    assert judge(code, printed)[0] == verdict


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """A copy of the tree."""
    return Copy(tmp_path_factory.mktemp("copy").resolve())


@pytest.mark.parametrize(
    ("line", "verdict"),
    [
        ("    return Requeue() if crashes <= max_crashes else Seal()\n", "killed"),
        ("    return Seal() if crashes >= max_crashes else Requeue()\n", "SURVIVED"),
        ("    return Requeue() if\n", "VOID"),
    ],
)
def test_the_runner_tells_what_became_of_a_mutant(tmp_path: Path, copy: Copy, line: str, verdict: str) -> None:
    made = replace(mutant_of(tmp_path, line), tests=TESTS)
    found = try_mutant(copy, made)
    assert (found.verdict, found.sources) == (verdict, "src/durable_agent/__init__.py")
    assert (copy.place / RULE).read_text() == (ROOT / RULE).read_text()
