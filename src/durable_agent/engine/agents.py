"""Agents: what they are, what they may spend, how many of their runs are under way at once; and runs made of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg.errors import UniqueViolation
from uuid_utils.compat import uuid7

from durable_agent.core import retry
from durable_agent.core.events import dumps
from durable_agent.core.records import Limit, RunSpec, StepKind, StepSpec, Tenant
from durable_agent.db import reads
from durable_agent.db.arrays import literals
from durable_agent.db.pool import Connection, Database
from durable_agent.engine.caps import AGENTS, release
from durable_agent.engine.grant import carry_on
from durable_agent.engine.servers import SERVERS
from durable_agent.engine.spend import BUDGET_COLUMNS, BUDGETS, under_way
from durable_agent.errors import Conflict, NotFound


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent as it stands; `config` is what the API took, with the limits of its `budgets` and of each run's `budget`."""

    id: UUID
    name: str
    version: int
    config: Mapping[str, Any]


async def find(db: Database, tenant: Tenant, name: str) -> Agent:
    """Return the agent of a name. Raises NotFound."""
    async with db.reading() as conn:
        rows = await reads.rows(conn, AGENTS.get_agent, {"tenant": tenant, "id": None, "name": name})
    if not rows:
        raise NotFound(f"agent {name!r} does not exist; create it with POST /agents", agent=name)
    return Agent(*(rows[0][key] for key in ("id", "name", "version", "config")))


async def get(db: Database, tenant: Tenant, agent_id: UUID) -> dict[str, Any]:
    """Return an agent's row with its budgets as they stand. Raises NotFound."""
    async with db.reading() as conn:
        rows = await reads.rows(conn, AGENTS.get_agent, {"tenant": tenant, "id": agent_id, "name": None})
        if not rows:
            raise _unknown(agent_id)
        spent = await reads.rows(conn, BUDGETS.of_owner, {"tenant": tenant, "owner": agent_id})
    return {**rows[0], "budgets": spent}


async def create(db: Database, tenant: Tenant, name: str, config: Mapping[str, Any]) -> UUID:
    """Add an agent and return its id. Raises Conflict for a name that is taken."""
    agent_id = uuid7()
    params = {"tenant": tenant, "id": agent_id, "name": name, "config": dumps(config).decode()}
    async with db.transaction() as conn, conn.transaction():
        if await (await conn.execute(AGENTS.add_agent, params)).fetchone() is None:
            raise Conflict(f"an agent named {name!r} exists; choose another name, or change that one", field="name")
        await _limit(conn, tenant, agent_id, config)
    return agent_id


async def change(db: Database, tenant: Tenant, agent_id: UUID, name: str, config: Mapping[str, Any], *, by: str) -> int:
    """Give an agent another configuration, for the runs to come; its limits hold at once, and runs that they had paused go
    on. Returns its version. Raises NotFound, Conflict for a name that is taken."""
    params = {"tenant": tenant, "id": agent_id, "name": name, "config": dumps(config).decode()}
    try:
        async with db.transaction() as conn, conn.transaction():
            # An exchange locks the agent's row after its budgets: so does this.
            await _limit(conn, tenant, agent_id, config)
            row = await (await conn.execute(AGENTS.put_agent, params)).fetchone()
            if row is None:
                raise _unknown(agent_id)
            await release(conn, [(tenant, agent_id)], lifted=True)
    except UniqueViolation as error:
        raise Conflict(f"another agent is named {name!r}; choose another name", field="name") from error
    await carry_on(db, tenant, agent_id, actor=by)
    return int(row[0])


async def _limit(conn: Connection, tenant: Tenant, agent_id: UUID, config: Mapping[str, Any]) -> None:
    limits, where = config.get("budgets") or [], {"tenant": tenant, "owner": agent_id}
    known = {(row[0], row[1]) for row in await (await conn.execute(BUDGETS.of_owner, where)).fetchall()}
    keys = [(one["meter"], one["window_s"]) for one in limits]
    # The runs are locked before the budgets (R1).
    reserved = await under_way(conn, tenant, agent_id) if not known.issuperset(keys) else {}
    told = {"meters": [meter for meter, _ in keys], "windows": [window_s for _, window_s in keys]}
    await conn.execute(BUDGETS.drop_budgets, {**where, **told})
    if limits:
        rows = [
            (
                tenant, agent_id, "agent", one["meter"], one["window_s"], one["cap"], 0, reserved.get(one["meter"], 0),
                one["on_limit"], None,
            )
            for one in limits
        ]  # fmt: skip
        await conn.execute(BUDGETS.add_budgets, literals(BUDGET_COLUMNS, rows))


