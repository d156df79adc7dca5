"""What W9's agents call; the client of the provider is loaded here, before workers are forked."""

from __future__ import annotations

import os
from typing import Any

import orjson
import pydantic_ai.models.openai  # noqa: F401

from durable_agent import Context, step, tool
from durable_agent.flow.model import Listener, Reply, Request, ToolCall, Usage
from harness.loopback import Connection


class Plain:
    """The provider over a socket and nothing else: what is left is what the engine costs."""

    provider, name, window_tokens = "plain", "stub", 128_000

    def __init__(self) -> None:
        self._idle: list[Connection] = []

    async def ready(self) -> None:
        """See `flow.model.ChatModel.ready`."""

    async def reply(self, request: Request, listener: Listener) -> Reply:
        """See `flow.model.ChatModel.reply`."""
        port = int(os.environ["OPENAI_BASE_URL"].rsplit(":", 1)[1].split("/")[0])
        connection = self._idle.pop() if self._idle else Connection(port)
        messages = [
            {"role": "assistant" if m["role"] == "assistant" else "user", "content": m} for m in request.messages
        ]
        body = orjson.dumps({"model": self.name, "messages": messages, "tools": [t.name for t in request.tools]})
        status, content = await connection.post("/v1/chat/completions", body, {"idempotency-key": request.key})
        if status != 200:
            raise RuntimeError(f"the provider answered {status}")
        self._idle.append(connection)
        first, _, last = (orjson.loads(line[6:]) for line in content.split(b"\n\n")[:3])
        delta, used = first["choices"][0]["delta"], last["usage"]
        usage = Usage(used["prompt_tokens"], used["completion_tokens"])
        calls = tuple(
            ToolCall(c["id"], c["function"]["name"], orjson.loads(c["function"]["arguments"]))
            for c in delta.get("tool_calls", ())
        )
        if text := delta.get("content", ""):
            listener.text(text)
        listener.usage(usage)
        return Reply(text, calls, "tool_calls" if calls else "stop", usage, self.name)


plain = Plain()


@tool("work", effect="idempotent")
async def work(n: int = 0) -> dict[str, Any]:
    """Do a piece of work."""
    return {"did": n}


@step("reserves")
async def reserves(ctx: Context, times: int) -> int:
    """Ask the offline model so many times."""
    for number in range(times):
        await ctx.llm(f"number {number}", model="offline", max_tokens=100)
    return times
