"""procrastinate: a queue of jobs in PostgreSQL. Jobs have a status and a history of events; no results, no chains."""

# mypy: disable-error-code="import-not-found,untyped-decorator,no-any-return"
from __future__ import annotations

import asyncio
import os

import procrastinate
import psycopg
from driver import SLOTS, About, Peer, main, until

_JOBS = "jobs only: it has no steps that follow one another"


class OnProcrastinate(Peer):
    """`batch_defer` to give work, LISTEN to hear of it, and the documented retry of stalled jobs."""

    about = About(
        name="procrastinate",
        packages=("procrastinate", "psycopg"),
        settings=(
            "concurrency=50",
            "listen_notify=True (default)",
            "pool of 10 connections",
            "W6: update_heartbeat_interval=1 (default 10), stalled jobs looked for every second (documents: a periodic task, "
            "every 10 minutes) after 3 s without heartbeat (default 30)",
        ),
        stores="the job's row and 3 events of it; no result is kept",
        keeps=False,
        absent={"W2": _JOBS, "W3": _JOBS},
        notes={"W4": "no way to wait for a job: its status is asked every 1 ms"},
    )

    def _app(self) -> procrastinate.App:
        connector = procrastinate.PsycopgConnector(conninfo=self.url, min_size=4, max_size=10)
        app = procrastinate.App(connector=connector)

        @app.task(name="noop", queue="bench")
        async def noop() -> None:
            self.tick()

        @app.task(name="long", queue="bench")
        async def long() -> None:
            await self.hold()

        self.tasks = {"one": noop, "long": long}
        return app

    async def prepare(self) -> None:
        async with self._app().open_async() as app:
            await app.schema_manager.apply_schema_async()

    async def work(self, worker: str) -> None:
        recovering = os.environ.get("PEER_SHAPE") == "W6"
        async with self._app().open_async() as app, asyncio.TaskGroup() as group:
            if recovering:
                group.create_task(self._retry_stalled(app))
            self.ready(worker)
            await app.run_worker_async(
                queues=["bench"], name=worker, concurrency=SLOTS, update_heartbeat_interval=1.0 if recovering else 10.0
            )

    async def _retry_stalled(self, app: procrastinate.App) -> None:
        while True:
            await asyncio.sleep(1)
            for job in await app.job_manager.get_stalled_jobs(seconds_since_heartbeat=3):
                await app.job_manager.retry_job(job)

    async def open(self) -> None:
        self.app = self._app()
        await self.app.open_async()
        self.conn = await psycopg.AsyncConnection.connect(self.url, autocommit=True)

    async def close(self) -> None:
        await self.app.close_async()
        await self.conn.close()

    async def submit(self, work: str, count: int) -> None:
        for start in range(0, count, 1000):
            await self.tasks[work].batch_defer_async(*[{}] * min(1000, count - start))

    async def submit_one(self) -> None:
        await self.tasks["one"].defer_async()

    async def left(self) -> bool:
        query = "select exists (select 1 from procrastinate_jobs where status in ('todo', 'doing') and queue_name = 'bench')"
        row = await (await self.conn.execute(query)).fetchone()
        return row is not None and row[0]

    async def run_one(self) -> None:
        job = await self.tasks["one"].defer_async()

        async def succeeded() -> bool:
            return await self.app.job_manager.get_job_status_async(job) == procrastinate.jobs.Status.SUCCEEDED

        await until(succeeded, 0.001)

    async def ballast(self, count: int) -> None:
        await self.conn.execute(
            "insert into procrastinate_jobs (queue_name, task_name, status, scheduled_at, args) "
            "select 'others', 'noop', (case when n %% 3 = 0 then 'succeeded' else 'todo' end)::procrastinate_job_status, "
            "now() + interval '1 day', '{}' from generate_series(1, %s) n",
            (count,),
        )


if __name__ == "__main__":
    main(OnProcrastinate)
