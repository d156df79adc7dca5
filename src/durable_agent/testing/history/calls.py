"""I7, I11 and I12 of one run: what it called was intended before, was approved as it was called, and cost what it says.

From events and rows alone; whether a call took place is for the receiver's log to say (`outside`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, TypeAlias

import orjson

from durable_agent.core.waits import approval_digest
from durable_agent.testing.history.chain import sha256_of
from durable_agent.testing.history.documents import Document, Event, ExportedRun
from durable_agent.testing.history.report import Report

_Effect: TypeAlias = tuple[int | None, Any]
_APPROVED = "approved"


class Calls:
    """The calls and waits of one run, gathered from its events."""

    def __init__(self, found: ExportedRun, report: Report) -> None:
        self._found, self._report = found, report
        self._rows: dict[_Effect, Document] = {(one.get("step_no"), one.get("no")): one for one in found.effects}
        self.intents: dict[_Effect, list[Event]] = defaultdict(list)
        self.resends: dict[_Effect, int] = defaultdict(int)
        self._results: dict[_Effect, tuple[Event, str | None]] = {}
        self._doubts: dict[_Effect, list[Event]] = defaultdict(list)
        self._settlements: dict[_Effect, list[Event]] = defaultdict(list)
        self._ends: dict[_Effect, list[Event]] = defaultdict(list)
        self._opened: dict[str, Event] = {}
        self._answered: dict[str, Event] = {}
        self._used: dict[str, Event] = {}
        self._spent = [0, 0, 0]

    def check(self) -> None:
        """Add what is wrong with the run's waits, effects and spending."""
        for event in self._found.events:
            self._event(event)
        self._missing()
        for wait in self._found.waits:
            self._wait(wait)
        for effect in self._found.effects:
            self._effect(effect)
        self._totals()

    def _missing(self) -> None:
        """What events opened or intended has a row."""
        waits = {str(wait["id"]) for wait in self._found.waits}
        for wait, opened in self._opened.items():
            if wait not in waits:
                self._tell("I7", f"wait {wait} was opened, and is gone", opened)
        for key, intents in self.intents.items():
            if intents and key not in self._rows:
                self._tell("I11", f"{_name(key)} was intended, and is gone", intents[0])

    def _tell(self, invariant: str, message: str, *excerpt: Event | Document | None) -> None:
        self._report.found(invariant, self._found.id, message, *(one for one in excerpt if one is not None))

    def _event(self, event: Event) -> None:
        key = event.step_no, event.data.get("effect")
        match event.type:
            case "effect.intended":
                self._intended(key, event)
            case "effect.recorded":
                self._recorded(key, event)
            case "effect.unknown":
                self._doubted(key, event)
            case "effect.settled":
                self._settled(key, event)
            case "effect.booked":
                self._spend(event, int(event.data.get("tokens") or 0))
            case "step.waiting":
                self._opened.setdefault(str(event.data.get("wait")), event)
            case "step.answered":
                self._decided(str(event.data.get("wait")), event)
            case _ if "budget" in event.data:
                self._limit(event, event.data["budget"])

    def _decided(self, wait: str, event: Event) -> None:
        opened = self._opened.get(wait)
        if opened is None or opened.step_no != event.step_no:
            self._tell("I7", f"wait {wait} is answered, and nothing opened it", opened, event)
        elif wait in self._answered:
            self._tell("I7", f"wait {wait} has two decisions", self._answered[wait], event)
        self._answered.setdefault(wait, event)

    def _intended(self, key: _Effect, event: Event) -> None:
        first = self.intents[key][0] if self.intents[key] else None
        if first is not None and first.data.get("key") != event.data.get("key"):
            self._tell("I11", f"{_name(key)} is sent again with another key", first, event)
        self.intents[key].append(event)
        if (approval := event.data.get("approval")) is not None:
            self._approval(str(approval), key, event)

    def _approval(self, approval: str, key: _Effect, event: Event) -> None:
        opened, answered = self._opened.get(approval), self._answered.get(approval)
        if approval in self._used:
            self._tell("I7", f"approval {approval} is used twice", self._used[approval], event)
        self._used.setdefault(approval, event)
        said = answered.data.get("decision") if answered is not None else None
        if opened is None or opened.data.get("kind") != "approval" or said != _APPROVED:
            self._tell("I7", f"{_name(key)} is called, and it was not approved ({said})", opened, answered, event)
            return
        row = self._rows.get(key)
        if row is None:
            return
        request = orjson.dumps(row["request"], option=orjson.OPT_SORT_KEYS)
        if approval_digest(str(event.data.get("name")), request) != opened.data.get("request_sha256"):
            self._tell("I7", f"{_name(key)}: what runs is not what was approved", opened, answered, event)

    def _recorded(self, key: _Effect, event: Event) -> None:
        intent = self.intents[key][-1] if self.intents[key] else None
        row = self._rows.get(key)
        # A value that is recorded and calls nobody has a row without a key.
        if intent is None and (row is None or row["key"]):
            self._tell("I11", f"{_name(key)} has a result, and no intent before it", event)
        elif intent is not None and intent.claim_no != event.claim_no and intent.data.get("class") != "verify":
            # What a look-up says is adopted by a claim that intended nothing.
            self._tell("I11", f"{_name(key)} has a result of a claim that did not intend it", intent, event)
        if event.data.get("state") != "unknown":
            self._ended(key, event)
        self._results[key] = event, event.data.get("result_sha256")
        usage = event.data.get("usage")
        if isinstance(usage, Mapping):
            self._spend(event, int(usage.get("input_tokens", 0)) + int(usage.get("output_tokens", 0)))

    def _doubted(self, key: _Effect, event: Event) -> None:
        self._doubts[key].append(event)
        # The step's own call, number 0, has no intent but its claims; what the end of a run cut off is told without a
        # claim, and again by the claim that meets it after a redrive.
        if key[1] and event.claim_no is not None:
            self._ended(key, event)

    def _ended(self, key: _Effect, event: Event) -> None:
        """Each intent comes to one end: a result, or a doubt. A look-up may end a doubt, too."""
        self._ends[key].append(event)
        verified = any(intent.data.get("class") == "verify" for intent in self.intents[key])
        if len(self._ends[key]) > max(1, len(self.intents[key]) + verified):
            self._tell("I11", f"{_name(key)} ends more often than it was intended", *self._ends[key][-2:])

    def _settled(self, key: _Effect, event: Event) -> None:
        self._settlements[key].append(event)
        if len(self._settlements[key]) > len(self._doubts[key]):
            text = f"{_name(key)} is settled, and nobody is in doubt of it"
            self._tell("I11", text, *self._doubts[key], *self._settlements[key])
        match event.data.get("decision"):
            case "resend":
                self.resends[key] += 1
            case "happened" if event.raw["detail"] is not None:
                value = orjson.loads(event.raw["detail"]).get("result")
                self._results[key] = event, sha256_of(value)
            case _:
                pass

    def _spend(self, event: Event, tokens: int) -> None:
        for index, amount in enumerate((1, tokens, int(event.data.get("microusd") or 0))):
            self._spent[index] += amount

    def _limit(self, event: Event, said: Mapping[str, Any]) -> None:
        """I12: what stopped a run held what was spent and reserved, and did not hold what was wanted."""
        if not {"cap", "spent", "reserved", "wanted"} <= said.keys():
            return
        held = said["spent"] + said["reserved"]
        if held > said["cap"]:
            text = f"{said.get('meter')}: {said['spent']} spent and {said['reserved']} reserved of {said['cap']}"
            self._tell("I12", text, event)
        elif said["wanted"] and held + said["wanted"] <= said["cap"]:
            self._tell("I12", f"{said.get('meter')}: refused, and {said['wanted']} more would have fitted", event)

    def _totals(self) -> None:
        run = self._found.run
        tokens = (run.get("input_tokens") or 0) + (run.get("output_tokens") or 0)
        said = [run.get("calls") or 0, tokens, run.get("microusd") or 0]
        if said != self._spent:
            names = "calls, tokens, microusd"
            self._tell("I12", f"the run says it used {said} ({names}), its events add up to {self._spent}")

    def _wait(self, wait: Document) -> None:
        name, opened, answered = f"wait {wait['id']}", self._opened.get(wait["id"]), self._answered.get(wait["id"])
        if opened is None or opened.data.get("request_sha256") != wait["request_sha256"]:
            self._tell("I7", f"{name} was not opened for this request", opened, wait)
            return
        told = (wait["answer"] or {}).get("decision")
        said = answered.data.get("decision") if answered is not None else None
        if (told if wait["state"] == "answered" else None) != said:
            self._tell("I7", f"{name} says {told}, its events say {said}", opened, answered, wait)
        used = self._used.get(wait["id"])
        if wait["kind"] == "approval" and (wait["consumed_at"] is not None) != (used is not None):
            word = "used, and is not used up" if used is not None else "used up, and nothing used it"
            self._tell("I7", f"{name} was {word}", opened, used, wait)

    def _effect(self, effect: Document) -> None:
        key: _Effect = (effect["step_no"], effect["no"])
        intent = self.intents[key][-1] if self.intents[key] else None
        self._report.effects += 1
        self._report.unknown += effect["state"] == "unknown"
        if effect["key"] and (intent is None or intent.data.get("key") != effect["key"]):
            self._tell("I11", f"{_name(key)}: no event tells of its intent", intent, effect)
        if effect["key"] and effect["sends"] != len(self.intents[key]):
            text = f"{_name(key)} was sent {effect['sends']} times, and intended {len(self.intents[key])} times"
            self._tell("I11", text, *self.intents[key], effect)
        if effect["key"] and sha256_of(effect["request"]) != effect["request_sha256"]:
            self._tell("I11", f"{_name(key)}: its request is not the one that was intended", intent, effect)
        if intent is not None and intent.data.get("approval") != effect["approval"] and len(self.intents[key]) == 1:
            self._tell("I7", f"{_name(key)}: its approval is not the one that was used", intent, effect)
        event, result = self._results.get(key, (None, None))
        if effect["state"] == "done" and result != sha256_of(effect["result"]):
            self._tell("I11", f"{_name(key)}: its result is not the one that was recorded", event, effect)


def _name(key: _Effect) -> str:
    return f"effect {key[1]} of step {key[0]}"
