"""Array literals say exactly what the values are, whatever they hold."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import psycopg
from hypothesis import given, settings
from hypothesis import strategies as st

from durable_agent.core.states import StepEvent
from durable_agent.db.arrays import literal, literals

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
            assert row[0] == (column if any(value is not None for value in column) else [])


def test_a_column_of_nothing_is_filled_up_beside_a_longer_one(admin_url: str) -> None:
    with psycopg.connect(admin_url, autocommit=True) as conn:
        given = literals(("nos", "texts"), [(1, None), (2, None)])
        rows = conn.execute("select * from unnest(%(nos)s::int[], %(texts)s::text[])", given).fetchall()
        assert rows == [(1, None), (2, None)]


def test_enumerations_and_whole_numbers_among_others_are_what_they_stand_for() -> None:
    assert literal([StepEvent.READY, "x"]) == '{"step.ready","x"}'
    assert literal([1, 2.5, None]) == "{1,2.5,null}"


def test_uuids_need_no_dashes() -> None:
    assert literal([UUID(int=1)]) == "{00000000000000000000000000000001}"
