"""A tool server's tools in an agent's hands: each call recorded, what the server asks a person and what goes on after its
answer waited for without a worker."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from durable_agent.agents.answers import patient
from durable_agent.errors import Expired, Rejected
from durable_agent.flow.context import Context
from durable_agent.flow.effects import Order, Terms
from durable_agent.flow.tools import Effect, stand_in

if TYPE_CHECKING:
    from durable_agent.agents.mcp import Server

CALL_TIMEOUT_S = 120.0
# A task is asked for again no sooner, whatever the server asks for, and less and less often.
MIN_POLL_S, MAX_POLL_S, POLL_FACTOR = 1.0, 30.0, 1.5

Approve = Callable[[str, Mapping[str, Any]], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Pinned:
    """A tool of a server as the run pinned it; `digest` is that of the whole list it was approved with."""

    server: str
    tool: str
    description: str
    parameters: Mapping[str, Any]
    effect: Effect
    digest: str
    known: Mapping[str, str]

    @property
    def name(self) -> str:
        """Its name for models and approvals, and among the effects of a step."""
        return f"{self.server}.{self.tool}"


def pinned(server: Mapping[str, Any]) -> list[Pinned]:
    """Return the tools in an agent's configuration of a server."""
    known = {one["name"]: one["digest"] for one in server["tools"]}
    return [
        Pinned(server["name"], one["name"], one["description"], one["parameters"], one["effect"], server["digest"], known)
        for one in server["tools"]
    ]  # fmt: skip


async def call(ctx: Context, one: Pinned, given: Mapping[str, Any], approve: Approve) -> Any:
    """Return what the tool returns. Raises ToolFailed for what the model should hear of."""
    approval = await approve(one.name, given)
    answers: list[Mapping[str, Any]] = []
    while True:
        request = {"arguments": dict(given), "answers": answers} if answers else dict(given)
        told = await _recorded(ctx, one, request, given, answers, approval)
        match told:
            case {"$tool": "input"}:
                answers.append(await _asked(ctx, one, told))
                approval = None
            case {"$tool": "task", "task": task, "after_s": after_s}:
                return await _followed(ctx, one, task, after_s)
            case {"$tool": "result", "value": value}:
                return value
            case other:
                return other  # a person's word about a call that nobody heard the end of


async def _recorded(
    ctx: Context, one: Pinned, request: Any, given: Mapping[str, Any], answers: list[Mapping[str, Any]], approval: Any
) -> Any:
    async def once(effect: int, key: str) -> Any:
        server = await _server(ctx, one)
        return await (await ctx.link.sessions().opened()).call(
            server, one.tool, dict(given), pinned=one.digest, key=key, timeout_s=CALL_TIMEOUT_S, known=one.known,
            answers=list(answers),
        )  # fmt: skip

    return await _effect(ctx, one.name, one.effect, request, once, approval)


async def _effect(
    ctx: Context, name: str, effect: Effect, request: Any, once: Callable[[int, str], Awaitable[Any]], approval: Any = None
) -> Any:  # fmt: skip
    from durable_agent.agents.mcp import InputRequired, TaskPending

    stand = stand_in(name, effect)
    made = patient(stand, once)

    async def told(no: int, key: str) -> dict[str, Any]:
        try:
            return {"$tool": "result", "value": await made(no, key)}
        except InputRequired as error:
            return {
                "$tool": "input",
                "message": error.message,
                "schema": error.schema,
                "url": error.url,
                "key": error.key,
            }
        except TaskPending as error:
            return {"$tool": "task", "task": error.task_id, "after_s": error.poll_after_s}

    order = Order(request, told, lambda: Terms(gate=f"tool:{name}"), final=True)
    return await ctx.order(stand, {}, order, approval)


async def _asked(ctx: Context, one: Pinned, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    """Ask a person what the server asks; one who declines is an answer, too."""
    prompt = f"{one.server} asks: {asked['message']}" + (f" ({asked['url']})" if asked.get("url") else "")
    try:
        content = await ctx.ask(prompt, schema=asked.get("schema"), name=f"{one.name}.input")
    except Rejected:
        return {"action": "decline"}
    except Expired:
        return {"action": "cancel"}
    return {"action": "accept", "content": content if isinstance(content, dict) else {"value": content}}


async def _followed(ctx: Context, one: Pinned, task: str, after_s: float) -> Any:
    """Return what a task that goes on at the server comes to: looked at again and again, with no worker in between."""
    polls, wait_s, answers = 0, MIN_POLL_S, dict[str, Mapping[str, Any]]()
    while True:
        await ctx.sleep(max(wait_s, after_s))
        polls, wait_s = polls + 1, min(MAX_POLL_S, wait_s * POLL_FACTOR)
        request = {"task": task, "poll": polls, "answers": answers}

        async def once(no: int, key: str, told: Mapping[str, Any] = answers) -> Any:
            server = await _server(ctx, one)
            return await (await ctx.link.sessions().opened()).poll(server, task, answers=told)

        told = await _effect(ctx, f"{one.name}.poll", "safe", request, once)
        match told:
            case {"$tool": "task", "after_s": after_s}:
                continue
            case {"$tool": "input"}:
                answers = {**answers, told["key"]: await _asked(ctx, one, told)}
                wait_s = after_s = MIN_POLL_S
            case {"$tool": "result", "value": value}:
                return value


async def _server(ctx: Context, one: Pinned) -> Server:
    from durable_agent.agents.mcp import Drifted, Server

    found = await ctx.link.tool_server(one.server)
    if found.state == "quarantined":
        raise Drifted(one.server, one.digest, "?", "it is quarantined until somebody approves what it offers")
    return Server(found.name, found.url, found.command, found.token)
