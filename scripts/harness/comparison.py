"""The comparison as a table: one row a system, one column a shape, the median of the rounds, and what must be said beside it.

A cell is a figure, `–` where the system has no such notion, or `failed`, with the reason among the notes; a system that could
not be installed is a row of its own, `failed: reason`.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

NONE: Final = "–"
HEADS: Final = {
    "W1": "W1 one step, steps/s",
    "W2": "W2 chains of 10, steps/s",
    "W3": "W3 1 → 50 → 1, steps/s",
    "W4": "W4 p50 / p99, ms",
    "W5": "W5 single / bulk, runs/s",
    "W6": "W6 SIGKILL → elsewhere, s",
    "W7": "W7 beside 200,000 others",
}


@dataclass(frozen=True, slots=True)
class Told:
    """What a driver told of one measurement: its values, or why there are none."""

    peer: str
    shape: str
    values: dict[str, float | None] = field(default_factory=dict)
    absent: str | None = None
    failed: str | None = None
    note: str | None = None
    stores: str = ""
    keeps: bool = True
    settings: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)


def parse(peer: str, shape: str, output: str) -> Told:
    """Return what the last line of a driver's output tells; anything but one of our lines is a failure that says so."""
    lines = [line for line in output.splitlines() if line.startswith("{")]
    try:
        told: dict[str, Any] = json.loads(lines[-1])
        if told["shape"] != shape:
            return Told(peer, shape, failed=f"the driver measured {told['shape']}, not {shape}")
        values = dict(told.get("values", {}))
    except (IndexError, ValueError, KeyError, TypeError):
        last = output.strip().splitlines()
        return Told(peer, shape, failed=f"no figures: {last[-1][:160] if last else 'the driver said nothing'}")
    failed = None
    if not values and not told.get("absent"):
        failed = "neither figures nor a reason"
    elif (executed := values.get("executed")) is not None and executed < values["steps"]:
        failed = f"only {executed:.0f} of {values['steps']:.0f} steps ran"
    return Told(
        str(told["peer"]), shape, {} if failed else values, told.get("absent"), failed, told.get("note"),
        str(told.get("stores", "")), bool(told.get("keeps", True)), tuple(told.get("settings", ())), dict(told.get("versions", {})),
    )  # fmt: skip


@dataclass(slots=True)
class Row:
    """One system: what was told of it, by shape."""

    peer: str
    told: dict[str, list[Told]] = field(default_factory=lambda: defaultdict(list))
    failed: str | None = None

    def medians(self, shape: str) -> dict[str, float | None]:
        """Return the median of each value over the rounds that gave one."""
        found: dict[str, list[float | None]] = defaultdict(list)
        for told in self.told.get(shape, []):
            for name, value in told.values.items():
                found[name].append(value)
        return {
            name: None if None in values else statistics.median(v for v in values if v is not None)
            for name, values in found.items()
        }

    def spread(self, shape: str) -> float | None:
        """Return how far the rounds lie apart: the highest rate over the lowest."""
        rates = [v for told in self.told.get(shape, []) if (v := told.values.get("steps/s"))]
        return max(rates) / min(rates) if len(rates) > 1 else None

    @property
    def keeps(self) -> bool:
        """Whether the system keeps what a step returned."""
        return all(told.keeps for several in self.told.values() for told in several)

    def failures(self, shape: str) -> list[str]:
        """Return why rounds failed."""
        return [told.failed for told in self.told.get(shape, []) if told.failed]

    def absent(self, shape: str) -> str | None:
        """Return why the system has no such figure."""
        return next((told.absent for told in self.told.get(shape, []) if told.absent), None)


def rows(told: Iterable[Told], not_installed: dict[str, str]) -> list[Row]:
    """Return a row for each system, in the order in which they were first told of; those not installed last."""
    found: dict[str, Row] = {}
    for one in told:
        found.setdefault(one.peer, Row(one.peer)).told[one.shape].append(one)
    return [*found.values(), *(Row(peer, failed=reason) for peer, reason in not_installed.items())]


