"""What one agent may call: its worker's tools, those of its tool servers, and what belongs to the run itself.

Whatever comes of a call is an answer to the model: its result, or an error that says which argument is wrong. Only what
nobody knows the outcome of, and what a person has to decide, ends the attempt.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import orjson

from durable_agent.agents import remote
from durable_agent.agents.config import Config
from durable_agent.core import retry
from durable_agent.core.records import FailureClass, RetryPolicy
from durable_agent.errors import FatalError, RateLimited, RetryableError, StepError, UnknownOutcome
from durable_agent.flow.context import Context
from durable_agent.flow.effects import Order, Terms
from durable_agent.flow.model import Message, ToolCall, ToolSpec
from durable_agent.flow.tools import Tool

HUMAN, ARTIFACT, RECALL = "request_human_input", "create_text_artifact", "recall_result"
PATIENCE: Final = RetryPolicy(max_attempts=3, base_s=0.5, cap_s=20.0)
_RECALL = ToolSpec(
    RECALL,
    "Read on in an earlier tool result that was cut.",
    {
        "type": "object",
        "properties": {"id": {"type": "string"}, "offset": {"type": "integer", "minimum": 0, "default": 0}},
        "required": ["id"],
    },
)


class Toolbox:
    """The tools of one agent in one attempt. `specs` is what the model is told of them."""

    def __init__(self, ctx: Context, config: Config) -> None:
        self._ctx = ctx
        self._config = config
        self._local: dict[str, Tool] = {}
        self._remote: dict[str, remote.Pinned] = {}
        self._results: dict[str, str] = {}
        self.specs: tuple[ToolSpec, ...] = ()

    async def open(self) -> None:
        """Find every tool. Raises FatalError naming one that this worker does not offer."""
        for name in self._config.tools:
            found = self._ctx.link.find(name)
            if found is None:
                raise FatalError(
                    f"agent {self._config.name!r} may use tool {name!r}, which this worker does not offer: start it with "
                    "the module that defines the tool, or take the tool off the agent"
                )
            self._local[offered_as(name)] = found
        for server in self._config.servers:
            for one in remote.pinned(server):
                self._remote[one.offered_as] = one
        specs = [_spec(name, tool) for name, tool in self._local.items()]
        specs += [ToolSpec(name, one.description, one.parameters) for name, one in self._remote.items()]
        self.specs = (*specs, _RECALL) if specs else ()

    def waits(self, name: str) -> bool:
        """Whether a call may have to wait for a person."""
        asked = {offered_as(one) for one in self._config.approve}
        return name in (HUMAN, ARTIFACT) or name in asked or name in self._remote

    async def answer(self, call: ToolCall) -> Message:
        """Return the message that answers a call: its result or its error, cut to what the agent takes."""
        try:
            text, failed = await self._text_of(call), False
        except StepError as error:
            if isinstance(error, UnknownOutcome):
                raise
            text, failed = f"{type(error).__name__}: {error}", True
        self._results[call.id] = text
        most = self._config.result_chars
        if len(text) > most:
            text = (
                f"{text[:most]}\n[cut: {len(text)} characters; recall_result(id={call.id!r}, offset={most}) reads on]"
            )
        message: dict[str, Any] = {"role": "tool", "id": call.id, "name": call.name, "content": text}
        return {**message, "error": True} if failed else message

    async def result(self, call: ToolCall) -> Any:
        """Return the result of a call that nobody but the node's author chose. Raises FatalError."""
        return await self._called(call)

    async def _text_of(self, call: ToolCall) -> str:
        if not isinstance(call.arguments, dict):
            raise FatalError("the arguments are no JSON object; write them anew")
        if call.name == RECALL and self.specs:
            return self._recalled(call.arguments)
        result = await self._called(call)
        return result if isinstance(result, str) else orjson.dumps(result).decode()

    async def _called(self, call: ToolCall) -> Any:
        given = call.arguments
        if call.name in self._remote:
            return await remote.call(self._ctx, self._remote[call.name], given, self._approval)
        tool = self._local.get(call.name)
        if tool is None:
            known = ", ".join(sorted([*self._local, *self._remote])) or "none"
            raise FatalError(f"there is no tool {call.name!r} for you; there are: {known}")
        bound = tool.bind(given)
        match tool.name:
            case "request_human_input":
                return await self._ctx.ask(bound["question"], schema=bound.get("schema"), name="question")
            case "create_text_artifact":
                return await self._ctx.artifact(bound["name"], bound["content"], media_type=bound["media_type"])
        if tool.takes_context and tool.orchestrates:
            raise FatalError(f"{tool.name!r} is a step, which no agent can call; make it a tool")
        return await self._recorded(tool, given, bound)

    async def _recorded(self, tool: Tool, given: Mapping[str, Any], bound: Mapping[str, Any]) -> Any:
        async def once(effect: int, key: str) -> Any:
            return await self._ctx.link.invoke(tool, bound, self._ctx.within(key))

        approval = await self._approval(tool.name, given)
        gate = f"tool:{tool.name}" if tool.breaker else None
        order = Order(dict(given), lambda: Terms(gate=gate), _nothing, _no_part, answered(tool, once))
        return told(await self._ctx.order(tool, bound, order, approval))

    async def _approval(self, tool: str, given: Mapping[str, Any]) -> Any:
        """Return a person's approval of exactly this call where one is needed. Raises Rejected."""
        if tool not in self._config.approve:
            return None
        return (await self._ctx.approval(tool, given, prompt=f"{self._config.name} wants to call {tool}")).wait_id

    def _recalled(self, given: Mapping[str, Any]) -> str:
        text = self._results.get(str(given.get("id")))
        if text is None:
            raise FatalError(f"there is no result {given.get('id')!r}; ids are those of your own calls")
        offset = given.get("offset", 0)
        if not isinstance(offset, int) or offset < 0:
            raise FatalError(f"offset must be a whole number of at least 0, not {offset!r}")
        most = self._config.result_chars
        rest = f"\n[{len(text) - offset - most} characters more]" if len(text) > offset + most else ""
        return text[offset : offset + most] + rest


