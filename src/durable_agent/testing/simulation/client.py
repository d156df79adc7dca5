"""Clients and people: they submit, pause, cancel, redrive and answer, and often do not hear what came of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any
from uuid import UUID

from durable_agent.core.events import digest, dumps
from durable_agent.core.records import WaitKind
from durable_agent.core.states import IllegalTransition, RunStatus
from durable_agent.core.waits import Decision
from durable_agent.errors import DatabaseUnavailable, DurableAgentError
from durable_agent.testing.simulation.rows import RunRow, WaitRow
from durable_agent.testing.simulation.workload import Mix, drawn_run

if TYPE_CHECKING:
    from durable_agent.testing.simulation.world import World

# What a verb may be told that is an answer, too.
REFUSALS = (DurableAgentError, IllegalTransition)


@dataclass(slots=True)
class Client:
    """Who submits runs, each under a key, and asks again when nobody answered."""

    world: World
    random: Random
    mix: Mix
    runs: int
    log: list[dict[str, Any]] = field(default_factory=list)

    async def main(self) -> None:
        """Submit all runs, one after the other."""
        wire = self.world.wire()
        for number in range(self.runs):
            await asyncio.sleep(self.random.random() * 2.0)
            spec, key = drawn_run(self.random, self.mix), f"key-{number}"
            body = digest(dumps([[s.name, s.tool, s.input] for s in spec.steps]))
            run_id = UUID(int=self.random.getrandbits(128), version=4)
            for _ in range(self.random.choice((1, 5, 40))):
                try:
                    made = await wire.ask(lambda: self.world.submit(spec, key, body.encode(), run_id))  # noqa: B023
                except DatabaseUnavailable:
                    self.log.append({"key": key, "body": body, "answer": "unknown"})
                    await asyncio.sleep(0.5 + self.random.random() * 2.0)
                    continue
                self.log.append({"key": key, "body": body, "answer": "ok", "run_id": str(made)})
                if self.random.random() < 0.8:  # else ask again, as who did not hear it would
                    break

    async def meddle(self) -> None:
        """Say things to runs that are under way, until the faults stop."""
        wire, world = self.world.wire(), self.world
        while asyncio.get_running_loop().time() < world.weather.calm_s:
            await asyncio.sleep(self.random.random() * 3.0)
            if not world.store.runs:
                continue
            run = self.random.choice(list(world.store.runs.values()))
            verb = self.random.choice(("pause", "resume", "resume", "cancel", "redrive", "redrive", "signal", "signal"))
            if verb == "cancel" and self.random.random() < 0.6:
                continue
            for _ in range(3):
                try:
                    await wire.ask(lambda: world.control(verb, run.id, self.random.getrandbits(64)))  # noqa: B023
                    break
                except DatabaseUnavailable:
                    await asyncio.sleep(self.random.random())
                except REFUSALS:
                    break


@dataclass(slots=True)
class People:
    """Who answers what waits: honest about the outside world, and sometimes two at once."""

    world: World
    random: Random

    async def main(self, name: str) -> None:
        """Answer whatever waits for a person, and resume what was paused by one, for ever."""
        wire, world = self.world.wire(), self.world
        while True:
            await asyncio.sleep(0.5 + self.random.random() * 3.0)
            for wait in world.waiting():
                decision, value = self._decided(wait)
                try:
                    await wire.ask(lambda: world.answer(wait.id, decision, name, value))  # noqa: B023
                except (DatabaseUnavailable, *REFUSALS):
                    continue
            calm = asyncio.get_running_loop().time() >= world.weather.calm_s
            for run in [r for r in world.store.runs.values() if calm and r.status is RunStatus.PAUSED]:
                if not by_budget(run):
                    try:
                        await wire.ask(lambda: world.control("resume", run.id, 0))  # noqa: B023
                    except (DatabaseUnavailable, *REFUSALS):
                        continue

    def _decided(self, wait: WaitRow) -> tuple[Decision, Any]:
        match wait.kind:
            case WaitKind.APPROVAL:
                return self.random.choice((Decision.APPROVED, Decision.APPROVED, Decision.REJECTED)), None
            case WaitKind.INPUT:
                return Decision.RESPONDED, {"said": self.random.randrange(10)}
            case _:
                known = self.world.receiver.known.get(wait.request["key"])
                if known is not None:
                    return Decision.HAPPENED, known
                return self.random.choice((Decision.RESEND, Decision.FAILED)), None


def by_budget(run: RunRow) -> bool:
    """Whether a budget paused the run last: nobody raises it here."""
    paused = next((event for event in reversed(run.events) if event.type == "run.paused"), None)
    return paused is not None and paused.data.get("reason") == "budget"
