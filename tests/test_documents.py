"""The documents say what the code does: each test they name exists, each link leads somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_state_machines_are_drawn_from_the_tables() -> None:
    done = subprocess.run([sys.executable, ROOT / "scripts/diagrams.py", "--check"], check=False)
    assert done.returncode == 0, "run `python scripts/diagrams.py`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_a_page_names_exists(page: Path) -> None:
    for file, name in re.findall(r"`(test_\w+\.py)(?:::(\w+))?`", page.read_text()):
        found = list((ROOT / "tests").rglob(file))
        assert found, f"{page.name} names {file}"
        if name:
            assert any(re.search(rf"def {name}\(", path.read_text()) for path in found), f"{page.name} names {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_no_page_has_a_gap_left_to_fill() -> None:
    for page in PAGES:
        assert not re.search(r"\b(FIGURES|CHAOS|TODO|TBD|FIXME)\b", page.read_text()), page.name


def test_no_module_is_longer_than_one_reads_at_once() -> None:
    folders = (ROOT / name for name in ("src", "scripts", "tests", "workers", "alembic"))
    long = {path.name: len(path.read_text().splitlines()) for folder in folders for path in folder.rglob("*.py")}
    assert {name: lines for name, lines in long.items() if lines > 400} == {}
