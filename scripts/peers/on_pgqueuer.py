"""PgQueuer: a queue of jobs in PostgreSQL. A finished job's row is deleted and a line of log written; no result, no chains."""

# mypy: disable-error-code="import-not-found,untyped-decorator,no-any-return"
from __future__ import annotations

import os
from datetime import timedelta

import asyncpg
import psycopg
from driver import PROCESSES, SLOTS, About, Peer, main, until
from pgqueuer import AsyncpgDriver, AsyncpgPoolDriver, PgQueuer, Queries
from pgqueuer.models import Job

_JOBS = "jobs only: it has no steps that follow one another"


class OnPgQueuer(Peer):
    """Batches of 50 where throughput is measured, of 1 where one job is."""

    about = About(
        name="PgQueuer",
        packages=("pgqueuer", "asyncpg"),
        settings=(
            "batch_size=50 (default 10; W4, W6: 1), max_concurrent_tasks=100",
            "asyncpg",
            "tables as installed (logged)",
            "W6: heartbeat_timeout=1 s (default 30 s), dequeue_timeout=1 s (default 30 s)",
        ),
        stores="a line of log for each status, in batches; the job's row is deleted; no result is kept",
        keeps=False,
        absent={"W2": _JOBS, "W3": _JOBS},
        notes={"W4": "its CompletionWatcher waits 50 ms to gather; the job's row is asked for every 1 ms instead"},
    )

    async def prepare(self) -> None:
        connection = await asyncpg.connect(self.url)
        await Queries(AsyncpgDriver(connection)).install()
        await connection.close()

    async def work(self, worker: str) -> None:
        connection = await asyncpg.connect(self.url)
        queuer = PgQueuer(AsyncpgDriver(connection))

        @queuer.entrypoint("noop")
        async def noop(job: Job) -> None:
            self.tick()

        @queuer.entrypoint("long")
        async def long(job: Job) -> None:
            await self.hold()

        shape = os.environ["PEER_SHAPE"]
        fast = timedelta(seconds=1) if shape == "W6" else timedelta(seconds=30)
        self.ready(worker)
        await queuer.run(
            dequeue_timeout=fast, heartbeat_timeout=fast, batch_size=1 if shape in ("W4", "W6") else SLOTS,
            max_concurrent_tasks=PROCESSES * SLOTS,
        )  # fmt: skip

    async def open(self) -> None:
        self.pool = await asyncpg.create_pool(self.url, min_size=4, max_size=16)
        self.queries = Queries(AsyncpgPoolDriver(self.pool))
        self.conn = await psycopg.AsyncConnection.connect(self.url, autocommit=True)

    async def close(self) -> None:
        self.pool.terminate()
        await self.conn.close()

    async def submit(self, work: str, count: int) -> None:
        entrypoint = "noop" if work == "one" else work
        for start in range(0, count, 1000):
            size = min(1000, count - start)
            await self.queries.enqueue([entrypoint] * size, [None] * size, [0] * size)

    async def submit_one(self) -> None:
        await self.queries.enqueue("noop", None)

    async def left(self) -> bool:
        query = "select exists (select 1 from pgqueuer where entrypoint in ('noop', 'long'))"
        row = await (await self.conn.execute(query)).fetchone()
        return row is not None and row[0]

    async def run_one(self) -> None:
        (job,) = await self.queries.enqueue("noop", None)
        query = "select 1 from pgqueuer where id = %s"

        async def gone() -> bool:
            return await (await self.conn.execute(query, (int(job),))).fetchone() is None

        await until(gone, 0.001)

    async def ballast(self, count: int) -> None:
        await self.conn.execute(
            "insert into pgqueuer (priority, created, updated, heartbeat, execute_after, status, entrypoint, payload) "
            "select 0, now(), now(), now(), now() + interval '1 day', 'queued', 'others', null from generate_series(1, %s)",
            (count * 2 // 3,),
        )
        await self.conn.execute(
            "insert into pgqueuer_log (job_id, status, priority, entrypoint, aggregated) "
            "select n, 'successful', 0, 'others', true from generate_series(1, %s) n",
            (count // 3,),
        )


if __name__ == "__main__":
    main(OnPgQueuer)
