"""What a provider does other than answer, and what may follow: wait, ask again, give up, not know."""

from __future__ import annotations

import asyncio
import socket
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from durable_agent.agents.catalog import Catalog
from durable_agent.errors import FatalError, RateLimited, RetryableError, UnknownOutcome
from durable_agent.flow.model import ChatModel, Request
from tests.support.asking import ASKED, MODELS, SECRET, Heard, ask, environment, failure
from tests.support.providers import Answer, Failure, ProviderStub

pytestmark = pytest.mark.usefixtures("no_credentials")


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
        await model.reply(Request(ASKED, timeout_s=0.5), Heard())
    await stub.seen[1].gone.wait()