def answered(tool: Tool, call: Callable[[int, str], Awaitable[Any]]) -> Callable[[int, str], Awaitable[dict[str, Any]]]:
    """Return the call as one whose failure is an answer, too, recorded as such: what the model was told stays what it was.

    What passes is tried again a few times. What may have happened and must not happen twice is left to a person.
    """
    policy = tool.retry or PATIENCE

    async def make(effect: int, key: str) -> dict[str, Any]:
        failures = 0
        while True:
            try:
                return {"$tool": "result", "value": await call(effect, key)}
            except (RetryableError, RateLimited, UnknownOutcome) as error:
                if isinstance(error, UnknownOutcome) and tool.effect == "manual":
                    raise
                failures += 1
                decided = retry.decide(
                    policy, failures=failures, failure=FailureClass(error.failure_class),
                    retry_after_s=error.retry_after_s, jitter=random.random(),
                )  # fmt: skip
                if not isinstance(decided, retry.RetryAt) or decided.delay_s > PATIENCE.cap_s:
                    return _failed(error)
                await asyncio.sleep(decided.delay_s)
            except StepError as error:
                return _failed(error)
            except Exception as error:
                if tool.effect == "manual":
                    raise
                return _failed(error)

    return make


def told(result: Any) -> Any:
    """Return what a recorded answer holds: the result, also one that a person gave. Raises FatalError for a failure."""
    match result:
        case {"$tool": "result", "value": value}:
            return value
        case {"$tool": "error", "message": message}:
            raise FatalError(message)
        case _:
            return result


def offered_as(name: str) -> str:
    """Return a tool's name as every provider takes it: letters, digits, '_' and '-', at most 64."""
    return name.replace(".", "__")[:64]


def _failed(error: Exception) -> dict[str, Any]:
    return {"$tool": "error", "message": f"{type(error).__name__}: {error}"[:2000]}


def _spec(name: str, tool: Tool) -> ToolSpec:
    told = (tool.function.__doc__ or tool.name).strip().split("\n\n")[0]
    schema = tool.arguments.model_json_schema()
    return ToolSpec(name, " ".join(told.split()), {k: v for k, v in schema.items() if k != "title"})


def _nothing(result: Any) -> None:
    return None


def _no_part() -> None:
    return None
