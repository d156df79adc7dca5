"""Graphs in Python: nodes, edges and conditions, checked when they are registered, stored as the steps the API takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Self

import orjson
from pydantic import BaseModel

from durable_agent.core.events import digest, dumps
from durable_agent.core.graph import plan
from durable_agent.core.records import Dependency, Limit, RetryPolicy, StepKind, StepSpec
from durable_agent.errors import InvalidRequest
from durable_agent.flow.context import Context
from durable_agent.flow.steps import Step
from durable_agent.flow.tools import Tool, step

# What the step of a predicate is named by: this, its edge's source, '.', its edge's target.
WHEN: Final = "when."
PATTERNS: Final = ("pipeline", "supervisor", "swarm", "plan_act_observe")
OPTIONS: Final = frozenset(
    {"system", "max_steps", "max_tokens", "temperature", "arguments", "over", "approve", "result_chars", "servers"}
)


@dataclass(frozen=True, slots=True)
class Edge:
    """What a predicate decides on: the run's input, what the edge's source returned, the run's goal."""

    input: Any
    output: Any
    goal: str | None


Predicate = Callable[[Edge], Any]


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
        self.limits: tuple[Limit, ...] = ()
        self.predicates: tuple[Tool, ...] = ()
        self._edges: list[tuple[str, str, str | None]] = []
        self._asked: dict[tuple[str, str], tuple[str, str]] = {}
        self._specs: tuple[StepSpec, ...] = ()

    def node(
        self, name: str, *, tool: str | Tool | None = None, kind: str | None = None, input: Any = None,
        agent: str | None = None, llm: str | None = None, tools: Sequence[str | Tool] = (), concurrency: int | None = None,
        prompt: str | None = None, when: str | None = None, retry: RetryPolicy | None = None, timeout_s: float | None = None,
        queue: str = "default", priority: int = 0, compensate: str | None = None, **options: Any,
    ) -> Self:  # fmt: skip
        """Add a node. `tool` (default: of the node's own name) does its work; `input` is what it is given.

        With `agent` it is an agent's: pipeline, supervisor, swarm or plan_act_observe, with a model (`llm`, or none), the
        `tools` it may call, how many branches of a swarm run at once, and as `options` what else an agent takes
        (`system`, `max_steps`, `max_tokens`, `temperature`, `arguments`, `over`). Raises InvalidRequest for a name that is
        taken, an unknown kind or pattern, options that belong to an agent on a node that is none, and `tool`, `kind` or
        `input` on one that is: its input is the agent itself.
        """
        if name in self._nodes:
            raise self._wrong(f"node {name!r} is given twice", "node")
        if agent is not None:
            if tool is not None or kind is not None or input is not None:
                raise self._wrong(
                    f"node {name!r}: an agent takes no tool, kind or input; use tools, prompt and arguments", "agent"
                )
            input, kind, tool = self._agent(name, agent, llm, tools, concurrency, prompt, options), "agent", "agent"
        elif llm or tools or concurrency or prompt or options:
            raise self._wrong(f"node {name!r}: llm, tools, concurrency, prompt and options belong to an agent", "agent")
        try:
            known = StepKind(kind or "tool_call")
        except ValueError:
            raise self._wrong(f"node {name!r}: {kind!r} is no kind", "kind") from None
        chosen = tool.name if isinstance(tool, Tool) else tool
        self._specs = ()
        self._nodes[name] = Step(
            name, chosen, input, known, (), when, retry or (tool.retry if isinstance(tool, Tool) else None),
            timeout_s or (tool.timeout_s if isinstance(tool, Tool) else None), queue=queue, priority=priority,
            compensate=compensate,
        )  # fmt: skip
        return self

    def _agent(
        self, name: str, pattern: str, llm: str | None, tools: Sequence[str | Tool], concurrency: int | None,
        prompt: str | None, options: dict[str, Any],
    ) -> dict[str, Any]:  # fmt: skip
        if pattern not in PATTERNS:
            raise self._wrong(f"node {name!r}: agent {pattern!r} is not known; use {', '.join(PATTERNS)}", "agent")
        if unknown := sorted(set(options) - OPTIONS):
            raise self._wrong(f"node {name!r}: {unknown[0]!r} is no option of an agent", "node")
        if concurrency is not None and concurrency < 1:
            raise self._wrong(f"node {name!r}: concurrency must be at least 1, not {concurrency}", "concurrency")
        given = {
            "pattern": pattern, "llm": llm, "tools": [one.name if isinstance(one, Tool) else one for one in tools],
            "concurrency": concurrency, "prompt": prompt, **options,
        }  # fmt: skip
        return {key: value for key, value in given.items() if value is not None and value != []}

    def edge(self, source: str, target: str, when: str | Predicate | None = None) -> Self:
        """Let `target` wait for `source`; with `when` only where it holds.

        A text is CEL over `output` and `input`. A function is called by a worker with an `Edge`, and what it returned is
        recorded; it is a step of the run of its own. A node that waits for several sources runs when one of them leads to it.
        """
        self._specs = ()
        if callable(when):
            name = f"{WHEN}{source}.{target}"
            predicate = predicate_tool(f"{self.name}.{name}", when, source)
            self.predicates = (*self.predicates, predicate)
            self._asked[source, target] = (name, predicate.name)
            self._edges.append((source, target, None))
        else:
            self._edges.append((source, target, when))
        return self

    def budget(
        self, *, tokens: int | None = None, tools: int | None = None, wall_clock_s: int | None = None,
        usd: float | None = None, per_tool: Mapping[str, int] | None = None, on_limit: str = "fail",
    ) -> Self:  # fmt: skip
        """Limit what each run of the graph may spend with all that it starts; at a limit it fails, or is paused.

        Raises InvalidRequest for a limit that is none.
        """
        money = None if usd is None else round(usd * 1_000_000)
        meters = {"tokens": tokens, "tools": tools, "wall_clock_s": wall_clock_s, "microusd": money}
        meters |= {f"tool:{name}": most for name, most in (per_tool or {}).items()}
        for meter, cap in meters.items():
            if cap is not None and cap < 0:
                raise self._wrong(f"budget {meter!r} must not be negative: {cap}", "budget")
        if on_limit not in ("fail", "pause"):
            raise self._wrong(f"on_limit is fail or pause, not {on_limit!r}", "budget")
        self.limits = tuple(Limit(meter, cap, on_limit) for meter, cap in meters.items() if cap is not None)
        return self

    def _wrong(self, message: str, field: str) -> InvalidRequest:
        return InvalidRequest(f"graph {self.name!r}: {message}", field=field)

    def specs(self) -> tuple[StepSpec, ...]:
        """Return the steps, checked. Raises GraphInvalid naming each node that dangles, repeats or goes in a circle."""
        if self._specs:
            return self._specs
        into: dict[str, list[Dependency]] = {name: [] for name in self._nodes}
        for source, target, when in self._edges:
            if target not in into:
                raise self._wrong(f"edge {source!r} → {target!r} leads to {target!r}, which is no node", "edge")
            into[target].append(Dependency(source, when))
        specs = [self._spec(node, into[name]) for name, node in self._nodes.items()]
        specs += [
            Step(name, tool, None, StepKind.POLICY, (source,), queue="default").spec()
            for (source, _), (name, tool) in self._asked.items()
        ]
        plan(specs, max_steps=100_000)
        self._specs = tuple(specs)
        return self._specs

    def _spec(self, node: Step, own: Sequence[Dependency]) -> StepSpec:
        asked = [(d.step, self._asked[d.step, node.name][0]) for d in own if (d.step, node.name) in self._asked]
        if not asked:
            return replace(node.spec(), depends_on=tuple(own))
        if any(d.when for d in own) or node.when:
            raise self._wrong(f"node {node.name!r} has conditions in CEL and in Python; use one of them", "edge")
        # It runs when one of its edges is taken: one without a condition is when its source succeeded.
        by_name = dict(asked)
        taken = [
            f"({_quoted(by_name[d.step])} in outputs && outputs[{_quoted(by_name[d.step])}])" if d.step in by_name
            else f"{_quoted(d.step)} in outputs" for d in own
        ]  # fmt: skip
        depends = (*own, *(Dependency(step) for _, step in asked))
        return replace(node.spec(), depends_on=depends, when=" || ".join(taken))

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
        return digest(dumps([self.to_json(), self.input_schema(), self.budget_json()]))[:16]

    def budget_json(self) -> list[dict[str, Any]]:
        """Return the limits of its runs as they are stored."""
        return [{"meter": one.meter, "cap": one.cap, "on_limit": one.on_limit} for one in self.limits]

    def input_schema(self) -> dict[str, Any] | None:
        """Return the JSON Schema of the input, if it is typed."""
        return self.input.model_json_schema() if self.input is not None else None


def is_predicate(name: str, target: str, output: Any) -> bool:
    """Whether a parent of a step is a predicate that was asked of an edge into it, and no node of the author's."""
    return name.startswith(WHEN) and name.endswith(f".{target}") and isinstance(output, bool)


def predicate_tool(name: str, predicate: Predicate, source: str) -> Tool:
    """Return a predicate as the handler of the step that asks it."""

    @step(name)
    async def ask(ctx: Context) -> bool:
        """Ask a predicate of an edge."""
        return bool(predicate(Edge(ctx.run_input, ctx.parents.get(source), ctx.goal)))

    return ask


def _quoted(text: str) -> str:
    return orjson.dumps(text).decode()
