"""LangGraph's graphs as steps: they crash, ask people, and go on from where they were."""

from __future__ import annotations

import asyncio
import itertools
import operator
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, TypedDict
from uuid import UUID

import orjson
import psycopg
import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import interrupt

from durable_agent.agents.langgraph import run_graph, setup
from durable_agent.core.outcomes import Failed, InDoubt, Outcome, Succeeded, Suspended
from durable_agent.core.records import Replay
from durable_agent.errors import FatalError, LeaseLost, Unrecorded
from durable_agent.flow.context import Context
from durable_agent.flow.steps import Step
from durable_agent.flow.tools import step, tool
from durable_agent.testing import crash_everywhere
from durable_agent.worker.attempt import run_attempt
from tests.agents.stage import Stage, Way, ran, stage_on
from tests.support.postgres import Database
from tests.support.runs import Engine, run_of
from tests.support.runs import step as spec
from workers.examples import langgraph_agent


@pytest.fixture
async def stage(engine: Engine, database: Database) -> Stage:
    await setup(database.url)
    return await stage_on(engine, database)


class State(TypedDict):
    """What the graphs of these tests keep."""

    seen: Annotated[list[Any], operator.add]


def chain(**nodes: Callable[..., Any]) -> StateGraph[Any, Any, Any, Any]:
    """Return a graph of the nodes, one after the other."""
    graph: StateGraph[Any, Any, Any, Any] = StateGraph(State, context_schema=Context)
    places = [START, *nodes, END]
    for name, node in nodes.items():
        graph.add_node(name, node)
    for one, other in itertools.pairwise(places):
        graph.add_edge(one, other)
    return graph


def playing(stage: Stage, graph: Any, **given: Any) -> None:
    """Make running the graph what the step does."""

    @step("play")
    async def play(ctx: Context) -> Any:
        return await run_graph(ctx, graph, {"seen": ["start"]}, context=ctx, **given)

    stage.registry.add(play)


def output(outcome: Outcome) -> Any:
    assert isinstance(outcome, Succeeded), outcome
    return orjson.loads(outcome.output)


def counted(database: Database, name: str) -> Callable[[State], Any]:
    """Return a node that leaves a row each time it runs."""

    def node(state: State) -> Any:
        database.execute("insert into ran values (%s)", name)
        return {"seen": [name]}

    return node


async def test_a_crashed_attempt_goes_on_from_the_last_superstep(stage: Stage) -> None:
    reached, never = asyncio.Event(), asyncio.Event()

    async def second(state: State) -> Any:
        stage.database.execute("insert into ran values ('second')")
        reached.set()
        await never.wait()
        return {"seen": ["second"]}

    db = stage.database
    playing(stage, chain(first=counted(db, "first"), second=second, third=counted(db, "third")).compile())
    zombie = asyncio.create_task(stage.attempt(await stage.claim()))
    await reached.wait()
    claim = await stage.claim_again()
    never.set()
    with pytest.raises(LeaseLost):
        await zombie  # it woke up, and what it wrote did not land
    assert output(await stage.attempt(claim)) == {"seen": ["start", "first", "second", "third"]}
    assert ran(db) == ["first", "second", "second", "third"]


async def test_an_attempt_lost_after_the_graphs_end_only_reads_its_output(stage: Stage) -> None:
    playing(stage, chain(only=counted(stage.database, "only")))
    claim = await stage.claim()
    await run_attempt(claim, stage.registry, Way(stage.hand, stage.registry, claim), limit_bytes=262_144)
    assert output(await stage.attempt(await stage.claim_again())) == {"seen": ["start", "only"]}
    assert ran(stage.database) == ["only"]


async def test_a_failed_node_is_tried_again_alone(stage: Stage) -> None:
    def fails_once(state: State) -> Any:
        if "failed" not in ran(stage.database):
            stage.database.execute("insert into ran values ('failed')")
            raise ConnectionError("no answer")
        return {"seen": ["second"]}

    playing(stage, chain(first=counted(stage.database, "first"), second=fails_once))
    assert isinstance(await stage.attempt(await stage.claim()), Failed)
    assert output(await stage.attempt(await stage.claim_again())) == {"seen": ["start", "first", "second"]}
    assert ran(stage.database) == ["failed", "first"]


@tool("pay", effect="idempotent")
async def pay(ctx: Context, database: str, amount: int) -> str:
    """Pay, outside."""
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("insert into ran values (%s)", [f"{amount} {ctx.idempotency_key} {ctx.run_id}"])
    return ctx.idempotency_key


