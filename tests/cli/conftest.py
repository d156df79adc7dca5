"""What tests of the command line share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.postgres import Database, cloned


@pytest.fixture(scope="module")
def ground(admin_url: str) -> Iterator[Database]:
    """A database for all tests of this module."""
    with cloned(admin_url) as made:
        yield made
