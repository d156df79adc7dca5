"""Workers of the simulated fleet: the real `Worker` on a wire to the store, with a heart, and a supervisor behind it."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from random import Random
from typing import TYPE_CHECKING, Any
from uuid import UUID

from durable_agent.agents.models import WorkerModels
from durable_agent.artifacts import Artifacts
from durable_agent.core.outcomes import ON_THE_WAY, Exchange, Outcome, Released, Verdict
from durable_agent.core.port import AuthorTransaction, Offer
from durable_agent.core.records import SessionId, Token
from durable_agent.errors import DatabaseUnavailable
from durable_agent.telemetry import Counters
from durable_agent.testing.absent import Absent, no_database
from durable_agent.testing.simulation.loop import Process
from durable_agent.testing.simulation.mutants import Mutant
from durable_agent.testing.simulation.weather import Wire
from durable_agent.testing.simulation.workload import HOST, TOOLS
from durable_agent.worker.loop import Worker

if TYPE_CHECKING:
    from durable_agent.testing.simulation.world import World

TTL_S, BEAT_S, POLL_S = 5.0, 1.25, 2.0
# As in `engine.exchange`.
UNSURE_S, SLACK_S = 35.0, 1.0
# What a hint may be lost for: the mutant's worker looks only when it is told to.
NEVER_S = 1e6


class Remote(Absent):
    """The store as one worker session reaches it: `core.port.Backend` over a wire."""

    def __init__(self, world: World, wire: Wire, offer: Offer) -> None:
        self.runs = {}
        self._world = world
        self._wire = wire
        self._offer = offer
        self._hints: set[str] = set()
        self._hinted = asyncio.Event()
        self.telling: frozenset[Token] = frozenset()  # whose outcomes are on the way
        self._held: set[Token] = set()
        self._disowned: frozenset[Token] = frozenset()
        self._unsure_since_s = self._unsure_until_s = 0.0

    @property
    def session(self) -> UUID:
        """The session's id."""
        return self._offer.session

    async def exchange(self, outcomes: Sequence[Outcome], *, free: int, solo: bool) -> Exchange:
        """See `core.port.Backend.exchange`."""
        world, began_s = self._world, self._wire.now_s
        self.telling = frozenset(outcome.lease.token for outcome in outcomes)
        told = [*outcomes, *(await self._strays())]
        try:
            answer = await self._wire.ask(lambda: world.exchange(self._offer, told, free=free, solo=solo))
        except (DatabaseUnavailable, asyncio.CancelledError) as error:
            if began_s >= self._unsure_until_s:
                self._unsure_since_s = began_s
            self._unsure_until_s = self._wire.now_s + UNSURE_S
            if world.mutant is Mutant.GIVE_UP and told and isinstance(error, DatabaseUnavailable):
                return Exchange((Verdict.OK,) * len(outcomes), (), (), more=True)
            raise
        self._held -= {outcome.lease.token for outcome in told if not isinstance(outcome, ON_THE_WAY)}
        self._held |= {claim.lease.token for claim in answer.claims}
        return replace(answer, verdicts=answer.verdicts[: len(outcomes)])

    async def _strays(self) -> list[Outcome]:
        """Return what gives back the claims that nobody heard of or runs under, as `engine.exchange` does."""
        disowned, unsure = self._disowned, self._wire.now_s < self._unsure_until_s
        if self._world.mutant is Mutant.UNHEARD or not (disowned or unsure):
            return []
        age_s = self._wire.now_s - self._unsure_since_s + SLACK_S if unsure else 0.0
        store, session, held = self._world.store, self._offer.session, frozenset(self._held)
        leases = await self._wire.ask(lambda: store.strays(session, held, age_s, disowned))
        self._disowned -= disowned
        return [Released(lease, in_doubt=lease.claim_no > 1 or lease.token in disowned) for lease in leases]

    def disown(self, tokens: frozenset[Token]) -> None:
        """See `core.port.Backend.disown`."""
        self._disowned |= tokens

    async def begin(self) -> AuthorTransaction:
        """Refuse: there is no database."""
        raise no_database()

    async def owned(self) -> frozenset[Token]:
        """See `core.port.Backend.owned`."""
        return await self._wire.ask(lambda: self._world.store.owned(self._offer.session))

    async def beat(self) -> frozenset[Token]:
        """Keep the session's leases alive; return what it owns."""
        return await self._wire.ask(lambda: self._world.store.beat(self._offer, TTL_S))

    async def wait(self, timeout_s: float) -> frozenset[str]:
        """See `core.port.Backend.wait`."""
        await self._hinted.wait()
        self._hinted.clear()
        hints, self._hints = frozenset(self._hints), set()
        return hints

    def hint(self, what: str) -> None:
        """Take a hint."""
        self._hints.add(what)
        self._hinted.set()


@dataclass(slots=True)
class Member:
    """One worker process: what `workload.Host` is to its tools."""

    world: World
    process: Process
    name: str
    number: int
    random: Random
    remote: Remote = field(init=False)
    worker: Worker = field(init=False)
    up: bool = False
    asleep: asyncio.Event | None = None
    aimed: set[tuple[UUID, int]] = field(default_factory=set)

    @property
    def receiver(self) -> Any:
        """The outside world."""
        return self.world.receiver

    def die(self) -> None:
        """Kill the process: its own step does it."""
        self.world.weather.landed["killed by its step"] += 1
        self.world.kill(self)

    async def main(self) -> None:
        """What the process runs."""
        world = self.world
        HOST.set(self)
        session = SessionId(UUID(int=self.random.getrandbits(128), version=4))
        offer = Offer(
            session, self.name, ("default",), TOOLS.names(), 3, "here", self.number, "simulated", TOOLS.classes()
        )
        self.remote = Remote(world, world.wire(), offer)
        no_poll = world.mutant is Mutant.NO_POLL
        self.worker = Worker(
            self.remote, TOOLS, offer.concurrency, poll_s=lambda: NEVER_S if no_poll else POLL_S, grace_s=1.5,
            payload_limit_bytes=262_144, artifact_limit_bytes=262_144, artifacts=artifacts(), lease_s=TTL_S,
            counters=Counters(), models=models(),
        )  # fmt: skip
        beat_now, first = asyncio.Event(), asyncio.Event()
        self.worker.beat_now = beat_now.set
        async with asyncio.TaskGroup() as group:
            heart = group.create_task(self._heart(beat_now, first))
            await first.wait()
            self.up = True
            await self.worker.run()
            heart.cancel()
        self.up = False

    async def _heart(self, beat_now: asyncio.Event, first: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sent_s = loop.time()
            try:
                owned = await self.remote.beat()
            except DatabaseUnavailable:
                await asyncio.sleep(0.05 + self.random.random() * 0.5)
                continue
            blind = self.world.mutant is Mutant.BLIND_WAKE
            self.worker.beat(1e9 if blind else sent_s, owned)
            if blind:
                self.worker.sync(owned, sent_s)
            first.set()
            try:
                async with asyncio.timeout(BEAT_S * (0.9 + self.random.random() / 10)):
                    await beat_now.wait()
            except TimeoutError:
                pass
            beat_now.clear()


@cache
def artifacts() -> Artifacts:
    """Return where large values would go; no simulated value is large."""
    return Artifacts(tempfile.gettempdir() + "/durable-agent-simulation")


@cache
def models() -> WorkerModels:
    """Return the models of a worker without keys."""
    return WorkerModels.from_env({})
