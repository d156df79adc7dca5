"""Wrong versions of the protocol, in this process only: each must be caught by the interleaver.

Most take out a single thing. Where the engine has a second defence behind the first (a guarded statement that raises a lost
race), the mutant takes that out, too, and says so: it is the rule that is to be missed, not its net.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch
from uuid import UUID

from durable_agent.core.records import Token
from durable_agent.db.arrays import literals
from durable_agent.db.pool import Connection
from durable_agent.db.sql import Statements, load
from durable_agent.engine import answer, control, exchange, reap, settle
from durable_agent.engine.claim import Step
from durable_agent.engine.journal import JOURNAL, STEP_KEY
from durable_agent.engine.settle import Reads, Settlement

_LOCK = " for no key update"


def _without(text: str, part: str) -> str:
    if part not in text:
        raise SystemExit(f"the mutant does not fit the statement: {part!r} is not in it")
    return text.replace(part, "", 1)


@contextmanager
def _changed(family: str, name: str, *parts: str) -> Iterator[None]:
    """Run with parts taken out of a statement."""
    texts = load(family).texts
    text = texts[name]
    for part in parts:
        text = _without(text, part)
    with patch.dict(texts, {name: text}):
        yield


@contextmanager
def no_run_lock() -> Iterator[None]:
    """R1: nobody locks a run before a settlement or a command; what guards the head is left."""
    with _changed("journal", "lock_runs", _LOCK):
        yield


@contextmanager
def control_without_lock() -> Iterator[None]:
    """R1: cancel, pause and all that people say do not lock the run; workers do."""
    texts = dict(load("journal").texts)
    texts["lock_runs"] = _without(texts["lock_runs"], _LOCK)
    with patch.object(control, "JOURNAL", Statements("journal", texts)):
        yield


@contextmanager
def stale_promotion() -> Iterator[None]:
    """I6: what a child waits for is read before the run is locked, and written wherever the child's row lies by then."""
    honest = settle.read

    async def early(conn: Connection, outcomes: Sequence[Any], held: Sequence[Step] | None = None) -> Reads:
        asked = sorted({(*step.run, no) for step in held or () for no in step.children})
        cursor = await conn.execute(JOURNAL.pending, literals(STEP_KEY, asked)) if asked else None
        reads = await honest(conn, outcomes, held)
        if reads.pending is not None:
            reads.pending = cursor
        return reads

    with patch.object(exchange, "read", early), _changed("journal", "resolve_steps", "s.ctid = d.at and "):
        yield


class _ById(Settlement):
    """Takes back whatever lease there is now."""

    def settle(self, outcomes: Sequence[Any], steps: Sequence[Step]) -> None:
        now = [(step.claim_no or 0, step.token or Token(UUID(int=0))) for step in steps]
        leases = [replace(x.lease, claim_no=no, token=token) for x, (no, token) in zip(outcomes, now, strict=True)]
        super().settle([replace(x, lease=lease) for x, lease in zip(outcomes, leases, strict=True)], steps)


@contextmanager
def reap_by_id() -> Iterator[None]:
    """R7: the reaper does not look again under the lock, and takes the step back by its number, whoever holds it by then."""
    texts = load("sessions").texts
    text = _without(texts["still_expired"], " and q.token = d.token").replace("select q.token", "select d.token")
    text = text[: text.index("\n  and (w.session is null")]
    with patch.dict(texts, {"still_expired": text}), patch.object(reap, "Settlement", _ById):
        yield


@contextmanager
def claim_without_run_lock() -> Iterator[None]:
    """R2: the claim takes queue rows without their runs."""
    with _changed("queue", "pick", _LOCK + " skip locked"):
        yield


@contextmanager
def check_then_spend() -> Iterator[None]:
    """I12: budgets are looked at, and then spent, with no lock between."""
    with _changed("budgets", "lock_budgets", "\nfor no key update of b"):
        yield


@contextmanager
def answered_twice() -> Iterator[None]:
    """I7: whether a wait is open is not asked again under the run's lock."""
    with patch.object(answer, "_still_open", lambda wait: None):
        yield


MISRULES: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "no-run-lock": no_run_lock, "control-without-lock": control_without_lock, "stale-promotion": stale_promotion,
    "reap-by-id": reap_by_id, "claim-without-run-lock": claim_without_run_lock, "check-then-spend": check_then_spend,
    "answered-twice": answered_twice,
}  # fmt: skip
# A pair that shows each: what a quick look begins with.
SHOWN_BY: dict[str, str] = {
    "no-run-lock": "cancel,succeed", "control-without-lock": "cancel,succeed", "stale-promotion": "last-parent,other-parent",
    "reap-by-id": "reap,hand-over", "claim-without-run-lock": "claim,cancel", "check-then-spend": "intend,intend-child",
    "answered-twice": "answer,refuse",
}  # fmt: skip
