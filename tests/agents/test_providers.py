"""The four providers against their wire formats on a loopback port, and the catalog that names their models."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from typing import Any

import httpx2
import orjson
import pytest
from botocore.exceptions import EndpointConnectionError

from durable_agent.agents import providers
from durable_agent.agents.catalog import Catalog
from durable_agent.agents.providers import PydanticAIModel
from durable_agent.errors import FatalError, RetryableError
from durable_agent.flow.model import ChatModel, Reply, Request, ToolCall, Usage
from tests.support.asking import ASKED, LOOK, MODELS, SECRET, ask, environment, failure
from tests.support.providers import USED, Answer, Call, ProviderStub

pytestmark = pytest.mark.usefixtures("no_credentials")


async def test_an_answer_comes_in_pieces_and_whole(stub: ProviderStub, model: ChatModel, provider: str) -> None:
    stub.script(Answer("It is in  port."))
    reply, heard = await ask(model, Request(ASKED, max_tokens=77, temperature=0.25, key="run-1/step-2"))
    assert (reply.text, reply.calls, reply.finish, reply.raw) == ("It is in  port.", (), "stop", None)
    assert heard.texts == ["It ", "is ", "in  ", "port."]
    assert reply.model == MODELS[provider].partition(":")[2]
    seen = stub.seen[0]
    assert seen.headers["idempotency-key"] == "run-1/step-2"
    body = json.dumps(seen.body)
    assert "Be brief." in body
    assert "Where is the ship?" in body
    assert "0.25" in body
    assert "77" in body
    assert SECRET not in body + repr(model)


async def test_an_answer_with_half_a_character_can_be_stored(stub: ProviderStub, model: ChatModel) -> None:
    stub.script(Answer("a \ud800 b \U0001f600", [Call("look_up", {"q": "x\ude00"}, "a")]))
    with suppress(RetryableError):  # a library may not read such an answer
        reply, _ = await ask(model, Request(ASKED, [LOOK]))
        assert reply.text == "a \ufffd b \U0001f600"
        assert orjson.dumps(reply.to_json())


async def test_usage_counts_what_was_cached(stub: ProviderStub, model: ChatModel, provider: str) -> None:
    # OpenAI and Google do not say what they wrote to their caches.
    written = 20 if provider in ("anthropic", "bedrock") else 0
    usage = Usage(100, 7, cache_read_tokens=30, cache_write_tokens=written)
    stub.script(Answer("Yes.", usage=usage))
    reply, heard = await ask(model)
    assert reply.usage == heard.usages[-1] == usage
    assert [u.input_tokens for u in heard.usages] == [100] * len(heard.usages)


async def test_a_tool_is_called_and_its_result_given_back(stub: ProviderStub, model: ChatModel) -> None:
    stub.script(Answer("Let me see.", [Call("look_up", {"q": "ship"}, "a"), Call("look_up", {"q": "port"}, "b")]))
    stub.script(Answer("In port."))
    first, _ = await ask(model, Request(ASKED, [LOOK]))
    assert first.finish == "tool_calls"
    assert first.calls == (ToolCall("a", "look_up", {"q": "ship"}), ToolCall("b", "look_up", {"q": "port"}))
    results = [
        {"role": "tool", "id": "a", "name": "look_up", "content": "berth nine"},
        {"role": "tool", "id": "b", "name": "look_up", "content": "the sea is closed", "error": True},
    ]
    second, _ = await ask(model, Request([*ASKED, first.message(), *results], [LOOK]))
    assert second.text == "In port."
    asked, told = (json.dumps(seen.body) for seen in stub.seen)
    assert "look_up" in asked
    assert "Look it up." in asked
    assert '"required": ["q"]' in asked
    assert "Let me see." in told
    assert "berth nine" in told
    assert "the sea is closed" in told
    assert told.index("Let me see.") < told.index("berth nine") < told.index("the sea is closed")


async def test_a_failed_tool_is_marked_where_the_provider_can(
    stub: ProviderStub, model: ChatModel, provider: str
) -> None:
    call = ToolCall("a", "look_up", {"q": "ship"})
    result = {"role": "tool", "id": "a", "name": "look_up", "content": "no such ship", "error": True}
    await ask(model, Request([*ASKED, Reply("", (call,)).message(), result], [LOOK]))
    mark = {"anthropic": '"is_error": true', "bedrock": '"status": "error"', "google": '"error"', "openai": '"tool"'}
    assert mark[provider] in json.dumps(stub.seen[0].body["contents" if provider == "google" else "messages"])


async def test_reasoning_goes_back_to_its_own_provider_only(
    stub: ProviderStub, model: ChatModel, provider: str
) -> None:
    stub.script(Answer("Let me see.", [Call("look_up", {"q": "ship"}, "a")], thought="A riddle."))
    first, heard = await ask(model, Request(ASKED, [LOOK]))
    assert (first.text, "".join(heard.texts)) == ("Let me see.", "Let me see.")
    again = Reply.from_json(json.loads(json.dumps(first.to_json())))
    assert again == first
    result = {"role": "tool", "id": "a", "name": "look_up", "content": "berth nine"}
    await ask(model, Request([*ASKED, again.message(), result], [LOOK]))
    sent = json.dumps(stub.seen[-1].body)
    signature = "c2lnbmVk" if provider == "google" else "signed"
    assert (signature in sent) == (provider != "openai")
    other = "google" if provider == "anthropic" else "anthropic"
    await ask(
        Catalog.from_env(environment(stub.url)).resolve(MODELS[other]),
        Request([*ASKED, again.message(), result], [LOOK]),
    )
    moved = json.dumps(stub.seen[-1].body)
    assert "Let me see." in moved
    assert "berth nine" in moved
    assert "A riddle." not in moved
    assert signature not in moved


async def test_an_unreadable_form_of_another_version_is_passed_over(
    stub: ProviderStub, model: ChatModel, provider: str
) -> None:
    message = {"role": "assistant", "text": "I was here.", "raw": {"provider": provider, "response": {"kind": "gone"}}}
    await ask(model, Request([*ASKED, message, {"role": "user", "text": "And now?"}]))
    assert "I was here." in json.dumps(stub.seen[0].body)


@pytest.mark.parametrize("provider", ["anthropic", "bedrock", "openai"])  # Google's come as an object
@pytest.mark.parametrize("written", ['{"q": ', "[1]", "nonsense"])
async def test_arguments_that_are_no_object_stay_as_written(
    stub: ProviderStub, model: ChatModel, provider: str, written: str
) -> None:
    stub.script(Answer(calls=[Call("look_up", written)]))
    reply, _ = await ask(model, Request(ASKED, [LOOK]))
    assert reply.calls[0].arguments == written
    result = {"role": "tool", "id": "call_1", "name": "look_up", "content": "these are no arguments", "error": True}
    second, _ = await ask(model, Request([*ASKED, reply.message(), result], [LOOK]))
    assert second.text


async def test_a_tool_may_have_any_name(stub: ProviderStub, model: ChatModel) -> None:
    tool = replace(LOOK, name="harbour.look_up/" + "x" * 70)
    stub.script(Answer("First, nothing."))
    await ask(model, Request(ASKED, [tool]))
    names = {word for word in json.dumps(stub.seen[0].body).split('"') if word.startswith("harbour")}
    wire = names.pop()
    assert not names
    assert len(wire) <= 64
    assert wire.replace("_", "").replace("-", "").isalnum()
    stub.script(Answer(calls=[Call(wire, {"q": "x"})]))
    reply, _ = await ask(model, Request(ASKED, [tool]))
    assert reply.calls[0].name == tool.name


@pytest.mark.parametrize("finish", ["length", "refused"])
async def test_it_says_why_it_ended(stub: ProviderStub, model: ChatModel, finish: str) -> None:
    stub.script(Answer("As far as", finish=finish))
    reply, _ = await ask(model)
    assert (reply.text, reply.finish) == ("As far as", finish)


async def test_a_conversation_may_be_of_any_shape(stub: ProviderStub, model: ChatModel, provider: str) -> None:
    messages = [
        *ASKED,
        {"role": "user", "text": "Quick!"},
        {"role": "assistant", "text": ""},
        {"role": "user", "text": "Well?"},
        {"role": "assistant", "text": "In port."},
        {"role": "system", "text": "Be briefer."},
        {"role": "user", "text": "Which?"},
    ]
    reply, _ = await ask(model, Request(messages))
    assert reply.text
    sent = json.dumps(stub.seen[0].body)
    assert all(text in sent for text in ("Quick!", "Well?", "In port.", "Be briefer.", "Which?"))
    if provider != "openai":  # the others take turns
        turns = stub.seen[0].body["contents" if provider == "google" else "messages"]
        assert [turn["role"] for turn in turns] == ["user", "model" if provider == "google" else "assistant", "user"]


async def test_a_role_that_nobody_has_is_refused(model: ChatModel) -> None:
    with pytest.raises(FatalError, match="'robot'"):
        await ask(model, Request([{"role": "robot", "text": "beep"}]))


async def test_a_prompt_with_tools_is_cached_where_it_must_be_asked_for(stub: ProviderStub) -> None:
    for name, mark in (("anthropic", "cache_control"), ("bedrock", "cachePoint")):
        model = Catalog.from_env(environment(stub.url)).resolve(MODELS[name])
        await ask(model)
        await ask(model, Request(ASKED, [LOOK]))
        once, agent = (json.dumps(seen.body) for seen in stub.seen[-2:])
        assert mark not in once
        assert mark in agent


async def test_bedrock_takes_a_token() -> None:
    """It goes by TLS only, so it is looked at before it is sent."""
    sent: list[Any] = []

    def stop(request: Any, **_: Any) -> None:
        sent.append(request.headers["Authorization"])
        raise EndpointConnectionError(endpoint_url=request.url)

    def make() -> Any:
        made = providers.bedrock("us.amazon.nova-pro-v1:0", region="us-east-1", token="token-1")
        made.client.meta.events.register("before-send", stop)
        return made

    await failure(PydanticAIModel("bedrock", "nova", lambda: 1, make=make), RetryableError)
    assert sent == [b"Bearer token-1"]
    catalog = Catalog.from_env({"AWS_REGION": "us-east-1", "AWS_BEARER_TOKEN_BEDROCK": "token-1",
                                "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": "http://127.0.0.1:1"})  # fmt: skip
    error, _ = await failure(catalog.resolve("default"), FatalError)
    assert "Bearer authorization" in str(error)


async def test_bedrock_without_credentials_is_refused(stub: ProviderStub) -> None:
    env = {"AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": stub.url}
    error, _ = await failure(Catalog.from_env(env).resolve(MODELS["bedrock"]), FatalError)
    assert "credentials" in str(error)
    assert stub.seen == []


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    code = (
        "import sys, durable_agent.agents.catalog, durable_agent.agents.providers as p\n"
        "m = durable_agent.agents.catalog.Catalog.from_env({'OPENAI_API_KEY': 'k'}).resolve()\n"
        "print([n for n in ('pydantic_ai', 'genai_prices', 'anthropic', 'openai', 'google.genai', 'boto3') if n in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


async def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, provider: str) -> None:
    library = {"google": "google.genai.types", "bedrock": "boto3"}.get(provider, provider)
    monkeypatch.setitem(sys.modules, library, None)
    model = Catalog.from_env(environment("http://127.0.0.1:1")).resolve(MODELS[provider])
    error, _ = await failure(model, FatalError)
    assert 'pip install "durable-agent[llm]"' in str(error)


async def test_the_stub_answers_in_one_piece_too(stub: ProviderStub) -> None:
    paths = {
        "/v1/chat/completions": ("gpt-4o", ["choices", 0, "message", "content"]),
        "/v1/messages": ("claude", ["content", 0, "text"]),
        "/v1beta/models/gemini:generateContent": ("", ["candidates", 0, "content", "parts", 0, "text"]),
        "/model/nova/converse": ("", ["output", "message", "content", 0, "text"]),
    }
    async with httpx2.AsyncClient(base_url=stub.url, trust_env=False) as http:
        for path, (name, where) in paths.items():
            stub.script(Answer("Hello", usage=USED))
            found = (await http.post(path, json={"model": name, "messages": []})).json()
            for step in where:
                found = found[step]
            assert found == "Hello"


def test_the_stub_serves_other_processes() -> None:
    command = [sys.executable, "-m", "tests.support.providers", "--port", "0"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process,
        httpx2.Client(trust_env=False) as http,
    ):
        try:
            assert process.stdout is not None
            url = f"http://127.0.0.1:{process.stdout.readline().strip()}"

            def post(path: str, body: Any) -> Any:
                return http.post(url + path, json=body).json()

            post("/script", [{"text": "Scripted"}])
            ask = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
            said = [post("/v1/chat/completions", ask)["choices"][0]["message"]["content"] for _ in range(2)]
            assert said == ["Scripted", "You said: Hi"]
            assert [path for path, *_ in post("/seen", None)] == ["/v1/chat/completions"] * 2
        finally:
            process.kill()
