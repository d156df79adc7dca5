"""What the simulation has found and is not mended yet: here it is, so that the seeds that meet it do not hide others.

Each piece names the defect that it stands in for, and goes when that is mended. `play(..., unmended=...)` leaves some out.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Known(StrEnum):
    """A known defect."""

    REDRIVE = "redrive-without-doubt"
    UNHEARD = "claim-nobody-heard-of"

    @property
    def says(self) -> str:
        """What is wrong, as a sentence."""
        return _SAYS[self]


_SAYS: Final = {
    Known.REDRIVE: "a redriven step whose last attempt is in doubt is sent again without a look-up",
    Known.UNHEARD: "a claim whose answer was lost is kept alive by its session until the step's own deadline (R8)",
}
# A seed that shows it when it alone is left as it is; the redrive is shown on PostgreSQL.
SEEDS: Final = {Known.UNHEARD: 49}
