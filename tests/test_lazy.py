"""The packages' public names: all there, told to type checkers as they are, and loaded only when asked for."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

PACKAGES = pytest.mark.parametrize(
    "package",
    [import_module(name) for name in ("durable_agent", "durable_agent.testing")],
    ids=lambda one: one.__name__,
)


@PACKAGES
def test_every_name_is_what_type_checkers_are_told(package: ModuleType) -> None:
    told = {
        one.asname or one.name: getattr(import_module(node.module or ""), one.name)
        for node in ast.walk(ast.parse(Path(package.__file__ or "").read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("durable_agent.")
        for one in node.names
        if one.name != "lazily"
    }
    assert set(told) == set(package.__all__) - {"__version__"}
    for name, value in told.items():
        assert getattr(package, name) is value
    assert set(told) <= set(dir(package))


@PACKAGES
def test_a_name_that_is_not_there_is_an_attribute_error(package: ModuleType) -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Grahp'"):
        _ = package.Grahp


def test_the_command_line_loads_no_author_s_part() -> None:
    code = "import sys, durable_agent.cli; print([m for m in sys.modules if m.startswith('durable_agent.flow.')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
