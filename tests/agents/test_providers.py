"""The four providers against their wire formats on a loopback port, and the catalog that names their models."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx2
import pytest
from botocore.exceptions import EndpointConnectionError

from durable_agent.agents import providers
from durable_agent.agents.catalog import Available, Catalog, window_tokens
from durable_agent.agents.offline import OfflineModel, ScriptedModel
from durable_agent.agents.prices import price_of
from durable_agent.agents.providers import PydanticAIModel
from durable_agent.errors import FatalError, RateLimited, RetryableError, StepError, UnknownOutcome
from durable_agent.flow.model import ChatModel, Reply, Request, ToolCall, ToolSpec, Usage
from tests.support.providers import USED, Answer, Call, Failure, ProviderStub, provider_stub

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


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No keys, no proxies, no role of the machine: what the process's own environment says stays out."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
        monkeypatch.setenv(name.lower(), "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")


@pytest.fixture
async def stub() -> AsyncIterator[ProviderStub]:
    async with provider_stub() as made:
        yield made


@pytest.fixture(params=sorted(MODELS))
def provider(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model(stub: ProviderStub, provider: str) -> ChatModel:
    return Catalog.from_env(environment(stub.url)).resolve(MODELS[provider])


async def ask(model: ChatModel, request: Request | None = None) -> tuple[Reply, Heard]:
    heard = Heard()
    return await model.reply(request or Request(ASKED), heard), heard


async def failure(model: ChatModel, kind: type[StepError]) -> tuple[StepError, Heard]:
    heard = Heard()
    with pytest.raises(kind) as caught:
        await model.reply(Request(ASKED), heard)
    assert type(caught.value) is kind
    return caught.value, heard


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


@pytest.mark.parametrize("status", [429, 503, 529])
async def test_to_be_asked_to_wait_is_to_be_limited(stub: ProviderStub, model: ChatModel, status: int) -> None:
    stub.script(Failure(status, {"Retry-After": "7"}), Failure(status))
    error, _ = await failure(model, RateLimited)
    assert error.retry_after_s == 7
    assert f"HTTP {status}: it does not work" in str(error)
    error, _ = await failure(model, RateLimited)
    assert error.retry_after_s is None
    assert len(stub.seen) == 2, "somebody tried again by itself"


async def test_a_date_to_wait_for_is_understood(stub: ProviderStub, model: ChatModel) -> None:
    stub.script(Failure(429, {"Retry-After": format_datetime(datetime.now(UTC) + timedelta(days=2), usegmt=True)}))
    error, _ = await failure(model, RateLimited)
    assert error.retry_after_s is not None
    assert 86_400 < error.retry_after_s <= 172_800


@pytest.mark.parametrize("status", [500, 502, 504, 408])
async def test_a_provider_that_fails_may_be_asked_again(stub: ProviderStub, model: ChatModel, status: int) -> None:
    stub.script(Failure(status))
    await failure(model, RetryableError)
    assert len(stub.seen) == 1, "somebody tried again by itself"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
async def test_a_refusal_is_final_and_shows_no_key(stub: ProviderStub, model: ChatModel, status: int) -> None:
    stub.script(Failure(status, message=f"Not with {SECRET}, my friend"))
    error, heard = await failure(model, FatalError)
    assert f"HTTP {status}" in str(error)
    assert "my friend" in str(error)
    assert SECRET not in str(error)
    assert error.__cause__ is None
    assert error.__suppress_context__
    assert heard.usages == []


async def test_an_account_without_credit_is_final(stub: ProviderStub) -> None:
    stub.script(Failure(402))
    error, _ = await failure(Catalog.from_env(environment(stub.url)).resolve(MODELS["openai"]), FatalError)
    assert "credit" in str(error)


async def test_a_connection_cut_before_the_answer_leaves_it_unknown(stub: ProviderStub, model: ChatModel) -> None:
    stub.script(Answer("Never said.", cut=0))
    _, heard = await failure(model, UnknownOutcome)
    assert len(stub.seen) == 1, "somebody tried again by itself"
    assert (heard.texts, heard.usages) == ([], [])


async def test_a_connection_cut_in_the_answer_leaves_it_unknown_and_booked(
    stub: ProviderStub, model: ChatModel, provider: str
) -> None:
    words = 4 if provider in ("anthropic", "bedrock", "openai") else 2
    stub.script(Answer("one two three four five six seven", cut=words))
    _, heard = await failure(model, UnknownOutcome)
    assert "".join(heard.texts).startswith("one two ")
    assert "seven" not in "".join(heard.texts)
    assert heard.usages[-1].input_tokens >= 10
    assert heard.usages[-1].output_tokens >= 2


async def test_an_answer_that_just_stops_is_no_answer(stub: ProviderStub, provider: str, model: ChatModel) -> None:
    """The connection is closed politely, but nobody said that the answer is at its end."""
    stub.script(Answer("one two", stops=2 if provider == "google" else 3))
    await failure(model, UnknownOutcome)


async def test_nobody_there_was_not_sent(provider: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        error, _ = await failure(Catalog.from_env(environment(url)).resolve(MODELS[provider]), RetryableError)
    assert "could not be reached" in str(error)


@pytest.mark.parametrize("turns", [0, 1, 2, 20])
async def test_cancelling_closes_the_connection(stub: ProviderStub, model: ChatModel, turns: int) -> None:
    """Wherever it comes: between two pieces of the answer, or while the next one is waited for."""
    stub.script(Answer("one two three", endless=True))
    heard = Heard()
    task = asyncio.create_task(model.reply(Request(ASKED), heard))
    await heard.spoken.wait()
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await stub.seen[0].gone.wait()
    assert heard.usages[-1].input_tokens >= 10
    assert heard.usages[-1].output_tokens >= 1


async def test_an_endless_answer_ends_at_the_deadline(stub: ProviderStub, model: ChatModel) -> None:
    stub.script(Answer("Warm."), Answer("one two three", endless=True))
    await ask(model)
    with pytest.raises(UnknownOutcome, match="in time"):
        await model.reply(Request(ASKED, timeout_s=0.2), Heard())
    await stub.seen[1].gone.wait()


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


def test_names_are_resolved_and_kept() -> None:
    catalog = Catalog.from_env(environment("http://127.0.0.1:1"))
    for name, provider in (
        ("claude-opus-4-5", "anthropic"),
        ("gpt-5", "openai"),
        ("o3-mini", "openai"),
        ("gemini-2.5-pro", "google"),
    ):
        found = catalog.resolve(name)
        assert (found.provider, found.name) == (provider, name)
        assert catalog.resolve(f"{provider}:{name}") is found
    assert catalog.resolve("bedrock:arn:aws:x").name == "arn:aws:x"
    assert isinstance(catalog.resolve("offline"), OfflineModel)
    assert catalog.resolve("offline:brief").name == "brief"


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, "offline:offline"),
        ({"AWS_REGION": "eu-west-1"}, "offline:offline"),
        ({"AWS_REGION": "eu-west-1", "AWS_PROFILE": "p"}, "bedrock:global.anthropic.claude-sonnet-5-5"),
        ({"GOOGLE_API_KEY": "k"}, "google:gemini-3.8-flash"),
        ({"GOOGLE_API_KEY": "k", "GEMINI_API_KEY": " "}, "google:gemini-3.8-flash"),
        ({"OPENAI_BASE_URL": "http://127.0.0.1:1/v1"}, "openai:gpt-6.1-terra"),
        ({"GOOGLE_API_KEY": "k", "OPENAI_API_KEY": "k"}, "openai:gpt-6.1-terra"),
        ({"OPENAI_API_KEY": "k", "ANTHROPIC_API_KEY": "k"}, "anthropic:claude-sonnet-5-5"),
        ({"OPENAI_API_KEY": "  "}, "offline:offline"),
        ({"OPENAI_API_KEY": "k", "DURABLE_AGENT_MODEL": "gpt-4o"}, "openai:gpt-4o"),
        ({"OPENAI_API_KEY": "k", "DURABLE_AGENT_MODEL": "offline"}, "offline:offline"),
    ],
)
def test_the_default_is_the_first_with_a_key(env: dict[str, str], expected: str) -> None:
    found = Catalog.from_env(env).resolve("default")
    assert f"{found.provider}:{found.name}" == expected


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("claude-opus-4-5", "ANTHROPIC_API_KEY"),
        ("openai:gpt-5", "OPENAI_API_KEY"),
        ("google:x", "GEMINI_API_KEY"),
        ("bedrock:x", "AWS_REGION"),
        ("mistral:x", "no provider 'mistral'"),
        ("llama", "provider:model"),
        ("openai:", "provider:model"),
        ("", "provider:model"),
    ],
)
def test_what_is_missing_is_named(name: str, said: str) -> None:
    with pytest.raises(FatalError, match=said):
        Catalog.from_env({}).resolve(name)


def test_a_default_of_itself_is_refused() -> None:
    with pytest.raises(FatalError, match="names itself"):
        Catalog.from_env({"DURABLE_AGENT_MODEL": "default"}).resolve("default")


def test_an_extra_model_comes_first() -> None:
    mine = ScriptedModel([])
    catalog = Catalog.from_env({}, {"openai:gpt-4o": mine, "mine": mine, "default": mine})
    assert catalog.resolve("mine") is catalog.resolve("gpt-4o") is catalog.resolve() is mine


def test_the_available_are_listed_and_have_prices_and_windows() -> None:
    found = Catalog.from_env({"GEMINI_API_KEY": "k"}).available()
    assert [(one.provider, one.has_key) for one in found] == [
        ("anthropic", False), ("openai", False), ("google", True), ("bedrock", False), ("offline", True),
    ]  # fmt: skip
    assert found[-1] == Available("offline", True, "offline")
    assert all(price_of(one.provider, one.default_model) for one in found)


@pytest.mark.parametrize(
    ("provider", "model", "size"),
    [
        ("anthropic", "claude-sonnet-4-5", 200_000),
        ("anthropic", "claude-of-tomorrow", 200_000),
        ("bedrock", "eu.anthropic.of-tomorrow", 200_000),
        ("openai", "gpt-4o", 128_000),
        ("openai", "gpt-5", 400_000),
        ("google", "gemini-of-tomorrow", 1_000_000),
        ("openai", "llama", 128_000),
    ],
)
def test_windows_have_a_safe_default(provider: str, model: str, size: int) -> None:
    assert window_tokens(provider, model) == size
