"""durable-agent itself, by the same driver as the others: two worker processes of 50 slots, audit chain and events on."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from pathlib import Path
from typing import ClassVar, cast

sys.path.insert(0, str(Path(__file__).parents[1]))

import psycopg
from driver import CLIENTS, SLOTS, About, Peer, main
from harness.stand import Bench, chain, fan, step

from durable_agent.cli.processes import worker_process
from durable_agent.core.records import DEFAULT_TENANT, RunSpec
from durable_agent.db.doorbell import EVENTS, READY, Bell, Listener
from durable_agent.db.pool import Database
from durable_agent.engine.submit import Memory, Submission, submit
from durable_agent.migrate import upgrade
from durable_agent.settings import read_settings

_LEFT = "select exists (select 1 from runs where status in ('pending', 'running') and lane = '')"


class OnDurableAgent(Peer):
    """Runs are submitted 500 a transaction, as in `make bench`."""

    slots: ClassVar[int] = SLOTS
    about = About(
        name="durable-agent",
        packages=("durable-agent", "psycopg", "uvloop"),
        settings=(f"MAX_CONCURRENT_TASKS={SLOTS}, the rest as installed", "submitted in the process, not over HTTP"),
        stores="run, step with its result, and every event in the audit chain",
        notes={"W6": "at the default lease of 30 s: a dead worker is known by its session"},
    )

    async def prepare(self) -> None:
        await asyncio.to_thread(upgrade, self.url)

    def serve(self, worker: str) -> None:
        os.environ.update(
            DATABASE_URL=self.url, DATABASE_DIRECT_URL=self.url, DURABLE_AGENT_LOG_LEVEL="warning",
            MAX_CONCURRENT_TASKS=str(self.slots), PEER_FOLDER=str(self.folder),
        )  # fmt: skip
        threading.Thread(target=self._announced, args=(worker,), daemon=True).start()
        worker_process(read_settings(worker_id=worker), ["engine_tools"])

    def _announced(self, worker: str) -> None:
        """Tell that the worker is ready when the engine knows it."""
        query = "select 1 from workers where os_pid = %s and state = 'active' and lease_until > now()"
        with psycopg.connect(os.environ["PEER_ADMIN_URL"], autocommit=True) as conn:
            while conn.execute(query, (os.getpid(),)).fetchone() is None:
                time.sleep(0.02)
        self.ready(worker)

    async def work(self, worker: str) -> None:
        """Not used: the product's own process is run."""

    async def open(self) -> None:
        self.memory = Memory()
        self._database = Database.open(self.url, size=CLIENTS)
        self.db = await self._database.__aenter__()
        self.bell, self.listener = Bell(self.db), Listener(self.db, [EVENTS])
        self.loops = [asyncio.create_task(self.bell.run()), asyncio.create_task(self.listener.run())]
        self.conn = await psycopg.AsyncConnection.connect(os.environ["PEER_ADMIN_URL"], autocommit=True)

    async def close(self) -> None:
        for loop in self.loops:
            loop.cancel()
        await self.conn.close()
        await self._database.__aexit__(None, None, None)

    async def submit(self, work: str, count: int) -> None:
        spec = {"one": chain(1), "chain": chain(10), "fan": fan(50), "long": RunSpec((step("long", tool="hold"),))}[
            work
        ]
        for start in range(0, count, 500):
            share = [Submission(spec)] * min(500, count - start)
            await submit(self.db, DEFAULT_TENANT, share, memory=self.memory)
        self.bell.ring(READY)

    async def submit_one(self) -> None:
        await submit(self.db, DEFAULT_TENANT, [Submission(chain(1))], memory=self.memory)

    async def left(self) -> bool:
        row = await (await self.conn.execute(_LEFT)).fetchone()
        return row is not None and bool(row[0])

    async def run_one(self) -> None:
        (done,) = await submit(self.db, DEFAULT_TENANT, [Submission(chain(1))], memory=self.memory, bell=self.bell)
        query = "select 1 from runs where id = %s and status = 'completed'"
        while not await (await self.conn.execute(query, (done.run_id,))).fetchone():
            await self.listener.wait(1.0)

    async def ballast(self, count: int) -> None:
        import bench

        bench.OTHERS = count

        class Server:
            """What the bench's ballast asks for."""

            def query(self, query: str, *params: object) -> list[tuple[object, ...]]:
                """Return rows."""
                with psycopg.connect(os.environ["PEER_ADMIN_URL"], autocommit=True) as conn:
                    cursor = conn.execute(query.encode(), params or None)
                    return cursor.fetchall() if cursor.description else []

            def settle(self) -> None:
                """Nothing: the driver does."""

        await asyncio.to_thread(bench.others, cast(Bench, Server()))


if __name__ == "__main__":
    main(OnDurableAgent)