async def test_what_a_finished_node_called_is_its_own_and_not_called_again(stage: Stage) -> None:
    """Each lap asks for the very same call: a lap that was lost gets its own result, not that of one that finished."""
    laps = 0
    reached, never = asyncio.Event(), asyncio.Event()

    async def lap(state: State, runtime: Runtime[Context]) -> Any:
        nonlocal laps
        key = await runtime.context.call(pay, database=stage.database.url, amount=1)
        await runtime.context.emit("paid")  # by now the result is committed
        laps += 1
        if laps == 2:
            reached.set()
            await never.wait()
        return {"seen": [key]}

    graph = chain(lap=lap)
    graph.edges.remove(("lap", END))
    graph.add_conditional_edges("lap", lambda state: END if len(state["seen"]) > 3 else "lap")
    playing(stage, graph)
    crashed = asyncio.create_task(stage.attempt(await stage.claim()))
    await reached.wait()
    crashed.cancel()
    await asyncio.wait([crashed])
    keys = output(await stage.attempt(await stage.claim_again()))["seen"][1:]
    assert len(set(keys)) == 3
    assert ran(stage.database) == sorted(f"1 {key} {stage.engine.runs[0]}" for key in keys)
    assert laps == 4


async def test_what_a_node_called_that_did_not_finish_is_given_to_it_again(stage: Stage) -> None:
    never = asyncio.Event()

    def payer(amount: int) -> Callable[..., Any]:
        async def pays(state: State, runtime: Runtime[Context]) -> Any:
            key = await runtime.context.call(pay, database=stage.database.url, amount=amount)
            await runtime.context.emit("paid")  # by now the result is committed
            if amount == 2:
                await never.wait()
            return {"seen": [key]}

        return pays

    graph: StateGraph[Any, Any, Any, Any] = StateGraph(State, context_schema=Context)
    for amount, name in enumerate(("quick", "slow"), 1):
        graph.add_node(name, payer(amount))
        graph.add_edge(START, name)
    playing(stage, graph)
    crashed = asyncio.create_task(stage.attempt(await stage.claim()))
    while not (stage.database.execute("select no from langgraph.step_effects") and len(ran(stage.database)) == 2):
        assert not crashed.done()
        await asyncio.sleep(0)
    crashed.cancel()
    await asyncio.wait([crashed])
    never.set()
    assert len(set(output(await stage.attempt(await stage.claim_again()))["seen"])) == 3
    assert [row.split()[0] for row in ran(stage.database)] == ["1", "2"]


async def test_a_question_frees_the_worker_and_its_answer_resumes_the_graph(stage: Stage) -> None:
    def asks(state: State) -> Any:
        stage.database.execute("insert into ran values ('asks')")
        first = interrupt("how many?", response_schema={"type": "integer"})
        return {"seen": [first, interrupt({"and": "how much?"})]}

    playing(stage, chain(before=counted(stage.database, "before"), asks=asks))
    assert isinstance(await stage.attempt(await stage.claim()), Suspended)
    one, request = await stage.answer(3)
    assert request == {"prompt": "how many?", "schema": {"type": "integer"}}
    assert isinstance(await stage.attempt(await stage.claim()), Suspended)
    other, request = await stage.answer(None)
    assert request == {"prompt": '{"and":"how much?"}', "schema": None}
    assert one != other
    assert output(await stage.attempt(await stage.claim())) == {"seen": ["start", "before", 3, None]}
    assert ran(stage.database) == ["asks", "asks", "asks", "before"]


async def test_an_answer_is_given_again_to_an_attempt_after_the_one_that_heard_it(stage: Stage) -> None:
    reached, never = asyncio.Event(), asyncio.Event()

    async def asks(state: State) -> Any:
        heard = interrupt("the same?"), interrupt("the same?")
        if not never.is_set():
            reached.set()
            await never.wait()
        return {"seen": [*heard]}

    playing(stage, chain(asks=asks))
    for said in ("a", "b"):
        assert isinstance(await stage.attempt(await stage.claim()), Suspended)
        await stage.answer(said)
    crashed = asyncio.create_task(stage.attempt(await stage.claim()))
    await reached.wait()
    crashed.cancel()
    await asyncio.wait([crashed])
    never.set()
    assert output(await stage.attempt(await stage.claim_again())) == {"seen": ["start", "a", "b"]}


