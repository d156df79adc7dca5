"""One simulated world: a store, a fleet of workers, reapers, clients, people and an outside, and what befalls them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any
from uuid import UUID

from durable_agent.core.outcomes import Exchange, Intended, Metered, Outcome, Verdict
from durable_agent.core.port import Offer
from durable_agent.core.records import Claim, RunSpec, Token, WaitKind
from durable_agent.core.states import RunStatus
from durable_agent.core.waits import Decision
from durable_agent.testing.simulation.client import Client, People, by_budget
from durable_agent.testing.simulation.loop import Process, VirtualLoop
from durable_agent.testing.simulation.mutants import Mutant
from durable_agent.testing.simulation.receiver import Receiver
from durable_agent.testing.simulation.rows import RunRow, StepRow, WaitRow
from durable_agent.testing.simulation.store import Store
from durable_agent.testing.simulation.trace import Trace
from durable_agent.testing.simulation.weather import Weather, Wire
from durable_agent.testing.simulation.worker import TTL_S, Member
from durable_agent.testing.simulation.workload import drawn_mix

# Faults stop then, and everything has so long to come to rest.
CALM_S, REST_S = 25.0, 300.0
TICK_S = 0.6
ANSWERED = (WaitKind.APPROVAL, WaitKind.INPUT, WaitKind.UNKNOWN_EFFECT)


@dataclass(slots=True)
class World:
    """A world drawn from a seed. With `faults` off nothing goes wrong but what authors' code does."""

    loop: VirtualLoop
    random: Random
    mutant: Mutant | None
    faults: bool
    trace: Trace
    weather: Weather = field(init=False)
    store: Store = field(init=False)
    receiver: Receiver = field(init=False)
    client: Client = field(init=False)
    members: list[Member] = field(default_factory=list)
    breaches: list[str] = field(default_factory=list)
    _workers: int = 0

    def __post_init__(self) -> None:
        random = self.random
        if self.faults:
            self.weather = Weather.drawn(random, CALM_S, ttl_s=TTL_S)
            if self.mutant is Mutant.NO_POLL:
                self.weather.deaf = 0.5
        else:
            self.weather = Weather(random, CALM_S)
        self.store = Store(random, self.loop.time, self.mutant, self._hint, self._claimed)
        self.receiver = Receiver(random, CALM_S if self.faults else 0.0)
        mix = drawn_mix(random)
        self.client = Client(
            self, random, mix if self.faults else replace(mix, poison=0.0), random.choice((1, 1, 2, 3))
        )

    def wire(self) -> Wire:
        """Return a way to the store for the process that asks."""
        return Wire(self.loop, self.weather, self.loop.context_of(self.loop.outside))

    async def play(self) -> None:
        """Let everything happen until all is at rest, or ought to be."""
        for number in range(self.random.choice((1, 2, 2, 3))):
            self.hire(f"w{number}")
        spawn = self.loop.spawn
        office = Process("client")
        spawn(office, self.client.main())
        if self.faults:
            spawn(office, self.client.meddle())
        for name in ("ann", "bob")[: self.random.choice((1, 2))]:
            spawn(Process(name), People(self, self.random).main(name))
        for _ in range(self.random.choice((1, 2))):
            spawn(Process("upkeep"), self._upkeep())
        if self.faults:
            spawn(self.loop.outside, self._misfortune())
        spawn(self.loop.outside, self._look_for_unheard())
        still = 0
        while self.loop.time() < CALM_S + REST_S and still < 5:
            await asyncio.sleep(2.0)
            still = still + 1 if self.loop.time() > CALM_S and self.at_rest() else 0

    def at_rest(self) -> bool:
        """Whether nothing is left to happen."""
        return all(run.final or (run.status is RunStatus.PAUSED and by_budget(run) and not _busy(run))
                   for run in self.store.runs.values())  # fmt: skip

    def hire(self, name: str) -> None:
        """Start a worker process."""
        self._workers += 1
        member = Member(self, Process(f"{name}#{self._workers}"), name, self._workers, self.random)
        self.members = [one for one in self.members if not one.process.dead] + [member]
        self.loop.spawn(member.process, member.main())

    def kill(self, member: Member) -> None:
        """Kill a worker process; another takes its place a little later."""
        if member.process.dead:
            return
        member.process.kill()
        self.trace.note(self.loop.time(), "killed", member.process.name)
        self.loop.call_later(
            self.random.random() * 3.0, self.hire, member.name, context=self.loop.context_of(self.loop.outside)
        )

    def _hint(self, what: str) -> None:
        weather, now_s = self.weather, self.loop.time()
        for member in self.members:
            if not member.up or member.process.dead:
                continue
            if weather.strikes(weather.deaf, now_s):
                weather.landed["hint lost"] += 1
                continue
            times = 2 if weather.strikes(weather.twice, now_s) else 1
            weather.landed["hint doubled"] += times - 1
            for _ in range(times):
                self.loop.call_later(
                    0.001 + self.random.random() * 0.05,
                    member.remote.hint,
                    what,
                    context=self.loop.context_of(member.process),
                )

    def _claimed(self, claim: Claim) -> None:
        """Wake a sleeper exactly when another runs its step, at times: the aimed fault."""
        for member in self.members:
            if member.asleep is None or not member.process.frozen:
                continue
            begun = {(one.claim.lease.run_id, one.claim.lease.step_no) for one in member.worker.running.values()}
            if (claim.lease.run_id, claim.lease.step_no) in begun | member.aimed:
                self.weather.landed["woken beside its successor"] += 1
                member.asleep.set()

    def exchange(self, offer: Offer, outcomes: Sequence[Outcome], *, free: int, solo: bool) -> Exchange:
        """The store's exchange, in an order of claims that the seed draws."""
        done = self.store.exchange(
            offer, outcomes, free=free, solo=solo, jitter=self.random.random(), choose=self._shuffled
        )
        self.trace.exchanged(self.loop.time(), offer, outcomes, free, done)
        self._aim(offer, outcomes, done)
        self.look_at_budgets()
        return done

    def _aim(self, offer: Offer, outcomes: Sequence[Outcome], done: Exchange) -> None:
        """Freeze or kill a worker, at times, exactly when it was allowed to call and has not heard so yet."""
        told = zip(outcomes, done.verdicts, strict=True)
        about: set[tuple[UUID, int]] = {
            (o.lease.run_id, o.lease.step_no) for o, v in told if isinstance(o, Intended | Metered) and v is Verdict.OK
        }
        about |= {(c.lease.run_id, c.lease.step_no) for c in done.claims if c.tool in offer.effects}
        if not about or not self.weather.strikes(self.weather.aimed, self.loop.time()):
            return
        member = next((one for one in self.members if one.number == offer.os_pid and not one.process.dead), None)
        if member is not None:
            self.weather.landed["aimed at a call"] += 1
            member.aimed = about
            self.random.choice((self._freeze, self._freeze, self._strike))(member)

    def _shuffled(self, ready: list[tuple[RunRow, StepRow]]) -> list[tuple[RunRow, StepRow]]:
        if len(ready) > 1:
            self.random.shuffle(ready)
        return ready

    def look_at_budgets(self) -> None:
        """I12: spent and reserved never exceed the limit."""
        for run in self.store.runs.values():
            for one in run.budgets:
                if one.spent + one.reserved > one.cap and len(self.breaches) < 5:
                    text = f"I12: {one.meter}: {one.spent} spent and {one.reserved} reserved of {one.cap}"
                    self.breaches.append(text)

    def submit(self, spec: RunSpec, key: str, digest: bytes, run_id: UUID) -> UUID:
        """The store's submit."""
        made = self.store.submit(spec, key, digest, run_id)
        self.trace.note(self.loop.time(), "submit", f"{key} {made}")
        return made

    def control(self, verb: str, run_id: UUID, number: int) -> Any:
        """Say something to a run."""
        self.trace.note(self.loop.time(), verb, str(run_id))
        match verb:
            case "pause":
                return self.store.pause(run_id, actor="client")
            case "resume":
                return self.store.resume(run_id, actor="client")
            case "cancel":
                return self.store.cancel(run_id, actor="client")
            case "redrive":
                return self.store.redrive(run_id, actor="client")
            case _:
                return self.store.signal(run_id, "go", {"n": number % 7}, key=str(number), by="client")

    def answer(self, wait_id: UUID, decision: Decision, by: str, value: Any) -> None:
        """Answer a wait."""
        self.trace.note(self.loop.time(), "answer", f"{wait_id} {decision.value}")
        self.store.answer(wait_id, decision, by=by, value=value)

    def waiting(self) -> list[WaitRow]:
        """Return the open waits that a person may answer."""
        return [
            wait for run in self.store.runs.values() for wait in run.waits.values()
            if wait.state == "open" and wait.kind in ANSWERED
        ]  # fmt: skip

    async def _upkeep(self) -> None:
        """What any process does besides: look, reap what is still nobody's, end waits that are due."""
        while True:
            await asyncio.sleep(TICK_S * (0.95 + self.random.random() / 10))
            if self.weather.away(self.loop.time()):
                continue
            found = self.store.look()
            if found:
                await asyncio.sleep(self.random.choice((0.0, 0.001, 0.5)))
                alive = self._alive()
                if taken := self.store.reap(found):
                    if gone := {one for one in alive - self._alive() if not self.store.runs[one[0]].final}:
                        self.breaches.append(f"R7: {len(gone)} leases were taken whose session lives")
                    self.trace.note(self.loop.time(), "reaped", f"{taken} of {len(found)}")
            self.store.settle_due()

    def _alive(self) -> set[tuple[UUID, Token]]:
        """Return the leases whose session beat within its time, and whose own deadline has not passed."""
        store, now_s = self.store, self.loop.time()
        return {
            (run.id, step.place.token)
            for run in store.runs.values() for step in run.steps
            if step.place is not None and step.place.token is not None and step.place.session in store.sessions
            and store.sessions[step.place.session].lease_until_s >= now_s and step.place.deadline_s >= now_s and not run.final
        }  # fmt: skip

    async def _look_for_unheard(self) -> None:
        """P1: a lease that its session keeps alive is one that its worker works under."""
        before: set[Token] = set()
        while True:
            await asyncio.sleep(2 * TTL_S)
            now: set[Token] = set()
            for member in self.members:
                if member.up and not (member.process.dead or member.process.frozen):
                    waiting = (outcome.lease.token for outcome in member.worker._outcomes)
                    known = {*member.worker.running, *waiting, *member.remote.telling}
                    now |= self.store.owned(member.remote.session) - known
            if (unheard := before & now) and not self.breaches:
                self.breaches.append(f"P1: {len(unheard)} leases are kept alive by workers that never heard of them")
            before = now

    async def _misfortune(self) -> None:
        """Kill, freeze and drain workers at random turns."""
        pace_s = self.random.choice((2.0, 6.0, 20.0, 1e9))
        while True:
            await asyncio.sleep(self.random.random() * pace_s)
            if self.loop.time() >= CALM_S:
                return
            alive = [one for one in self.members if one.up and not one.process.dead and not one.process.frozen]
            if not alive:
                continue
            member, turns = self.random.choice(alive), self.random.choice((1, 10, 100, 1000))
            befalls = self.random.choice((self._strike, self._strike, self._freeze, self._freeze, self._drain))
            member.process.after(self.random.randrange(1, turns + 1), lambda m=member, b=befalls: b(m))  # type: ignore[misc]

    def _strike(self, member: Member) -> None:
        if self.loop.time() < CALM_S:
            self.weather.landed["killed"] += 1
            self.kill(member)

    def _drain(self, member: Member) -> None:
        if self.loop.time() < CALM_S and member.up:
            self.weather.landed["drained"] += 1
            member.worker.drain()
            self.loop.call_later(4.0, self._after_drain, member, context=self.loop.context_of(self.loop.outside))

    def _after_drain(self, member: Member) -> None:
        """A supervisor's patience is over: whoever has not ended by then is killed, and replaced."""
        self.kill(member)

    def _freeze(self, member: Member) -> None:
        if self.loop.time() >= CALM_S or member.process.frozen:
            return
        self.weather.landed["frozen"] += 1
        self.trace.note(self.loop.time(), "frozen", member.process.name)
        member.process.frozen, member.asleep = True, asyncio.Event()
        self.loop.spawn(self.loop.outside, self._wake(member, member.asleep))

    async def _wake(self, member: Member, called: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(self.random.random() * 4 * TTL_S):
                await called.wait()
                await asyncio.sleep(self.random.random() * self.random.choice((0.1, 2.5)))
        except TimeoutError:
            pass
        member.asleep = None
        self.trace.note(self.loop.time(), "woken", member.process.name)
        self.loop.thaw(member.process)


def _busy(run: RunRow) -> bool:
    return any(step.place is not None and step.place.state == "leased" for step in run.steps)
