"""Models: the protocol of `docs/models/*.pml`, every state of it searched by Spin, and every witness caught.

    python scripts/models.py                     all models, two at a time
    python scripts/models.py --only lease        one model
    python scripts/models.py --trail lease:NO_FENCE    a way to the violation, step by step

A model's head says what it holds: `property` (safety; the name `deadlock` stands for Spin's own search for invalid ends),
`liveness` (under weak fairness), `reach` (what must be possible, so that nothing holds for want of anything happening),
`witness` (a variant that breaks one rule, and the property that must catch it) and `limit` (a variant that shows a promise
that is not made). The whole state space is searched, without hashing and without a bound that was met; anything else is a
surprise, and so is a witness that is not caught, or a property that no witness breaks. Exits 1 on a surprise.
Needs `spin`, and `tcc` or `gcc`: what is searched for a second is not worth many seconds of an optimizer.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

from harness.provenance import provenance

MODELS: Final = Path(__file__).resolve().parent.parent / "docs" / "models"
CORRECT: Final = "correct"
DEADLOCK: Final = "deadlock"
EVERY: Final = "every"
DEPTH: Final = 50_000
TIMEOUT_S: Final = 60

Kind = Literal["property", "liveness", "reach", "witness", "limit"]
_LINE: Final = re.compile(r"^ \* (property|liveness|reach|witness|limit)\s+(\w+)\s+(\S+)\s+(.*\S)\s*$")
_ERRORS: Final = re.compile(r"errors: (\d+)")
_STATES: Final = re.compile(r"^\s*(\d+) states, stored", re.MULTILINE)
# What pan says when it has not seen everything.
_PARTIAL: Final = (
    "max search depth too small",
    "out of memory",
    "Bit statespace",
    "Search not completed",
    "hash factor",
)


@dataclass(frozen=True, slots=True)
class Variant:
    """A witness or a limit: the symbol that breaks a rule, and the property that must be violated by it."""

    symbol: str
    breaks: str
    text: str
    limit: bool


@dataclass(frozen=True, slots=True)
class Model:
    """A model as its head describes it: properties with the invariant each stands for, and its variants."""

    path: Path
    text: str
    safety: dict[str, str]
    liveness: dict[str, str]
    reach: tuple[str, ...]
    variants: tuple[Variant, ...]

    @property
    def name(self) -> str:
        """The model's name: its file's."""
        return self.path.stem

    @property
    def stated(self) -> list[str]:
        """The safety properties that are formulas."""
        return [name for name in self.safety if name != DEADLOCK]

    @property
    def unstated(self) -> list[str]:
        """Those that Spin has by itself."""
        return [name for name in self.safety if name == DEADLOCK]

    def stands_for(self, name: str) -> str:
        """Return the invariant of `docs/guarantees.md` that a property is, or part of."""
        return {**self.safety, **self.liveness}.get(name, "")

    def every(self) -> str:
        """Return the claim that all the stated properties hold: one search instead of one for each."""
        bodies = [
            found
            for name in self.stated
            for found in re.findall(rf"^ltl {name}\s*{{ \[\] (\(.*\)) }}$", self.text, re.MULTILINE)
        ]
        if len(bodies) != len(self.stated):
            raise Unusable(f"{self.path}: a property is not of the form `ltl name {{ [] (...) }}`")
        return f"\nltl {EVERY} {{ [] ({' && '.join(bodies)}) }}\n"

    def flaws(self) -> list[str]:
        """Return what is wrong with the model itself: claims not declared, symbols not used, properties nobody breaks."""
        text = self.text
        claims = set(re.findall(r"^ltl (\w+)", text, re.MULTILINE))
        held = {*self.safety, *self.liveness}
        broken = {one.breaks for one in self.variants if not one.limit}
        used = {word for line in re.findall(r"^#(?:el)?if.*$", text, re.MULTILINE) for word in re.findall(r"\w+", line)}
        return [
            *(f"{self.name}: no claim {name!r}" for name in sorted((held | set(self.reach)) - claims - {DEADLOCK})),
            *(f"{self.name}: claim {name!r} is not declared" for name in sorted(claims - held - set(self.reach))),
            *(f"{self.name}: {one.symbol} breaks {one.breaks!r}, which is no property"
              for one in self.variants if one.breaks not in held),
            *(f"{self.name}: {one.symbol} changes nothing" for one in self.variants if one.symbol not in used),
            *(f"{self.name}: no witness breaks {name!r}" for name in sorted(held - broken)),
            *(() if self.reach else (f"{self.name}: nothing is required to be possible",)),
        ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Search:
    """What was found of one property; `verdict` is `holds`, `caught`, `possible`, `shown`, or a surprise.

    Findings of one model and variant with the same `search` come from one search, and share its figures.
    """

    model: str
    variant: str
    claim: str
    stands_for: str
    states: int
    seconds: float
    verdict: str
    search: str

    @property
    def surprise(self) -> bool:
        """Whether the search came to something else than the model's head says."""
        return self.verdict not in ("holds", "caught", "possible", "shown")


