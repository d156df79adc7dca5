"""The step kinds of agents, as handlers that every worker offers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from durable_agent.agents.config import Config
from durable_agent.agents.loop import Loop, transcript
from durable_agent.agents.patterns import Node, plain, run_node, task_of
from durable_agent.errors import FatalError
from durable_agent.flow.context import Context
from durable_agent.flow.tools import Tool, step


@step("agent")
async def agent(ctx: Context, **given: Any) -> Any:
    """Run an agent: one that was registered (`agent` in the input), or a node of a graph (`pattern`)."""
    if isinstance(given.get("agent"), dict):
        return await _registered(ctx, given)
    return await run_node(ctx, Node.from_json(given))


async def _registered(ctx: Context, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the agent's answer with the conversation, which a follow-up goes on with."""
    config = Config.from_json(given["agent"])
    history = await ctx.link.whole(given.get("history") or [])
    if isinstance(history, dict):
        history = history.get("messages")  # a conversation that did not fit a row is in the whole output it was part of
    if not isinstance(history, list):
        raise FatalError("agent: history is no list of messages")
    loop = Loop(ctx, config)
    reply = await loop.run(asked_of(given.get("input"), ctx.goal), history)
    return {"text": reply.text, "asked": loop.asked, "messages": transcript(loop.said)}


def asked_of(given: Any, goal: str | None) -> str:
    """Return what an agent is asked: a text, the only text of an object, or the object as it is."""
    match given:
        case str(text):
            asked = text
        case {"prompt": str(text)} | {"message": str(text)} | {"task": str(text)} | {"question": str(text)} if (
            len(given) == 1
        ):
            asked = text
        case None:
            asked = ""
        case other:
            asked = plain(other)
    return "\n\n".join(part for part in (goal, asked) if part) or "Nothing was asked."


@step("llm_call")
async def llm_call(
    ctx: Context, prompt: str = "", model: str = "default", system: str | None = None, max_tokens: int = 2048,
    temperature: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Ask a model once; the prompt (default: the run's goal) is followed by what the parents returned."""
    reply = await ctx.llm(
        task_of(ctx, prompt or ctx.goal or ""),
        model=model,
        system=system,
        max_tokens=max_tokens,
        temperature=temperature,
    )
    return {"model": reply.model, "text": reply.text}


AGENT_KINDS: tuple[Tool, ...] = (agent, llm_call)
