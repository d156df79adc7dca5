"""absurd: durable tasks of checkpointed steps in PostgreSQL functions, taken by polling."""

# mypy: disable-error-code="import-not-found,untyped-decorator,no-any-return"
from __future__ import annotations

import asyncio
import os
from typing import Any

import absurdctl
import psycopg
from absurd_sdk import AsyncAbsurd
from driver import CLIENTS, LENGTH, SLOTS, WIDTH, About, Peer, main, until

_QUEUE = "bench"
_LEFT = "select exists (select 1 from absurd.t_bench where state in ('pending', 'running', 'sleeping') and task_name <> 'others')"


class OnAbsurd(Peer):
    """One task a run; a chain is a task of ten steps, a fan a task of fifty steps that its client awaits together."""

    about = About(
        name="absurd",
        packages=("absurd-sdk", "absurdctl", "psycopg"),
        settings=(
            "AsyncAbsurd.start_worker(concurrency=50)",
            "poll_interval=0.005 (default 0.25)",
            "W6: claim_timeout=5 (default 120: what the recovery then takes)",
        ),
        stores="task and run with its result, and a checkpoint for each step",
        notes={
            "W5": "one statement that calls its function a thousand times: the SDK has no such call",
            "W4": "at the default poll the median is half of 250 ms",
            "W3": "steps of one task share its connection",
        },
    )

    async def prepare(self) -> None:
        async with await psycopg.AsyncConnection.connect(self.url, autocommit=True) as conn:
            await conn.execute(absurdctl.BUNDLED_SCHEMA_SQL)
            await conn.execute("select absurd.create_queue(%s)", (_QUEUE,))

    def _app(self) -> AsyncAbsurd:
        return AsyncAbsurd(self.url, queue_name=_QUEUE)

    async def _step(self) -> None:
        self.tick()

    async def work(self, worker: str) -> None:
        app = self._app()

        @app.register_task(name="one")
        async def one(params: Any, ctx: Any) -> None:
            await ctx.step("s", self._step)

        @app.register_task(name="chain")
        async def chain(params: Any, ctx: Any) -> None:
            for n in range(LENGTH):
                await ctx.step(f"s{n}", self._step)

        @app.register_task(name="fan")
        async def fan(params: Any, ctx: Any) -> None:
            await ctx.step("a", self._step)
            await asyncio.gather(*(ctx.step(f"m{n}", self._step) for n in range(WIDTH)))
            await ctx.step("z", self._step)

        @app.register_task(name="long")
        async def long(params: Any, ctx: Any) -> None:
            await ctx.step("s", self.hold)

        self.ready(worker)
        recovering = os.environ["PEER_SHAPE"] == "W6"
        await app.start_worker(
            worker_id=worker, claim_timeout=5 if recovering else 120, concurrency=SLOTS, poll_interval=0.005
        )

    async def open(self) -> None:
        self.apps = [self._app() for _ in range(CLIENTS)]
        self.free: asyncio.Queue[AsyncAbsurd] = asyncio.Queue()
        for app in self.apps:
            self.free.put_nowait(app)
        self.conn = await psycopg.AsyncConnection.connect(self.url, autocommit=True)

    async def close(self) -> None:
        for app in self.apps:
            await app.close()
        await self.conn.close()

    async def submit(self, work: str, count: int) -> None:
        await self.conn.execute(
            "select count(*) from generate_series(1, %s) n, absurd.spawn_task(%s, %s, to_jsonb(n), '{}'::jsonb)",
            (count, _QUEUE, work),
        )

    async def submit_one(self) -> None:
        app = await self.free.get()
        await app.spawn("one", {}, queue=_QUEUE)
        self.free.put_nowait(app)

    async def left(self) -> bool:
        row = await (await self.conn.execute(_LEFT)).fetchone()
        return row is not None and row[0]

    async def run_one(self) -> None:
        spawned = await self.apps[0].spawn("one", {}, queue=_QUEUE)
        query = "select 1 from absurd.t_bench where task_id = %s and state = 'completed'"

        async def completed() -> bool:
            return await (await self.conn.execute(query, (spawned["task_id"],))).fetchone() is not None

        await until(completed, 0.001)

    async def ballast(self, count: int) -> None:
        await self.conn.execute(
            "insert into absurd.t_bench (task_id, task_name, params, state, attempts) "
            "select gen_random_uuid(), 'others', '{}', case when n %% 3 = 0 then 'completed' else 'pending' end, 1 "
            "from generate_series(1, %s) n",
            (count,),
        )
        await self.conn.execute(
            "insert into absurd.r_bench (run_id, task_id, attempt, state, available_at) "
            "select gen_random_uuid(), task_id, 1, state, now() + interval '1 day' from absurd.t_bench "
            "where task_name = 'others'"
        )


if __name__ == "__main__":
    main(OnAbsurd)
