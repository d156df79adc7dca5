"""Calls on their way into the record: not sent, cut off, failed, and met again by a replay."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest

from durable_agent import Context, step, tool
from durable_agent.agents.offline import ScriptedModel
from durable_agent.core.effects import Ledger
from durable_agent.core.outcomes import Failed, Intended, Outcome, Recorded, Released
from durable_agent.core.records import (
    Claim,
    Effect,
    EffectClass,
    EffectState,
    FailureClass,
    Lease,
    RunId,
    StepKind,
    Tenant,
    Token,
)
from durable_agent.core.waits import Decision
from durable_agent.errors import FatalError, RateLimited, Rejected, RetryableError, StepError
from durable_agent.flow.again import failure_again
from durable_agent.flow.llm import Conversation
from durable_agent.flow.model import Listener, Reply, Request, Usage
from durable_agent.flow.registry import Registry
from durable_agent.flow.steps import Step
from durable_agent.testing import FakeBackend, FakeWait, run_in_memory
from durable_agent.worker.attempt import run_attempt
from tests.support.alone import Alone

LEASE = Lease(Tenant(1), RunId(UUID(int=1)), 0, 1, Token(UUID(int=2)))


@dataclass
class Passed:
    """A way through a gate, which was given too early."""

    freed: int = 0

    async def through(self, call: Callable[[], Awaitable[Any]]) -> Any:
        return await call()

    def late(self) -> bool:
        return True

    def give_back(self) -> None:
        self.freed += 1


class Shutting(Alone):
    """A link whose gate lets the first through and then fails."""

    def __init__(self, registry: Registry, error: Exception) -> None:
        super().__init__(registry)
        self.error = error
        self.passed: Passed | None = None

    async def pass_gate(self, name: str | None, tokens: int) -> Any:
        if self.passed is not None:
            raise self.error
        self.passed = Passed()
        return self.passed


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (RateLimited("shut", retry_after_s=60.0), Released(LEASE, 60.0)),
        (RetryableError("gone"), Failed(LEASE, FailureClass.TRANSIENT, "RetryableError", "gone")),
    ],
)
async def test_a_call_whose_gate_shuts_behind_its_intent_is_on_record_as_not_made(
    error: Exception, outcome: Outcome
) -> None:
    @tool("pay", breaker=True)
    async def pay() -> None:
        raise AssertionError("it was called")

    @step("pays")
    async def pays(ctx: Context) -> None:
        await ctx.call(pay)

    registry = Registry([pays, pay])
    link = Shutting(registry, error)
    claim = Claim(LEASE, "pays", StepKind.TOOL_CALL, "pays", {}, None, None, {}, 1, 0, None, 60.0, "key")
    assert await run_attempt(claim, registry, link, limit_bytes=262_144) == outcome
    intended, recorded = link.told
    assert isinstance(intended, Intended)
    assert isinstance(recorded, Recorded)
    assert (recorded.no, recorded.state) == (intended.no, EffectState.FAILED)
    assert link.passed is not None
    assert link.passed.freed == 1


class Keeping(FakeBackend):
    """An engine that keeps what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Outcome] = []

    async def exchange(self, outcomes: Any, *, free: int, solo: bool) -> Any:
        self.told.extend(outcomes)
        return await super().exchange(outcomes, free=free, solo=solo)


class Breaking(ScriptedModel):
    """A model that breaks off in the middle of its first answer."""

    broke = False

    async def reply(self, request: Request, listener: Listener) -> Reply:
        if self.broke:
            return await super().reply(request, listener)
        self.broke = True
        listener.usage(Usage(10, 5))
        raise RetryableError("the stream broke")


async def test_an_answer_that_fails_in_its_middle_is_charged_what_it_had_used() -> None:
    @step("asks")
    async def asks(ctx: Context) -> str:
        return (await ctx.llm("Q?", model="m")).text

    engine = Keeping()
    run = await run_in_memory([Step("asks")], [asks], models={"m": Breaking([Reply("late")])}, backend=engine)
    assert run.outputs == {"asks": "late"}
    failed = next(one for one in engine.told if isinstance(one, Recorded))
    assert failed.state is EffectState.FAILED
    assert failed.used is not None
    assert (failed.used.input_tokens, failed.used.output_tokens) == (10, 5)


