"""A step of a real run that a test claims by hand, attempt after attempt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from durable_agent.agents.models import WorkerModels
from durable_agent.core.outcomes import Outcome, Verdict
from durable_agent.core.records import DEFAULT_TENANT, Claim
from durable_agent.core.waits import Decision
from durable_agent.db.together import Together
from durable_agent.engine.answer import answer
from durable_agent.engine.fence import Fence
from durable_agent.errors import LeaseLost
from durable_agent.flow.context import Context
from durable_agent.flow.link import Passage
from durable_agent.flow.model import ChatModel
from durable_agent.flow.registry import Registry
from durable_agent.flow.tools import Tool
from durable_agent.worker.attempt import run_attempt
from durable_agent.worker.gates import NO_GATE
from durable_agent.worker.link import AttemptLink, Desk
from tests.support.postgres import Database
from tests.support.runs import Engine, Hand, run_of
from tests.support.runs import step as spec


class Way(AttemptLink):
    """An attempt's way to the engine without a worker: what it tells is settled, and the fence is the engine's own."""

    def __init__(
        self, hand: Hand, registry: Registry, claim: Claim, prices: Sequence[Mapping[str, Any]] = (),
        models: Mapping[str, ChatModel] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(cast(Desk, None), claim)
        self.prices = prices
        self.extra = models
        self.hand = hand
        self.together = Together(hand.pools)
        self.registry = registry
        self.told: list[Outcome] = []
        self.heard: list[str] = []

    def find(self, name: str) -> Tool | None:
        return self.registry.get(name)

    def post(self, outcome: Outcome) -> None:
        self.told.append(outcome)

    async def keep(self, text: bytes) -> bytes:
        return text

    async def whole(self, value: Any) -> Any:
        return value

    def models(self) -> WorkerModels:
        found = WorkerModels.from_env({}, self.extra)
        found.set_prices(self.prices)
        return found

    def say(self, effect: int, text: str) -> None:
        self.heard.append(text)

    async def pass_gate(self, name: str | None, tokens: int) -> Passage:
        return NO_GATE

    async def still_ours(self) -> None:
        """There is no lease to lose."""

    async def tell(self, outcome: Outcome) -> Verdict:
        posted, self.told = self.told, []
        verdicts = await self.hand.settle(*posted, outcome)
        if Verdict.LOST in verdicts:
            raise LeaseLost("the step is no longer this worker's")
        return verdicts[-1]

    def fenced(self, claim: Claim) -> Fence:
        return Fence(self.hand.pools, claim.lease, self.together)

    def reading(self) -> Any:
        return self.hand.pools.reading()


@dataclass
class Stage:
    """A step of a real run, claimed by hand as often as the test likes."""

    engine: Engine
    database: Database
    hand: Hand
    registry: Registry
    prices: Sequence[Mapping[str, Any]] = ()
    models: Mapping[str, ChatModel] | None = None
    moved_s: float = 0.0

    async def claim(self) -> Claim:
        (claim,) = await self.hand.claim()
        return claim

    async def claim_again(self) -> Claim:
        """Take the step from an attempt that was never heard of again, or when it is due again."""
        self.moved_s += 100.0
        self.database.move_clock(self.moved_s)
        await self.engine.reap()
        self.hand.beat()
        return await self.claim()

    def way(self, claim: Claim) -> Way:
        return Way(self.hand, self.registry, claim, self.prices, self.models)

    def context(self, claim: Claim) -> Context:
        return Context(claim, self.way(claim))

    async def attempt(self, claim: Claim) -> Outcome:
        """Run an attempt and settle what came of it."""
        way = self.way(claim)
        outcome = await run_attempt(claim, self.registry, way, limit_bytes=262_144)
        verdicts = await self.hand.settle(*way.told, outcome)
        assert set(verdicts) == {Verdict.OK}
        return outcome

    async def answer(self, value: Any, prompt: str | None = None) -> tuple[str, Any]:
        """Answer the open question, that of the prompt if there are several; return its name and what was asked."""
        found = self.database.execute("select id, name, request from waits where state = 'open'")
        ((wait_id, name, request),) = [one for one in found if prompt is None or one[2]["prompt"] == prompt]  # type: ignore[index]
        await answer(self.engine.pools, DEFAULT_TENANT, wait_id, Decision.RESPONDED, by="me", value=value)  # type: ignore[arg-type]
        return str(name), request


async def stage_on(engine: Engine, database: Database, **given: Any) -> Stage:
    """Return a stage with one run of one step, `play`."""
    database.execute("create table ran (what text)")
    made = Stage(engine, database, engine.hand(tools=("play",)), Registry())
    await engine.submit(run_of(spec("play", tool="play"), **given))
    return made


def ran(database: Database) -> list[str]:
    return sorted(str(row[0]) for row in database.execute("select what from ran"))
