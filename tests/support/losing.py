"""Engines in memory that lose a step at a commit, or keep what they were told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from durable_agent.core.gate import Heard, Passing
from durable_agent.core.outcomes import Exchange, Outcome, Verdict
from durable_agent.core.states import StepStatus
from durable_agent.testing import FakeBackend, FakeRun


class Losing(FakeBackend):
    """An engine that takes the step away at its nth commit, before or after it."""

    def __init__(self, commit: int, side: str) -> None:
        super().__init__()
        self.left = commit
        self.side = side

    async def exchange(self, outcomes: Sequence[Outcome], *, free: int, solo: bool) -> Exchange:
        if outcomes:
            self.left -= 1
        if not outcomes or self.left:
            return await super().exchange(outcomes, free=free, solo=solo)
        if self.side == "after":
            await super().exchange(outcomes, free=0, solo=solo)
        for run in self.runs.values():
            for one in run.steps:
                if one.status is StepStatus.RUNNING:
                    one.status, one.token = StepStatus.READY, None
        lost = [Verdict.LOST for _ in outcomes]
        claimed = await super().exchange((), free=free, solo=solo)
        return Exchange(tuple(lost), claimed.claims, (), more=True)


def effects_of(run: FakeRun) -> Counter[str]:
    return Counter(one.name for one in run.steps[0].effects.values())


class Hearing(FakeBackend):
    """An engine that keeps what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Outcome] = []
        self.gates: list[tuple[str, int]] = []

    async def passing(self, name: str, tokens: list[int], in_use: int) -> Passing:
        self.gates += [(name, one) for one in tokens]
        return replace(await super().passing(name, tokens, in_use), limits=True)

    async def heard(self, name: str, what: Heard, wait_s: float | None, error: str | None) -> None:
        self.gates.append((f"{name} {what} {wait_s}", 0))

    async def exchange(self, outcomes: Sequence[Outcome], *, free: int, solo: bool) -> Exchange:
        self.told.extend(outcomes)
        return await super().exchange(outcomes, free=free, solo=solo)
