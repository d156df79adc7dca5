"""A LangGraph graph as a step: it outlives its worker, asks an editor, and repeats no recorded call.

durable-agent worker workers.examples.langgraph_agent
durable-agent run langgraph-agent --goal "a note on leases"
"""

from typing import Any, TypedDict

from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import interrupt

from durable_agent import Context, Graph, step
from durable_agent.agents.langgraph import run_graph


class Note(TypedDict, total=False):
    goal: str
    draft: str
    verdict: str


async def write(note: Note, runtime: Runtime[Context]) -> Note:
    return {"draft": (await runtime.context.llm(f"Write {note['goal']}.")).text}


def edit(note: Note) -> Note:
    return {"verdict": interrupt(f"Print it?\n\n{note['draft']}")}


editing = StateGraph(Note, context_schema=Context).add_sequence([write, edit]).add_edge(START, "write")


@step("langgraph.note")
async def note(ctx: Context) -> dict[str, Any]:
    return dict(await run_graph(ctx, editing, {"goal": ctx.goal or "a note"}, context=ctx))


langgraph_agent = Graph("langgraph-agent").node("note", tool=note)
