"""Wrong versions of the engine, each made from a copy of the sources: a campaign that does not fail on its own proves nothing."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final


@dataclass(frozen=True, slots=True)
class Edit:
    """One replacement in one file of the package."""

    file: str
    old: str
    new: str


_QUEUE: Final = "db/sql/queue.sql"

BROKEN: Final[dict[str, tuple[Edit, ...]]] = {
    # A write is accepted of whoever held the step once.
    "no-fence": (
        Edit(
            "engine/claim.py",
            "return self.claim_no == lease.claim_no and self.token == lease.token",
            "return self.token is not None",
        ),
        *(Edit(_QUEUE, f" and k.claim_no = {name}.claim_no and k.token = {name}.token", "") for name in ("d", "f")),
    ),
    # Leases that the clock left far ahead stay there.
    "no-clamp": (
        Edit("db/sql/sessions.sql", "make_interval(secs => 2 * %(ttl_s)s)", "make_interval(secs => 1e7 * %(ttl_s)s)"),
    ),
    # A pooler is taken for PostgreSQL itself.
    "pooler-unseen": (
        Edit("db/pool.py", "return conn.info.backend_pid != backend_pid", "return False"),
        Edit("db/pool.py", "return row is None or conn.info.backend_pid != row[0]", "return False"),
    ),
    # A lost lease costs nothing.
    "crashes-uncounted": (
        Edit("engine/settle.py", "crashes = 1 if outcome.progress else step.crashes + 1", "crashes = 0"),
    ),
    # Not the engine's: the campaign's own standby is asynchronous where it should not be.
    "not-synchronous": (),
    # Nobody looks for sessions that sit in a transaction.
    "doctor-blind": (Edit("db/sql/health.sql", "a.state like 'idle in transaction%%'", "a.state like 'nothing'"),),
}


def mutated(directory: Path, mutant: str) -> Path:
    """Return a copy of the sources with the mutant in it. Raises SystemExit when it does not fit them."""
    root = Path(__file__).parents[2]
    source = directory / "mutant"
    shutil.copytree(root / "src", source)
    shutil.copytree(root / "alembic", directory / "alembic")
    for edit in BROKEN[mutant]:
        path = source / "durable_agent" / edit.file
        text = path.read_text()
        if edit.old not in text:
            raise SystemExit(f"the mutant {mutant} does not fit {edit.file}")
        path.write_text(text.replace(edit.old, edit.new))
    return source
