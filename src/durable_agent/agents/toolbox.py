"""What one agent may call: its worker's tools, those of its tool servers, and what belongs to the run itself.

Whatever comes of a call is an answer to the model: its result, or an error that says which argument is wrong. Only what
nobody knows the outcome of, and what a person has to decide, ends the attempt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import orjson

from durable_agent.agents import remote
from durable_agent.agents.answers import patient
from durable_agent.agents.config import Config
from durable_agent.agents.tools import create_text_artifact, request_human_input
from durable_agent.core.text import said
from durable_agent.errors import FatalError, RateLimited, RetryableError, StepError, UnknownOutcome
from durable_agent.flow.again import ToolFailed
from durable_agent.flow.context import Context
from durable_agent.flow.effects import Order
from durable_agent.flow.model import Message, ToolCall, ToolSpec
from durable_agent.flow.tools import Tool

RECALL = "recall_result"
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
        self._results: dict[str, str | None] = {}
        self.specs: tuple[ToolSpec, ...] = ()

    async def open(self) -> None:
        """Find every tool. Raises FatalError naming one that this worker does not offer, or that is to be approved and is none."""
        for name in self._config.tools:
            found = self._ctx.link.find(name)
            if found is None:
                raise FatalError(
                    f"agent {self._config.name!r} may use tool {name!r}, which this worker does not offer: start it with "
                    "the module that defines the tool, or take the tool off the agent"
                )
            self._local[name] = found
        for server in self._config.servers:
            self._remote |= {one.name: one for one in remote.pinned(server)}
        self._guarded()
        specs = [_spec(tool) for tool in self._local.values()]
        specs += [ToolSpec(name, one.description, one.parameters) for name, one in self._remote.items()]
        self.specs = (*specs, _RECALL) if specs else ()

    def _guarded(self) -> None:
        """Check that what a person is to approve is there: a name that is misspelt would guard nothing."""
        known = {*self._local, *self._remote}
        for name in self._config.approve:
            if known and name not in known:
                raise FatalError(
                    f"agent {self._config.name!r} has calls of {name!r} approved, which is none of its tools; there are: "
                    f"{', '.join(sorted(known))}"
                )

    def alone(self, name: str) -> bool:
        """Whether a call is made after the others and by itself: it may wait for a person, or builds on what they did."""
        own = (request_human_input.name, create_text_artifact.name, RECALL)
        return name in own or name in self._config.approve or name in self._remote

    async def answer(self, call: ToolCall) -> Message:
        """Return the message that answers a call: its result or its error, cut to what the agent takes.

        What nobody can answer now is raised, and the step is tried again: what the model is told stays what it was.
        """
        place = self._place(call.id)
        try:
            text, failed = await self._text_of(call), False
        except ToolFailed as error:
            text, failed = said(error, None), True
        except (RetryableError, RateLimited, UnknownOutcome):
            raise
        except StepError as error:
            text, failed = f"{type(error).__name__}: {said(error, None)}", True
        self._results[place] = text
        most = self._config.result_chars
        if len(text) > most:
            text = f"{text[:most]}\n[cut: {len(text)} characters; recall_result(id={place!r}, offset={most}) reads on]"
        message: dict[str, Any] = {"role": "tool", "id": call.id, "name": call.name, "content": text}
        return {**message, "error": True} if failed else message

    def remember(self, said: Sequence[Message]) -> None:
        """Keep the results of an earlier run's conversation, which may have been cut, for `recall_result`."""
        for message in said:
            if message["role"] == "tool":
                self._results[self._place(message["id"])] = message["content"]

    def _place(self, id: str) -> str:
        """Return where a result is kept, taken from now on: some providers give several calls one id."""
        place, number = id, 1
        while place in self._results:
            number += 1
            place = f"{id}#{number}"
        self._results[place] = None
        return place

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
        if tool is request_human_input:
            await self._approval(tool.name, given)
            await self._ctx.calls.counted(tool.name)
            return await tool(self._ctx, **bound)
        if tool.takes_context and tool.orchestrates:
            raise FatalError(f"{tool.name!r} is a step, which no agent can call; make it a tool")
        return await self._recorded(tool, given, bound)

    async def _recorded(self, tool: Tool, given: Mapping[str, Any], bound: Mapping[str, Any]) -> Any:
        async def once(effect: int, key: str) -> Any:
            return await self._ctx.link.invoke(tool, bound, self._ctx.within(key))

        approval = await self._approval(tool.name, given)
        return await self._ctx.order(tool, bound, Order(dict(given), patient(tool, once), final=True), approval)

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


@cache
def _spec(tool: Tool) -> ToolSpec:
    told = (tool.function.__doc__ or tool.name).strip().split("\n\n")[0]
    schema = tool.arguments.model_json_schema()
    return ToolSpec(tool.name, " ".join(told.split()), {k: v for k, v in schema.items() if k != "title"})
