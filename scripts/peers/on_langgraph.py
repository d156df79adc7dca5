"""LangGraph with its PostgreSQL checkpointer: a library, so what is measured is two processes of 50 graphs at a time.

There is no queue: the driver tells each process how many graphs to run (a file), and each run is a thread of checkpoints.
"""

# mypy: disable-error-code="import-not-found,untyped-decorator,no-any-return,type-arg,attr-defined,unused-ignore"
from __future__ import annotations

import asyncio
import operator
import time
import uuid
from pathlib import Path
from typing import Annotated, Any, TypedDict

from driver import LENGTH, PROCESSES, SLOTS, WIDTH, About, Peer, main, until
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

_LIBRARY = "a library: there is no queue to give work to"


class State(TypedDict):
    """What the nodes pass on."""

    done: Annotated[int, operator.add]


class OnLangGraph(Peer):
    """A chain is ten nodes; a fan is `Send` to fifty; every superstep is checkpointed before the next (`durability=sync`)."""

    about = About(
        name="LangGraph + Postgres saver",
        packages=("langgraph", "langgraph-checkpoint-postgres", "psycopg"),
        settings=("durability='sync' (default 'async')", "pool of 20 connections, prepare_threshold=0 as documented"),
        stores="a checkpoint of the whole state for each superstep, and the writes of each node",
        absent={"W5": _LIBRARY, "W6": "no other process takes a thread over: recovery is the caller's"},
        notes={
            "W1": "no queue and no lease: nothing is claimed",
            "W4": "in the process itself: nothing is handed over",
        },
    )

    async def _open_graphs(self) -> dict[str, Any]:
        self.pool = AsyncConnectionPool(
            self.url, min_size=4, max_size=20, open=False,
            kwargs={"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row},
        )  # fmt: skip
        await self.pool.open()
        self.saver = AsyncPostgresSaver(self.pool)  # type: ignore[arg-type]
        return {"one": self._chain(1), "chain": self._chain(LENGTH), "fan": self._fan()}

    async def _node(self, state: State) -> dict[str, int]:
        self.tick()
        return {"done": 1}

    def _chain(self, length: int) -> Any:
        graph = StateGraph(State)
        for n in range(length):
            graph.add_node(f"s{n}", self._node)
            graph.add_edge(f"s{n - 1}" if n else START, f"s{n}")
        graph.add_edge(f"s{length - 1}", END)
        return graph.compile(checkpointer=self.saver)

    def _fan(self) -> Any:
        graph = StateGraph(State)
        for name in ("a", "m", "z"):
            graph.add_node(name, self._node)
        graph.add_edge(START, "a")
        graph.add_conditional_edges("a", lambda state: [Send("m", state) for _ in range(WIDTH)], ["m"])
        graph.add_edge("m", "z")
        graph.add_edge("z", END)
        return graph.compile(checkpointer=self.saver)

    async def _run(self, graph: Any) -> None:
        config = {"configurable": {"thread_id": str(uuid.uuid4())}}
        await graph.ainvoke({"done": 0}, config, durability="sync")

    async def prepare(self) -> None:
        await self._open_graphs()
        await self.saver.setup()
        await self.pool.close()

    async def work(self, worker: str) -> None:
        graphs = await self._open_graphs()
        self.ready(worker)
        for n in range(1_000_000):
            order = self.folder / f"order.{n}.{worker}"
            await self._given(order)
            work, count = order.read_text().split()
            remaining = iter(range(int(count)))

            async def slot(graph: Any, shared: Any) -> None:
                for _ in shared:
                    await self._run(graph)

            await asyncio.gather(*(slot(graphs[work], remaining) for _ in range(SLOTS)))
            order.rename(self.folder / f"done.{n}.{worker}")

    async def _given(self, order: Path) -> None:
        async def given() -> bool:
            return await asyncio.to_thread(order.exists)

        await until(given)

    async def open(self) -> None:
        self.graphs = await self._open_graphs()
        self.first, self.orders = 0, 0

    async def close(self) -> None:
        await self.pool.close()

    async def submit(self, work: str, count: int) -> None:
        ready = sorted(self.folder.glob("ready.*"), key=lambda file: file.stat().st_mtime_ns)[-PROCESSES:]
        for n, file in enumerate(ready):
            worker = file.name.partition(".")[2]
            numbers = len(list(self.folder.glob(f"*.*.{worker}")))
            made = self.folder / f"writing.{worker}"
            made.write_text(f"{work} {count // PROCESSES + (n < count % PROCESSES)}")
            made.rename(self.folder / f"order.{numbers}.{worker}")

    async def submit_one(self) -> None:
        raise NotImplementedError

    async def left(self) -> bool:
        return any(self.folder.glob("order.*"))

    async def run_one(self) -> None:
        await self._run(self.graphs["one"])

    async def ballast(self, count: int) -> None:
        thread = f"others-{time.time_ns()}"
        async with self.pool.connection() as conn:
            await conn.execute(
                "insert into checkpoints (thread_id, checkpoint_ns, checkpoint_id, type, checkpoint, metadata) "
                "select %s || n, '', gen_random_uuid()::text, null, '{}', '{}' from generate_series(1, %s) n",
                (thread, count),
            )


if __name__ == "__main__":
    main(OnLangGraph)
