"""The shapes of an agent's node in a graph: pipeline, supervisor, swarm, plan / act / observe.

Each is a handler over the same loop. What a node works on is the run's goal and input and what its parents returned; what it
returns is JSON that the next node reads, with the answer's text under `text`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import orjson

from durable_agent.agents.config import Config
from durable_agent.agents.loop import Loop
from durable_agent.agents.toolbox import Toolbox
from durable_agent.core.records import StepKind
from durable_agent.errors import FatalError
from durable_agent.flow.builder import PATTERNS, is_predicate
from durable_agent.flow.context import Context
from durable_agent.flow.model import ToolCall
from durable_agent.flow.steps import Step, mapped

PLAN: Final = "You are the supervisor. Make a short plan for the task: a numbered list, one line a step, nothing else."
ACT: Final = "Carry out the plan with the tools you have, step by step. Answer with what you found."
OBSERVE: Final = "Check the result against the task: say what holds, what is missing, and give the final answer."
BRANCH: Final = "You are one of several who work on parts of a task at the same time. Work on your part only."
KNOWN_CHARS: Final = 30_000
MOST_BRANCHES: Final = 100
_ITEM = re.compile(r"^\s*(?:\d+[.)]|[-*])\s+(.+)$")


@dataclass(frozen=True, slots=True)
class Node:
    """An agent's node: its pattern, the model (None: it asks none), its tools, and how many branches of a swarm run at once."""

    pattern: str
    llm: str | None
    config: Config
    concurrency: int = 3
    over: str | None = None
    arguments: Mapping[str, Any] | None = None
    prompt: str = ""

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Node:
        """Return the node in a step's input. Raises FatalError for a pattern that is not known."""
        pattern = given.get("pattern", "pipeline")
        if pattern not in PATTERNS:
            raise FatalError(f"agent: pattern {pattern!r} is not known; use {', '.join(PATTERNS)}")
        concurrency = given.get("concurrency", 3)
        if not isinstance(concurrency, int) or not 1 <= concurrency <= MOST_BRANCHES:
            raise FatalError(f"agent: concurrency must be from 1 to {MOST_BRANCHES}, not {concurrency!r}")
        llm = given.get("llm")
        config = Config.from_json({**given, "model": llm or "default"})
        return cls(
            pattern, llm, config, concurrency, given.get("over"), given.get("arguments"), given.get("prompt") or ""
        )


async def run_node(ctx: Context, node: Node) -> Any:
    """Return what the node comes to."""
    match node.pattern:
        case "supervisor" if node.llm is not None:
            text = await _answer(ctx, replace(node.config, system=_told(node, PLAN)), task_of(ctx, node.prompt))
            return {"text": text, "plan": items_of(text)}
        case "swarm":
            return await _swarm(ctx, node)
        case "plan_act_observe":
            return await _plan_act_observe(ctx, node)
        case _:
            return await _pipeline(ctx, node)


async def _pipeline(ctx: Context, node: Node) -> Any:
    if node.llm is not None:
        told = replace(node.config, system=_told(node, ""))
        return {"text": await _answer(ctx, told, task_of(ctx, node.prompt))}
    if not node.config.tools:
        return {"text": node.prompt or task_of(ctx, ""), "input": ctx.run_input}
    return {"results": await _call_each(ctx, node)}


async def _call_each(ctx: Context, node: Node) -> dict[str, Any]:
    """Call the node's tools one after the other, without a model: with its arguments, or those the run's input has."""
    box = Toolbox(ctx, node.config)
    await box.open()
    results: dict[str, Any] = {}
    for name in node.config.tools:
        found = ctx.link.find(name)
        if found is None:
            raise FatalError(f"this worker does not offer tool {name!r}")
        given = (
            dict(node.arguments) if node.arguments is not None else fitting(found.arguments.model_json_schema(), ctx)
        )
        results[name] = await box.result(ToolCall(name, name, given))
    return results


def fitting(schema: Mapping[str, Any], ctx: Context) -> dict[str, Any]:
    """Return arguments for a tool that nobody chose any for: what the run's input has under their names, and the task for a
    text that is asked for."""
    known = ctx.run_input if isinstance(ctx.run_input, dict) else {}
    properties = schema.get("properties", {})
    given = {name: known[name] for name in properties if name in known}
    for name in schema.get("required", ()):
        if name not in given and properties.get(name, {}).get("type") == "string":
            given[name] = subject_of(ctx)
    return given


