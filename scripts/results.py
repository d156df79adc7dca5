"""The page of docs/results: what each result file says, in a line. `python scripts/results.py > docs/results/README.md`"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from harness.comparison import Row, Told, cell, ratios, rows

RESULTS: Final = Path(__file__).resolve().parent.parent / "docs" / "results"
HEAD: Final = """# Results

What the long runs said, as they wrote it: each file has its seed, versions, machine and commit (`+`: the tree differed from it).
Made by `make campaigns`, and by `make models`, `simulate`, `interleave`, `mutants`, `peers`, `soak` with `--json`; this page by
`scripts/results.py`. `peers-recovery` is W6 once more, with a second after each replacement: in `peers` the survivor may be the
one that has just started, who judges nobody yet. `peers-drains` is the drains once more, also with 200 slots, beside the best other
that keeps a step's result, in a slow hour; its seventh round was disturbed and is left out.

| file | commit | when, UTC | what it says |
| --- | --- | --- | --- |
"""


def said(kind: str, told: dict[str, Any]) -> str:
    """Return what a result file says, in a line."""
    match kind:
        case "chaos":
            landed = ", ".join(f"{count:,} {what}" for what, count in sorted(told["landed"].items()))
            counts = told["counts"]
            return (
                f"{landed}; {counts['runs']:,} runs, {counts['steps']:,} steps: {counts['lost']} lost, "
                f"{counts['double committed']} double committed, {counts['deadlocks']} deadlocks, {len(told['violations'])} violations"
            )
        case "models":
            names, caught = (
                {one["model"] for one in told["searches"]},
                Counter(one["verdict"] for one in told["searches"]),
            )
            verdicts = ", ".join(f"{count} {verdict}" for verdict, count in caught.most_common())
            return f"{len(names)} models, {len(told['searches'])} searches: {verdicts}; {len(told['flaws'])} flaws"
        case "mutants":
            return f"{told['killed']} of {told['mutants']} mutants killed"
        case "interleave":
            return (
                f"{told['casts']:,} casts, {told['schedules']:,} schedules: {told['violations']} violations, "
                f"{told['deadlocks']} deadlocks, {told['pairs there was no time for']} pairs there was no time for"
            )
        case "simulation":
            of = told["campaign"]
            landed = sum(of["faults_landed"].values())
            return f"{of['seeds']:,} seeds, {landed:,} faults: {len(of['broken'])} seeds broke an invariant"
        case "peers":
            found = rows([Told(**one) for one in told["told"]], told["not installed"])
            shapes = tuple(told["counts"])
            failed = sum(one["failed"] is not None for one in told["told"])
            ours = [_beside(row, found, shapes) for row in found if row.peer.startswith("durable-agent")]
            return "; ".join([f"{len(found)} rows, {told['repeat']} rounds, {failed} measurements failed", *ours])
        case "bench":
            return "; ".join(f"{name}: {ratio} ×" for name, ratio in told["ratios"].items())
        case "soak":
            return (
                f"{told['minutes']:g} minutes of {told['rate steps/s']:,.0f} steps/s, {told['runs']:,} runs: "
                f"{len(told['wrong'])} counts are wrong; throughput drifts by {told['steps/s, drift']:+.1%}, claim p99 "
                f"{told['claim p99, median of samples, ms']} ms, memory by {max(told['rss, drift'].values(), key=abs):+.1%}"
            )
        case _:
            return ""


def _beside(row: Row, found: Sequence[Row], shapes: Sequence[str]) -> str:
    """Return one row of the comparison, with its ratios to the best of the others."""
    best = {shape: f" ({ratio:.1f} × {whose})" for shape, (ratio, whose) in ratios(found, shapes, row.peer).items()}
    told = [f"{shape} {cell(row, shape)}{best.get(shape, '')}" for shape in shapes if not row.absent(shape)]
    return f"{row.peer}: {', '.join(told)}"


def page() -> str:
    """Return the page."""
    lines, landed = [], Counter[str]()
    for path in sorted(RESULTS.glob("*.json")):
        told = json.loads(path.read_text())
        told = told[0] if isinstance(told, list) else told
        kind = path.stem.partition("-")[0]
        if kind == "chaos":
            landed.update(told["landed"])
        lines.append(
            f"| [{path.stem}]({path.name}) | {told['commit'][:8]}{'+' if '+' in told['commit'] else ''} | {told['at'][:16]} | {said(kind, told)} |"
        )
    total = ", ".join(f"{count:,} {what}" for what, count in landed.most_common())
    return HEAD + "\n".join(lines) + f"\n\nFaults of all campaigns that landed: {total}.\n"


if __name__ == "__main__":
    print(page(), end="")
