"""Effects: what a call whose result is not known allows, and how a resumed attempt meets what was recorded before.

A step's handler runs again from its beginning; each effect it asks for is looked up among those recorded, in the order
of (name, request digest). What was recorded is returned and never called again. An effect of a name that has records
left, none with this request, means that the code or its data changed: that is divergence, and nothing is called.
Source: the recovery classes of `docs/guarantees.md`; keys by HMAC as in RFC 2104.
"""

from __future__ import annotations

import hmac
from collections import defaultdict, deque
from collections.abc import Iterable, Set
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from durable_agent.core.records import Answer, Effect, EffectClass, EffectState, WaitKind

R = TypeVar("R", Effect, Answer)


class Recovery(Enum):
    """What a begun effect without a result allows."""

    SEND = "send"  # again, with the same key
    VERIFY = "verify"  # ask the tool's own look-up first
    ASK = "ask"  # a person


def recovery(effect: EffectClass, state: EffectState) -> Recovery:
    """Return what to do about an effect in state `intent`, `unknown`, `failed` or `resend`.

    A call that failed is known not to have happened; a person who says "send again" has decided.
    """
    if state not in (EffectState.INTENT, EffectState.UNKNOWN):
        return Recovery.SEND
    match effect:
        case EffectClass.SAFE | EffectClass.IDEMPOTENT:
            return Recovery.SEND
        case EffectClass.VERIFY:
            return Recovery.VERIFY
        case EffectClass.MANUAL:
            return Recovery.ASK


def own_word(answers: Iterable[Answer]) -> Answer | None:
    """Return the last word of a person about the step's own call, when the step is a tool that was lost in the middle."""
    own = [one for one in answers if one.kind is WaitKind.UNKNOWN_EFFECT and one.request_sha256 == ""]
    return max(own, key=lambda one: one.no, default=None)


def effect_key(step_key: str, no: int, request_sha256: str) -> str:
    """Return the key an effect shows to its receiver: the same at every attempt, unguessable without the step's own."""
    return hmac.digest(step_key.encode(), f"{no}|{request_sha256}".encode(), "sha256").hex()


class Diverged(Exception):
    """The handler asks for something else than what was recorded; nothing was called."""


@dataclass(frozen=True, slots=True)
class Fresh:
    """An effect that was never recorded: its number."""

    no: int


class Ledger:
    """The recorded effects and answers of one step, taken one by one as its handler asks for them.

    `sealed`: the record is whole, as in a replay; then what is not in it is a divergence too.
    """

    def __init__(self, effects: Iterable[Effect] = (), answers: Iterable[Answer] = (), *, sealed: bool = False) -> None:
        self._effects: dict[str, deque[Effect]] = defaultdict(deque)
        self._answers: dict[tuple[WaitKind, str], deque[Answer]] = defaultdict(deque)
        self._next_effect = 1
        self._sealed = sealed
        for effect in sorted(effects, key=lambda one: one.no):
            self._effects[effect.name].append(effect)
            self._next_effect = max(self._next_effect, effect.no + 1)
        for answer in sorted(answers, key=lambda one: one.no):
            if answer.kind is not WaitKind.UNKNOWN_EFFECT:  # the effect's own state says what was decided
                self._answers[answer.kind, answer.name].append(answer)

    def effect(self, name: str, request_sha256: str) -> Effect | Fresh:
        """Return the record of this request, taken out, or a fresh number. Raises Diverged."""
        records = self._effects[name]
        if (found := _taken(records, request_sha256)) is not None:
            return found
        if records:
            raise Diverged(
                f"it asks for {name!r} with a request that differs from the recorded one (effect {records[0].no}); "
                "the code or its data changed since"
            )
        if self._sealed:
            raise Diverged(f"it asks for {name!r} once more than was recorded")
        self._next_effect += 1
        return Fresh(self._next_effect - 1)

    def answer(self, kind: WaitKind, name: str, request_sha256: str) -> Answer | None:
        """Return what the wait came to, taken out, or None when it is yet to be opened. Raises Diverged."""
        answers = self._answers[kind, name]
        if (found := _taken(answers, request_sha256)) is not None:
            return found
        if answers:
            raise Diverged(
                f"it waits for {kind.value} {name!r} with a request that differs from the one that was answered "
                f"(wait {answers[0].no}); the code or its data changed since"
            )
        if self._sealed:
            raise Diverged(f"it waits for {kind.value} {name!r}, which was not recorded")
        return None

    def forget(self, numbers: Set[int]) -> None:
        """Take the effects of these numbers out: who asked for them will not ask again."""
        for name, records in self._effects.items():
            self._effects[name] = deque(one for one in records if one.no not in numbers)

    def left(self) -> str | None:
        """Return the name of a recorded effect or wait that was not asked for, if there is one."""
        for name, records in self._effects.items():
            if records:
                return name
        return next((name for (_, name), answers in self._answers.items() if answers), None)


def _taken(records: deque[R], request_sha256: str) -> R | None:
    """Take the first record of a request out, if there is one."""
    found = next((one for one in records if one.request_sha256 == request_sha256), None)
    if found is not None:
        records.remove(found)
    return found