async def test_questions_of_parallel_nodes_and_of_a_graph_within_are_all_answered(stage: Stage) -> None:
    def asker(what: str) -> Callable[[State], Any]:
        return lambda state: {"seen": [interrupt(what)]}

    graph: StateGraph[Any, Any, Any, Any] = StateGraph(State, context_schema=Context)
    graph.add_node("left", asker("left?"))
    graph.add_node("within", chain(inner=asker("inner?")).compile())
    for node in ("left", "within"):
        graph.add_edge(START, node)
        graph.add_edge(node, END)
    playing(stage, graph)
    asked = []
    while isinstance(await stage.attempt(await stage.claim()), Suspended):
        _, request = await stage.answer(f"to {len(asked)}")
        asked.append(request["prompt"])
    assert sorted(asked) == ["inner?", "left?"]
    run = await stage.engine.run(stage.engine.runs[0])
    assert {"to 0", "to 1"} <= set(run["steps"]["play"]["output"]["seen"])


async def test_a_call_in_doubt_within_a_node_waits_for_a_person(stage: Stage) -> None:
    @tool("letter")
    async def letter() -> None:
        raise OSError("the line went dead")

    async def sends(state: State, runtime: Runtime[Context]) -> Any:
        try:
            return {"seen": [await runtime.context.call(letter)]}
        except Exception:
            return {"seen": ["swallowed"]}

    playing(stage, chain(sends=sends))
    assert isinstance(await stage.attempt(await stage.claim()), InDoubt)


async def paying(state: State, runtime: Runtime[Context]) -> Any:
    return {"seen": [await runtime.context.call(pay, database=os.environ["TEST_ROWS"], amount=1)]}


def telling(state: State) -> Any:
    return {"seen": [f"after {len(state['seen'])}"]}


@step("killed")
async def killed(ctx: Context) -> Any:
    """Run a graph of a node that calls a tool and one that tells what it found."""
    return (await run_graph(ctx, chain(paying=paying, telling=telling), {"seen": []}, context=ctx))["seen"][1:]


async def test_a_killed_worker_loses_no_node_and_repeats_no_call(database: Database) -> None:
    await setup(database.url)
    database.execute("create table ran (what text)")

    async def observe(run_id: UUID) -> Any:
        paid = "select distinct what from ran where what like '%' || %s order by 1"
        found = [str(row[0]).split() for row in database.execute(paid.replace("'%'", "'%%'"), str(run_id))]
        return [amount for amount, *_ in found]

    report = await crash_everywhere(
        [Step("killed")], [__name__], database_url=database.url, observe=observe,
        environment={"TEST_ROWS": database.url},
    )  # fmt: skip
    assert report.different == []
    assert report.baseline.outputs == {"killed": ["after 1"]}
    assert report.baseline.seen == ["1"]
    assert len(report.points) >= 6


async def test_the_example_writes_and_asks_an_editor(stage: Stage) -> None:
    stage.hand = stage.engine.hand("editor", tools=["langgraph.note"])
    stage.registry.add(langgraph_agent.note)
    await stage.engine.submit(run_of(spec("note", tool="langgraph.note"), goal="a note on leases"))
    assert isinstance(await stage.attempt(await stage.claim()), Suspended)
    _, request = await stage.answer("yes")
    made = output(await stage.attempt(await stage.claim()))
    assert (made["goal"], made["verdict"]) == ("a note on leases", "yes")
    assert request["prompt"] == f"Print it?\n\n{made['draft']}"
    assert made["draft"]


async def test_a_graph_that_cannot_be_run_so_is_refused(stage: Stage) -> None:
    claim = await stage.claim()
    graph = chain(only=counted(stage.database, "only"))
    with pytest.raises(FatalError, match="interrupt_before"):
        await run_graph(stage.context(claim), graph.compile(interrupt_before=["only"]), {"seen": []})
    ctx = stage.context(claim)
    await run_graph(ctx, graph, {"seen": []})
    await run_graph(ctx, graph, {"seen": []}, name="second")
    with pytest.raises(FatalError, match="name of its own"):
        await run_graph(ctx, graph, {"seen": []}, name="second")
    assert ran(stage.database) == ["only", "only"]
    replayed = replace(claim, replay=Replay(b"1", "succeeded"))
    with pytest.raises(Unrecorded):
        await run_graph(stage.context(replayed), graph, {"seen": []})
