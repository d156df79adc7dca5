"""The history checker: what exported runs and append-only logs say about the protocol's invariants.

It knows no database and no engine. What it needs of the rules are the tables of `core.states`, the verdicts of
`core.promotion` and the digest of an approval; the rest it derives anew, so that a defect of the engine's own fold is
found, too. `python -m durable_agent.testing.history EXPORT...` checks files.
"""

from durable_agent.testing.history.check import Checker, check
from durable_agent.testing.history.documents import Document, ExportedRun, Unreadable, read_log, read_runs
from durable_agent.testing.history.files import check_files
from durable_agent.testing.history.report import INVARIANTS, Report, Violation

__all__ = [
    "INVARIANTS",
    "Checker",
    "Document",
    "ExportedRun",
    "Report",
    "Unreadable",
    "Violation",
    "check",
    "check_files",
    "read_log",
    "read_runs",
]
