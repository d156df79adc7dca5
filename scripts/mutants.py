"""Mutants: small wrong versions of the protocol, each of which some test must refuse; one that none refuses is a gap in the proof.

    python scripts/mutants.py                     every mutant, two at a time
    python scripts/mutants.py --only fence        those whose name contains a word, or of a number
    python scripts/mutants.py --list              docs/mutants/README.md, from the heads of the patches

A mutant is a patch in `docs/mutants` whose head says what it breaks, which rule or invariant that is, and which tests kill
it. It is applied to a copy of the tree, and the tests run there, against the copy's sources: every Python process that
starts meanwhile notes where it finds them, and a single one that finds others voids the result. Killed means that a test
ran and failed: what cannot be imported, collected or set up is no kill. First the same tests must pass where nothing is
changed. Exits 1 when a mutant survives, a patch does not apply, or the tests fail without one.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

from harness.provenance import provenance

ROOT: Final = Path(__file__).resolve().parent.parent
MUTANTS: Final = ROOT / "docs" / "mutants"
# What the tests of the sources need; the console has tests of its own.
TREE: Final = ("src", "tests", "scripts", "alembic", "docs", "workers", "pyproject.toml", "alembic.ini")
LIMIT_S: Final = 240
TEST_LIMIT_S: Final = 60

_HEAD: Final = re.compile(r"^(Breaks|Rule|Killed by): *(\S.*?) *$", re.MULTILINE)
_TOUCHED: Final = re.compile(r"^\+\+\+ b/(\S+)$", re.MULTILINE)
_FAILED: Final = re.compile(r"^(FAILED|ERROR) ([^\s\[]+(?:\[.*?\])?)(?: - (.*))?$", re.MULTILINE)
# A fixture checks every history of the engine when a test is done: that, too, is a test that failed.
_SETUP: Final = re.compile(r"^_+ ERROR (?:at setup of|collecting) ", re.MULTILINE)

# Noted by every Python process of a run before anything is imported from the sources.
WITNESS: Final = """
import importlib.util, os
found = importlib.util.find_spec("durable_agent")
with open(os.environ["MUTANT_WITNESS"], "a") as log:
    log.write(f"{found.origin if found else None}\\n")
"""

PAGE: Final = """\
# Mutants

{count} small wrong versions of the protocol, and what refuses each. `make mutants` applies them one by one to a copy of the tree
and shows it; this page is made by `python scripts/mutants.py --list`. I and P are [the guarantees](../guarantees.md); R are the
rules of the protocol: R1 one order of locks, R2 a claim never waits, R3 R4 the fence and its token, R5 the one clock, R6 an
expired lease is owned until it is taken, R7 the reaper, R8 what is told twice, R9 R10 the heart and suspicion, R11 one run a key,
R12 draining, R13 outages.

Where a second guard stands behind the first, a mutant takes both out, or is met by a test of the one alone: a fence in a statement
by a session that settles from memory, a claim's own look at the run by the order in which its rows are locked.

To add one: change the sources, `git diff -U2 src > docs/mutants/NNN-name.patch`, put the lines `Breaks:`, `Rule:` and `Killed by:`
before it (a test by its pytest address; the last may be there more than once), take the change out again, and see it killed:
`python scripts/mutants.py --only NNN`. A mutant that survives is a gap: the test comes first.