def cell(row: Row, shape: str) -> str:
    """Return what a table says of one system and shape. A failed round is not hidden by the others."""
    if row.failed:
        return "failed"
    if row.absent(shape):
        return NONE
    rounds = row.told.get(shape, [])
    failed = len(row.failures(shape))
    if not rounds:
        return ""
    if failed == len(rounds):
        return "failed"
    text = _figure(shape, row.medians(shape))
    return f"{text} ({failed} of {len(rounds)} failed)" if failed else text


def _figure(shape: str, values: dict[str, float | None]) -> str:
    match shape:
        case "W1" | "W2" | "W3":
            return _number(values.get("steps/s"))
        case "W4":
            return f"{_number(values.get('p50 ms'))} / {_number(values.get('p99 ms'))}"
        case "W5":
            return f"{_number(values.get('single/s'))} / {_number(values.get('bulk/s'))}"
        case "W6":
            return _number(values.get("s"))
        case _:
            return f"{values['ratio']:.2f}" if values.get("ratio") is not None else NONE


def _number(value: float | None) -> str:
    if value is None:
        return NONE
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 5 else f"{value:.2f}"


def table(found: Sequence[Row], shapes: Sequence[str]) -> str:
    """Return the table in Markdown."""
    lines = [
        "| system | " + " | ".join(HEADS[shape] for shape in shapes) + " |",
        "| --- |" + " ---: |" * len(shapes),
    ]
    for row in found:
        if row.failed:
            lines.append(f"| {row.peer} | failed: {_flat(row.failed)} |" + " |" * (len(shapes) - 1))
        else:
            lines.append(f"| {row.peer} | " + " | ".join(cell(row, shape) for shape in shapes) + " |")
    return "\n".join(lines)


def remarks(found: Sequence[Row], shapes: Sequence[str]) -> str:
    """Return what must be read with the table: versions, settings, what each stores, what is missing and why."""
    lines: list[str] = []
    for row in found:
        every = [told for shape in shapes for told in row.told.get(shape, [])]
        known = [told for told in every if told.versions]
        if not known:
            lines += [f"**{row.peer}** failed: {_flat(reason)}" for reason in {told.failed or "" for told in every}]
            continue
        first = known[0]
        versions = ", ".join(f"{name} {version}" for name, version in first.versions.items())
        lines.append(f"**{row.peer}** ({versions})")
        lines.append(f"- stores: {first.stores}")
        lines.append(f"- settings: {'; '.join(first.settings)}")
        for shape in shapes:
            notes = [told.note for told in row.told.get(shape, []) if told.note][:1]
            if reason := row.absent(shape):
                lines.append(f"- {shape}: {NONE}: {reason}")
            elif notes:
                lines.append(f"- {shape}: {notes[0]}")
            lines += [f"- {shape}: failed: {_flat(reason)}" for reason in dict.fromkeys(row.failures(shape))]
            if (spread := row.spread(shape)) and spread > 1.25:
                lines.append(f"- {shape}: the rounds lie {spread:.1f} × apart")
        lines.append("")
    return "\n".join(lines).rstrip()


def ratios(found: Sequence[Row], shapes: Sequence[str], ours: str) -> dict[str, tuple[float, str]]:
    """Return, for each drain, our rate to the best of the others that keep a step's result, and whose that is.

    A system with other settings (its name, a comma, what is other) is no other system.
    """
    result: dict[str, tuple[float, str]] = {}
    for shape in (one for one in shapes if one in ("W1", "W2", "W3")):
        rates = {row.peer: rate for row in found if row.keeps and (rate := row.medians(shape).get("steps/s"))}
        own = rates.get(ours)
        rates = {peer: rate for peer, rate in rates.items() if peer.partition(",")[0] != ours.partition(",")[0]}
        if own and rates:
            best = max(rates, key=lambda peer: rates[peer])
            result[shape] = (own / rates[best], best)
    return result


def _flat(text: str) -> str:
    return " ".join(text.split()).replace("|", "/")
