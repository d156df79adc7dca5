"""Cassettes: an exported run is made again from its record, step by step, without database, keys or network."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson

from durable_agent.agents.kinds import AGENT_KINDS
from durable_agent.core.events import digest, dumps
from durable_agent.core.large import KEY, is_reference
from durable_agent.core.outcomes import Failed, Outcome, Succeeded, Verdict
from durable_agent.core.records import (
    DEFAULT_TENANT,
    Answer,
    Claim,
    Effect,
    EffectClass,
    EffectState,
    Lease,
    Replay,
    RunId,
    StepKind,
    Token,
    WaitKind,
)
from durable_agent.engine.export import Export, parse_export
from durable_agent.errors import FatalError, Unrecorded
from durable_agent.flow.kinds import KINDS
from durable_agent.flow.link import NoLink
from durable_agent.flow.registry import Registry
from durable_agent.flow.tools import Tool
from durable_agent.worker.attempt import run_attempt

# What a cassette has a result of; the other steps never ran to an end.
PLAYABLE = ("succeeded", "compensated", "dead_letter")


@dataclass(frozen=True, slots=True)
class Played:
    """One step made again; `difference` says what is not as recorded, None when it is."""

    step: str
    difference: str | None


class Cassette:
    """A parsed export. Raises NotAnExport, ChainBroken for what is none."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self.export: Export = parse_export(lines)
        self._names = {step["no"]: step["name"] for step in self.export.steps}
        self._steps = {step["name"]: step for step in self.export.steps}

    @property
    def steps(self) -> list[str]:
        """The names of the steps that have a result, in their order."""
        mine = [s for s in self.export.steps if s["compensates"] is None and s["origin"] is None]
        return [s["name"] for s in mine if s["status"] in PLAYABLE]

    def play(self, name: str, registry: Registry) -> Played:
        """Make one step again from its record with the registry's tools, and compare."""
        claim = self._claim(self._steps[name])
        link = _Tape(
            registry.including((*KINDS, *AGENT_KINDS)), {c["sha256"]: c["content"] for c in self.export.contents}
        )
        outcome = asyncio.run(run_attempt(claim, link.registry, link, limit_bytes=2**31))
        return Played(name, _difference(claim, outcome))

    def _claim(self, step: dict[str, Any]) -> Claim:
        no, run = step["no"], self.export.run
        parents = {
            self._names[p]: self.export.steps[p]["output"]
            for p in step["parents"] if self.export.steps[p]["status"] in ("succeeded", "compensated")
        }  # fmt: skip
        output = dumps(step["output"]) if step["status"] != "dead_letter" else None
        lease = Lease(DEFAULT_TENANT, RunId(UUID(run["id"])), no, step["claim_no"], Token(UUID(int=0)))
        return Claim(
            lease, step["name"], StepKind(step["kind"]), step["tool"], step["input"], run["input"], run["goal"], parents,
            step["failures"] + 1, 0, None, 3600.0, "",
            effects=tuple(_effect(e) for e in self.export.effects if e["step_no"] == no),
            answers=tuple(_answer(w) for w in self.export.waits if w["step_no"] == no and w["state"] == "answered"),
            replay=Replay(output, step["status"], step["error"]),
        )  # fmt: skip


def play(lines: Iterable[bytes], registry: Registry) -> list[Played]:
    """Make every step of an exported run again and return how each compares. Raises NotAnExport, ChainBroken."""
    cassette = Cassette(lines)
    return [cassette.play(name, registry) for name in cassette.steps]


def _effect(e: Mapping[str, Any]) -> Effect:
    return Effect(
        e["no"], e["name"], EffectClass(e["class"]), e["request_sha256"], e["key"], EffectState(e["state"]), e["result"],
        e["error"],
    )  # fmt: skip


def _answer(w: Mapping[str, Any]) -> Answer:
    return Answer(w["no"], WaitKind(w["kind"]), w["name"], w["request_sha256"], UUID(w["id"]), w["answer"])


def _difference(claim: Claim, outcome: Outcome) -> str | None:
    record = claim.replay
    assert record is not None
    match outcome:
        case Succeeded():
            return None if record.output == outcome.output else "it succeeds now; it was recorded as failed"
        case Failed() if record.output is None and record.error:
            told = record.error.get("message")
            return None if told == outcome.message else f"it fails with {outcome.message!r}; recorded was {told!r}"
        case Failed():
            return outcome.message
        case _:
            return f"it ends as {type(outcome).__name__.lower()}, which was not recorded"


class _Tape(NoLink):
    """A link that plays a record: nothing is told, nothing is called."""

    def __init__(self, registry: Registry, contents: Mapping[str, str]) -> None:
        self.registry = registry
        self._contents = contents

    async def still_ours(self) -> None:
        """There is no lease to lose."""

    async def tell(self, outcome: Outcome) -> Verdict:
        return Verdict.OK

    def post(self, outcome: Outcome) -> None:
        return

    def find(self, name: str) -> Tool | None:
        return self.registry.get(name)

    async def invoke(self, tool: Tool, arguments: Mapping[str, Any], context: Any) -> Any:
        if not tool.orchestrates:
            raise FatalError(f"tool {tool.name!r} would be called, and is not recorded")
        given = {tool.takes_context: context, **arguments} if tool.takes_context else dict(arguments)
        return await tool.function(**given) if tool.is_async else tool.function(**given)

    def transaction(self, claim: Claim) -> AbstractAsyncContextManager[Any]:
        return _no_transaction()

    async def keep(self, text: bytes) -> bytes:
        # What was kept in the store is compared by what stands for it, as it was recorded.
        sha = digest(text)
        return dumps({KEY: sha, "bytes": len(text)}) if sha in self._contents else text

    async def whole(self, value: Any) -> Any:
        if not is_reference(value):
            return value
        if value[KEY] not in self._contents:
            raise FatalError(f"the content of artifact {value[KEY]} is not in the export")
        return orjson.loads(self._contents[value[KEY]])

    def models(self) -> Any:
        return None  # a recorded answer needs none


@asynccontextmanager
async def _no_transaction() -> AsyncIterator[Any]:
    raise Unrecorded("a transaction leaves no record of its own")
    yield
