"""The worker's loop: claim up to its free slots, run, settle what finished, repeat.

One exchange is under way at a time; what finishes meanwhile waits for the next one, so load makes the batches and an
idle worker answers at once. Losing the database ends nothing: outcomes wait, and are settled when it is back (R8, R13).
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from durable_agent.artifacts import Artifacts
from durable_agent.core.outcomes import ON_THE_WAY, Failed, InDoubt, Outcome, Verdict
from durable_agent.core.port import Backend
from durable_agent.core.records import Claim, Token
from durable_agent.errors import DatabaseUnavailable, LeaseLost, Signal
from durable_agent.flow.model import Models
from durable_agent.flow.registry import Registry
from durable_agent.tasks import beside, ended
from durable_agent.telemetry import Counters, logger
from durable_agent.worker.attempt import DRAINED, broken, run_attempt
from durable_agent.worker.gates import Gates
from durable_agent.worker.link import AttemptLink
from durable_agent.worker.voice import Voice

log = logger("worker")

BATCH = 200
# From a result that is handed over to the next question of the same attempt, through a task or two.
TURNS = 6
# So long may a handler clean up after a drain has cancelled it.
CLEAN_UP_S = 2.0


@dataclass(slots=True)
class Running:
    """An attempt in flight: its claim was asked for at `asked_s` and known here at `since_s`; `drained` once it was cancelled."""

    claim: Claim
    task: asyncio.Task[None]
    asked_s: float
    since_s: float
    drained: bool = False

    @property
    def last_chance(self) -> bool:
        """Whether its step lost leases before and one more may seal it (it runs beside no other such)."""
        return self.claim.crashes > 0


@dataclass(slots=True)
class Worker:
    """Runs steps until told to drain. `poll_s()` is how often it looks without being hinted, in seconds."""

    backend: Backend
    registry: Registry
    concurrency: int
    poll_s: Callable[[], float]
    grace_s: float
    payload_limit_bytes: int
    artifact_limit_bytes: int
    artifacts: Artifacts
    lease_s: float
    counters: Counters
    models: Models
    sessions: Any = None
    beat_now: Any = None
    gates: Gates = field(init=False)
    voice: Voice = field(init=False)
    running: dict[Token, Running] = field(default_factory=dict)
    draining: bool = False
    left: list[Running] = field(default_factory=list)
    _outcomes: list[Outcome] = field(default_factory=list)
    _told: dict[int, asyncio.Future[Verdict]] = field(default_factory=dict)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _look: bool = True
    _looked_s: float = -math.inf
    _good_until_s: float = 0.0
    _beat_s: float = -math.inf
    _owned: frozenset[Token] = frozenset()
    _asking: Sequence[Outcome] | None = None
    _exchanges: int = 0
    _astray: dict[Token, int] = field(default_factory=dict)
    _disowned: bool = False
    _good: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gates = Gates(self.backend)
        self.voice = Voice(self.backend)

    async def run(self) -> None:
        """Work until drained; on return every lease was settled or given back.

        `left` are the attempts that did not end when they were cancelled: they hold nothing, and end with the process.
        """
        async with self.gates, beside({"hints": self._follow_hints(), "voice": self.voice.run()}) as group:
            pump = group.create_task(self._pump(), name="worker")
            try:
                await asyncio.wait([pump])
            finally:
                await ended([pump])
                await ended([running.task for running in self.running.values()])

    def drain(self) -> None:
        """Stop claiming; what runs may finish within the grace, the rest is given back (R12)."""
        self.draining = True
        self._wake.set()

    async def _pump(self) -> None:
        failures, deadline_s, begun = 0, None, False
        while True:
            if self.draining:
                deadline_s = deadline_s or time.monotonic() + self.grace_s
                if not self.running and not self._outcomes:
                    return
                if time.monotonic() >= deadline_s:
                    self._give_back()
                    deadline_s = time.monotonic() + CLEAN_UP_S
            if self._outcomes or begun:
                begun = False
                await self._gather()
            batch, self._outcomes = self._outcomes[:BATCH], self._outcomes[BATCH:]
            free = 0 if self.draining or not self._alive else self.concurrency - len(self.running)
            if not batch and not self._disowned and (free <= 0 or not self._look):
                await self._sleep(deadline_s)
                continue
            looks = self._looks(batch)
            self._look = self._disowned = False
            asked_s = time.monotonic()
            self._asking = batch
            try:
                answer = await self.backend.exchange(batch, free=free if looks else 0, solo=not self._chanced())
            except DatabaseUnavailable as error:
                failures += 1
                self._outcomes[:0] = batch
                self._look = True
                log.info("exchange_failed", error=error.message, attempt=failures, outcomes=len(batch))
                await asyncio.sleep(random.random() * min(2.0, 0.05 * 2.0 ** min(failures, 6)))
                continue
            finally:
                self._asking = None
                self._exchanges += 1
            failures = 0
            told = len(answer.verdicts)
            self._outcomes[:0] = batch[told:]
            self._answer(batch[:told], answer.verdicts)
            self._start(answer.claims, asked_s)
            begun = bool(answer.claims)
            if looks and answer.more and not self.draining and self.concurrency > len(self.running):
                self._look = True
                # Work is there but held by others at this moment; it is free again within a commit's time.
                if not answer.claims and not self._outcomes:
                    await asyncio.sleep(0.001 + 0.004 * random.random())

    def _looks(self, batch: Sequence[Outcome]) -> bool:
        """Whether to look for work with this exchange: not with each result of a call, which makes nothing ready."""
        now_s = time.monotonic()
        due = now_s - self._looked_s >= self.poll_s()  # a hint may be lost, and one who is busy never sleeps until then
        looks = self._look or due or any(not isinstance(outcome, ON_THE_WAY) for outcome in batch)
        if looks:
            self._looked_s = now_s
        return looks

    async def _gather(self) -> None:
        """Let who just began or handed a result over ask for the next thing, a few turns later: one commit takes both."""
        for _ in range(TURNS):
            await asyncio.sleep(0)

    def _chanced(self) -> bool:
        return any(running.last_chance for running in self.running.values())

    async def _sleep(self, deadline_s: float | None) -> None:
        timeout_s = self.poll_s() * (0.9 + random.random() / 5)
        if deadline_s is not None and self.running:
            timeout_s = min(timeout_s, max(0.0, deadline_s - time.monotonic()))
        try:
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()
        except TimeoutError:
            self._look = True
        self._wake.clear()

    def ready(self) -> None:
        """Take note that there is ready work somewhere: a look may find some of it."""
        self._look = True
        self._wake.set()

    async def _follow_hints(self) -> None:
        while True:
            hints = await self.backend.wait(3600.0)
            if "ready" in hints:
                self.ready()
            if "control" in hints and self.running:
                asked_s = time.monotonic()
                try:
                    self.sync(await self.backend.owned(), asked_s)
                except DatabaseUnavailable:
                    continue  # the next beat tells

    def beat(self, sent_s: float, owned: frozenset[Token]) -> None:
        """Take note of an answered heartbeat: leases are good for their time from when it was sent (R5)."""
        if not self._alive:
            self.ready()
        self._good_until_s, self._beat_s = sent_s + self.lease_s * 0.8, sent_s
        self._owned = owned
        self._good.set()
        self.sync(owned, sent_s)
        self._disown(owned)

    def unheard(self) -> None:
        """Take note that the heart lost its connection: its session may be suspected, and its leases taken within moments (R10)."""
        self._good_until_s = 0.0

    def sync(self, owned: frozenset[Token], asked_s: float) -> None:
        """Stop the attempts whose lease is gone; those claimed after the question was asked are not judged."""
        for token, running in list(self.running.items()):
            if token not in owned and running.since_s < asked_s and not running.task.done():
                log.warning("lease_lost", run=str(running.claim.lease.run_id), step=running.claim.name,
                            claim_no=running.claim.lease.claim_no)  # fmt: skip
                self.counters.leases_lost += 1
                running.task.cancel("lease lost")

    def _disown(self, owned: frozenset[Token]) -> None:
        """Give back the leases that the session holds and nothing here runs under.

        Such are left where the database forgot what it had acknowledged: their end, after a failover that lost the last commits,
        or after a restore. The session lives, so nobody else would take them before their deadline. One beat is not enough to
        tell: an exchange may be under way that took them.
        """
        known = self.running.keys() | {outcome.lease.token for outcome in (*self._outcomes, *(self._asking or ()))}
        before, number = self._astray, self._exchanges + (self._asking is not None)
        self._astray = {token: before.get(token, number) for token in owned if token not in known}
        gone = frozenset(token for token, seen in self._astray.items() if token in before and self._exchanges >= seen)
        if gone:
            self.backend.disown(gone)
            self._disowned = True
            self._wake.set()

    def _start(self, claims: Sequence[Claim], asked_s: float) -> None:
        now_s = time.monotonic()
        for claim in claims:
            task = asyncio.create_task(self._attempt(claim), name=f"step {claim.name} of run {claim.lease.run_id}")
            self.running[claim.lease.token] = Running(claim, task, asked_s, now_s)

    async def _attempt(self, claim: Claim) -> None:
        outcome: Outcome | None = None
        link = AttemptLink(self, claim)
        try:
            await self.leases_are_good(claim.lease.token)
            found = await run_attempt(claim, self.registry, link, limit_bytes=self.artifact_limit_bytes)
            outcome = await link.finish(found)
        except LeaseLost:
            log.warning("attempt_stopped", run=str(claim.lease.run_id), step=claim.name, reason="lease lost")
        except asyncio.CancelledError as cancelled:
            if cancelled.args == (DRAINED,):
                outcome = link.drained()
        except (Exception, Signal) as error:
            # What no net before this one caught is its own step's failure, and not the worker's.
            log.exception("attempt_broken", run=str(claim.lease.run_id), step=claim.name)
            outcome = broken(claim, self.registry, error)
        finally:
            await link.abandon()
            self.running.pop(claim.lease.token, None)
            self._wake.set()
            self._look = True
        if outcome is not None:
            if isinstance(outcome, Failed):
                log.warning("attempt_failed", run=str(claim.lease.run_id), step=claim.name, attempt=claim.attempt,
                            failure=outcome.failure.value, error=outcome.message)  # fmt: skip
            if isinstance(outcome, InDoubt):
                log.warning("effect_unknown", run=str(claim.lease.run_id), step=claim.name, tool=outcome.name,
                            effect=outcome.no, error=outcome.message)  # fmt: skip
            self._outcomes.append(outcome)

    async def leases_are_good(self, token: Token) -> None:
        """Return when the last heartbeat vouches for the lease: a process that was frozen asks before it acts."""
        while not self._is_good(token):
            self._good.clear()
            if self.beat_now is not None:
                self.beat_now()
            await self._good.wait()

    @property
    def _alive(self) -> bool:
        """Whether the last heartbeat vouches for this session: what one that is not takes is taken from it at once (R10)."""
        return time.monotonic() <= self._good_until_s

    def _is_good(self, token: Token) -> bool:
        running = self.running.get(token)
        if not self._alive:
            return False
        # One that was sent while the claim was on its way and does not name it: it came too early, or the lease was lost already.
        unsure = running is not None and running.asked_s <= self._beat_s <= running.since_s and token not in self._owned
        return not unsure

    @property
    def has_outcomes(self) -> bool:
        """Whether something waits to be settled."""
        return bool(self._outcomes)

    def settled(self) -> None:
        """Take note that an outcome was settled by itself; what it made ready may be claimed."""
        self.counters.settled += 1
        self.ready()

    def post(self, outcome: Outcome) -> None:
        """Hand over an outcome on the way; it is settled in order, before anything handed over later."""
        self._outcomes.append(outcome)
        self._wake.set()

    async def tell(self, outcome: Outcome) -> Verdict:
        """Return the verdict on an outcome when it is committed."""
        future: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._told[id(outcome)] = future
        self.post(outcome)
        return await future

    def _answer(self, batch: Sequence[Outcome], verdicts: Sequence[Verdict]) -> None:
        for outcome, verdict in zip(batch, verdicts, strict=True):
            future = self._told.pop(id(outcome), None)
            if future is not None and not future.done():
                future.set_result(verdict)
            if verdict is Verdict.LOST:
                self.counters.fenced += 1
                log.warning("write_fenced", run=str(outcome.lease.run_id), step=outcome.lease.step_no,
                            claim_no=outcome.lease.claim_no, what=type(outcome).__name__.lower())  # fmt: skip
                # What was only handed over has nobody to hear of it but the attempt itself.
                running = self.running.get(outcome.lease.token)
                if future is None and running is not None and isinstance(outcome, ON_THE_WAY):
                    running.task.cancel("lease lost")
        self.counters.settled += len(batch)

    def _give_back(self) -> None:
        """Cancel what runs, once; of what has been cancelled before and goes on, give the lease back without it."""
        for token, running in list(self.running.items()):
            if not running.drained:
                running.drained = True
                running.task.cancel(DRAINED)
                continue
            log.warning("attempt_left", run=str(running.claim.lease.run_id), step=running.claim.name,
                        reason=f"it did not end within {CLEAN_UP_S:g} s of being cancelled")  # fmt: skip
            self.left.append(self.running.pop(token))
            self._outcomes.append(AttemptLink(self, running.claim).left())