| mutant | what it breaks | rule | killed by |
| --- | --- | --- | --- |"""

Verdict = Literal["killed", "SURVIVED", "DOES NOT APPLY", "VOID", "passes", "FAILS WITHOUT A MUTANT"]


@dataclass(frozen=True, slots=True)
class Mutant:
    """A patch: what it breaks, whose rule that is, and the tests that must fail with it."""

    path: Path
    breaks: str
    rule: str
    tests: tuple[str, ...]
    touched: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its number and name."""
        return self.path.stem


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a mutant: `by` is the test that failed first, `why` its last words."""

    mutant: str
    rule: str
    verdict: Verdict
    by: str
    why: str
    sources: str
    processes: int
    seconds: float

    @property
    def good(self) -> bool:
        """Whether it is as it should be."""
        return self.verdict in ("killed", "passes")


class Unreadable(Exception):
    """A patch without a head that says what it is."""


def mutants(only: Sequence[str] = ()) -> list[Mutant]:
    """Return the mutants whose name contains one of the words, all without any; in the order of their numbers."""
    found = [load(path) for path in sorted(MUTANTS.glob("*.patch"))]
    return [one for one in found if not only or any(word in one.name for word in only)]


def load(path: Path) -> Mutant:
    """Return the mutant of a patch. Raises Unreadable."""
    head, _, diff = path.read_text().partition("\n--- a/")
    said = _HEAD.findall(head)
    breaks, rules = ([text for key, text in said if key == name] for name in ("Breaks", "Rule"))
    tests = tuple(text for key, text in said if key == "Killed by")
    touched = tuple(_TOUCHED.findall(diff))
    if len(breaks) != 1 or len(rules) != 1 or not tests or not touched:
        raise Unreadable(f"{path.name} must say what it Breaks, whose Rule that is, and what it is Killed by")
    return Mutant(path, breaks[0], rules[0], tests, touched)


def applies(mutant: Mutant, tree: Path = ROOT) -> str:
    """Return why the patch does not fit a tree, or nothing."""
    done = _git(tree, "apply", "--check", str(mutant.path))
    return "" if done.returncode == 0 else done.stderr.strip()


class Copy:
    """A copy of the tree in which one mutant at a time is applied and taken out again."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.log = place / "witness" / "log"
        for name in TREE:
            source, target = ROOT / name, place / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "_console", "images"))
            else:
                shutil.copy2(source, target)
        self.log.parent.mkdir()
        (self.log.parent / "sitecustomize.py").write_text(WITNESS)

    @contextmanager
    def changed(self, mutant: Mutant) -> Iterator[str]:
        """Yield with the mutant applied; yields why it does not apply, or nothing."""
        wrong = applies(mutant, self.place)
        if wrong:
            yield wrong
            return
        before = {name: (self.place / name).read_bytes() for name in mutant.touched}
        _git(self.place, "apply", str(mutant.path))
        try:
            yield ""
        finally:
            for name, content in before.items():
                (self.place / name).write_bytes(content)
            self._forget_compiled(mutant)

    def _forget_compiled(self, mutant: Mutant) -> None:
        # A file changed twice within a second and of the same size would be taken for the one that was compiled.
        for name in mutant.touched:
            for stale in (self.place / name).parent.glob(f"__pycache__/{Path(name).stem}.*.pyc"):
                stale.unlink()

    def run(self, tests: Sequence[str], limit_s: float = LIMIT_S) -> tuple[int | None, str]:
        """Run tests in the copy; return the exit code, None beyond the limit of time, and what was printed."""
        self.log.write_text("")
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"--timeout={TEST_LIMIT_S}"]
        environment = {
            **os.environ, "PYTHONPATH": f"{self.place / 'src'}{os.pathsep}{self.log.parent}",
            "MUTANT_WITNESS": str(self.log), "COLUMNS": "200",
        }  # fmt: skip
        process = subprocess.Popen(
            [*command, *tests], cwd=self.place, env=environment, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            printed, _ = process.communicate(timeout=limit_s)
            return process.returncode, printed
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return None, process.communicate()[0]

    def sources(self) -> tuple[set[str], int]:
        """Return where the processes of the last run found the sources, and how many processes there were."""
        noted = self.log.read_text().split("\n")[:-1]
        return {str(Path(one).relative_to(self.place)) if _within(one, self.place) else one for one in noted}, len(
            noted
        )


def _within(path: str, place: Path) -> bool:
    return Path(path).is_relative_to(place)


def try_mutant(copy: Copy, mutant: Mutant) -> Result:
    """Apply the mutant to the copy, run its tests, and return what became of it."""
    began_s = time.monotonic()
    with copy.changed(mutant) as wrong:
        if wrong:
            return Result(mutant.name, mutant.rule, "DOES NOT APPLY", "", wrong, "", 0, 0.0)
        code, printed = copy.run(mutant.tests)
        found, processes = copy.sources()
    took_s = round(time.monotonic() - began_s, 1)
    sources = ", ".join(sorted(found))
    verdict, by, why = judge(code, printed)
    if sources != "src/durable_agent/__init__.py":
        verdict = "VOID"
    return Result(mutant.name, mutant.rule, verdict, by, why, sources, processes, took_s)


def judge(code: int | None, printed: str) -> tuple[Verdict, str, str]:
    """Return what the tests' end says of a mutant, the first test that failed, and its last words."""
    if code is None:
        return "VOID", "", f"the tests took longer than {LIMIT_S} s"
    if code == 0:
        return "SURVIVED", "", ""
    failed = sorted(_FAILED.findall(printed), key=lambda found: found[0] != "FAILED")
    if code != 1 or not failed or _SETUP.search(printed):
        return "VOID", "", f"no test ran and failed (exit code {code}): {summary(printed)}"
    _, test, why = failed[0]
    return "killed", test, why


def try_without(copy: Copy, chosen: Sequence[Mutant]) -> Result:
    """Run the tests of all the mutants where nothing is changed: they must pass, or a failure says nothing."""
    began_s = time.monotonic()
    tests = sorted({test for mutant in chosen for test in mutant.tests})
    code, printed = copy.run(tests, LIMIT_S + 10 * len(tests))
    found, processes = copy.sources()
    verdict, by, why = judge(code, printed)
    name: Verdict = "passes" if verdict == "SURVIVED" else "FAILS WITHOUT A MUTANT"
    took_s = round(time.monotonic() - began_s, 1)
    return Result("none", "", name, by, why or summary(printed), ", ".join(sorted(found)), processes, took_s)


def summary(printed: str) -> str:
    """Return pytest's last line without its ornaments."""
    return (printed.strip().splitlines() or [""])[-1].strip("= ")


def try_all(chosen: Sequence[Mutant], *, jobs: int, place: Path) -> Iterator[Result]:
    """Yield what becomes of the tree as it is, then of each mutant as it is known."""
    copies: queue.Queue[Copy] = queue.Queue()
    for number in range(jobs):
        copies.put(Copy(place / f"copy-{number}"))

    def one(mutant: Mutant) -> Result:
        copy = copies.get()
        try:
            return try_mutant(copy, mutant)
        finally:
            copies.put(copy)

    copy = copies.get()
    without = try_without(copy, chosen)
    copies.put(copy)
    yield without
    if not without.good:
        return
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(one, chosen)


def _git(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # A copy is no repository; one that lies within another must not be taken for a part of it.
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(tree.parent)}
    return subprocess.run(
        ["git", *arguments], cwd=tree, env=environment, capture_output=True, text=True, check=False
    )  # fmt: skip


def listing() -> str:
    """Return the list of the mutants as a page."""
    found = mutants()
    lines = [PAGE.format(count=len(found))]
    for one in found:
        tests = ", ".join(
            f"`{Path(test.split('::')[0]).name}::{test.split('::')[1].split('[')[0]}`" for test in one.tests
        )
        lines.append(f"| [{one.name}]({one.path.name}) | {one.breaks} | {one.rule} | {tests} |")
    return "\n".join(lines) + "\n"


def record(results: Sequence[Result], took_s: float, jobs: int) -> dict[str, object]:
    """Return the results as a document, with what they were found on."""
    tried = [one for one in results if one.mutant != "none"]
    return {
        **provenance(), "jobs": jobs, "seconds": round(took_s, 1),
        "mutants": len(tried), "killed": sum(one.verdict == "killed" for one in tried),
        "results": [asdict(one) for one in results],
    }  # fmt: skip


def main() -> int:
    """Try the mutants and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], metavar="WORD", help="mutants whose name contains it")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", metavar="FILE", help="write the results there, too")
    parser.add_argument("--list", action="store_true", help="print the page that lists them")
    given = parser.parse_args()
    if given.list:
        sys.stdout.write(listing())
        return 0
    chosen = mutants(given.only)
    if not chosen:
        parser.error("there is no such mutant")
    began_s, results = time.monotonic(), list[Result]()
    with tempfile.TemporaryDirectory(prefix="durable-agent-mutants-", ignore_cleanup_errors=True) as made:
        Path(made).chmod(0o755)
        for one in try_all(chosen, jobs=given.jobs, place=Path(made).resolve()):
            results.append(one)
            test = one.by.rpartition("::")[2] or one.why
            print(f"{one.mutant:36} {one.verdict:9} {one.seconds:5.1f} s  {test}", flush=True)
            print(f"{'':36} durable_agent.__file__ = {one.sources} (processes: {one.processes})", flush=True)
    took_s = time.monotonic() - began_s
    document = record(results, took_s, given.jobs)
    if given.json:
        Path(given.json).write_text(json.dumps(document, indent=2) + "\n")
    bad = [one for one in results if not one.good]
    for one in bad:
        print(f"{one.mutant}: {one.verdict} {one.why}", file=sys.stderr)
    print(f"{document['killed']} of {len(chosen)} mutants killed in {took_s:.0f} s, commit {document['commit']}")
    return 1 if bad or document["killed"] != len(chosen) else 0


if __name__ == "__main__":
    sys.exit(main())