async def drop(db: Database, tenant: Tenant, agent_id: UUID) -> None:
    """Forget an agent: no run of it can be started any more; those that were go on. Raises NotFound."""
    async with db.transaction() as conn, conn.transaction():
        row = await (await conn.execute(AGENTS.drop_agent, {"tenant": tenant, "id": agent_id})).fetchone()
        if row is None:
            raise _unknown(agent_id)
        await release(conn, [(tenant, agent_id)], lifted=True)


async def run_of(
    db: Database, tenant: Tenant, name: str, given: Any, *, goal: str | None, metadata: Any, budget: Sequence[Limit],
    history: Any = None, origin: UUID | None = None, queue: str = "default",
) -> RunSpec:  # fmt: skip
    """Return a run of an agent, with its configuration as it is now. Raises NotFound, Conflict (a tool server of it is not
    ready)."""
    found = await find(db, tenant, name)
    config = {key: value for key, value in found.config.items() if key not in ("budgets", "budget")}
    config |= {"name": name, "servers": await _servers(db, tenant, found.config.get("tool_servers") or ())}
    own = tuple(Limit(one["meter"], one["cap"], one["on_limit"]) for one in found.config.get("budget") or ())
    step = StepSpec(
        name=name, kind=StepKind.AGENT, tool="agent", queue=queue, retry=retry.default_policy(StepKind.AGENT),
        input={"agent": config, "input": given, **({"history": history} if history is not None else {})},
        deadline_s=float(found.config.get("deadline_s") or 86_400.0), capped=config.get("concurrency") is not None,
    )  # fmt: skip
    return RunSpec(
        (step,), goal, given, lane=name, metadata=metadata, budget=tuple(budget) or own, agent=found.id, origin=origin,
        agent_version=found.version,
    )  # fmt: skip


async def _servers(db: Database, tenant: Tenant, names: Iterable[str]) -> list[dict[str, Any]]:
    """Return the tool servers as a run pins them: the tools that were approved, and their digest."""
    pinned = []
    for name in names:
        async with db.reading() as conn:
            rows = await reads.rows(conn, SERVERS.get_server, {"tenant": tenant, "id": None, "name": name})
        if not rows:
            raise NotFound(f"tool server {name!r} is not registered", tool_server=name)
        row = rows[0]
        if row["state"] not in ("ready", "unreachable") or row["digest"] is None:
            what = "offers other tools than were approved" if row["state"] == "quarantined" else "was never discovered"
            raise Conflict(
                f"tool server {name!r} {what}: POST /tool-servers/{row['id']}/discover and approve what it offers",
                tool_server=name, state=row["state"],
            )  # fmt: skip
        pinned.append({"name": name, "digest": row["digest"], "tools": row["tools"]})
    return pinned


async def follow_up(
    db: Database, tenant: Tenant, run_id: UUID, message: Any, *, metadata: Any = None
) -> RunSpec | UUID:
    """Return the run that goes on with an agent's conversation; or the open question that the message answers.

    Raises NotFound; Conflict for a run of no agent, one that is under way, and one that did not complete.
    """
    async with db.reading() as conn:
        run = await reads.run(conn, tenant, run_id)
        if run is None:
            raise NotFound(f"run {run_id} does not exist", run_id=str(run_id))
        steps = await reads.steps(conn, tenant, run_id)
        asked = await reads.rows(conn, reads.READS.open_questions, {"tenant": tenant, "run": run_id})
    if run["agent"] is None or run["root"] is not None:
        raise Conflict(f"run {run_id} is no agent's: it has no conversation to go on with", run_id=str(run_id))
    if asked:
        return UUID(str(asked[0]["id"]))
    if run["status"] != "completed":
        raise Conflict(
            f"run {run_id} is {run['status']}: a message goes to an agent that waits for one or has completed",
            run_id=str(run_id), run_status=run["status"],
        )  # fmt: skip
    step = steps[0]
    # A large output is in the artifact store as a whole; the worker takes the conversation out of it.
    output = step["output"]
    history = output["messages"] if isinstance(output, dict) and "messages" in output else output
    return await run_of(
        db, tenant, run["lane"], message, goal=None, metadata=metadata, budget=(), history=history, origin=run_id
    )


def _unknown(agent_id: UUID) -> NotFound:
    return NotFound(f"agent {agent_id} does not exist", agent=str(agent_id))
