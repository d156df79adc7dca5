"""The kill matrix: a real worker process is killed at every commit of a run that uses everything, and nothing is
lost, repeated or invented. What happened outside is asked of a receiver that counts."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from durable_agent.core.waits import Decision
from durable_agent.flow.steps import Step
from durable_agent.testing import crash_everywhere
from tests.support.postgres import Database
from tests.support.receiver import Receiver, receiving

MODULES = ["tests.support.matrix"]


def seen_by(receiver: Receiver, database: Database | None = None) -> Any:
    """Return what must be the same at every point: each key once, but for calls that may be repeated under their key."""

    async def observe(run_id: UUID) -> Any:
        calls = receiver.of(str(run_id))
        notes = database.execute("select count(*) from notes where run = %s", str(run_id)) if database else None
        return {
            "keys": {what: len(set(keys)) for what, keys in calls.items()},
            "calls": {what: len(keys) for what, keys in calls.items() if what in ("verified", "manual")},
            "notes": notes,
        }

    return observe


def somebody(receiver: Receiver) -> Any:
    """Return a person who knows what the receiver got, approves, and answers."""

    async def answers(wait: dict[str, Any]) -> tuple[Decision, Any] | None:
        match wait["kind"]:
            case "approval":
                return Decision.APPROVED, None
            case "input":
                return Decision.RESPONDED, 42
            case "signal":
                return Decision.SIGNALLED, "went"
            case _:
                key = wait["request"]["key"]
                happened = key in receiver.results
                return (Decision.HAPPENED, receiver.results[key]) if happened else (Decision.RESEND, None)

    return answers


async def test_every_effect_class_survives_a_kill_at_every_commit(database: Database) -> None:
    async with receiving() as receiver:
        report = await crash_everywhere(
            [Step("all", "effects"), Step("alone", "manual", {"n": 9}, depends_on=["all"])], MODULES,
            database_url=database.url, answers=somebody(receiver), observe=seen_by(receiver),
            environment={"TEST_RECEIVER": str(receiver.port)},
        )  # fmt: skip
    assert report.different == []
    assert report.baseline.status == "completed"
    assert len(report.points) >= 12


# A hundred kills and as many new workers: a minute on a quiet machine.
@pytest.mark.timeout(400)
async def test_waits_spawned_steps_and_rows_survive_a_kill_at_every_commit(database: Database) -> None:
    database.execute("create table notes (run text)")
    async with receiving() as receiver:
        report = await crash_everywhere(
            [Step("asked", "waits"), Step("noted", "note", depends_on=["asked"])], MODULES,
            database_url=database.url, answers=somebody(receiver), observe=seen_by(receiver, database),
            environment={"TEST_RECEIVER": str(receiver.port)},
        )  # fmt: skip
    assert report.different == []
    assert report.baseline.outputs["asked"] == [7, 42, "went", [1, 2], "completed", {"child": 8}]
    assert report.baseline.seen["notes"] == [(1,)]
    assert len(report.points) >= 16


async def test_compensation_survives_a_kill_at_every_commit(database: Database) -> None:
    async with receiving() as receiver:
        report = await crash_everywhere(
            [Step("one", "idempotent", {"n": 1}), Step("two", "idempotent", {"n": 2}, depends_on=["one"]),
             Step("end", "fails", depends_on=["two"])],
            MODULES, database_url=database.url, observe=seen_by(receiver),
            environment={"TEST_RECEIVER": str(receiver.port)},
        )  # fmt: skip
    assert report.different == []
    assert (report.baseline.status, report.baseline.seen["keys"]) == ("failed", {"idempotent": 2, "undo": 2})
