"""What goes out about agents, tool servers, models, graphs and the running system: see `api.answers`."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, NotRequired
from uuid import UUID

from typing_extensions import TypedDict

from durable_agent.api.answers import Facts, OnLimit
from durable_agent.core.records import EffectClass, FailureClass, StepKind
from durable_agent.core.states import RunStatus

# Agents and what they may spend ------------------------------------------------------------------------------------------


class Limit(TypedDict):
    """One limit as it stands. `window_s` is 0 for one over all time."""

    meter: str
    window_s: int
    cap: int
    spent: int
    reserved: int
    on_limit: OnLimit
    due_at: datetime | None


class LimitOfRuns(TypedDict):
    """One limit of each run that is started."""

    meter: str
    cap: int
    on_limit: OnLimit | None


class Budget(TypedDict):
    """What a run's tree may spend, has spent and holds; `run_id` is the run at its top."""

    run_id: UUID
    limits: list[Limit]


class BudgetSet(TypedDict):
    """A budget that was set, and the runs that go on because of it."""

    run_id: UUID
    resumed: list[UUID]


class Agent(TypedDict):
    """An agent with its limits as they stand; in a list also what its runs did."""

    id: UUID
    name: str
    version: int
    created_at: datetime
    updated_at: datetime
    model: str
    system: NotRequired[str]
    tools: list[str]
    tool_servers: list[str]
    approve: list[str]
    max_steps: NotRequired[int]
    max_tokens: NotRequired[int]
    temperature: NotRequired[float]
    result_chars: NotRequired[int]
    deadline_s: NotRequired[float]
    concurrency: NotRequired[int]
    budget: NotRequired[list[LimitOfRuns]]
    budgets: list[Limit]
    open_runs: NotRequired[int]
    runs: NotRequired[int]
    tokens: NotRequired[int]
    microusd: NotRequired[int]


class MessageTaken(TypedDict):
    """A message that answered the question its run waited with."""

    id: UUID
    answered: UUID


# Tool servers, models, gates ------------------------------------------------------------------------------------------------


class ServerTool(TypedDict):
    """A tool as its server describes it; `parameters` is a JSON Schema."""

    name: str
    description: str
    parameters: Facts
    effect: EffectClass
    digest: str


class ToolServer(TypedDict):
    """A tool server; `tools` are those that were approved, null before it was first asked."""

    id: UUID
    name: str
    url: str | None
    command: list[str] | None
    has_token: bool
    state: Literal["new", "ready", "quarantined", "unreachable"]
    digest: str | None
    tools: list[ServerTool] | None
    seen: NotRequired[list[ServerTool] | None]
    seen_digest: str | None
    error: str | None
    created_at: datetime
    checked_at: datetime | None


class ServerAbout(TypedDict):
    """What a tool server says it is."""

    title: str
    version: str
    protocol: str


class Discovery(TypedDict):
    """What a tool server was found to offer; `quarantined` when that is not what was approved."""

    state: Literal["ready", "quarantined"]
    digest: str
    tools: list[ServerTool]
    server: ServerAbout


class Price(TypedDict):
    """US dollars for a million tokens, as decimal numbers in text."""

    input_usd: str
    output_usd: str
    cache_read_usd: NotRequired[str]
    cache_write_usd: NotRequired[str]


class ModelSet(TypedDict):
    """What an operator set of a model."""

    provider: str
    name: str
    price: Price | None
    window_tokens: int | None


class Model(ModelSet):
    """What an operator set of a model, and when."""

    updated_at: datetime


class GateSet(TypedDict):
    """What a gate lets the whole fleet take; null: no limit."""

    name: str
    requests_per_minute: int | None
    tokens_per_minute: int | None
    concurrency: int | None


class Gate(GateSet):
    """A gate as it stands."""

    held_until: datetime | None
    state: Literal["closed", "open", "half_open"]
    failures: int
    opened_at: datetime | None
    retry_at: datetime | None
    error: str | None
    in_use: int


# Graphs ----------------------------------------------------------------------------------------------------------------


class GraphSummary(TypedDict):
    """A graph that a worker registered; `steps` is how many it has."""

    name: str
    version: str
    registered_at: datetime
    steps: int
    input_schema: Facts | None


class Edge(TypedDict):
    """An edge that is taken on a condition."""

    step: str
    when: str


class GraphStep(TypedDict):
    """A step of a graph, as POST /runs takes it."""

    name: str
    kind: StepKind
    tool: str | None
    input: Any
    when: str | None
    queue: str
    priority: int
    timeout_s: float | None
    compensate: str | None
    retry: Facts
    depends_on: list[str | Edge]


class Graph(TypedDict):
    """A graph with its steps."""

    name: str
    version: str
    registered_at: datetime
    steps: list[GraphStep]
    input_schema: Facts | None
    budget: list[LimitOfRuns] | None


# Operations --------------------------------------------------------------------------------------------------------------


class DeadLetter(TypedDict):
    """A step that gave up."""

    run_id: UUID
    no: int
    step: str
    tool: str
    reason: str
    failure: FailureClass
    message: str
    at: datetime
    failures: int
    crashes: int
    claim_no: int


class DeadLetters(TypedDict):
    """Dead letters, and how many there are in all by reason."""

    items: list[DeadLetter]
    counts: dict[str, int]
    next_cursor: str | None


class RedrivenStep(TypedDict):
    """A step that is tried again."""

    run_id: UUID
    step: str


class Redriven(TypedDict):
    """The dead letters that were given another chance."""

    redriven: list[RedrivenStep]


class Worker(TypedDict):
    """A worker session; `offers` are the tools it has."""

    session: UUID
    worker: str
    state: Literal["active", "draining", "stopped", "lost"]
    running: int
    concurrency: int
    beat_at: datetime
    lease_until: datetime
    started_at: datetime
    stopped_at: datetime | None
    suspected_at: datetime | None
    loop_lag_ms: int
    queues: list[str]
    offers: list[str]
    host: str
    os_pid: int
    version: str
    beat_age_s: float


class Key(TypedDict):
    """An API key, without its secret."""

    id: str
    name: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class NewKey(TypedDict):
    """A new API key; this is the only time that it is shown."""

    key: str
    name: str
    scopes: list[str]
    expires_at: datetime | None


class Ticket(TypedDict):
    """What opens one WebSocket, as `?ticket=…`."""

    ticket: str
    expires_in_s: int


class Alive(TypedDict):
    """The process answers."""

    status: Literal["ok"]


class Ready(TypedDict):
    """The database answers, and its schema is the one this code was made for."""

    status: Literal["ready"]
    database: Literal["up"]
    schema: str


class Health(TypedDict):
    """How the engine does; `stuck` says in sentences what is wrong."""

    status: Literal["ok", "stuck"]
    stuck: list[str]
    listener: Literal["up", "down", "off"]
    ready: int
    scheduled: int
    held: int
    leased: int
    waiting: int
    oldest_ready_s: float | None
    active: int
    draining: int
    lost: int
    dead_letters: int
    waits_for_people: int


class Series(TypedDict):
    """One number a slice, the oldest first."""

    started: list[int]
    completed: list[int]
    failed: list[int]
    steps: list[int]
    microusd: list[int]
    tokens: list[int]


class Stats(TypedDict):
    """What happened within a window, and how the runs stand. Of very many runs the newest are counted, from `counted_from` on."""

    at: datetime
    counted_from: datetime
    window_s: int
    slice_s: float
    runs_by_status: dict[RunStatus, int]
    series: Series