async def _swarm(ctx: Context, node: Node) -> Any:
    """Work on the items of a list at once, each as a step of its own that any worker may take."""
    items = _parts(ctx, node)
    branch = branch_of(node)
    task = subject_of(ctx) if not node.prompt else node.prompt
    inputs = [
        {**branch, "prompt": f"{task}\n\nYour part ({i + 1} of {len(items)}): {plain(item)}"}
        for i, item in enumerate(items)
    ]
    steps: Sequence[Step] = mapped(
        "agent", inputs, concurrency=node.concurrency, name="branch", argument="", kind=StepKind.AGENT
    )
    outputs = await ctx.spawn(steps, name="swarm")
    return joined(items, outputs)


def joined(parts: Sequence[Any], outputs: Sequence[Any]) -> dict[str, Any]:
    """Return what a swarm comes to: each part with the text of its own branch, without the parts that were skipped."""
    branches = [
        {"part": part, "text": one["text"]} for part, one in zip(parts, outputs, strict=True) if one is not None
    ]
    return {"text": "\n\n".join(one["text"] for one in branches), "branches": branches}


def branch_of(node: Node) -> dict[str, Any]:
    """Return the input of one branch of a swarm: all that its node's agent is, told to work on its part."""
    return {
        **asdict(node.config), "pattern": "pipeline", "llm": node.llm or "default", "system": _told(node, BRANCH)
    }  # fmt: skip


def _parts(ctx: Context, node: Node) -> list[Any]:
    """Return what a swarm divides among its branches: a list of its parents', else as many views of the whole."""
    sources = [ctx.parents[node.over]] if node.over and node.over in ctx.parents else list(ctx.parents.values())
    for source in sources:
        found = _list_in(source)
        if found:
            return found[:MOST_BRANCHES]
    return [f"view {i + 1} of {node.concurrency}" for i in range(node.concurrency)]


def _list_in(value: Any) -> list[Any] | None:
    match value:
        case list():
            return value
        case {"results": dict(results)}:
            return next((found for one in results.values() if (found := _list_in(one))), None)
        case {"plan": list(items)} | {"items": list(items)} | {"results": list(items)}:
            return items
        case _:
            return None


async def _plan_act_observe(ctx: Context, node: Node) -> Any:
    task = task_of(ctx, node.prompt)
    plan = await _answer(ctx, replace(node.config, system=_told(node, PLAN), tools=(), servers=()), task)
    acted = await _answer(ctx, replace(node.config, system=_told(node, ACT)), f"{task}\n\nThe plan:\n{plan}")
    observed = replace(node.config, system=_told(node, OBSERVE), tools=(), servers=())
    text = await _answer(ctx, observed, f"{task}\n\nThe plan:\n{plan}\n\nThe result:\n{acted}")
    return {"text": text, "plan": items_of(plan), "acted": acted}


async def _answer(ctx: Context, config: Config, task: str) -> str:
    return (await Loop(ctx, config).run(task)).text


def _told(node: Node, otherwise: str) -> str:
    return "\n\n".join(part for part in (otherwise, node.config.system) if part)


def subject_of(ctx: Context) -> str:
    """Return what the run is about in a line: its goal, else the texts of its input."""
    if ctx.goal:
        return ctx.goal
    match ctx.run_input:
        case str(text):
            return text
        case dict(given):
            texts = [value for value in given.values() if isinstance(value, str)]
            return " ".join(texts) if texts else plain(given)
        case other:
            return plain(other) if other is not None else ctx.step


def task_of(ctx: Context, prompt: str) -> str:
    """Return a node's task as a text: what it is asked, what the run was given, what is known from its parents."""
    parts = [prompt or subject_of(ctx)]
    if prompt and ctx.goal:
        parts.append(f"Goal: {ctx.goal}")
    if isinstance(ctx.run_input, dict) and ctx.run_input:
        parts.append(f"Input: {plain(ctx.run_input)}")
    for name, output in ctx.parents.items():
        if not is_predicate(name, ctx.step, output):
            parts.append(f"What {name!r} returned:\n{plain(output)[:KNOWN_CHARS]}")
    return "\n\n".join(parts)


def items_of(text: str) -> list[str]:
    """Return the items of a list in a text, one a line."""
    return [found.group(1).strip() for line in text.splitlines() if (found := _ITEM.match(line))]


def plain(value: Any) -> str:
    """Return a value as a text for a model."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and isinstance(value.get("text"), str) and set(value) <= {"text", "plan"}:
        return str(value["text"])
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
