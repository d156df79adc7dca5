"""The demo's tools: the same answer for the same question, slow and failing as they are told."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from durable_agent.core.records import DEFAULT_TENANT, Claim, Lease, RunId, StepKind, Token
from durable_agent.errors import FatalError, RetryableError
from durable_agent.flow import demo
from durable_agent.flow.context import Context
from durable_agent.flow.registry import Registry
from tests.support.alone import Alone


def context(parents: dict[str, Any] | None = None) -> tuple[Context, list[Any]]:
    """Return a context and the list its emitted events go to."""
    alone = Alone(Registry())
    lease = Lease(DEFAULT_TENANT, RunId(uuid4()), 0, 1, Token(uuid4()))
    claim = Claim(lease, "s", StepKind.TOOL_CALL, "t", None, None, "Find out", parents or {}, 1, 0, None, 60.0, "k")
    return Context(claim, alone), alone.told


async def test_the_three_steps_of_the_readme_answer_alike_every_time() -> None:
    async def once() -> list[Any]:
        fetched = await demo.fetch_data(context()[0], source="tea")
        summed = await demo.transform(context({"fetch": fetched})[0])
        said = await demo.llm_call(context({"transform": summed})[0], prompt="Summarize the data")
        return [fetched, summed, said]

    first = await once()
    assert first == await once()
    assert first[1]["count"] == 5
    assert first[2]["text"].startswith('You asked: Summarize the data. What is known: transform: {"count":5')


@pytest.mark.parametrize("given", [{"failure_rate": 1}, {"failureRate": "1.0"}, {"simulateFailure": 1.0}])
async def test_a_simulated_failure_is_a_passing_one(given: dict[str, Any]) -> None:
    with pytest.raises(RetryableError, match="100%"):
        await demo.fetch_data(context()[0], **given)


async def test_a_delay_tells_that_it_began() -> None:
    ctx, emitted = context()
    await demo.transform(ctx, delay_s=0.001)
    assert [event.type for event in emitted] == ["progress"]


async def test_an_input_that_makes_no_sense_is_never_tried_again() -> None:
    with pytest.raises(FatalError, match="delay_s must be a number"):
        await demo.fetch_data(context()[0], delay_s="soon")


def test_a_worker_without_modules_offers_the_demo() -> None:
    assert {"fetch_data", "transform", "llm_call"} <= set(Registry.from_modules(["durable_agent.flow.demo"]).names())
