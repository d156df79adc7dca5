"""The store's moments: each transaction has one of its own, and the ids it makes are drawn from the seed."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Moment:
    """When a transaction takes place: seconds, and microseconds that no other transaction has."""

    s: float
    us: int
    random: Random

    def new_id(self) -> UUID:
        """Return a fresh id."""
        return UUID(int=self.random.getrandbits(128), version=4)
