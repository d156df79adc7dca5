"""The models without a network: what they call, what they say, what they count, where a script goes on."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from durable_agent.agents.offline import OfflineModel, ScriptedModel, tokens_of
from durable_agent.errors import FatalError, RateLimited
from durable_agent.flow.model import ChatModel, Reply, Request, ToolCall, ToolSpec, Usage


class Heard:
    """What a listener was told, in order."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.usages: list[Usage] = []

    def text(self, delta: str) -> None:
        self.texts.append(delta)

    def usage(self, usage: Usage) -> None:
        self.usages.append(usage)


def spec(name: str = "look_up", **properties: Any) -> ToolSpec:
    return ToolSpec(name, "", {"type": "object", "properties": properties, "required": sorted(properties)})


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "text": text}


async def ask(request: Request, model: ChatModel | None = None) -> tuple[Reply, Heard]:
    heard = Heard()
    return await (model or OfflineModel()).reply(request, heard), heard


async def arguments(asked: str, **properties: Any) -> Any:
    reply, _ = await ask(Request([user(asked)], [spec(**properties)]))
    return reply.calls[0].arguments


async def test_the_first_tool_is_called_once_and_its_result_is_told() -> None:
    tools = [spec(query={"type": "string"}), spec("never")]
    messages = [user("Where is the ship?\nTell me soon.")]
    first, heard = await ask(Request(messages, tools))
    assert (first.calls[0].name, first.calls[0].arguments) == ("look_up", {"query": "Where is the ship?"})
    assert (first.finish, first.text, heard.texts) == ("tool_calls", "", [])
    messages += [first.message(), {"role": "tool", "id": first.calls[0].id, "name": "look_up", "content": "In  port"}]
    second, heard = await ask(Request(messages, tools))
    assert second.text == "You asked: Where is the ship?. look_up says: In port."
    assert (second.calls, second.finish) == ((), "stop")
    assert heard.texts == []  # it was there at once
    third, _ = await ask(Request([*messages, second.message(), user("And now?")], tools))
    assert third.calls[0].arguments == {"query": "And now?"}
    assert third.calls[0].id != first.calls[0].id


async def test_a_failed_tool_is_told_as_failed() -> None:
    call = ToolCall("1", "look_up", {})
    messages = [user("Go"), Reply("", (call,)).message(),
                {"role": "tool", "id": "1", "name": "look_up", "content": "no such ship", "error": True}]  # fmt: skip
    reply, _ = await ask(Request(messages, [spec()]))
    assert "look_up failed: no such ship" in reply.text


async def test_the_same_request_has_the_same_reply() -> None:
    request = Request([user("Count")], [spec(n={"type": "integer"})])
    assert (await ask(request))[0] == (await ask(request, OfflineModel()))[0]


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "integer"}, 1),
        ({"type": "number", "minimum": 5}, 5),
        ({"type": "integer", "maximum": 0}, 0),
        ({"type": "boolean"}, True),
        ({"enum": ["red", "green"]}, "red"),
        ({"const": 7}, 7),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, 1),
        ({"type": ["string", "null"]}, "Hello"),
        ({"type": "array", "items": {"type": "integer"}}, []),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 2}, [1, 1]),
        ({"type": "object", "properties": {"a": {"type": "integer"}, "b": {}}, "required": ["a"]}, {"a": 1}),
        ({"type": "string", "maxLength": 2}, "He"),
        ({}, "Hello"),
        (True, "Hello"),
    ],
)
async def test_arguments_fit_their_schema(schema: Any, value: Any) -> None:
    assert await arguments("Hello", x=schema) == {"x": value}


async def test_references_are_followed_and_circles_end() -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}, "required": ["next"]}
    parameters = {"properties": {"head": {"$ref": "#/$defs/node"}}, "required": ["head"], "$defs": {"node": node}}
    reply, _ = await ask(Request([user("Hello")], [ToolSpec("walk", "", parameters)]))
    assert "next" in reply.calls[0].arguments["head"]


@pytest.mark.parametrize(
    ("asked", "expression"),
    [("What is 12 * (3 + 4)?", "12 * (3 + 4)"), ("Add 2+2 please", "2+2"), ("Room 17", "1+1"), ("Hello", "1+1")],
)
async def test_an_expression_is_taken_from_the_text(asked: str, expression: str) -> None:
    assert await arguments(asked, expression={"type": "string"}) == {"expression": expression}


async def test_long_texts_are_cut() -> None:
    assert len((await arguments("x" * 900, q={"type": "string"}))["q"]) == 200


async def test_a_plan_has_three_lines() -> None:
    reply, _ = await ask(Request([{"role": "system", "text": "Make a Plan."}, user("Build a boat")]))
    assert [line[:3] for line in reply.text.splitlines()] == ["1. ", "2. ", "3. "]
    assert "Build a boat" in reply.text


async def test_without_tools_it_restates_what_was_asked() -> None:
    assert (await ask(Request([user("Hi")])))[0].text == "You asked: Hi."
    assert (await ask(Request([])))[0].text == "You asked: nothing."


async def test_tokens_are_counted_the_same_way_every_time() -> None:
    reply, heard = await ask(Request([user("a" * 400)]))
    assert reply.usage == Usage(100, tokens_of(reply.text))
    assert heard.usages == [Usage(100, 0), reply.usage]
    larger, _ = await ask(Request([user("a" * 400)], [spec(q={"type": "string"})]))
    assert larger.usage.input_tokens > 100
    assert (tokens_of(""), tokens_of("abcdefgh")) == (1, 2)


async def test_an_answer_ends_where_the_request_says() -> None:
    reply, _ = await ask(Request([user("one two three four five six")], max_tokens=3))
    assert (reply.text, reply.finish) == ("You asked: o", "length")
    assert reply.usage.output_tokens == 3


async def test_a_script_goes_on_where_the_conversation_is() -> None:
    lines = [
        Reply("", (ToolCall("1", "look_up", {"q": "x"}),)),
        RateLimited("slow down"),
        lambda request: Reply(request.messages[-1]["text"].upper()),
    ]
    first, _ = await ask(Request([user("Go")]), ScriptedModel(lines))
    assert (first.calls[0].name, first.finish, first.model) == ("look_up", "tool_calls", "scripted")
    with pytest.raises(RateLimited, match="slow down"):
        await ask(Request([user("Go"), first.message()]), ScriptedModel(lines))
    said = Request([user("Go"), first.message(), first.message(), user("end")])
    third, _ = await ask(said, ScriptedModel(lines))
    assert third.text == "END"
    with pytest.raises(FatalError, match="line 4"):
        await ask(Request([*said.messages, third.message()]), ScriptedModel(lines))


async def test_a_scripted_usage_is_kept() -> None:
    reply, heard = await ask(Request([user("Go")]), ScriptedModel([Reply("ok", usage=Usage(7, 3, 2, 1))]))
    assert asdict(reply.usage) == asdict(heard.usages[-1]) == asdict(Usage(7, 3, 2, 1))
