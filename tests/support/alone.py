"""An attempt's link where there is no engine: everything it tells is kept and accepted."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from durable_agent.agents.models import WorkerModels
from durable_agent.core.outcomes import Outcome, Verdict
from durable_agent.core.records import Claim
from durable_agent.flow.registry import Registry
from durable_agent.flow.tools import Tool
from durable_agent.worker.attempt import invoke
from durable_agent.worker.gates import NO_GATE


class Alone:
    """Accepts all."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.told: list[Outcome] = []

    async def still_ours(self) -> None:
        """There is no lease to lose."""

    async def tell(self, outcome: Outcome) -> Verdict:
        self.told.append(outcome)
        return Verdict.OK

    def post(self, outcome: Outcome) -> None:
        self.told.append(outcome)

    def find(self, name: str) -> Tool | None:
        return self.registry.get(name)

    async def invoke(self, tool: Tool, arguments: Mapping[str, Any], context: Any) -> Any:
        return await invoke(tool, arguments, context)

    def transaction(self, claim: Claim) -> AbstractAsyncContextManager[Any]:
        raise NotImplementedError

    async def keep(self, text: bytes) -> bytes:
        return text

    async def whole(self, value: Any) -> Any:
        return value

    async def put(self, content: bytes) -> str:
        raise NotImplementedError

    def models(self) -> WorkerModels:
        return WorkerModels.from_env({})

    def say(self, effect: int, text: str) -> None:
        return

    async def pass_gate(self, name: str | None, tokens: int) -> Any:
        return NO_GATE
