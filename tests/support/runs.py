"""Runs for tests: short ways to say a graph, and an engine driven by hand, one exchange at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import psycopg

from durable_agent.core.effects import effect_key
from durable_agent.core.events import digest, dumps
from durable_agent.core.outcomes import Failed, Intended, Outcome, Succeeded, Suspended, Verdict
from durable_agent.core.port import Offer
from durable_agent.core.records import (
    DEFAULT_TENANT,
    Claim,
    Dependency,
    EffectClass,
    FailureClass,
    Lease,
    RetryPolicy,
    RunSpec,
    SessionId,
    StepKind,
    StepSpec,
    WaitKind,
)
from durable_agent.db import reads
from durable_agent.db.doorbell import Bell
from durable_agent.db.pool import Database as Pools
from durable_agent.engine.exchange import SESSIONS, Room, exchange, look
from durable_agent.engine.health import check_history
from durable_agent.engine.reap import Upkeep
from durable_agent.engine.submit import Submission, submit


def step(name: str, *parents: str | tuple[str, str], tool: str = "noop", **given: Any) -> StepSpec:
    """Return a step; a parent given as (name, condition) is a conditional edge."""
    depends = tuple(Dependency(p) if isinstance(p, str) else Dependency(*p) for p in parents)
    retry = given.pop("retry", RetryPolicy(max_attempts=3, base_s=0.0))
    return StepSpec(name, StepKind.TOOL_CALL, tool, depends_on=depends, retry=retry, **given)


def run_of(*steps: StepSpec, **given: Any) -> RunSpec:
    """Return a run of the steps."""
    return RunSpec(steps=steps, **given)


@dataclass(slots=True)
class Hand:
    """A worker session driven by hand: nothing happens but what the test does."""

    pools: Pools
    room: Room
    url: str

    @property
    def session(self) -> UUID:
        """The session's id."""
        return self.room.offer.session

    def beat(self, ttl_s: float = 30.0, *, state: str = "active", conn: psycopg.Connection[Any] | None = None) -> None:
        """Register the session, or keep its leases alive; liveness only on a connection that is given."""
        offer = self.room.offer
        params = {
            "session": offer.session, "worker": offer.worker, "state": state, "ttl_s": ttl_s, "direct": conn is not None,
            "running": 0, "concurrency": offer.concurrency, "loop_lag_ms": 0, "queues": list(offer.queues),
            "offers": list(offer.tools), "host": "here", "os_pid": 1, "version": "test",
        }  # fmt: skip
        if conn is not None:
            conn.execute(SESSIONS.beat.encode(), params)
        else:
            with psycopg.connect(self.url, autocommit=True) as own:
                own.execute(SESSIONS.beat.encode(), params)

    async def exchange(self, outcomes: Sequence[Outcome] = (), *, free: int = 10, solo: bool = True) -> Any:
        """Settle and claim; the turns are looked at first, as a second round would."""
        if free:
            await look(self.pools, self.room)
        return (await exchange(self.pools, self.room, outcomes, free=free, solo=solo)).answer

    async def claim(self, free: int = 10, *, solo: bool = True) -> list[Claim]:
        """Return what was claimed."""
        return list((await self.exchange(free=free, solo=solo)).claims)

    async def settle(self, *outcomes: Outcome) -> list[Verdict]:
        """Return the verdicts, claiming nothing."""
        return list((await self.exchange(outcomes, free=0)).verdicts)

    async def succeed(self, claim: Claim, output: Any = None) -> Verdict:
        """Settle one success."""
        return (await self.settle(ok(claim, output)))[0]

    async def fail(self, claim: Claim, failure: FailureClass = FailureClass.TRANSIENT, **given: Any) -> Verdict:
        """Settle one failure."""
        return (await self.settle(Failed(claim.lease, failure, "Error", "it failed", **given)))[0]


def ok(claim: Claim, output: Any = None) -> Succeeded:
    """Return a success."""
    return Succeeded(claim.lease, dumps(output))


def call_of(lease: Lease, no: int, request: bytes = b"{}", **more: Any) -> Intended:
    """Return the intent of a call that may be made again."""
    key = effect_key(f"{lease.run_id}", no, digest(request))
    return Intended(lease, no, "noop", EffectClass.SAFE, request, digest(request), key, **more)


