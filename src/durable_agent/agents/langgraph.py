"""LangGraph as a step: a graph goes on from its last checkpoint, asks people by waits, and repeats no recorded effect."""

from __future__ import annotations

from collections.abc import Iterable, Set
from typing import Any, Final, cast

from durable_agent.agents.checkpoints import FencedSaver, setup  # first: it says what is not installed
from durable_agent.core.effects import Fresh, Ledger
from durable_agent.core.records import Answer, Effect, WaitKind
from durable_agent.errors import FatalError, Unrecorded
from durable_agent.flow.context import Context
from durable_agent.flow.encoding import encode

# isort: split
from langchain_core.runnables import RunnableConfig
from langgraph._internal._serde import build_serde_allowlist
from langgraph.checkpoint.serde.types import INTERRUPT
from langgraph.config import get_config
from langgraph.graph import StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Command, Interrupt

__all__ = ["FencedSaver", "checkpointer", "run_graph", "setup"]

_PROMPT_BYTES: Final = 65_536


async def checkpointer(ctx: Context, *, allow: Iterable[type | tuple[str, ...]] = ()) -> FencedSaver:
    """Return a saver for this attempt, for a graph that the handler runs by itself; `run_graph` makes its own.

    `allow` names the author's own types in the graph's state that may be made again when it is read.
    """
    if ctx.claim.replay is not None:
        raise Unrecorded("a graph's checkpoints are not in the record")
    return FencedSaver(
        fenced=lambda: ctx.link.fenced(ctx.claim),
        reading=ctx.link.reading,
        allow=allow,
        effects_of=_noting(ctx).asked_by,
    )


async def run_graph(
    ctx: Context, graph: CompiledStateGraph[Any, Any, Any, Any] | StateGraph[Any, Any, Any, Any], input: Any, *,
    config: RunnableConfig | None = None, context: Any = None, name: str = "",
    allow: Iterable[type | tuple[str, ...]] = (),
) -> Any:  # fmt: skip
    """Run a graph to its end within this step and return its output; an attempt goes on from the last checkpoint.

    A task that finished is not run again after a crash, and what it called through `ctx.call` is not called again. A
    node asks a person by `interrupt(question)`: the attempt ends there, and the answer is what `interrupt` returns.
    `context` is the graph's run-time context; `name` tells graphs apart where a step runs several. `allow` names types
    that the graph's schema does not. Raises FatalError for a graph that cannot be run so.
    """
    compiled = _compiled(graph, await checkpointer(ctx, allow=allow))
    saver = cast(FencedSaver, compiled.checkpointer)
    thread = f"{ctx.run_id}/{ctx.step}/{name}".rstrip("/")
    _noting(ctx).once(thread)
    own: RunnableConfig = {
        **(config or {}),
        "configurable": {**(config or {}).get("configurable", {}), "thread_id": thread},
    }
    given = input
    if await saver.aget_tuple(own) is not None:
        given = await _answered(ctx, compiled, own)
        _noting(ctx).forget(await saver.effects(thread))
    while True:
        result = await compiled.ainvoke(given, own, context=context, durability="sync")
        if not (isinstance(result, dict) and result.get(INTERRUPT)):
            return result
        given = await _answered(ctx, compiled, own)


def _compiled(graph: Any, saver: FencedSaver) -> CompiledStateGraph[Any, Any, Any, Any]:
    """Return the graph with the saver, which may make again whatever the graph's schemas name."""
    builder: StateGraph[Any, Any, Any, Any] = graph.builder if isinstance(graph, CompiledStateGraph) else graph
    schemas: list[type[Any]] = [builder.state_schema, builder.input_schema, builder.output_schema]
    schemas += [node.input_schema for node in builder.nodes.values()]
    known = saver.with_allowlist(build_serde_allowlist(schemas=schemas, channels=builder.channels))
    if isinstance(graph, StateGraph):
        return graph.compile(checkpointer=known)
    if graph.interrupt_before_nodes or graph.interrupt_after_nodes:
        raise FatalError(
            "a graph compiled with interrupt_before or interrupt_after asks nobody: use interrupt() in a node"
        )
    copied: CompiledStateGraph[Any, Any, Any, Any] = graph.copy({"checkpointer": known})
    return copied


async def _answered(ctx: Context, graph: CompiledStateGraph[Any, Any, Any, Any], config: RunnableConfig) -> Any:
    """Return what the graph goes on with: the answers to what it asked, or nothing when it asked nothing."""
    asked = (await graph.aget_state(config)).interrupts
    answers = {one.id: await _ask(ctx, one) for one in asked}
    return Command(resume=answers) if answers else None


async def _ask(ctx: Context, interrupt: Interrupt) -> Any:
    """Ask a person what a node asks; the name is the interrupt's own, the same at every attempt."""
    question = interrupt.value
    prompt = question if isinstance(question, str) else encode(question, _PROMPT_BYTES).decode()
    return await ctx.ask(prompt, schema=cast(Any, interrupt.response_schema), name=f"interrupt.{interrupt.id[:16]}")


class _Noting(Ledger):
    """An attempt's ledger that notes which task of a graph asked for which effect."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._asked: list[tuple[str, int]] = []
        self._threads: set[str] = set()

    def effect(self, name: str, request_sha256: str) -> Effect | Fresh:
        """See `core.effects.Ledger.effect`."""
        found = self._ledger.effect(name, request_sha256)
        self._asked.append((_place(), found.no))
        return found

    def answer(self, kind: WaitKind, name: str, request_sha256: str) -> Answer | None:
        """See `core.effects.Ledger.answer`."""
        return self._ledger.answer(kind, name, request_sha256)

    def left(self) -> str | None:
        """See `core.effects.Ledger.left`."""
        return self._ledger.left()

    def asked_by(self, task: str) -> set[int]:
        """Return the numbers of the effects that a task, or what it ran in turn, asked for."""
        return {no for place, no in self._asked if task in place}

    def forget(self, numbers: Set[int]) -> None:
        """See `core.effects.Ledger.forget`."""
        self._ledger.forget(numbers)

    def once(self, thread: str) -> None:
        """Raise FatalError when this attempt ran the thread before."""
        if thread in self._threads:
            raise FatalError(f"run_graph was called twice for {thread!r}; give each call a name of its own")
        self._threads.add(thread)


def _noting(ctx: Context) -> _Noting:
    """Return the attempt's ledger, which notes from now on."""
    known = ctx.calls.ledger
    if not isinstance(known, _Noting):
        ctx.calls.ledger = known = _Noting(known)
    return known


def _place() -> str:
    """Return where in a graph this is called from: the namespace of the task, which names those around it too."""
    try:
        return str(get_config()["configurable"].get("checkpoint_ns", ""))
    except RuntimeError:
        return ""
