"""Requests of pydantic-ai agents: bounded and reserved before, charged once, however often the step is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from pydantic_ai import Agent, DocumentUrl, ImageUrl
from pydantic_ai.capabilities import ProcessHistory
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, UserPromptPart
from pydantic_ai.models import Model
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.usage import RequestUsage

from durable_agent.agents.pydantic_ai import durable, run_agent
from durable_agent.agents.requests import ANSWER_TOKENS, Serving, served
from durable_agent.core.outcomes import Booked, Intended, Recorded
from durable_agent.core.records import Limit
from durable_agent.flow.context import Context
from durable_agent.flow.steps import Step
from durable_agent.flow.tools import step
from durable_agent.testing import run_in_memory
from durable_agent.worker.attempt import run_attempt
from tests.agents.stage import stage_on
from tests.support.losing import Hearing, Losing
from tests.support.postgres import Database
from tests.support.pydantic_agents import (
    ASKED,
    EFFECTS,
    LIMITED,
    SAID,
    Failing,
    agent,
    brain,
    brain_second,
    told,
)
from tests.support.runs import Engine

pytestmark = pytest.mark.usefixtures("nothing_happened")


LIMITS: list[Any] = []  # what answers were limited to


def counting(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Answer as `brain` does; its provider counts 1,000 tokens with each message, some from its cache."""
    LIMITS.append((info.model_settings or {}).get("max_tokens"))
    answer = brain(messages, info)
    answer.usage = RequestUsage(input_tokens=1000 * len(messages), output_tokens=100, cache_read_tokens=400)
    return answer


COUNTED = 16_400  # of the four requests of a conversation


@step("counted")
async def counted(ctx: Context) -> str:
    LIMITS.clear()
    with agent.override(model=FunctionModel(counting)):
        return str((await run_agent(ctx, agent, "Go. " + "x" * 3000, effects=EFFECTS)).output)


def intents(engine: Hearing) -> list[Intended]:
    return [one for one in engine.told if isinstance(one, Intended) and one.name.startswith("model.")]


def charged(engine: Hearing) -> list[Recorded]:
    return [one for one in engine.told if isinstance(one, Recorded) and one.used is not None]


async def test_what_a_request_takes_at_most_is_reserved_and_what_it_took_is_charged() -> None:
    engine = Hearing()
    run = await run_in_memory(
        [Step("counted")], [counted], answers=told, backend=engine, budget=[Limit("tokens", 100_000), Limit("tools", 6)]
    )
    assert run.outputs == {"counted": SAID}
    assert {one.meter: (one.spent, one.reserved) for one in run.budgets} == {"tokens": (COUNTED, 0), "tools": (6, 0)}
    bounds = [(one.reserve["tokens"] or 0) - ANSWER_TOKENS for one in intents(engine)]
    facts = [one.used.facts for one in charged(engine) if one.used is not None]
    assert [one["input_tokens"] for one in facts] == [1000, 3000, 5000, 7000]
    assert {one["cache_read_tokens"] for one in facts} == {400}
    assert bounds[0] > 3000
    # What the provider counted is not bounded again: the rest is what was said since.
    since = [bound - 1000 * said - 100 for bound, said in zip(bounds[1:], (1, 3, 5), strict=True)]
    assert all(0 < one < 3000 for one in since)
    assert [one for one in engine.gates if one[1]] == [
        ("provider:function", one.reserve["tokens"]) for one in intents(engine)
    ]


async def test_a_run_whose_budget_does_not_hold_the_next_request_ends() -> None:
    run = await run_in_memory([Step("counted")], [counted], answers=told, budget=[Limit("tokens", 22_000)])
    assert (run.status, ASKED) == ("budget_exceeded", [1, 3])
    assert [(one.spent, one.reserved) for one in run.budgets] == [(4200, 0)]


