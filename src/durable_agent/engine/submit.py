"""Submit: a run comes into being whole, in one transaction, or not at all (R11).

Concurrent submissions share a commit: `Submitter` takes all that is waiting, commits, and repeats.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from durable_agent.core.graph import Graph, plan
from durable_agent.core.promotion import Roots, decide_roots
from durable_agent.core.records import RunId, RunSpec, StepSpec, Tenant
from durable_agent.db.batch import batch
from durable_agent.db.doorbell import EVENTS, READY, Bell
from durable_agent.db.pool import TRANSIENT, Connection, Database, TooLarge, first_line, may_be_committed
from durable_agent.engine.caps import release
from durable_agent.engine.journal import read_now
from durable_agent.engine.patience import FEW_STEPS, Patience
from durable_agent.engine.routes import RouteKey, Routes
from durable_agent.engine.rows import SUBMIT
from durable_agent.engine.writer import Writer
from durable_agent.errors import DatabaseUnavailable, DurableAgentError, KeyReused, PayloadRejected

_HINTS = (READY, EVENTS)


@dataclass(frozen=True, slots=True)
class Submission:
    """A run to start; `key` is its Idempotency-Key and `digest` the SHA-256 of its canonical request.

    `by` is who asked for it; `parent` is the (run, step number) that waits for it, and `tree` is what it belongs to then.
    """

    spec: RunSpec
    key: str | None = None
    digest: bytes | None = None
    by: str | None = None
    parent: tuple[UUID, int] | None = None
    tree: Tree | None = None


@dataclass(frozen=True, slots=True)
class Tree:
    """What the runs below a run share: the root whose budget they spend, and the agent's."""

    root: UUID
    agent: UUID | None
    budgeted: bool


@dataclass(frozen=True, slots=True)
class Submitted:
    """The run behind a submission; `created` is false when its key was known already."""

    run_id: RunId
    status: str
    created: bool
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Planned:
    """A submission whose graph is sound, with the id its run will have and what its roots' conditions make of it."""

    tenant: Tenant
    submission: Submission
    graph: Graph
    run_id: RunId
    roots: Roots

    def routes(self) -> set[RouteKey]:
        """The routes its steps take."""
        lane = self.submission.spec.lane
        return {(self.tenant, step.queue, lane, step.tool) for step in self.submission.spec.steps}


@dataclass(slots=True)
class Memory:
    """What a submitting process remembers: routes, tools that some worker has offered, and whether it plans in a thread."""

    routes: Routes = field(default_factory=Routes)
    offered: set[str] = field(default_factory=set)
    planning: asyncio.Lock = field(default_factory=asyncio.Lock)


async def planned(
    tenant: Tenant, submissions: Sequence[Submission], memory: Memory, *, max_steps: int
) -> list[Planned]:
    """Return the submissions ready to be stored; nobody else waits while large ones are planned, one request at a time.

    Raises GraphInvalid with every problem of a run's steps; InvalidRequest when its conditions take too long to decide.
    """

    def every() -> list[Planned]:
        patience = Patience()
        return [_planned(tenant, one, patience, max_steps=max_steps) for one in submissions]

    steps = sum(len(one.spec.steps) for one in submissions)
    if steps <= FEW_STEPS and not any(_conditional(step) for one in submissions for step in one.spec.steps):
        return every()
    async with memory.planning:
        return await asyncio.to_thread(every)


def _planned(tenant: Tenant, submission: Submission, patience: Patience, *, max_steps: int) -> Planned:
    spec = submission.spec
    graph = plan(spec.steps, max_steps=max_steps, watch=patience)
    return Planned(tenant, submission, graph, RunId(uuid7()), decide_roots(spec.steps, graph, spec.input, patience))


def _conditional(step: StepSpec) -> bool:
    return step.when is not None or any(edge.when is not None for edge in step.depends_on)


