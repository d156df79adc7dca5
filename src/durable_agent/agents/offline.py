"""Models without a network: one that answers from the request alone, and one that follows a script.

Both are deterministic, free and stateless: a resumed agent, whose recorded replies are in its messages, gets the answer
that it would have got in any other process.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

from durable_agent.errors import FatalError
from durable_agent.flow.model import Listener, Message, Reply, Request, ToolCall, ToolSpec, Usage

Line = Reply | Exception | Callable[[Request], Reply]

WINDOW_TOKENS = 128_000
_TEXT_CHARS = 200
_SUMMARY_CHARS = 300
_MAX_NESTED = 8
_ARITHMETIC = re.compile(r"[-+(]*\d[\d.\s]*(?:[-+*/%(]+[\d.\s()]*\d[\d.\s)]*)+")


class OfflineModel:
    """Calls the first tool it is offered once for each thing it is asked, then answers with what came of it."""

    provider = "offline"
    window_tokens = WINDOW_TOKENS

    def __init__(self, name: str = "offline") -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    async def ready(self) -> None:
        """Return: there is nothing to wait for."""

    async def reply(self, request: Request, listener: Listener) -> Reply:
        """Return the answer. It is there at once: the listener hears what it used, and no words that would come before it."""
        return self._said(request, self._answer(request), listener)

    def _answer(self, request: Request) -> Reply:
        asked, since = _turn(request.messages)
        if request.tools and not any(m.get("calls") for m in since):
            return Reply("", (_call(request.tools[0], asked, request.messages),))
        if "plan" in _system(request.messages).lower():
            return Reply(_plan(asked))
        results = [m for m in since if m["role"] == "tool"]
        return Reply(_report(asked, results) if results else f"You asked: {_line(asked) or 'nothing'}.")

    def _said(self, request: Request, reply: Reply, listener: Listener) -> Reply:
        """Tell the listener of an answer and return it, cut to what the request allows, with its tokens and its end."""
        text = _first_tokens(reply.text, request.max_tokens)
        cut = len(text) < len(reply.text)
        finish = "length" if cut else "tool_calls" if reply.calls and reply.finish == "stop" else reply.finish
        total = reply.usage if reply.usage.tokens else Usage(_input_tokens(request), _output_tokens(text, reply.calls))
        listener.usage(replace(total, output_tokens=0))
        listener.usage(total)
        return replace(reply, text=text, finish=finish, usage=total, model=reply.model or self.name)


class ScriptedModel(OfflineModel):
    """Answers with a script's lines: the one whose number is how many answers the conversation already holds.

    A line is a reply, an exception to be raised, or a function of the request. Raises FatalError after the last.
    """

    def __init__(self, script: Sequence[Line], name: str = "scripted") -> None:
        super().__init__(name)
        self._script = tuple(script)

    def _answer(self, request: Request) -> Reply:
        number = sum(message["role"] == "assistant" for message in request.messages)
        if number >= len(self._script):
            raise FatalError(
                f"the script of model {self.name!r} has {len(self._script)} lines; line {number + 1} is asked"
            )
        line = self._script[number]
        if isinstance(line, Exception):
            raise line
        return line if isinstance(line, Reply) else line(request)


def tokens_of(text: str) -> int:
    """Return about how many tokens a text has: four characters each, at least one."""
    return max(1, len(text) // 4)


def _turn(messages: Sequence[Message]) -> tuple[str, Sequence[Message]]:
    """Return what the user last asked and what was said since."""
    for index in range(len(messages) - 1, -1, -1):
        if messages[index]["role"] == "user":
            return str(messages[index]["text"]), messages[index + 1 :]
    return "", messages


def _system(messages: Sequence[Message]) -> str:
    return "\n".join(str(m["text"]) for m in messages if m["role"] == "system")


def _line(text: str) -> str:
    """Return a text's first line that says something, cut."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")[:_TEXT_CHARS]


