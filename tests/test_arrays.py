"""Array literals say exactly what the values are, whatever they hold."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import psycopg
from hypothesis import given, settings
from hypothesis import strategies as st

from durable_agent.db.arrays import literal

TEXT = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]))
COLUMNS = {
    "int[]": st.integers(-(2**31), 2**31 - 1), "bigint[]": st.integers(-(2**63), 2**63 - 1), "text[]": TEXT,
    "float8[]": st.floats(allow_nan=False, allow_infinity=False), "bool[]": st.booleans(), "bytea[]": st.binary(),
    "uuid[]": st.uuids(),
}  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_column_comes_back_as_it_went_in(admin_url: str, data: Any) -> None:
    with psycopg.connect(admin_url, autocommit=True) as conn:
        for kind, values in COLUMNS.items():
            column = data.draw(st.lists(st.none() | values, min_size=1, max_size=5))
            row = conn.execute(f"select %s::{kind}", (literal(column),)).fetchone()  # type: ignore[arg-type]
            assert row is not None
            assert row[0] == column


def test_uuids_need_no_dashes() -> None:
    assert literal([UUID(int=1)]) == "{00000000000000000000000000000001}"