async def submit(
    db: Database, tenant: Tenant, submissions: Sequence[Submission], *, memory: Memory | None = None,
    max_steps: int = 10_000, bell: Bell | None = None,
) -> list[Submitted]:  # fmt: skip
    """Store all the runs in one transaction, or none, and hint at them. Raises as `Submitter.submit`."""
    memory = memory or Memory()
    plans = await planned(tenant, submissions, memory, max_steps=max_steps)
    results = await _store(db, plans, memory, bell, all_or_nothing=True)
    return [result for result in results if isinstance(result, Submitted)]


async def _store(
    db: Database, plans: Sequence[Planned], memory: Memory, bell: Bell | None, *, all_or_nothing: bool
) -> list[Submitted | DurableAgentError]:
    carried, committing = True, False
    try:
        async with db.transaction() as conn:
            await _prepare(conn, plans, memory)
            async with batch(conn) as pipeline:
                taken, known = await _keys(conn, plans)
                now = await read_now(conn)
                await pipeline.sync()
                at = (await now.fetchone())[0]
                results = _answers(plans, await _taken(taken), await _known(known), memory)
                if all_or_nothing:
                    for result in results.values():
                        if isinstance(result, DurableAgentError):
                            raise result
                fresh = [p for p in plans if p.run_id not in results]
                if fresh:
                    writer = Writer(at, memory.routes)
                    for one in fresh:
                        results[one.run_id] = Submitted(
                            one.run_id, writer.add(one).value, True, warnings_for(one, memory)
                        )
                    await writer.write(conn)
                    agents = {(p.tenant, p.submission.spec.agent) for p in fresh if p.submission.spec.steps[0].capped}
                    await release(conn, [(tenant, agent) for tenant, agent in agents if agent is not None], lifted=True)
                    carried = bell is None or await bell.carry(conn, *_HINTS)
                committing = True
    except TooLarge as error:
        raise PayloadRejected(f"a value of the run is larger than PostgreSQL can hold: {first_line(error)}") from error
    except TRANSIENT as error:
        if committing and may_be_committed(error):
            raise DatabaseUnavailable(
                f"nobody knows whether the run was stored: {first_line(error)}; send it again with the same Idempotency-Key,"
                " or, if it had none, look at GET /runs first"
            ) from error
        raise DatabaseUnavailable(f"the run was not stored: {first_line(error)}; send it again") from error
    if bell is not None and not carried:
        bell.ring(*_HINTS)
    return [results[p.run_id] for p in plans]


async def _prepare(conn: Connection, plans: Sequence[Planned], memory: Memory) -> None:
    await memory.routes.ensure(conn, {route for one in plans for route in one.routes()})
    unknown = {step.tool for one in plans for step in one.submission.spec.steps} - memory.offered
    if unknown:
        cursor = await conn.execute(SUBMIT.offered, {"tools": sorted(unknown)})
        memory.offered.update(row[0] for row in await cursor.fetchall())


async def _keys(conn: Connection, plans: Sequence[Planned]) -> tuple[Any, Any]:
    # The same key twice in one batch: the first takes it, the second finds it known.
    keyed = [p for p in plans if p.submission.key is not None]
    if not keyed:
        return None, None
    columns: dict[str, Any] = {
        "tenants": [p.tenant for p in keyed],
        "keys": [p.submission.key for p in keyed],
        "digests": [p.submission.digest or b"" for p in keyed],
        "runs": [p.run_id for p in keyed],
    }
    taken = await conn.execute(SUBMIT.claim_keys, columns)
    known = await conn.execute(SUBMIT.known_keys, {"tenants": columns["tenants"], "keys": columns["keys"]})
    return taken, known


async def _taken(cursor: Any) -> set[UUID]:
    return {row[0] for row in await cursor.fetchall()} if cursor is not None else set()


async def _known(cursor: Any) -> dict[tuple[int, str], tuple[bytes, UUID, str | None]]:
    if cursor is None:
        return {}
    rows = await cursor.fetchall()
    return {(tenant, key): (bytes(digest), run, status) for tenant, key, digest, run, status in rows}


