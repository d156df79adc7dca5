"""The statements of `db/sql/*.sql`, by name.

A file holds statements that each begin with `-- name: some_name`; the comment lines after it say what the
statement is for, which index serves it and which locks it takes. They stay in the text that is sent, so that
`pg_stat_activity` shows them.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

_NAME = re.compile(r"^-- name: (\w+)[^\n]*$", re.MULTILINE)


class Statements:
    """One file's statements as attributes; an unknown name is an AttributeError at first use."""

    def __init__(self, family: str, texts: dict[str, str]) -> None:
        self.family = family
        self.texts = texts

    def __getattr__(self, name: str) -> str:
        try:
            return self.texts[name]
        except KeyError:
            raise AttributeError(f"db/sql/{self.family}.sql has no statement named {name!r}") from None


def parse(text: str) -> dict[str, str]:
    """Return the statements of a file's text by name, in order; a name used twice is a ValueError."""
    parts = _NAME.split(text)
    found: dict[str, str] = {}
    for name, body in zip(parts[1::2], parts[2::2], strict=True):
        if name in found:
            raise ValueError(f"statement {name!r} is defined twice")
        found[name] = f"/* {name} */ {body.strip()}"
    return found


@cache
def load(family: str) -> Statements:
    """Return the statements of `db/sql/<family>.sql`, read once per process."""
    text = (files("durable_agent.db") / "sql" / f"{family}.sql").read_text(encoding="utf-8")
    return Statements(family, parse(text))