def _plan(asked: str) -> str:
    goal = _line(asked) or "the task"
    return f"1. Gather what is known about: {goal}\n2. Work it out: {goal}\n3. Check the result and report it"


def _report(asked: str, results: Sequence[Message]) -> str:
    said = (f"{m['name']} {'failed' if m.get('error') else 'says'}: {_short(str(m['content']))}" for m in results)
    return f"You asked: {_line(asked) or 'nothing'}. " + " ".join(f"{one}." for one in said)


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _SUMMARY_CHARS else f"{flat[:_SUMMARY_CHARS]}…"


def _call(tool: ToolSpec, asked: str, messages: Sequence[Message]) -> ToolCall:
    """Return a call whose id is the same for the same place of the same conversation."""
    seed = json.dumps([tool.name, len(messages), asked]).encode()
    return ToolCall(
        f"call_{sha256(seed).hexdigest()[:16]}", tool.name, _object(tool.parameters, tool.parameters, asked, 0)
    )


def _object(schema: Mapping[str, Any], root: Mapping[str, Any], asked: str, depth: int) -> dict[str, Any]:
    properties = schema.get("properties", {})
    return {name: _value(name, properties.get(name, {}), root, asked, depth + 1) for name in schema.get("required", ())}


def _value(name: str, given: Any, root: Mapping[str, Any], asked: str, depth: int) -> Any:
    """Return a value that a schema allows, as far as this knows schemas."""
    schema = _resolved(given, root)
    if depth > _MAX_NESTED:
        return None
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    if branch := next((schema[key][0] for key in ("anyOf", "oneOf", "allOf") if schema.get(key)), None):
        return _value(name, branch, root, asked, depth + 1)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    match kind[0] if isinstance(kind, list) else kind:
        case "integer" | "number":
            return _number(schema)
        case "boolean":
            return True
        case "null":
            return None
        case "array":
            return [
                _value(name, schema.get("items", {}), root, asked, depth + 1) for _ in range(schema.get("minItems", 0))
            ]
        case "object":
            return _object(schema, root, asked, depth)
        case _:
            return _string(name, schema, asked)


def _resolved(schema: Any, root: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a schema, or what its `$ref` into the same document points to."""
    if not isinstance(schema, Mapping):
        return {}
    found: Any = schema
    if str(schema.get("$ref", "")).startswith("#/"):
        found = root
        for part in schema["$ref"][2:].split("/"):
            found = found.get(part, {})
    return found if isinstance(found, Mapping) else {}


def _number(schema: Mapping[str, Any]) -> Any:
    low, high = schema.get("minimum", 1), schema.get("maximum", 1)
    return low if low > 1 else min(1, high)


def _string(name: str, schema: Mapping[str, Any], asked: str) -> str:
    if name == "expression":
        return _expression(asked)
    return _line(asked)[: schema.get("maxLength", _TEXT_CHARS)]


def _expression(asked: str) -> str:
    found = max((m.group().strip() for m in _ARITHMETIC.finditer(asked)), key=len, default="")
    return found if found and found.count("(") == found.count(")") else "1+1"


def _first_tokens(text: str, limit: int) -> str:
    """Return as much of a text as so many tokens hold."""
    return text if tokens_of(text) <= limit else text[: limit * 4]


def _input_tokens(request: Request) -> int:
    return tokens_of("".join(_written(request)))


def _written(request: Request) -> Iterator[str]:
    for message in request.messages:
        yield str(message.get("text") or message.get("content") or "")
        if calls := message.get("calls"):
            yield json.dumps(calls, sort_keys=True)
    for tool in request.tools:
        yield json.dumps([tool.name, tool.description, dict(tool.parameters)], sort_keys=True)


def _output_tokens(text: str, calls: Sequence[ToolCall]) -> int:
    return tokens_of(text + "".join(call.name + json.dumps(call.arguments, sort_keys=True) for call in calls))
