"""An attempt: one claim through one handler to one outcome, whatever the handler does."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from typing import Any
from uuid import UUID

import orjson
import pytest

from durable_agent import Context, step
from durable_agent.core.outcomes import Failed, Outcome, Succeeded
from durable_agent.core.records import Claim, FailureClass, Lease, RunId, StepKind, Tenant, Token
from durable_agent.errors import LeaseLost, RetryableError
from durable_agent.flow.registry import Registry
from durable_agent.flow.tools import tool
from durable_agent.worker.attempt import run_attempt
from tests.support.alone import Alone

LEASE = Lease(Tenant(1), RunId(UUID(int=1)), 0, 1, Token(UUID(int=2)))
REGISTRY = Registry.from_modules(["tests.support.tools"])


async def attempt(tool: str, input_: Any = None, **more: Any) -> Outcome:
    claim = Claim(LEASE, "a step", StepKind.TOOL_CALL, tool, input_, None, None, {"p": 1}, 1, 0, None, 60.0, "key")
    return await run_attempt(replace(claim, **more), REGISTRY, Alone(REGISTRY), limit_bytes=262_144)


async def value(tool: str, input_: Any = None, **more: Any) -> Any:
    outcome = await attempt(tool, input_, **more)
    assert isinstance(outcome, Succeeded), outcome
    return orjson.loads(outcome.output)


async def failure(tool: str, input_: Any = None, **more: Any) -> Failed:
    outcome = await attempt(tool, input_, **more)
    assert isinstance(outcome, Failed), outcome
    return outcome


async def test_arguments_are_typed_and_the_context_is_given() -> None:
    assert await value("add", {"tool": "add", "a": "2", "b": 3}) == 5
    assert await value("modelled", {"point": {"x": 1, "y": 2}}) == {"x": 2, "y": 2.0}
    assert await value("echo", {"tool": "echo", "x": 1}) == {
        "given": {"x": 1},
        "parents": {"p": 1},
        "attempt": 1,
        "key": "key",
    }


@pytest.mark.parametrize(
    ("tool", "given", "named"),
    [
        ("add", {"a": "two"}, "'a'"),
        ("add", {}, "'a'"),
        ("add", {"a": 1, "c": 2}, "'c'"),
        ("modelled", {"point": {"x": 1}}, "point.y"),
    ],
)
async def test_a_wrong_argument_is_final_and_named(tool: str, given: dict[str, Any], named: str) -> None:
    failed = await failure(tool, given)
    assert failed.failure is FailureClass.INVALID_INPUT
    assert named in failed.message


@pytest.mark.parametrize(
    ("how", "failure_class"),
    [
        ("retryable", "transient"),
        ("limited", "rate_limited"),
        ("fatal", "invalid_input"),
        ("bug", "bug"),
        ("exit", "bug"),
    ],
)
async def test_each_way_to_fail_has_its_class(how: str, failure_class: str) -> None:
    assert (await failure("flaky", {"how": how})).failure == failure_class


async def test_a_tool_that_is_not_offered_is_named() -> None:
    assert "'nobody'" in (await failure("nobody")).message


@pytest.mark.parametrize("tool", ["forever", "stuck"])
async def test_the_time_limit_ends_the_attempt(tool: str) -> None:
    assert (await failure(tool, timeout_s=0.05)).failure is FailureClass.TIMEOUT


async def test_the_deadline_limits_a_longer_time_limit() -> None:
    assert (await failure("forever", timeout_s=60.0, deadline_s=0.05)).failure is FailureClass.TIMEOUT


@pytest.mark.parametrize("what", ["object", "surrogate", "deep", "huge", "bigint"])
async def test_a_result_that_cannot_be_stored_is_final(what: str) -> None:
    assert (await failure("hostile", {"what": what})).failure is FailureClass.INVALID_INPUT


async def test_a_nul_character_is_stored() -> None:
    assert await value("hostile", {"what": "nul"}) == "a\x00b"


async def test_a_cancelled_attempt_leaves_no_outcome() -> None:
    task = asyncio.create_task(attempt("forever"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_child_process_runs_apart_and_reports() -> None:
    assert (await value("alone"))["pid"] != os.getpid()
    assert (await failure("alone", {"how": "fails"})).failure is FailureClass.TRANSIENT


async def test_a_child_that_dies_fails_its_attempt_alone() -> None:
    failed = await failure("alone", {"how": "dies"})
    assert failed.failure is FailureClass.BUG
    assert "exit code 9" in failed.message


async def test_a_child_that_hangs_is_killed_at_the_limit() -> None:
    assert (await failure("alone", {"how": "hangs"}, timeout_s=1.0)).failure is FailureClass.TIMEOUT


class Ledger:
    """A receiver that can be asked what it took."""

    sent = 0
    answers: dict[str, Any] = {}  # noqa: RUF012


async def asked(order: str) -> Any:
    """Look it up."""
    found = Ledger.answers[order]
    if isinstance(found, Exception):
        raise found
    return found


@tool("ship", effect="verify", verify=asked)
async def ship(order: str) -> str:
    """Send it."""
    Ledger.sent += 1
    return "sent"


@pytest.mark.parametrize(
    ("found", "doubted", "sent"),
    [
        ({"no": 7}, None, 0),
        (None, None, 1),
        (RetryableError("not now"), True, 0),
        (ValueError("no such page"), True, 0),
    ],
)
async def test_what_is_in_doubt_is_looked_up_and_stays_in_doubt_until_that_is_answered(
    found: Any, doubted: bool | None, sent: int
) -> None:
    Ledger.sent, Ledger.answers = 0, {"o": found}
    registry = Registry.from_modules([__name__])
    claim = Claim(
        LEASE, "s", StepKind.TOOL_CALL, "ship", {"order": "o"}, None, None, {}, 2, 0, None, 60.0, "key", in_doubt=True
    )
    outcome = await run_attempt(claim, registry, Alone(registry), limit_bytes=1000)
    assert getattr(outcome, "in_doubt", None) is doubted
    assert Ledger.sent == sent


async def test_what_is_in_doubt_stays_so_when_its_arguments_are_refused() -> None:
    registry = Registry.from_modules([__name__])
    claim = Claim(
        LEASE, "s", StepKind.TOOL_CALL, "ship", {"no": 1}, None, None, {}, 2, 0, None, 60.0, "key", in_doubt=True
    )
    outcome = await run_attempt(claim, registry, Alone(registry), limit_bytes=1000)
    assert isinstance(outcome, Failed)
    assert outcome.in_doubt


async def test_a_call_is_not_made_when_the_lease_was_lost_while_it_was_looked_up() -> None:
    class Lost(Alone):
        async def still_ours(self) -> None:
            raise LeaseLost("gone")

    Ledger.sent, Ledger.answers = 0, {"o": None}
    registry = Registry.from_modules([__name__])
    claim = Claim(
        LEASE, "s", StepKind.TOOL_CALL, "ship", {"order": "o"}, None, None, {}, 2, 0, None, 60.0, "key", in_doubt=True
    )
    with pytest.raises(LeaseLost):
        await run_attempt(claim, registry, Lost(registry), limit_bytes=1000)
    assert Ledger.sent == 0


def test_a_decorator_without_parentheses_decorates() -> None:
    @tool
    async def plain(a: int) -> int:
        """Return it."""
        return a

    @step
    async def handler(ctx: Context) -> None:
        """Do nothing."""

    assert (plain.name, plain.effect, sorted(plain.accepts or ())) == ("plain", "manual", ["a"])
    assert (handler.name, handler.orchestrates, handler.takes_context) == ("handler", True, "ctx")
