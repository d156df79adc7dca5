"""The stubbed providers' models, and what comes of asking one."""

from __future__ import annotations

import asyncio

import pytest

from durable_agent.errors import StepError
from durable_agent.flow.model import ChatModel, Reply, Request, ToolSpec, Usage

MODELS = {
    "anthropic": "anthropic:claude-haiku-4-5",
    "openai": "openai:gpt-4o",
    "google": "google:gemini-2.5-flash",
    "bedrock": "bedrock:us.anthropic.claude-haiku-4-5-20251001-v1:0",
}


SECRET = "sk-very-secret"


LOOK = ToolSpec(
    "look_up", "Look it up.", {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]}
)


ASKED = [{"role": "system", "text": "Be brief."}, {"role": "user", "text": "Where is the ship?"}]


class Heard:
    """What a listener was told; `spoken` is set with the first text."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.usages: list[Usage] = []
        self.spoken = asyncio.Event()

    def text(self, delta: str) -> None:
        self.texts.append(delta)
        self.spoken.set()

    def usage(self, usage: Usage) -> None:
        self.usages.append(usage)


def environment(url: str) -> dict[str, str]:
    return {
        "ANTHROPIC_API_KEY": SECRET, "ANTHROPIC_BASE_URL": url, "OPENAI_API_KEY": SECRET, "OPENAI_BASE_URL": f"{url}/v1",
        "GEMINI_API_KEY": SECRET, "GEMINI_BASE_URL": url, "AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": url,
    }  # fmt: skip


async def ask(model: ChatModel, request: Request | None = None) -> tuple[Reply, Heard]:
    heard = Heard()
    return await model.reply(request or Request(ASKED), heard), heard


async def failure(model: ChatModel, kind: type[StepError]) -> tuple[StepError, Heard]:
    heard = Heard()
    with pytest.raises(kind) as caught:
        await model.reply(Request(ASKED), heard)
    assert type(caught.value) is kind
    return caught.value, heard
