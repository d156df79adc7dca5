"""A pytest plugin: `pytest --replay run.jsonl --replay-import MODULE` makes an exported run again, a test a step.

A step fails when something it asks for was not recorded, when it asks for something else, or when it comes to another
result. Nothing is called: no database, no key, no network. Get the file with `durable-agent runs export RUN > run.jsonl`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("durable-agent")
    group.addoption("--replay", action="append", default=[], metavar="FILE", help="an exported run to make again")
    group.addoption(
        "--replay-import", action="append", default=[], metavar="MODULE", help="a module with the run's tools"
    )
    parser.addini("replay_modules", "modules with the tools of replayed runs", type="args", default=[])


def pytest_configure(config: pytest.Config) -> None:
    """Collect the files as tests."""
    for path in config.getoption("--replay"):
        if not Path(path).is_file():
            raise pytest.UsageError(f"--replay {path}: there is no such file")
        config.args.append(path)


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Take the files that are to be replayed."""
    wanted = {Path(path).resolve() for path in parent.config.getoption("--replay")}
    return CassetteFile.from_parent(parent, path=file_path) if file_path.resolve() in wanted else None


class CassetteFile(pytest.File):
    """An exported run."""

    def collect(self) -> Iterator[pytest.Item]:
        """Yield a test for each step that has a result."""
        from durable_agent.core.events import ChainBroken
        from durable_agent.engine.export import NotAnExport, verify_export
        from durable_agent.errors import InvalidRequest
        from durable_agent.flow.registry import Registry
        from durable_agent.testing.cassette import Cassette

        modules = [*self.config.getoption("--replay-import"), *self.config.getini("replay_modules")]
        lines = self.path.read_bytes().splitlines()
        try:
            verify_export(lines)
            cassette = Cassette(lines)
            registry = Registry.from_modules(modules)
        except (NotAnExport, ChainBroken, InvalidRequest) as error:
            raise pytest.Collector.CollectError(f"{self.path.name}: {error}") from None
        for name in cassette.steps:
            yield CassetteStep.from_parent(self, name=name, cassette=cassette, registry=registry)


class CassetteStep(pytest.Item):
    """One step of an exported run."""

    def __init__(self, *, cassette: Any, registry: Any, **given: Any) -> None:
        super().__init__(**given)
        self._cassette = cassette
        self._registry = registry

    def runtest(self) -> None:
        """Make the step again and compare."""
        played = self._cassette.play(self.name, self._registry)
        if played.difference is not None:
            raise Diverged(f"step {self.name!r}: {played.difference}")

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Show a divergence as its sentence."""
        return str(excinfo.value) if isinstance(excinfo.value, Diverged) else super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        """Name the step."""
        return self.path, None, f"replay of step {self.name}"


class Diverged(Exception):
    """A step does not come to what was recorded."""
