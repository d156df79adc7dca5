"""What comes in: requests as pydantic models, in camelCase or snake_case, turned into the core's records."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from durable_agent.core import retry
from durable_agent.core.records import (
    MAX_PRIORITY,
    MIN_PRIORITY,
    Dependency,
    FailureClass,
    Limit,
    RetryPolicy,
    RunSpec,
    StepKind,
    StepSpec,
)
from durable_agent.engine.graphs import Named
from durable_agent.errors import InvalidRequest
from durable_agent.settings import Settings

MAX_BATCH = 1000


def _plain(text: str) -> str:
    if "\x00" in text:
        raise ValueError("it contains a NUL character, which PostgreSQL cannot store")
    return text


MAX_NAME = 200
Text = Annotated[str, AfterValidator(_plain)]
Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME), AfterValidator(_plain)]


class Model(BaseModel):
    """A request: unknown fields are refused, both spellings accepted."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, populate_by_name=True, allow_inf_nan=False)


class RetryRequest(Model):
    """How often and how fast a failed step is tried again; what is missing comes from the kind's default."""

    max_attempts: int | None = Field(None, ge=1, le=1000)
    base_s: float | None = Field(None, ge=0, le=3600)
    factor: float | None = Field(None, ge=1, le=100)
    cap_s: float | None = Field(None, ge=0, le=86_400)
    non_retryable: list[FailureClass] | None = Field(None, max_length=10)

    def to_policy(self, default: RetryPolicy) -> RetryPolicy:
        """Return the policy, with the default's values where none are given."""

        def chosen(given: Any, otherwise: Any) -> Any:
            return otherwise if given is None else given

        return RetryPolicy(
            chosen(self.max_attempts, default.max_attempts), chosen(self.base_s, default.base_s),
            chosen(self.factor, default.factor), chosen(self.cap_s, default.cap_s), frozenset(self.non_retryable or ()),
        )  # fmt: skip


class DependencyRequest(Model):
    """An edge with a condition over the parent's `output` and the run's `input`."""

    step: Name
    when: Text | None = Field(None, max_length=2000)


class StepRequest(Model):
    """One step. `kind` and tool come from the name's prefix when not given: `tool_call.fetch_data`."""

    name: Name
    kind: StepKind | None = None
    tool: Name | None = None
    input: Any = None
    depends_on: list[Name | DependencyRequest] = Field(default_factory=list, max_length=10_000)
    when: Text | None = Field(None, max_length=2000)
    retry: RetryRequest | None = None
    timeout_s: float | None = Field(None, gt=0, le=604_800)
    deadline_s: float | None = Field(None, gt=0, le=604_800)
    queue: Name = "default"
    priority: int = Field(0, ge=MIN_PRIORITY, le=MAX_PRIORITY)
    max_crashes: int | None = Field(None, ge=1, le=100_000)
    compensate: Name | None = None

    def to_spec(self, settings: Settings, field: str) -> StepSpec:
        """Return the step with every default filled in. Raises InvalidRequest for a tool named by what cannot be a name.

        `field` is where the step is in the request.
        """
        prefix, dot, rest = self.name.partition(".")
        named = StepKind(prefix) if dot and prefix in _KINDS else None
        kind = self.kind or named or StepKind.TOOL_CALL
        default = retry.default_policy(kind)
        if kind is StepKind.TOOL_CALL:
            default = RetryPolicy(settings.max_attempts, default.base_s, default.factor, default.cap_s)
        return StepSpec(
            name=self.name,
            kind=kind,
            tool=self.tool or self._tool(kind, rest if named else self.name, field),
            input=self.input,
            depends_on=tuple(
                Dependency(d) if isinstance(d, str) else Dependency(d.step, d.when) for d in self.depends_on
            ),
            when=self.when,
            retry=self.retry.to_policy(default) if self.retry else default,
            timeout_s=self.timeout_s,
            deadline_s=self.deadline_s or settings.deadline_s,
            queue=self.queue,
            priority=self.priority,
            max_crashes=self.max_crashes or settings.max_crashes,
            compensate=self.compensate,
        )

    def _tool(self, kind: StepKind, rest: str, field: str) -> str:
        if kind is not StepKind.TOOL_CALL:
            return kind.value
        named = self.input.get("tool") if isinstance(self.input, dict) else None
        if not isinstance(named, str) or not named:
            return _name(rest, f"{field}.name")
        return _name(named, f"{field}.input.tool")


_KINDS = frozenset(StepKind)


def _name(text: str, field: str) -> str:
    """Return the name of a tool that no field of that name brought. Raises InvalidRequest as `Name` would."""
    if not 1 <= len(text) <= MAX_NAME or "\x00" in text:
        raise InvalidRequest(f"{field}: a tool's name has 1 to {MAX_NAME} characters, none of them NUL", field=field)
    return text


class BudgetRequest(Model):
    """What a run may spend with all that it starts. What is not given is not limited; at a limit it fails, or is paused.

    Without `on_limit` a new limit fails, and one that is set anew does what it did.
    """

    tokens: int | None = Field(None, ge=0, le=2**53)
    tools: int | None = Field(None, ge=0, le=2**53)
    wall_clock_s: int | None = Field(
        None, ge=1, le=31_536_000, validation_alias=AliasChoices("wall_clock_s", "wallClockS", "wallClockSec")
    )
    microusd: int | None = Field(None, ge=0, le=2**53)
    per_tool: dict[Name, Annotated[int, Field(ge=0, le=2**53)]] = Field(default_factory=dict, max_length=200)
    on_limit: Literal["fail", "pause"] | None = None

    def to_limits(self) -> tuple[Limit, ...]:
        """Return the limits by meter."""
        meters = {name: getattr(self, name) for name in ("tokens", "tools", "wall_clock_s", "microusd")}
        meters |= {f"tool:{name}": most for name, most in self.per_tool.items()}
        return tuple(Limit(meter, cap, self.on_limit) for meter, cap in meters.items() if cap is not None)