class Unusable(Exception):
    """A model that Spin or the compiler refuses."""


def load(path: Path) -> Model:
    """Return the model of a file, from its head."""
    text = path.read_text()
    lines = [found.groups() for line in text.splitlines() if (found := _LINE.match(line))]
    reach = re.findall(r"^ \* reach\s+(\w+)", text, re.MULTILINE)
    return Model(
        path,
        text,
        {name: first for kind, name, first, _ in lines if kind == "property"},
        {name: first for kind, name, first, _ in lines if kind == "liveness"},
        tuple(reach),
        tuple(
            Variant(name, first, text, kind == "limit")
            for kind, name, first, text in lines
            if kind in ("witness", "limit")
        ),
    )


def models(only: str | None = None) -> list[Model]:
    """Return all models, or the one of this name."""
    return [load(path) for path in sorted(MODELS.glob("*.pml")) if only in (None, path.stem)]


def compiler() -> str | None:
    """Return what compiles a search here."""
    return next((name for name in ("tcc", "gcc") if shutil.which(name)), None)


def missing() -> list[str]:
    """Return which of the programs that the search needs are not installed."""
    return [*(() if shutil.which("spin") else ("spin",)), *(() if compiler() else ("tcc",))]


def _run(command: Sequence[str], cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if done.returncode != 0 and command[0] in ("spin", compiler()):
        raise Unusable(f"{' '.join(command)}\n{done.stdout}{done.stderr}".strip())
    return done.stdout + done.stderr


def _searched(pan: Path, arguments: Sequence[str], folder: Path) -> tuple[int, int, float, str | None]:
    """Return errors, states, seconds, and why the search does not count, if it does not."""
    began_s = time.monotonic()
    try:
        told = _run([str(pan), *arguments], folder)
    except subprocess.TimeoutExpired:
        return 0, 0, float(TIMEOUT_S), f"not everything was searched: {TIMEOUT_S} s were not enough"
    took_s = time.monotonic() - began_s
    errors, states = _ERRORS.search(told), _STATES.search(told)
    if errors is None or states is None:
        return 0, 0, took_s, f"broken: {told.strip()[:200]}"
    found = int(errors[1])
    partial = [one for one in _PARTIAL if one in told and not (found and one == "Search not completed")]
    return found, int(states[1]), took_s, f"not everything was searched: {partial[0]}" if partial else None


def check(model: Model, variant: Variant | None, *, depth: int = DEPTH) -> list[Search]:
    """Search one variant: the correct one for every property, a witness for the one it breaks."""
    with tempfile.TemporaryDirectory(prefix="models-") as place:
        bench = Bench(model, variant, Path(place), depth)
        try:
            return [bench.search(variant.breaks)] if variant else _check_correct(bench)
        except Unusable as error:
            print(error, file=sys.stderr)
            return [Search(model.name, bench.symbol, "", "", 0, 0.0, "broken: see above", "")]


def _check_correct(bench: Bench) -> list[Search]:
    model = bench.model
    together = bench.search(EVERY)
    if together.verdict == "VIOLATED":  # which of them it is
        found = [bench.search(name) for name in model.stated]
    else:
        found = [replace(together, claim=name, stands_for=model.stands_for(name)) for name in model.stated]
    return found + [bench.search(name) for name in (*model.unstated, *model.reach, *model.liveness)]


@dataclass(slots=True)
class Bench:
    """Where one variant is compiled, once for each sort of property, and searched."""

    model: Model
    variant: Variant | None
    folder: Path
    depth: int = DEPTH
    _built: dict[str, Path] = field(default_factory=dict)

    def search(self, name: str) -> Search:
        """Search the variant for violations of one property."""
        sort = self.sort(name)
        pan = self._built.get(sort) or self._build(sort)
        claim = {"bare": [], "live": ["-a", "-f", "-N", name], "safe": ["-N", name]}[sort]
        errors, states, took_s, doubt = _searched(pan, [f"-m{self.depth}", "-w22", *claim], self.folder)
        verdict = doubt or _verdict(self.variant, name in self.model.reach, errors)
        return Search(
            self.model.name, self.symbol, name, self.model.stands_for(name), states, round(took_s, 2), verdict, name
        )

    @property
    def symbol(self) -> str:
        """What the variant is called."""
        return self.variant.symbol if self.variant else CORRECT

    def sort(self, name: str) -> str:
        """Return which search a property needs."""
        return "bare" if name == DEADLOCK else "live" if name in self.model.liveness else "safe"

    def symbols(self, sort: str) -> list[str]:
        """Return what the model is read with: the variant's symbol, and that it is liveness that is asked for."""
        chosen = [f"-D{self.variant.symbol}"] if self.variant else []
        return [*chosen, "-DLIVENESS"] if sort == "live" else chosen

    def _build(self, sort: str) -> Path:
        source = self.folder / self.model.path.name
        source.write_text(self.model.text + self.model.every())
        _run(["spin", "-a", *self.symbols(sort), source.name], self.folder)
        pan = self._built[sort] = self.folder / sort
        options = {"bare": ["-DSAFETY", "-DNOCLAIM"], "live": ["-DNFAIR=4"], "safe": ["-DSAFETY"]}[sort]
        _run([str(compiler()), "-w", "-DMEMLIM=2048", *options, "-o", pan.name, "pan.c"], self.folder)
        return pan


def _verdict(variant: Variant | None, reach: bool, errors: int) -> str:
    if variant is not None:
        return ("shown" if variant.limit else "caught") if errors else "NOT CAUGHT"
    if reach:
        return "possible" if errors else "NEVER HAPPENS"
    return "VIOLATED" if errors else "holds"


def check_all(chosen: Iterable[Model], *, jobs: int) -> list[Search]:
    """Search every variant of the models, so many at a time; in the order of the models."""
    work = [(model, variant) for model in chosen for variant in (None, *model.variants)]
    with ThreadPoolExecutor(jobs) as pool:
        return [search for found in pool.map(lambda one: check(*one), work) for search in found]


def trail(model: Model, variant: Variant) -> str:
    """Return a way to the violation, step by step, with what each step changed."""
    with tempfile.TemporaryDirectory(prefix="models-") as place:
        bench = Bench(model, variant, Path(place))
        bench.search(variant.breaks)
        if not (made := next(bench.folder.glob("*.trail"), None)):
            return "no violation was found"
        return _run(
            ["spin", "-k", made.name, *bench.symbols(bench.sort(variant.breaks)), "-p", "-g", "-l", model.path.name],
            bench.folder,
        )


def _print(found: Sequence[Search]) -> None:
    print(f"{'model':<10} {'variant':<18} {'property':<15} {'for':<4} {'states':>9} {'seconds':>8}  verdict")
    for one in found:
        print(
            f"{one.model:<10} {one.variant:<18} {one.claim:<15} {one.stands_for:<4} {one.states:>9,} {one.seconds:>8.2f}  {one.verdict}"
        )


def _report(path: Path, found: Sequence[Search], flaws: Sequence[str], took_s: float) -> None:
    versions = {
        "spin": subprocess.run(["spin", "-V"], capture_output=True, text=True, check=False).stdout.strip(),
        "compiler": subprocess.run(
            [str(compiler()), "--version"], capture_output=True, text=True, check=False
        ).stdout.partition("\n")[0],
    }
    facts = {
        **provenance(), "versions": versions, "seconds": round(took_s, 1), "flaws": list(flaws),
        "searches": [asdict(one) for one in found],
    }  # fmt: skip
    path.write_text(json.dumps(facts, indent=1) + "\n")


def _summary(chosen: Sequence[Model], found: Sequence[Search], took_s: float) -> str:
    counts = {word: sum(one.verdict == word for one in found) for word in ("holds", "possible", "caught", "shown")}
    witnesses = sum(not one.limit for model in chosen for one in model.variants)
    states = sum({(one.model, one.variant, one.search): one.states for one in found}.values())
    limits = sum(one.limit for model in chosen for one in model.variants)
    return (
        f"{len(chosen)} models, {counts['holds']} properties hold, {counts['possible']} outcomes possible, "
        f"{counts['caught']} of {witnesses} witnesses caught, {counts['shown']} of {limits} limits shown; "
        f"{states:,} states, {took_s:.1f} s"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Search the models; return 1 when something is not as their heads say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="NAME", help="one model")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the table, with versions and commit")
    parser.add_argument("--jobs", metavar="N", type=int, default=2, help="variants searched at once (2)")
    parser.add_argument("--trail", metavar="MODEL:WITNESS", help="print the way to one violation")
    asked = parser.parse_args(arguments)
    if absent := missing():
        print(f"{' and '.join(absent)} missing: apt-get install spin tcc", file=sys.stderr)
        return 2
    if asked.trail:
        name, _, symbol = asked.trail.partition(":")
        pairs = [(m, v) for m in models(name) for v in m.variants if v.symbol == symbol]
        print(trail(*pairs[0]) if pairs else f"no witness {asked.trail}")
        return 0 if pairs else 2
    chosen = models(asked.only)
    if not chosen:
        print(f"no model {asked.only!r} in docs/models", file=sys.stderr)
        return 2
    began_s = time.monotonic()
    flaws = [flaw for model in chosen for flaw in model.flaws()]
    found = check_all(chosen, jobs=asked.jobs)
    took_s = time.monotonic() - began_s
    _print(found)
    print(*flaws, _summary(chosen, found, took_s), sep="\n")
    if asked.json:
        _report(asked.json, found, flaws, took_s)
    return 1 if flaws or any(one.surprise for one in found) else 0


if __name__ == "__main__":
    sys.exit(main())
