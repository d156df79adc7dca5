"""The check of files, and what a person reads of its report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from durable_agent.testing.history.check import check
from durable_agent.testing.history.documents import Document, ExportedRun, Unreadable, read_log, read_runs
from durable_agent.testing.history.report import Report

_NEEDED = {
    "client": ("key", "answer"), "receiver": ("key",), "watchers": ("watcher", "run_id"),
    "budgets": ("owner", "meter", "cap", "spent", "reserved"), "heads": ("run_id", "seq", "hash"),
}  # fmt: skip


def check_files(
    exports: Sequence[Path], *, client: Path | None = None, receiver: Path | None = None, watchers: Path | None = None,
    budgets: Path | None = None, heads: Path | None = None, deadlocks: int | None = None, at_rest: bool = True,
) -> Report:  # fmt: skip
    """Return the report of a history in files: exports, and logs in JSON lines. Raises Unreadable, OSError."""
    return check(
        _runs(exports), client=_log("client", client), receiver=_log("receiver", receiver),
        watchers=_log("watchers", watchers), budgets=_log("budgets", budgets), heads=_log("heads", heads) or (),
        deadlocks=deadlocks, at_rest=at_rest,
    )  # fmt: skip


def told(report: Report, *, most: int = 20) -> Iterator[str]:
    """Yield the report as lines of text: figures, what the documents do not tell, at most so many violations."""
    width = max(map(len, report.figures))
    yield from (f"{name:<{width}}  {value}" for name, value in report.figures.items())
    yield from (f"not told  {name}: {why}" for name, why in sorted(report.untold.items()))
    for violation in report.violations[:most]:
        yield f"VIOLATION  {violation}"
        yield from (f"  {line}" for line in violation.lines())
    if len(report.violations) > most:
        yield f"and {len(report.violations) - most} violations more"


def _runs(exports: Sequence[Path]) -> Iterator[ExportedRun]:
    for path in exports:
        try:
            with path.open("rb") as lines:
                yield from read_runs(lines)
        except Unreadable as error:
            raise Unreadable(f"{path}: {error}") from None


def _log(name: str, path: Path | None) -> list[Document] | None:
    if path is None:
        return None
    try:
        with path.open("rb") as lines:
            return read_log(lines, *_NEEDED[name])
    except Unreadable as error:
        raise Unreadable(f"{path}: {error}") from None
