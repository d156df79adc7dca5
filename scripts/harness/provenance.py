"""What a figure or a verdict needs to be believed: of what commit it is, on what, and when."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any


def provenance() -> dict[str, Any]:
    """Return the commit (with `+` when a tracked file differs from it, but for results; `unknown` outside a repository), machine and time (UTC)."""

    def git(*words: str) -> str:
        told = subprocess.run(["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
        return told.stdout.strip()

    return {
        "commit": (git("rev-parse", "HEAD") or "unknown")
        + (
            "+"
            if git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)docs/results")
            else ""
        ),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": os.cpu_count(),
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
