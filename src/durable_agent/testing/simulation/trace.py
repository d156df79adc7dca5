"""What happened in a simulated world, in order, for whoever reads a failing seed; and its digest, for who compares two."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from durable_agent.core.outcomes import Exchange, Outcome
from durable_agent.core.port import Offer


@dataclass(slots=True)
class Trace:
    """The commands and faults of one world; `lines` are kept only when somebody reads them."""

    keep: bool = False
    lines: list[str] = field(default_factory=list)
    _digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    def note(self, at_s: float, what: str, of: str) -> None:
        """Take note of something."""
        line = f"{at_s:10.4f}  {what:<10} {of}"
        self._digest.update(line.encode())
        if self.keep:
            self.lines.append(line)

    def exchanged(self, at_s: float, offer: Offer, outcomes: Sequence[Outcome], free: int, done: Exchange) -> None:
        """Take note of an exchange."""
        told = [
            f"{type(o).__name__.lower()} {str(o.lease.run_id)[:4]}/{o.lease.step_no}#{o.lease.claim_no}={v.value}"
            for o, v in zip(outcomes, done.verdicts, strict=True)
        ]
        claims = [f"claim {str(c.lease.run_id)[:4]}/{c.lease.step_no}#{c.lease.claim_no}" for c in done.claims]
        if told or claims:
            self.note(at_s, "exchange", f"{offer.worker}({offer.os_pid}) {', '.join(told + claims)}")

    @property
    def digest(self) -> str:
        """The digest of all that was noted."""
        return self._digest.hexdigest()