@dataclass(slots=True)
class Engine:
    """The engine on a test's database, and sessions that work on it by hand."""

    pools: Pools
    url: str
    upkeep: Upkeep
    runs: list[UUID] = field(default_factory=list)

    def hand(
        self, worker: str = "w", *, tools: Sequence[str] = ("noop",), queues: Sequence[str] = ("default",)
    ) -> Hand:
        """Return a registered session."""
        offer = Offer(SessionId(uuid4()), worker, tuple(queues), tuple(tools), 10, "here", 1, "test")
        made = Hand(self.pools, Room(offer), self.url)
        made.beat()
        return made

    async def submit(self, spec: RunSpec, key: str | None = None, digest: bytes | None = None) -> UUID:
        """Return the id of a new run."""
        done = await submit(self.pools, DEFAULT_TENANT, [Submission(spec, key, digest)])
        self.runs.append(done[0].run_id)
        return done[0].run_id

    async def run(self, run_id: UUID) -> dict[str, Any]:
        """Return a run's row, with `steps` by name."""
        async with self.pools.reading() as conn:
            found = await reads.run(conn, DEFAULT_TENANT, run_id)
            assert found is not None
            steps = await reads.steps(conn, DEFAULT_TENANT, run_id)
        return {**found, "steps": {s["name"]: s for s in steps}}

    async def statuses(self, run_id: UUID) -> dict[str, str]:
        """Return the status of each step."""
        return {name: s["status"] for name, s in (await self.run(run_id))["steps"].items()}

    async def events(self, run_id: UUID) -> list[tuple[str, str | None]]:
        """Return the types and steps of a run's events."""
        async with self.pools.reading() as conn:
            rows = await reads.events(conn, DEFAULT_TENANT, run_id, after=0, limit=100_000)
        return [(row["type"], row["step"]) for row in rows]

    async def waits(self, run_id: UUID) -> list[tuple[Any, ...]]:
        """Return (id, kind, state) of a run's waits."""
        async with self.pools.reading() as conn:
            query = "select id, kind, state from waits where run_id = %s order by id"
            return await (await conn.execute(query, (run_id,))).fetchall()

    async def asked(self, hand: Hand, kind: WaitKind, sha: str = "x", **more: Any) -> tuple[UUID, UUID]:
        """Return a new run whose only step waits, and its wait."""
        run = await self.submit(run_of(step("a")))
        (claim,) = await hand.claim()
        assert await hand.settle(Suspended(claim.lease, kind, "w", {}, sha, **more)) == [Verdict.OK]
        ((wait, *_),) = await self.waits(run)
        return run, wait

    @asynccontextmanager
    async def held(self, *runs: UUID) -> AsyncIterator[psycopg.Connection[Any]]:
        """Yield while a connection of somebody else's holds the runs' locks."""
        with psycopg.connect(self.url) as other:
            other.execute("select from runs where id = any(%s) for no key update", (list(runs),))
            yield other

    async def blocked(self, count: int = 1) -> list[int]:
        """Return the backends that wait for locks, when there are so many."""
        query = "select pid from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        async with asyncio.timeout(20), self.pools.reading() as conn:
            while True:
                found = [row[0] for row in await (await conn.execute(query)).fetchall()]
                if len(found) >= count:
                    return found
                await asyncio.sleep(0)

    async def reap(self) -> None:
        """Look once for what is lost or due."""
        async with self.pools.transaction() as conn:
            seen = await self.upkeep._look(conn, suspect=True)
            if seen.expired:
                await self.upkeep.reap(conn, seen.expired)

    async def assert_sound(self) -> None:
        """Check that every run's rows are what its chained events, folded through the machines, say they are."""
        async with self.pools.reading() as conn:
            for run_id in self.runs:
                assert list(await check_history(conn, DEFAULT_TENANT, run_id)) == []


@asynccontextmanager
async def engine_on(url: str) -> AsyncIterator[Engine]:
    """Yield an engine whose runs' histories are checked when the test is done."""
    async with Pools.open(url, size=4) as pools:
        made = Engine(pools, url, Upkeep(pools, Bell(pools, enabled=False), 30.0, 0.6))
        yield made
        await made.assert_sound()
