"""Tools in a process of their own: given the same and ending the same as in the worker's, and never in its way."""

from __future__ import annotations

import asyncio
import fcntl
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest

from durable_agent.core.outcomes import Failed, InDoubt, Outcome, Recorded, Succeeded
from durable_agent.core.records import Claim, FailureClass, Lease, RunId, StepKind, Tenant, Token
from durable_agent.flow.registry import Registry
from durable_agent.worker.attempt import run_attempt
from tests.support.alone import Alone
from tests.support.children import ERRORS

LEASE = Lease(Tenant(1), RunId(UUID(int=1)), 0, 1, Token(UUID(int=2)))
REGISTRY = Registry.from_modules(["tests.support.children"])
GIVEN = {"point": {"x": "5"}, "raw": "a\u00e9", "some": [1, 2], "on": "2026-01-02", "secret": "hush", "twice": 4}


async def attempt(tool: str, link: Alone | None = None, timeout_s: float | None = None, **given: Any) -> Outcome:
    claim = Claim(LEASE, "a step", StepKind.TOOL_CALL, tool, given, None, None, {"p": 1}, 1, 0, timeout_s, 60.0, "key")
    return await run_attempt(claim, REGISTRY, link or Alone(REGISTRY), limit_bytes=262_144)


async def value(tool: str, **given: Any) -> Any:
    ended = await attempt(tool, **given)
    assert isinstance(ended, Succeeded), ended
    return orjson.loads(ended.output)


async def test_arguments_are_those_that_a_tool_is_given_inline() -> None:
    there = await value("given_child", **GIVEN)
    assert there == await value("given_inline", **GIVEN)
    assert [there, there] == await value("gives_by_call", **GIVEN)
    refused = await attempt("given_child", **{**GIVEN, "some": ["one"]})
    assert refused == replace(await attempt("given_inline", **{**GIVEN, "some": ["one"]}), message=refused.message)  # type: ignore[attr-defined]


@pytest.mark.parametrize("how", ["model", "keys", "long", "set", "longer", "group", *sorted(ERRORS.keys() - {"mute"})])
async def test_a_child_ends_as_it_would_inline(how: str) -> None:
    assert await attempt("ends_child", how=how) == await attempt("ends_inline", how=how)


async def test_an_exception_that_cannot_be_said_is_named() -> None:
    ended = await attempt("ends_child", how="mute")
    assert isinstance(ended, Failed)
    assert (ended.failure, ended.error_type) == (FailureClass.BUG, "Mute")
    assert ended.message == "Mute, which has no text"


async def test_an_authors_own_class_is_caught_as_it_was_raised() -> None:
    assert await value("catches") == "it is busy"


@pytest.mark.parametrize("how", ["bug", "exit", "set", "final"])
async def test_what_may_not_be_done_again_ends_as_it_would_inline(how: str) -> None:
    there, inline = await attempt("sends_child", how=how), await attempt("sends_inline", how=how)
    assert type(there) is (Failed if how == "final" else InDoubt)
    assert there == (replace(inline, name="sends_child") if isinstance(inline, InDoubt) else inline)


@pytest.mark.parametrize("how", ["dies", "killed"])
async def test_nobody_knows_what_a_child_did_that_ended_without_an_answer(how: str) -> None:
    ended = await attempt("sends_child", how=how)
    assert isinstance(ended, InDoubt)
    assert ("exit code 0" if how == "dies" else "signal SIGKILL") in ended.message
    link = Alone(REGISTRY)
    called = await attempt("sends_by_call", link, how=how)
    assert isinstance(called, InDoubt), called
    assert not [one for one in link.told if isinstance(one, Recorded)]


async def test_a_child_that_cannot_be_started_has_done_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    ended = await attempt("sends_child", how="model")
    assert isinstance(ended, Failed)
    assert (ended.failure, ended.error_type) == (FailureClass.TRANSIENT, "RetryableError")


async def test_an_answer_is_whole_whatever_is_printed_and_however_the_process_ends_after_it() -> None:
    assert await value("noisy") == 0


async def test_a_process_that_is_left_behind_is_not_waited_for(tmp_path: Path) -> None:
    place = tmp_path / "pipe"
    os.mkfifo(place)
    try:
        assert await value("forks", place=str(place)) == 1
    finally:
        await asyncio.to_thread(place.write_bytes, b"go")


async def test_at_its_limit_a_child_is_killed_with_the_processes_it_started(tmp_path: Path) -> None:
    place = tmp_path / "lock"
    place.touch()
    ended = await attempt("hangs_with_another", timeout_s=5.0, place=str(place))
    assert isinstance(ended, Failed)
    assert ended.failure is FailureClass.TIMEOUT
    with place.open("rb") as lock:
        await asyncio.wait_for(asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX), 20)


async def test_a_child_knows_what_its_attempt_knows() -> None:
    assert await value("context_of_child") == ["a step", 1, "key", {"p": 1}, 262_144, str(UUID(int=1))]
