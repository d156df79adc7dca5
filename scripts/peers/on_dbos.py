"""DBOS Transact: workflows of checkpointed steps, taken from a queue in PostgreSQL by polling."""

# mypy: disable-error-code="import-not-found,untyped-decorator,no-any-return"
from __future__ import annotations

import asyncio

import psycopg
from dbos import DBOS, DBOSClient
from driver import CLIENTS, LENGTH, SLOTS, WIDTH, About, Peer, main

_QUEUE = "bench"
_LEFT = (
    "select exists (select 1 from dbos.workflow_status where status in ('PENDING', 'ENQUEUED') and name <> 'others')"
)


class OnDbos(Peer):
    """One workflow a run; steps are `DBOS.step` coroutines, those of a fan awaited together."""

    about = About(
        name="DBOS",
        packages=("dbos", "psycopg", "SQLAlchemy"),
        settings=(
            "queue with worker_concurrency=50",
            "polling_interval_sec=0.01 (default 1.0)",
            "sys_db_pool_size=20 (default), LISTEN/NOTIFY on (default)",
            "no Conductor",
        ),
        stores="the workflow's status with input and output, and a row for each step",
        absent={
            "W6": "never by itself in another process: that is for Conductor, or for a restart of the same executor",
            "bulk": "one workflow a call",
        },
        notes={"W4": "at the default polling_interval_sec the median is near 1 s; the result is asked for every 1 ms"},
    )

    def _app(self, executor: str) -> None:
        DBOS(config={
            "name": "bench", "system_database_url": self.url, "log_level": "WARNING", "executor_id": executor,
            "application_version": "1", "sys_db_pool_size": 20, "enable_otlp": False,
        })  # fmt: skip

        @DBOS.step(name="step")
        async def step() -> None:
            self.tick()

        @DBOS.workflow(name="one")
        async def one() -> None:
            await step()

        @DBOS.workflow(name="chain")
        async def chain() -> None:
            for _ in range(LENGTH):
                await step()

        @DBOS.workflow(name="fan")
        async def fan() -> None:
            await step()
            await asyncio.gather(*(step() for _ in range(WIDTH)))
            await step()

    async def prepare(self) -> None:
        self._app("driver")
        await asyncio.to_thread(self._launch)
        await asyncio.to_thread(DBOS.destroy)

    def _launch(self) -> None:
        DBOS.listen_queues([])
        DBOS.launch()
        DBOS.register_queue(_QUEUE, worker_concurrency=SLOTS, polling_interval_sec=0.01)

    async def work(self, worker: str) -> None:
        self._app(worker)
        DBOS.listen_queues([_QUEUE])
        await asyncio.to_thread(DBOS.launch)
        self.ready(worker)
        await asyncio.Event().wait()

    async def open(self) -> None:
        self.client = DBOSClient(system_database_url=self.url, system_database_pool_size=CLIENTS)
        self.conn = await psycopg.AsyncConnection.connect(self.url, autocommit=True)

    async def close(self) -> None:
        self.client.destroy()
        await self.conn.close()

    async def submit(self, work: str, count: int) -> None:
        async def client(share: int) -> None:
            for _ in range(share):
                await self.client.enqueue_async({"workflow_name": work, "queue_name": _QUEUE})

        await asyncio.gather(*(client(count // CLIENTS + (n < count % CLIENTS)) for n in range(CLIENTS)))

    async def submit_one(self) -> None:
        await self.client.enqueue_async({"workflow_name": "one", "queue_name": _QUEUE})

    async def left(self) -> bool:
        row = await (await self.conn.execute(_LEFT)).fetchone()
        return row is not None and row[0]

    async def run_one(self) -> None:
        handle = await self.client.enqueue_async({"workflow_name": "one", "queue_name": _QUEUE})
        await handle.get_result(polling_interval_sec=0.001)

    async def ballast(self, count: int) -> None:
        await self.conn.execute(
            "insert into dbos.workflow_status (workflow_uuid, status, name, queue_name, priority, delay_until_epoch_ms, "
            "application_version, created_at, updated_at) "
            "select gen_random_uuid()::text, case when n %% 3 = 0 then 'SUCCESS' else 'DELAYED' end, 'others', %s, 0, "
            "(extract(epoch from now()) * 1000)::bigint + 86400000, '1', (extract(epoch from now()) * 1000)::bigint, "
            "(extract(epoch from now()) * 1000)::bigint from generate_series(1, %s) n",
            (_QUEUE, count),
        )


if __name__ == "__main__":
    main(OnDbos)
