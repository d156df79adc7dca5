"""Builds the console into a wheel or sdist where npm is there. Without it, and without a console that was built before, the package
works and says at `/` what is missing."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ConsoleHook(BuildHookInterface[Any]):
    """Builds what is not built; an sdist brings it along, so that installing one needs no Node.js."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the console, unless this is an editable install, which `make console` is for."""
        root = Path(self.root)
        if version == "editable" or (root / "src/durable_agent/_console/index.html").is_file():
            return
        npm = shutil.which("npm")
        if npm is None or not (root / "console/package-lock.json").is_file():
            self.app.display_warning("the web console is left out: it is not built, and npm is not installed")
            return
        try:
            for command in (("ci", "--ignore-scripts", "--no-audit", "--no-fund"), ("run", "build")):
                subprocess.run([npm, "--prefix", str(root / "console"), *command], check=True)
        except subprocess.CalledProcessError:
            # Too old a Node.js, or no network: no reason not to have the engine.
            self.app.display_warning(
                "the web console is left out: npm could not build it (it needs Node.js 20.19 or later)"
            )