class RunRequest(Model):
    """A run: a goal and its steps, or the name of a graph that a worker registered, or of an agent."""

    goal: Text | None = Field(None, max_length=10_000)
    steps: list[StepRequest] = Field(default_factory=list)
    graph: Name | None = None
    agent: Name | None = None
    input: Any = None
    budget: BudgetRequest | None = None
    metadata: dict[str, Any] | None = None

    @model_validator(mode="before")
    @classmethod
    def _named_later(cls, value: Any) -> Any:
        if isinstance(value, dict):
            given = [name for name in ("steps", "graph", "agent") if value.get(name)]
            if not given:
                raise ValueError("a run needs `steps`, or the name of a `graph` or of an `agent`")
            if len(given) > 1:
                raise ValueError(f"give `{given[0]}` or `{given[1]}`, not both")
        return value

    @property
    def limits(self) -> tuple[Limit, ...]:
        """The limits that the request brings."""
        return self.budget.to_limits() if self.budget is not None else ()

    def to_spec(self, settings: Settings, graph: Named | None = None) -> RunSpec:
        """Return the run as the engine takes it; `graph` is the named graph.

        Raises InvalidRequest naming the step or field that is too large, or the field of the input the graph refuses.
        """
        if graph is not None:
            made = self.model_copy(update={"steps": [StepRequest.model_validate(step) for step in graph.steps]})
            spec = made.to_spec(settings)
            check_schema(self.input, graph.input_schema)  # by now it is known not to be too deep
            return replace(
                spec, graph=self.graph, lane=self.graph or "", graph_version=graph.version,
                budget=self.limits or graph.budget,
            )  # fmt: skip
        if len(self.steps) > settings.max_steps:
            raise InvalidRequest(
                f"the run has {len(self.steps)} steps, more than the {settings.max_steps} allowed", field="steps"
            )
        check_value(self.input, "input", settings)
        check_value(self.metadata, "metadata", settings)
        for no, step in enumerate(self.steps):
            check_value(step.input, f"steps.{no}.input", settings)
        return RunSpec(
            steps=tuple(step.to_spec(settings, f"steps.{no}") for no, step in enumerate(self.steps)), goal=self.goal, input=self.input,
            metadata=self.metadata, budget=self.limits,
        )  # fmt: skip


class BatchRequest(Model):
    """Up to 1,000 runs, stored all or none."""

    runs: list[RunRequest] = Field(min_length=1, max_length=MAX_BATCH)


class ControlRequest(Model):
    """Who asks and why; both are recorded."""

    reason: Text | None = Field(None, max_length=2000)


class EditRequest(Model):
    """A change to one step of a replay."""

    input: Any = None
    output: Any = None


class ReplayRequest(Model):
    """From which step a run is made again, how, and what is changed."""

    from_step: int | Name = 0
    mode: Literal["recorded", "live"] = "live"
    edits: dict[Name, EditRequest] = Field(default_factory=dict, max_length=1000)


class RespondRequest(Model):
    """What a person answers."""

    value: Any = None
    reason: Text | None = Field(None, max_length=2000)


class SettleRequest(Model):
    """What became of a call that nobody heard the end of."""

    outcome: Literal["happened", "send_again", "fail"]
    result: Any = None
    reason: Text | None = Field(None, max_length=2000)


class RedriveRequest(Model):
    """Which dead letters get another chance: one step of a run, a run's, or all that match."""

    run_id: UUID | None = None
    step: Name | None = None
    reason: Text | None = Field(None, max_length=100)
    tool: Name | None = None
    all: bool = False
    limit: int = Field(1000, ge=1, le=1000)
    extra_attempts: int | None = Field(None, ge=1, le=1000)


class KeyRequest(Model):
    """A new API key."""

    name: Name
    scopes: list[Name] = Field(default_factory=lambda: ["read", "write", "operate"], min_length=1, max_length=10)
    expires_in_days: int | None = Field(None, ge=1, le=3650)


def check_schema(value: Any, schema: dict[str, Any] | None) -> None:
    """Return if a graph takes this input. Raises InvalidRequest naming the field that it refuses."""
    if schema is None:
        return
    import jsonschema_rs

    for error in jsonschema_rs.validator_for(schema).iter_errors(value):
        # Both repeat the input, however large it is.
        where = _short(".".join(["input", *map(str, error.instance_path)]))
        raise InvalidRequest(f"{where}: {_short(error.message)}", field=where)


def _short(text: str) -> str:
    return text if len(text) <= 500 else f"{text[:300]} … {text[-199:]}"


def check_value(value: Any, field: str, settings: Settings) -> None:
    """Return if a JSON value can be stored. Raises InvalidRequest naming the field: too deep, too large, half a surrogate pair."""
    if value is None:
        return
    if depth(value) > settings.max_depth:
        raise InvalidRequest(f"{field} is nested deeper than {settings.max_depth}", field=field)
    try:
        text = orjson.dumps(value)
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"{field} cannot be stored: {error}", field=field) from None
    if len(text) > settings.payload_limit_bytes:
        raise InvalidRequest(f"{field} has {len(text)} bytes, more than {settings.payload_limit_bytes}", field=field)


def depth(value: Any) -> int:
    """Return how deep lists and objects are nested: 0 for a scalar. Does not recurse."""
    deepest, level = 0, [value]
    while level := [item for item in level if isinstance(item, dict | list)]:
        deepest += 1
        level = [child for item in level for child in (item.values() if isinstance(item, dict) else item)]
    return deepest