async def test_what_a_conversation_is_told_to_be_is_said_once() -> None:
    seen: list[list[str]] = []

    def line(request: Request) -> Reply:
        seen.append([message["role"] for message in request.messages])
        return Reply("ok")

    @step("talks")
    async def talks(ctx: Context, other: str) -> None:
        said = Conversation([{"role": "user", "text": "one"}])
        await ctx.llm(said, model="m", system="Be brief.")
        said.messages.append({"role": "user", "text": "two"})
        await ctx.llm(said, model="m", system=other)

    model = ScriptedModel([line, line])
    same = await run_in_memory([Step("talks", input={"other": "Be brief."})], [talks], models={"m": model})
    assert same.status == "completed"
    assert seen == [["system", "user"], ["system", "user", "assistant", "user"]]
    run = await run_in_memory([Step("talks", input={"other": "Be long."})], [talks], models={"m": model})
    assert "`system`" in run.step("talks").error["message"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("recorded", "kind"),
    [
        ("RetryableError", RetryableError), ("Rejected", Rejected), ("ValueError", ValueError),
        ("ConnectionResetError", ConnectionResetError), ("UnicodeDecodeError", StepError), ("ExceptionGroup", StepError),
        ("GraphInvalid", StepError), ("SystemExit", StepError), ("StopIteration", StepError), ("LeaseLost", StepError),
        ("dataclass", StepError), ("Unheard", StepError),
    ],
)  # fmt: skip
def test_a_recorded_failure_is_itself_again_where_a_sentence_makes_it(recorded: str, kind: type[Exception]) -> None:
    again = failure_again({"type": recorded, "message": "it failed"})
    assert (type(again), str(again)) == (kind, "it failed")


async def test_a_tool_sees_its_own_key_and_what_it_calls_of_the_attempt_is_the_attempts() -> None:
    keys: list[str] = []

    @tool("keyed", effect="safe")
    async def keyed(ctx: Context, outer: bool = True) -> str:
        keys.append(ctx.idempotency_key)
        with pytest.raises(FatalError, match=r"cannot use ctx\.call"):
            await ctx.call("keyed")
        return ctx.idempotency_key

    @step("calls")
    async def calls(ctx: Context) -> list[str]:
        return [await ctx.call(keyed), await ctx.call(keyed), ctx.idempotency_key]

    run = await run_in_memory([Step("calls")], [calls, keyed])
    one, other, own = run.outputs["calls"]
    assert [one, other] == keys
    assert len({one, other, own}) == 3


def test_a_ledger_forgets_by_number_and_not_by_what_was_asked() -> None:
    def paid(no: int) -> Effect:
        return Effect(no, "pay", EffectClass.MANUAL, "same", f"key {no}", EffectState.INTENT)

    ledger = Ledger([paid(3), paid(5)])
    ledger.forget({5})
    found = ledger.effect("pay", "same")
    assert found.no == 3
    assert ledger.left() is None


@pytest.mark.parametrize("heeds", [True, False])
async def test_a_handler_that_breaks_by_what_it_takes_for_a_result_waits_and_its_own_word_stands(heeds: bool) -> None:
    @step("asks_both")
    async def asks_both(ctx: Context) -> list[Any]:
        answers = await asyncio.gather(ctx.ask("one?", name="one"), ctx.ask("two?", name="two"), return_exceptions=True)
        if heeds and any(isinstance(answer, BaseException) for answer in answers):
            raise FatalError("it cannot go on")
        return [answer.upper() for answer in answers]  # type: ignore[union-attr]

    def say(engine: FakeBackend, wait: FakeWait) -> None:
        engine.answer(wait.id, Decision.RESPONDED, value=wait.asked.name)

    run = await run_in_memory([Step("asks_both")], [asks_both], answers=say)
    assert run.outputs == ({} if heeds else {"asks_both": ["ONE", "TWO"]})
    assert run.status == ("failed" if heeds else "completed")


async def test_what_differs_from_the_record_ends_the_step_though_its_handler_takes_it_for_a_result() -> None:
    @tool("pay", effect="idempotent")
    async def pay(amount: int) -> int:
        return amount

    @step("pays_anything")
    async def pays_anything(ctx: Context) -> int:
        done = await asyncio.gather(ctx.call(pay, amount=ctx.attempt), return_exceptions=True)
        if ctx.attempt == 1:
            raise RetryableError("again")
        return len(done)

    run = await run_in_memory([Step("pays_anything")], [pays_anything, pay])
    assert run.step("pays_anything").error["failure"] == FailureClass.DIVERGED  # type: ignore[index]


@pytest.mark.parametrize("waits", ["all", "first", "none"])
async def test_tasks_that_come_to_their_calls_in_another_order_when_resumed_are_no_divergence(waits: str) -> None:
    made: list[int] = []
    later = asyncio.Event()

    @tool("quote", effect="safe")
    async def quote(item: int) -> int:
        if item == 1:
            await later.wait()
        return item * 10

    @tool("pay", effect="idempotent")
    async def pay(amount: int) -> int:
        made.append(amount)
        later.set()
        return amount

    @step("buys")
    async def buys(ctx: Context) -> list[int]:
        async def buy(item: int) -> int:
            price = await ctx.call(quote, item=item)
            if waits == "all":
                later.set()
                await ctx.approval(pay, {"amount": price})
            elif waits == "first" and item == 1:
                await ctx.sleep(5)
            elif ctx.attempt == 1 and item == 1:
                raise RetryableError("again")
            return int(await ctx.call(pay, amount=price))

        return await asyncio.gather(buy(1), buy(2))

    def approve(engine: FakeBackend, wait: FakeWait) -> None:
        if waits == "all":
            engine.answer(wait.id, Decision.APPROVED)

    run = await run_in_memory([Step("buys")], [buys, quote, pay], answers=approve)
    assert (run.outputs, sorted(made)) == ({"buys": [10, 20]}, [10, 20])
