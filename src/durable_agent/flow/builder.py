"""Graphs in Python: nodes, edges and conditions, checked when they are registered, stored as the steps the API takes."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel

from durable_agent.core.events import digest, dumps
from durable_agent.core.graph import plan
from durable_agent.core.records import Dependency, RetryPolicy, StepKind, StepSpec
from durable_agent.errors import InvalidRequest
from durable_agent.flow.steps import Step
from durable_agent.flow.tools import Tool


class Graph:
    """A named graph of steps: `Graph("name").node(…).edge(…)`. A worker that imports it registers it.

    `input` is the pydantic model of what a run of it is given, if it is typed.
    """

    def __init__(self, name: str, *, input: type[BaseModel] | None = None) -> None:
        if not 1 <= len(name) <= 200 or not name.isprintable():
            raise InvalidRequest("a graph's name has 1 to 200 printable characters", field="name")
        self.name = name
        self.input = input
        self._nodes: dict[str, Step] = {}
        self._edges: list[tuple[str, str, str | None]] = []

    def node(
        self, name: str, *, tool: str | Tool | None = None, kind: str = "tool_call", input: Any = None,
        when: str | None = None, retry: RetryPolicy | None = None, timeout_s: float | None = None,
        queue: str = "default", priority: int = 0, compensate: str | None = None,
    ) -> Self:  # fmt: skip
        """Add a node. `tool` (default: of the node's own name) does its work; `input` is what it is given.

        Raises InvalidRequest for a name that is taken and for an unknown kind.
        """
        if name in self._nodes:
            raise InvalidRequest(f"graph {self.name!r}: node {name!r} is given twice", field="node")
        try:
            known = StepKind(kind)
        except ValueError:
            raise InvalidRequest(f"graph {self.name!r}: node {name!r}: {kind!r} is no kind", field="kind") from None
        chosen = tool.name if isinstance(tool, Tool) else tool
        self._nodes[name] = Step(
            name, chosen, input, known, (), when, retry or (tool.retry if isinstance(tool, Tool) else None),
            timeout_s or (tool.timeout_s if isinstance(tool, Tool) else None), queue=queue, priority=priority,
            compensate=compensate,
        )  # fmt: skip
        return self

    def edge(self, source: str, target: str, when: str | None = None) -> Self:
        """Let `target` wait for `source`; with `when` (CEL over `output` and `input`) only where it holds."""
        self._edges.append((source, target, when))
        return self

    def specs(self) -> tuple[StepSpec, ...]:
        """Return the steps, checked. Raises GraphInvalid naming each node that dangles, repeats or goes in a circle."""
        specs = []
        for source, target, _ in self._edges:
            if target not in self._nodes:
                raise InvalidRequest(
                    f"graph {self.name!r}: edge {source!r} → {target!r} leads to no node", field="edge"
                )
        for name, node in self._nodes.items():
            own = tuple(Dependency(source, when) for source, target, when in self._edges if target == name)
            spec = node.spec()
            specs.append(StepSpec(**{**_fields(spec), "depends_on": own}))
        plan(specs, max_steps=100_000)
        return tuple(specs)

    def to_json(self) -> list[dict[str, Any]]:
        """Return the steps as POST /runs takes them."""
        return [
            {
                "name": s.name, "kind": s.kind.value, "tool": s.tool, "input": s.input, "when": s.when, "queue": s.queue,
                "priority": s.priority, "timeout_s": s.timeout_s, "compensate": s.compensate,
                "retry": {
                    "max_attempts": s.retry.max_attempts, "base_s": s.retry.base_s, "factor": s.retry.factor,
                    "cap_s": s.retry.cap_s, "non_retryable": sorted(s.retry.non_retryable),
                },
                "depends_on": [{"step": d.step, "when": d.when} if d.when else d.step for d in s.depends_on],
            }
            for s in self.specs()
        ]  # fmt: skip

    @property
    def version(self) -> str:
        """The digest of all that makes up the graph: another graph, another version (16 hex digits)."""
        return digest(dumps([self.to_json(), self.input_schema()]))[:16]

    def input_schema(self) -> dict[str, Any] | None:
        """Return the JSON Schema of the input, if it is typed."""
        return self.input.model_json_schema() if self.input is not None else None


def _fields(spec: StepSpec) -> dict[str, Any]:
    return {name: getattr(spec, name) for name in StepSpec.__slots__}
