"""Small wrong versions of the protocol: the simulation must find each, or it shows nothing."""

from __future__ import annotations

from enum import StrEnum


class Mutant(StrEnum):
    """What is wrong. Those of the store are read in `settle`, `record`, `purse` and `store`, the others in `world` and `worker`."""

    NO_FENCE = "fence-dropped"
    FORGETFUL = "already-answered-lost"
    UNCOUNTED = "crash-not-counted"
    CHECK_THEN_SPEND = "budget-check-then-spend"
    NO_POLL = "hint-lost-no-poll"
    REAP_BY_STEP = "reaper-by-step"
    UNUSED_APPROVAL = "approval-not-consumed"
    RESET_CLAIM = "claim-number-reset-by-redrive"
    STALE_JOIN = "join-from-a-snapshot"
    BLIND_WAKE = "frozen-worker-does-not-ask"
    GIVE_UP = "unknown-commit-not-asked-again"
    UNHEARD = "unheard-claim-kept"

    @property
    def says(self) -> str:
        """What the mutant does, as a sentence."""
        return _SAYS[self]


_SAYS = {
    Mutant.NO_FENCE: "a write is accepted from whoever held the step before",
    Mutant.FORGETFUL: "what was settled by a commit whose answer was lost is answered `lost`",
    Mutant.UNCOUNTED: "a lost lease is not counted",
    Mutant.CHECK_THEN_SPEND: "a budget is looked at before the call, and charged after it",
    Mutant.NO_POLL: "a worker looks only when it is hinted, and hints may be lost",
    Mutant.REAP_BY_STEP: "the reaper takes the lease that a step has, not the one it saw expired",
    Mutant.UNUSED_APPROVAL: "an approval allows any number of calls",
    Mutant.RESET_CLAIM: "a redriven step is claimed as number 1 again",
    Mutant.STALE_JOIN: "a join counts its parents as they were a moment before, without the run's lock",
    Mutant.BLIND_WAKE: "a worker that was frozen goes on without asking for its leases",
    Mutant.GIVE_UP: "an outcome whose commit is unknown is dropped",
    Mutant.UNHEARD: "a claim whose answer was lost is kept alive by its session until the step's own deadline (R8)",
}
