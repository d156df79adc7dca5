"""The reading copy of the schema is what the migrations make."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/schema.py"


@pytest.mark.skipif(
    os.environ.get("TEST_POSTGRES", "embedded") != "embedded", reason="pg_dump's text differs by version"
)
def test_the_reading_copy_has_not_drifted() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--check"], check=False)
    assert done.returncode == 0, "run python scripts/schema.py and commit the result"
