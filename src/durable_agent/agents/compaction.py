"""Compaction: a conversation that nears its model's window is made smaller, in ways a resumed attempt makes the same.

First the tool results that are old and large give way to a line that says how to recall them; only when that is not enough,
what was said before the last exchanges is summed up by the model, as a recorded call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from durable_agent.agents.config import Config
from durable_agent.flow.context import Context
from durable_agent.flow.llm import Conversation
from durable_agent.flow.model import Message

KEPT_MESSAGES: Final = 6
STUB_CHARS: Final = 200
SUMMARY_TOKENS: Final = 1024
_ASK: Final = (
    "Sum up the work so far for yourself: the task, what was found with its sources, what was decided, what is still open. "
    "Facts only, as short as it can be without losing any that may be needed."
)


async def compact(ctx: Context, said: Conversation, config: Config, most_tokens: int) -> None:
    """Make the conversation smaller than so many tokens, as far as that is possible."""
    shorten(said)
    if said.bound_tokens(()) <= most_tokens:
        return
    await _sum_up(ctx, said, config, most_tokens)


def shorten(said: Conversation) -> None:
    """Replace large tool results before the last exchanges by their beginning and how to recall them."""
    edge = _edge(said.messages)
    said.messages[:edge] = [_stub(message) for message in said.messages[:edge]]
    said.seen = said.tokens = 0


async def _sum_up(ctx: Context, said: Conversation, config: Config, most_tokens: int) -> None:
    edge = _edge(said.messages)
    system = [message for message in said.messages[:edge] if message["role"] == "system"]
    old = [message for message in said.messages[:edge] if message["role"] != "system"]
    if not old:
        return
    # What is summed up must itself fit: the oldest of it goes first.
    while len(old) > 1 and Conversation(list(old)).bound_tokens(()) > most_tokens:
        old = _without_first(old)
    asked = [*old, {"role": "user", "text": _ASK}]
    reply = await ctx.llm(asked, model=config.model, max_tokens=min(SUMMARY_TOKENS, config.max_tokens))
    summary = {"role": "user", "text": f"Summary of the work so far:\n{reply.text}"}
    said.messages[:edge] = [*system, summary]
    said.seen = said.tokens = 0


def _edge(messages: Sequence[Message]) -> int:
    """Return where the last exchanges begin: never between a call and its result."""
    edge = max(0, len(messages) - KEPT_MESSAGES)
    while edge > 0 and messages[edge]["role"] == "tool":
        edge -= 1
    return edge


def _without_first(messages: Sequence[Message]) -> list[Message]:
    """Return the messages without the first and without results whose call would be gone."""
    rest = list(messages[1:])
    while rest and rest[0]["role"] == "tool":
        rest = rest[1:]
    return rest


def _stub(message: Message) -> Message:
    if message["role"] != "tool" or len(message["content"]) <= 4 * STUB_CHARS:
        return message
    text = message["content"]
    note = f"{text[:STUB_CHARS]}… [{len(text)} characters; recall_result(id={message['id']!r}, offset=0) shows them]"
    return {**message, "content": note}
