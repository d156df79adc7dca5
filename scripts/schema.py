"""Write the reading copy of the schema, `src/durable_agent/db/schema.sql`, from the migrations.

python scripts/schema.py            # writes it
python scripts/schema.py --check    # exits 1 when it is not what the migrations make
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from durable_agent.embedded import EmbeddedPostgres
from durable_agent.migrate import upgrade

COPY = Path(__file__).parents[1] / "src/durable_agent/db/schema.sql"
HEAD = "-- The schema as the migrations make it: a reading copy, written by scripts/schema.py. Weekly partitions are left out.\n"


def render(bin_dir: Path, url: str) -> str:
    """Return a database's schema as readable SQL."""
    done = subprocess.run(
        [str(bin_dir / "pg_dump"), "--schema-only", "--no-owner", "--no-privileges", "--exclude-table=*_w2*",
         "--exclude-table=alembic_version", "--dbname", url],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    kept = [line for line in done.stdout.splitlines() if not re.match(r"--|SET |SELECT pg_catalog|\\|$", line)]
    return HEAD + "\n" + "\n".join(kept).replace("public.", "") + "\n"


def main() -> int:
    """Write or check the copy."""
    with tempfile.TemporaryDirectory(prefix="durable-agent-schema-", dir="/var/tmp") as made:
        Path(made).chmod(0o755)
        with EmbeddedPostgres(Path(made) / "data") as postgres:
            upgrade(postgres.urls.url)
            text = render(postgres.bin_dir, postgres.urls.url)
    if "--check" in sys.argv:
        return int(COPY.read_text() != text)
    COPY.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
