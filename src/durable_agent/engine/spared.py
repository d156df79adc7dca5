"""Spared: what upkeep cannot settle, so that one bad row does not end the upkeep of all."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from uuid import UUID

import psycopg

from durable_agent.db.pool import TRANSIENT
from durable_agent.errors import Conflict, DatabaseUnavailable, NotFound
from durable_agent.telemetry import logger

log = logger("upkeep")

# No word about one row: an outage, a role without rights or a table that is not there is everybody's.
_EVERYBODYS = (*TRANSIENT, DatabaseUnavailable, psycopg.ProgrammingError)


class Spared:
    """What this process could not settle, for a reason that will be the same next time; told once, and passed over since."""

    def __init__(self) -> None:
        self.ids: set[UUID] = set()

    def forget(self) -> None:
        """Let everything be tried again."""
        self.ids.clear()

    @contextmanager
    def trying(self, what: str, which: UUID, run: UUID) -> Iterator[None]:
        """Settle one thing inside; that it is gone, or was settled by others, is no failure. Raises what concerns everything."""
        with suppress(NotFound, Conflict):
            try:
                yield
            except (*_EVERYBODYS, NotFound, Conflict):
                raise
            except Exception:
                self.ids.add(which)
                log.exception(
                    "not_settled", what=what, id=str(which), run=str(run), hint="it is passed over for an hour"
                )


def shuffled(rows: Sequence[Any]) -> list[Any]:
    """Return rows in any order: one that fails as an outage does, each time, keeps no other from its turn for good."""
    return random.sample(rows, len(rows))
