"""Simulation: workers, store, clients and an outside in one thread and virtual time, one world for each seed.

    python scripts/simulate.py --seeds 2000                  2,000 worlds, one after the other
    python scripts/simulate.py --seed 17 --trace             one of them again, with all that was said in it
    python scripts/simulate.py --mutants                     each wrong version of the protocol, until a seed finds it
    python scripts/simulate.py --mutant fence-dropped --seeds 500
    python scripts/simulate.py --seeds 500 --no-faults       nothing goes wrong: no fault may be counted, none be found

The worker is the real one, and so are the rules of `core`; the store stands in for PostgreSQL and is compared with it,
command by command, by `tests/testing/test_simulation_trace.py`. Messages and answers are lost, the database goes away,
processes are killed and frozen between any two awaits and woken beside their successors, hints are lost and doubled. When
all is at rest the history is held to the invariants of `docs/guarantees.md`. Exits 1 when a seed breaks one, or a mutant is
not found.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from harness.provenance import provenance

from durable_agent.testing.simulation import Mutant, Played, play

WITHIN: Final = 500
ROOT: Final = Path(__file__).resolve().parent.parent
SHOWN: Final = 5


@dataclass(slots=True)
class Campaign:
    """What many seeds came to."""

    seeds: int = 0
    seconds: float = 0.0
    virtual_s: float = 0.0
    turns: int = 0
    faultless: int = 0
    figures: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    broken: dict[int, list[str]] = field(default_factory=dict)

    def add(self, one: Played) -> None:
        """Count one seed."""
        self.seeds += 1
        self.virtual_s += one.virtual_s
        self.turns += one.turns
        self.figures.update(one.figures)
        self.faults.update(one.faults)
        self.faultless += not one.faults
        if one.violations:
            self.broken[one.seed] = list(one.violations)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "seeds": self.seeds, "seconds": round(self.seconds, 2), "virtual_s": round(self.virtual_s),
            "turns": self.turns, "seeds_without_a_fault": self.faultless, "figures": dict(self.figures),
            "faults_landed": dict(self.faults.most_common()), "broken": self.broken,
        }  # fmt: skip


def main() -> int:
    """Play what the command line asks for."""
    given = _parser().parse_args()
    if given.seed is not None:
        return _one(given)
    document: dict[str, Any] = provenance() | {"arguments": vars(given) | {"json": str(given.json)}}
    if given.mutants:
        found = {mutant: _hunt(mutant, given.first) for mutant in Mutant}
        document["mutants"] = {mutant.value: told for mutant, told in found.items()}
        failed = any(told is None for told in found.values())
        killed = sum(told is not None for told in found.values())
        print(f"{killed} of {len(found)} mutants found, each within {WITHIN} seeds")
    else:
        campaign = _many(given)
        document["campaign"] = campaign.to_json()
        _tell(campaign)
        failed = bool(campaign.broken) or (given.no_faults and bool(campaign.faults))
    if given.json:
        given.json.write_text(json.dumps(document, indent=2, default=str) + "\n")
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2000, help="how many worlds (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="play this one alone")
    parser.add_argument("--trace", action="store_true", help="with --seed: print all that was said")
    parser.add_argument("--mutant", type=Mutant, choices=list(Mutant), help="play a wrong version")
    parser.add_argument("--mutants", action="store_true", help="hunt every wrong version")
    parser.add_argument("--no-faults", action="store_true", help="let nothing go wrong")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what came of it")
    return parser


def _one(given: argparse.Namespace) -> int:
    played = play(
        given.seed, mutant=given.mutant, faults=not given.no_faults, trace=given.trace
    )  # fmt: skip
    print("\n".join(played.trace))
    print(
        f"seed {given.seed}: {played.virtual_s:.0f} s of virtual time, {played.turns} turns, digest {played.digest[:16]}"
    )
    print(f"faults that landed: {_shown(Counter(played.faults))}")
    for violation in played.violations:
        print(f"  {violation}")
    return 1 if played.violations else 0


def _many(given: argparse.Namespace) -> Campaign:
    campaign, began_s = Campaign(), time.perf_counter()
    for seed in range(given.first, given.first + given.seeds):
        one = play(seed, mutant=given.mutant, faults=not given.no_faults)
        campaign.add(one)
        if one.violations and len(campaign.broken) <= SHOWN:
            print(f"seed {seed}: {one.violations[0]}", flush=True)
    campaign.seconds = time.perf_counter() - began_s
    return campaign


def _hunt(mutant: Mutant, first: int) -> dict[str, Any] | None:
    """Play a wrong version until a seed finds it; None when none does in time."""
    began_s = time.perf_counter()
    for seed in range(first, first + WITHIN):
        played = play(seed, mutant=mutant)
        if played.violations:
            took_s = time.perf_counter() - began_s
            print(f"{mutant.value:32} seed {seed:4} {took_s:5.1f} s  {played.violations[0][:110]}", flush=True)
            return {"seed": seed, "seconds": round(took_s, 2), "says": mutant.says, "violation": played.violations[0]}
    print(f"{mutant.value:32} NOT FOUND within {WITHIN} seeds", flush=True)
    return None


def _tell(campaign: Campaign) -> None:
    print(
        f"{campaign.seeds} seeds in {campaign.seconds:.1f} s ({1000 * campaign.seconds / max(1, campaign.seeds):.1f} ms each), "
        f"{campaign.virtual_s / 3600:.1f} h of virtual time; {campaign.faultless} seeds had no fault"
    )
    print(f"faults that landed: {_shown(campaign.faults)}")
    print(f"history: {_shown(campaign.figures)}")
    print(f"seeds that break an invariant: {len(campaign.broken)} {list(campaign.broken)[:20] or ''}")


def _shown(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.most_common()) or "none"


if __name__ == "__main__":
    sys.exit(main())