@pytest.mark.parametrize("side", ["before", "after"])
async def test_a_resumed_attempt_is_charged_for_what_it_asks_and_not_for_what_was_recorded(side: str) -> None:
    for commit in range(1, 100):
        engine = Losing(commit, side)
        limit = [Limit("tokens", 1_000_000)]
        run = await run_in_memory([Step("counted")], [counted], answers=told, backend=engine, budget=limit)
        # What nobody heard the end of may have been paid for.
        lost = sum(bound.get("tokens") or 0 for bound in run.steps[0].lost.values())
        assert [(one.spent, one.reserved) for one in run.budgets] == [(COUNTED + lost, 0)]
        if engine.left > 0:
            assert commit > 10
            return


def answers(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Answer at once."""
    LIMITS.append((info.model_settings or {}).get("max_tokens"))
    return ModelResponse(parts=[TextPart("so")])


def saying(most: int | None, **settings: Any) -> FunctionModel:
    """Return a model that can say so much at most, with settings of its own."""
    profile: Any = {"anthropic_max_output_tokens": most, "supports_thinking": True}
    given: Any = settings
    return FunctionModel(answers, profile=profile, settings=given)


async def limited(model: Model, settings: Any, *, budget_tokens: int | None) -> tuple[int | None, int]:
    """Return the limit that a request of one word is sent with, and how many tokens are reserved for it."""

    @step("once")
    async def once(ctx: Context) -> str:
        return (await run_agent(ctx, Agent(model), "Go.", model_settings=settings)).output

    LIMITS.clear()
    budget = [Limit("tokens", budget_tokens)] if budget_tokens else []
    run = await run_in_memory([Step("once")], [once], backend=(engine := Hearing()), budget=budget)
    assert run.outputs == {"once": "so"}
    (intent,) = intents(engine)
    assert b"max_tokens" not in intent.request or "max_tokens" in settings
    return LIMITS[0], intent.reserve["tokens"] or 0


THINKING: Any = {"type": "enabled", "budget_tokens": 20_000}


@pytest.mark.parametrize(
    ("can_say", "settings", "asked", "most"),
    [
        (None, {}, ANSWER_TOKENS, ANSWER_TOKENS),
        (64_000, {}, ANSWER_TOKENS, ANSWER_TOKENS),
        (8_000, {}, None, 8_000),
        (None, {"max_tokens": 50}, 50, 50),
        (64_000, {"max_tokens": 32_000}, 32_000, 32_000),
        # Thinking is part of an answer: a limit that it alone would reach is refused.
        (64_000, {"thinking": "high"}, ANSWER_TOKENS + 16_384, ANSWER_TOKENS + 16_384),
        (64_000, {"anthropic_thinking": THINKING}, ANSWER_TOKENS + 20_000, ANSWER_TOKENS + 20_000),
        (
            64_000, {"bedrock_additional_model_requests_fields": {"thinking": THINKING}},
            ANSWER_TOKENS + 20_000, ANSWER_TOKENS + 20_000,
        ),
        (24_000, {"anthropic_thinking": THINKING}, 24_000, 24_000),
        (64_000, {"thinking": False}, ANSWER_TOKENS, ANSWER_TOKENS),
        (None, {"thinking": "high"}, ANSWER_TOKENS, ANSWER_TOKENS),
    ],
)  # fmt: skip
async def test_an_answer_has_a_limit_that_a_small_budget_holds(
    can_say: int | None, settings: Any, asked: int | None, most: int
) -> None:  # fmt: skip
    sent, held = await limited(saying(can_say), settings, budget_tokens=40_000)
    assert sent == asked
    assert 0 < held - most < 2000


@pytest.mark.parametrize(("can_say", "most"), [(None, ANSWER_TOKENS), (64_000, 64_000)])
async def test_an_answer_is_not_limited_where_the_run_is_not(can_say: int | None, most: int) -> None:
    sent, held = await limited(saying(can_say), {}, budget_tokens=None)
    assert sent is None
    assert 0 < held - most < 2000


@pytest.mark.parametrize(
    ("models", "asked", "most"),
    [
        ((saying(64_000), saying(8_000)), 8_000, 8_000),
        ((saying(64_000), saying(None)), ANSWER_TOKENS, ANSWER_TOKENS),
        # What the author set for one of them stands where the other has a bound of its own.
        ((saying(64_000, max_tokens=50), saying(64_000)), 50, 64_000),
        ((saying(64_000, max_tokens=50), saying(64_000, max_tokens=60)), 50, 60),
        ((saying(64_000, anthropic_thinking=THINKING), saying(64_000)), ANSWER_TOKENS + 20_000, ANSWER_TOKENS + 20_000),
    ],
)
async def test_a_limit_is_one_that_every_model_of_a_fallback_takes(models: Any, asked: int, most: int) -> None:
    sent, held = await limited(FallbackModel(*models), {}, budget_tokens=100_000)
    assert sent == asked
    assert 0 < held - most < 2000


async def test_a_rewritten_conversation_is_bounded_anew() -> None:
    def longer(messages: list[ModelMessage]) -> list[ModelMessage]:
        first = messages[0]
        assert isinstance(first, ModelRequest)
        padded = [UserPromptPart("y" * 20_000)] if len(messages) > 1 else list(first.parts)
        return [replace(first, parts=padded), *messages[1:]]

    @step("rewritten")
    async def rewritten(ctx: Context) -> str:
        rewriting = Agent(TestModel(), capabilities=[ProcessHistory(longer)])

        @rewriting.tool_plain
        def look() -> str:
            return "done"

        return (await run_agent(ctx, rewriting, "Go.", effects={"look": "safe"})).output

    await run_in_memory([Step("rewritten")], [rewritten], backend=(engine := Hearing()))
    first, second = [one.reserve["tokens"] or 0 for one in intents(engine)]
    assert second > 20_000 + ANSWER_TOKENS > first


@pytest.mark.parametrize(("file", "ending"), [("picture", "completed"), ("document", "failed")])
async def test_a_picture_has_a_bound_and_what_only_the_provider_can_size_is_refused(file: str, ending: str) -> None:
    given = ImageUrl("https://host/a.png") if file == "picture" else DocumentUrl("https://host/a.pdf")

    @step("reads")
    async def reads(ctx: Context) -> str:
        return (await run_agent(ctx, Agent(FunctionModel(brain_second)), ["Read.", given])).output

    run = await run_in_memory(
        [Step("reads")], [reads], backend=(engine := Hearing()), budget=[Limit("tokens", 100_000)]
    )
    assert run.status == ending
    (intent,) = intents(engine)
    tokens = intent.reserve["tokens"]
    assert tokens is None if file == "document" else tokens is not None and tokens > 2 * ANSWER_TOKENS
    unlimited = await run_in_memory([Step("reads")], [reads])
    assert unlimited.status == "completed"


async def test_a_model_without_a_price_is_not_asked_where_money_is_limited() -> None:
    run = await run_in_memory([Step("counted")], [counted], budget=[Limit("microusd", 1_000_000)])
    assert (run.status, ASKED) == ("failed", [])
    assert run.steps[0].error is not None
    assert "price" in run.steps[0].error["message"]
    assert [(one.spent, one.reserved) for one in run.budgets] == [(0, 0)]


async def test_a_provider_that_says_not_now_shuts_its_gate() -> None:
    failing = Failing(LIMITED)

    @step("shut")
    async def shut(ctx: Context) -> str:
        return (await run_agent(ctx, Agent(FunctionModel(failing)), "Go.")).output

    run = await run_in_memory([Step("shut")], [shut], backend=(engine := Hearing()), budget=[Limit("tokens", 100_000)])
    assert ("provider:function held 7.0", 0) in engine.gates
    assert (run.status, run.budgets[0].reserved) == ("completed", 0)


PRICES = [
    {"provider": "function", "name": "function:counting:", "window_tokens": None,
     "price": {"input_usd": "3", "output_usd": "15", "cache_read_usd": "0.3", "cache_write_usd": None}},
]  # fmt: skip


class Dated(WrapperModel):
    """A model whose provider answers with a name of its own."""

    async def request(self, *given: Any) -> ModelResponse:
        return replace(await self.wrapped.request(*given), model_name=f"{self.model_name}2026-11-20")


@pytest.mark.parametrize("wrapped", [lambda model: model, Dated])
async def test_what_requests_cost_is_the_runs(engine: Engine, database: Database, wrapped: Any) -> None:
    stage = await stage_on(engine, database, budget=(Limit("microusd", 2_000_000),))
    stage.prices = PRICES

    @step("play")
    async def play(ctx: Context) -> str:
        asking = Agent(wrapped(FunctionModel(counting)))
        return str((await run_agent(ctx, asking, "Go.", message_history=BEFORE)).output)

    stage.registry.add(play)
    await stage.attempt(await stage.claim())
    run = await engine.run(engine.runs[0])
    assert (run["calls"], run["input_tokens"], run["output_tokens"]) == (1, 7000, 100)
    assert run["microusd"] == 6600 * 3 + 400 * 0.3 + 100 * 15
    spent = "select spent, reserved from budgets where meter = 'microusd'"
    assert database.execute(spent) == [(run["microusd"], 0)]


BEFORE: list[ModelMessage] = [
    ModelRequest(parts=[UserPromptPart("Go.")]) if no % 2 == 0 else ModelResponse(parts=[TextPart("Yes.")])
    for no in range(6)
]


@dataclass
class Quiet:
    """A stream whose provider says what it used at its end only."""

    stream: Any
    usage: RequestUsage = field(default_factory=RequestUsage)

    def __aiter__(self) -> Any:
        return aiter(self.stream)


class Quietly(WrapperModel):
    """A model of such streams."""

    @asynccontextmanager
    async def request_stream(self, *given: Any, **more: Any) -> AsyncIterator[Any]:  # type: ignore[override]
        async with self.wrapped.request_stream(*given, **more) as stream:
            yield Quiet(stream)


def test_a_request_is_priced_as_the_model_of_a_fallback_that_served_it() -> None:
    serving = [Serving("openai", "gpt-5", None, None, 0), Serving("openai", "gpt-5-mini", None, None, 0),
               Serving("anthropic", "claude", None, None, 0)]  # fmt: skip
    answered = [
        ("openai", "gpt-5-mini-2025-08-07"),
        ("openai", "gpt-5-2025-08-07"),
        ("anthropic", "odd"),
        (None, "odd"),
    ]
    found = [served(serving, provider, name).name for provider, name in answered]
    assert found == ["gpt-5-mini", "gpt-5", "claude", "gpt-5"]


async def test_a_stream_that_is_cut_off_books_what_it_had_used(engine: Engine, database: Database) -> None:
    stage = await stage_on(engine, database, budget=(Limit("tokens", 100_000),))
    begun, never = asyncio.Event(), asyncio.Event()

    async def slowly(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
        yield "y" * 400
        begun.set()
        await never.wait()
        yield "never"

    @step("play")
    async def play(ctx: Context) -> str:
        streaming = durable(Agent(Quietly(FunctionModel(stream_function=slowly))), ctx)
        async with streaming.run_stream("Go. " + "x" * 4000) as result:
            return await result.get_output()

    stage.registry.add(play)
    claim = await stage.claim()
    way = stage.way(claim)
    attempt = asyncio.create_task(run_attempt(claim, stage.registry, way, limit_bytes=262_144))
    await begun.wait()
    attempt.cancel()
    await asyncio.wait([attempt])
    assert way.heard == ["y" * 400]
    (booked,) = [one for one in way.told if isinstance(one, Booked)]
    assert booked.used.output_tokens == 100
    assert 1000 <= booked.used.input_tokens < 2000
    spent = "select spent, reserved from budgets where meter = 'tokens'"
    await stage.claim_again()
    ((bound, held),) = database.execute(spent)
    assert (held, int(str(bound)) > ANSWER_TOKENS + 4000) == (0, True)
    await stage.hand.settle(booked)
    assert database.execute(spent) == [(booked.used.input_tokens + 100, 0)]