def _answers(
    plans: Sequence[Planned], taken: set[UUID], known: dict[tuple[int, str], tuple[bytes, UUID, str | None]],
    memory: Memory,
) -> dict[UUID, Submitted | DurableAgentError]:  # fmt: skip
    """Return the answers of those whose key is not theirs: the run it stands for, or the refusal."""
    answers: dict[UUID, Submitted | DurableAgentError] = {}
    for one in plans:
        key = one.submission.key
        if key is None or one.run_id in taken:
            continue
        digest, run_id, status = known[one.tenant, key]
        if digest != (one.submission.digest or b""):
            answers[one.run_id] = KeyReused(
                f"Idempotency-Key {key!r} belongs to run {run_id} with another body; use a new key for a new run",
                field="Idempotency-Key",
                run_id=str(run_id),
            )
        else:
            answers[one.run_id] = Submitted(RunId(run_id), status or "pending", False, warnings_for(one, memory))
    return answers


def warnings_for(one: Planned, memory: Memory) -> tuple[str, ...]:
    """Return a sentence for each tool of the run that no worker has offered yet."""
    missing: dict[str, str] = {}
    for step in one.submission.spec.steps:
        if step.tool not in memory.offered:
            missing.setdefault(step.tool, step.name)
    return tuple(
        f"step {name!r} needs tool {tool!r}, which no worker has offered yet; it waits until one does"
        for tool, name in missing.items()
    )


class Submitter:
    """Group commit of single submissions: `submit` waits for a commit it shares with whoever else is waiting."""

    def __init__(self, db: Database, bell: Bell, *, max_steps: int = 10_000, batch: int = 200) -> None:
        self._db = db
        self._bell = bell
        self._max_steps = max_steps
        self._batch = batch
        self._memory = Memory()
        self._waiting: list[tuple[Planned, asyncio.Future[Submitted]]] = []
        self._wake = asyncio.Event()

    async def submit(self, tenant: Tenant, submission: Submission) -> Submitted:
        """Return when the run is committed. Raises GraphInvalid, InvalidRequest, KeyReused, PayloadRejected, DatabaseUnavailable.

        What is wrong with a submission it alone is told.
        """
        (one,) = await planned(tenant, [submission], self._memory, max_steps=self._max_steps)
        future: asyncio.Future[Submitted] = asyncio.get_running_loop().create_future()
        self._waiting.append((one, future))
        self._wake.set()
        return await future

    async def submit_all(self, tenant: Tenant, submissions: Sequence[Submission]) -> list[Submitted]:
        """Store all the runs in one transaction of their own, or none."""
        return await submit(
            self._db, tenant, submissions, memory=self._memory, max_steps=self._max_steps, bell=self._bell
        )

    async def run(self) -> None:
        """Commit what waits until cancelled."""
        while True:
            await self._wake.wait()
            batch, self._waiting = self._waiting[: self._batch], self._waiting[self._batch :]
            if not self._waiting:
                self._wake.clear()
            await self._commit(batch)

    async def _commit(self, batch: Sequence[tuple[Planned, asyncio.Future[Submitted]]]) -> None:
        # Someone may have given up waiting; his run is not started behind his back.
        batch = [(one, future) for one, future in batch if not future.done()]
        if not batch:
            return
        try:
            results = await _store(self._db, [one for one, _ in batch], self._memory, self._bell, all_or_nothing=False)
        except Exception as error:  # one bad batch must not end the loop
            if len(batch) > 1 and not isinstance(error, DatabaseUnavailable):
                # Whose fault it is shows when each half is tried by itself: the others' few commits more are all it costs.
                half = len(batch) // 2
                await self._commit(batch[:half])
                await self._commit(batch[half:])
                return
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), result in zip(batch, results, strict=True):
            if future.done():
                continue
            if isinstance(result, DurableAgentError):
                future.set_exception(result)
            else:
                future.set_result(result)
