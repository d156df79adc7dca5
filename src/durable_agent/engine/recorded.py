"""What a run's events say of its effects and waits, and where the rows are not that (I7, I11).

The events are chained and the rows are not: whatever a row says of what was called, asked, approved or answered has to be found
in an event, and whatever an event tells of has to have its row. What may be erased of an event (its detail) is compared by the
digest that its chained part carries.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from durable_agent.core.events import StoredEvent, digest, dumps
from durable_agent.core.records import EffectClass, EffectState
from durable_agent.core.states import StepEvent
from durable_agent.core.waits import Decision

Document = Mapping[str, Any]

# What an event that does not name it says of a call: that it was noted, not made.
_NOTED = {"class": EffectClass.SAFE, "key": "", "approval": None, "request_sha256": None}


@dataclass(slots=True)
class Call:
    """An effect as its events tell of it: what was intended, how often, and what became of it."""

    intent: dict[str, Any]
    state: str = EffectState.INTENT
    sends: int = 0
    result: str | None = None
    error: str | None = None


@dataclass(slots=True)
class Asked:
    """A wait as its events tell of it: what it was opened for, and how it was answered."""

    opened: dict[str, Any]
    answer: dict[str, Any] | None = None


@dataclass(slots=True)
class Told:
    """All that the events tell of a run's effects, by step and number, and of its waits, by id."""

    calls: dict[tuple[int | None, int], Call] = field(default_factory=dict)
    waits: dict[str, Asked] = field(default_factory=dict)

    def take(self, event: StoredEvent) -> None:
        """Take what one event tells."""
        told = orjson.loads(event.data)
        match event.type:
            case StepEvent.WAITING:
                self.waits[told["wait"]] = Asked(told)
            case StepEvent.ANSWERED if told["wait"] in self.waits:
                self.waits[told["wait"]].answer = told
            case StepEvent.EFFECT_INTENDED:
                call = self.calls.setdefault((event.step_no, told["effect"]), Call(told))
                # Sent again, it is still by the approval that it was first sent by.
                call.intent = {**told, "approval": call.intent.get("approval")}
                call.state, call.sends = EffectState.INTENT, call.sends + 1
            case StepEvent.EFFECT_RECORDED:
                call = self.calls.setdefault((event.step_no, told["effect"]), Call({**_NOTED, **told}))
                call.state, call.result, call.error = (
                    told["state"],
                    told.get("result_sha256"),
                    told.get("detail_sha256"),
                )
            case StepEvent.EFFECT_UNKNOWN if told["effect"]:
                call = self.calls[event.step_no, told["effect"]]
                call.state, call.result, call.error = EffectState.UNKNOWN, None, None
            case StepEvent.EFFECT_SETTLED if told["effect"]:
                self._settle(self.calls[event.step_no, told["effect"]], told, event.detail)
            case _:
                pass

    def _settle(self, call: Call, told: Document, detail: bytes | None) -> None:
        """A person's word: the result is in what may be erased, and the wait's answer has it, too."""
        call.state, call.result, call.error = _SETTLED.get(told["decision"], EffectState.REFUSED), None, None
        if call.state == EffectState.DONE and detail is not None:
            call.result = digest(dumps(orjson.loads(detail)["result"]))


_SETTLED: Mapping[str, EffectState] = {Decision.HAPPENED: EffectState.DONE, Decision.RESEND: EffectState.RESEND}


def effect_faults(
    effects: Sequence[Document], waits: Sequence[Document], events: Iterable[StoredEvent]
) -> list[str]:  # fmt: skip
    """Return where recorded effects and waits are not what the events say: calls, results, requests, decisions, or are missing."""
    told = Told()
    for event in events:
        told.take(event)
    faults = [fault for effect in effects for fault in _call_faults(effect, told.calls.get(_place(effect)))]
    faults += [fault for wait in waits for fault in _wait_faults(wait, told.waits.get(str(wait["id"])))]
    rows, asked = {_place(effect) for effect in effects}, {str(wait["id"]) for wait in waits}
    faults += [
        f"effect {no} of step {step} is missing, of which events tell"
        for step, no in told.calls
        if (step, no) not in rows
    ]
    return faults + [f"wait {wait} is missing, of which events tell" for wait in told.waits if wait not in asked]


def _place(effect: Document) -> tuple[int, int]:
    return effect["step_no"], effect["no"]


def _call_faults(effect: Document, call: Call | None) -> Iterator[str]:
    name = f"effect {effect['no']} of step {effect['step_no']}"
    if call is None:
        yield f"{name}: no event tells of it"
        return
    intent = call.intent
    if effect["name"] != intent["name"] or effect["class"] != intent["class"] or effect["key"] != intent["key"]:
        yield f"{name}: no event tells of its intent"
    if effect["approval"] != intent.get("approval"):
        yield f"{name}: it was not made by this approval"
    if intent["request_sha256"] is not None and not (
        effect["request_sha256"] == intent["request_sha256"] == digest(dumps(effect["request"]))
    ):
        yield f"{name}: its request is not the one that was recorded"
    if intent["key"] and effect["sends"] != call.sends:
        yield f"{name}: it was sent {call.sends} times, its row says {effect['sends']}"
    # A run's end leaves what is under way unknown.
    if effect["state"] != call.state and (effect["state"], call.state) != (EffectState.UNKNOWN, EffectState.INTENT):
        yield f"{name}: it is {effect['state']}, its events say {call.state}"
    if effect["state"] == EffectState.DONE and call.result != digest(dumps(effect["result"])):
        yield f"{name}: its result is not the one that was recorded"
    if effect["state"] == EffectState.FAILED and call.error != digest(dumps({"error": effect["error"]})):
        yield f"{name}: its error is not the one that was recorded"


def _wait_faults(wait: Document, asked: Asked | None) -> Iterator[str]:
    name = f"wait {wait['id']}"
    if asked is None:
        yield f"{name}: no event tells of it"
        return
    opened, told = asked.opened, asked.answer
    if (
        (wait["kind"], wait["name"], wait["request_sha256"]) != (opened["kind"], opened["name"], opened["request_sha256"])
        or digest(dumps({"request": wait["request"]})) != opened["detail_sha256"]
    ):  # fmt: skip
        yield f"{name}: it was not opened for this request"
    if (wait["state"] == "answered") != (told is not None):
        yield f"{name}: it is {wait['state']}, its events say {'answered' if told is not None else 'nothing of an answer'}"
        return
    if told is None:
        return
    answer = wait["answer"]
    if (answer["decision"], answer["by"], wait["answered_by"]) != (told["decision"], told["by"], told["by"]):
        yield f"{name}: its answer is not the one that was recorded"
        return
    value = None if told["decision"] == Decision.FINISHED else answer["value"]
    if digest(dumps({"reason": answer["reason"], "value": value})) != told["detail_sha256"]:
        yield f"{name}: what was answered is not what was recorded"
