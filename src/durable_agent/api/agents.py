"""Agents: what they are, what they spend; messages to their runs; and what a run may spend."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request
from starlette.responses import Response

from durable_agent.api.resources import AgentRequest, MessageRequest
from durable_agent.api.runs import Operator, Reader, Writer, body_of, parsed, started, takes
from durable_agent.api.schemas import BudgetRequest, check_value
from durable_agent.api.state import reply, state_of
from durable_agent.core.waits import Decision
from durable_agent.db import reads
from durable_agent.db.doorbell import EVENTS, READY
from durable_agent.engine import agents, answer
from durable_agent.engine.caps import AGENTS
from durable_agent.engine.grant import grant
from durable_agent.engine.spend import BUDGETS
from durable_agent.engine.submit import Submission
from durable_agent.errors import InvalidRequest, NotFound

router = APIRouter(tags=["agents"])


@router.get("/agents")
async def list_agents(request: Request, who: Reader) -> Response:
    """List the agents, with the runs and the spending of each."""
    async with state_of(request).db.reading() as conn:
        rows = await reads.rows(conn, AGENTS.list_agents, {"tenant": who.tenant})
        owners = {"tenant": who.tenant, "owners": [row["id"] for row in rows]}
        budgets: dict[UUID, list[dict[str, Any]]] = {}
        for one in await reads.rows(conn, BUDGETS.of_owners, owners):
            budgets.setdefault(one.pop("owner"), []).append(one)
    return reply({"items": [_shown({**row, "budgets": budgets.get(row["id"], [])}) for row in rows]})


@router.post("/agents", status_code=201, openapi_extra=takes(AgentRequest))
async def create_agent(request: Request, who: Operator) -> Response:
    """Create an agent; a run of it is started by `POST /runs {"agent": NAME, "input": …}`."""
    state = state_of(request)
    asked: AgentRequest = parsed(AgentRequest, await body_of(request))
    agent_id = await agents.create(state.db, who.tenant, asked.name, asked.to_config())
    found = await agents.get(state.db, who.tenant, agent_id)
    return reply(_shown(found), 201, {"Location": f"/agents/{agent_id}"})


@router.get("/agents/{agent_id}")
async def get_agent(request: Request, agent_id: UUID, who: Reader) -> Response:
    """Return an agent with its budgets as they stand."""
    return reply(_shown(await agents.get(state_of(request).db, who.tenant, agent_id)))


@router.put("/agents/{agent_id}", openapi_extra=takes(AgentRequest))
async def change_agent(request: Request, agent_id: UUID, who: Operator) -> Response:
    """Change an agent for the runs to come; its limits hold at once, and runs that they had paused go on."""
    state = state_of(request)
    asked: AgentRequest = parsed(AgentRequest, await body_of(request))
    await agents.change(state.db, who.tenant, agent_id, asked.name, asked.to_config(), by=who.actor)
    state.bell.ring(EVENTS, READY)
    return reply(_shown(await agents.get(state.db, who.tenant, agent_id)))


@router.delete("/agents/{agent_id}", status_code=204)
async def drop_agent(request: Request, agent_id: UUID, who: Operator) -> Response:
    """Forget an agent; runs that were started of it go on."""
    await agents.drop(state_of(request).db, who.tenant, agent_id)
    return Response(status_code=204)


@router.post("/runs/{run_id}/messages", status_code=201, openapi_extra=takes(MessageRequest))
async def send_message(request: Request, run_id: UUID, who: Writer) -> Response:
    """Say something to an agent: it answers the question that its run waits with (202), which takes the scope `operate` as
    any answer does; or goes on with the conversation of a run that has completed, in a new run (201)."""
    state = state_of(request)
    asked: MessageRequest = parsed(MessageRequest, await body_of(request))
    check_value(asked.message, "message", state.settings)
    check_value(asked.metadata, "metadata", state.settings)
    made = await agents.follow_up(state.db, who.tenant, run_id, asked.message, metadata=asked.metadata)
    if isinstance(made, UUID):
        await state.guard.admit(request, "operate")
        await answer.answer(
            state.db, who.tenant, made, Decision.RESPONDED, by=who.actor, reason=None, value=asked.message
        )
        state.bell.ring(EVENTS, READY)
        return reply({"id": str(run_id), "answered": str(made)}, 202)
    submitted = await state.submitter.submit(who.tenant, Submission(made, by=who.actor))
    return reply(started(request, submitted), 201, {"Location": f"/runs/{submitted.run_id}"})


@router.get("/runs/{run_id}/budget")
async def get_budget(request: Request, run_id: UUID, who: Reader) -> Response:
    """Return what the run's tree may spend, has spent and holds."""
    async with state_of(request).db.reading() as conn:
        run = await reads.run(conn, who.tenant, run_id)
        owner = (run["root"] or run["id"]) if run is not None else run_id
        rows = await reads.rows(conn, BUDGETS.of_owner, {"tenant": who.tenant, "owner": owner})
    if run is None:
        raise NotFound(f"run {run_id} does not exist", run_id=str(run_id))
    return reply({"run_id": str(owner), "limits": rows})


@router.post("/runs/{run_id}/budget", status_code=202, openapi_extra=takes(BudgetRequest))
async def set_budget(request: Request, run_id: UUID, who: Operator) -> Response:
    """Set limits of the run's tree to new totals; what a limit had paused goes on."""
    state = state_of(request)
    asked: BudgetRequest = parsed(BudgetRequest, await body_of(request))
    limits = asked.to_limits()
    if not limits:
        raise InvalidRequest(
            "give at least one limit: tokens, tools, wall_clock_s, microusd or per_tool", field="tokens"
        )
    root, gone = await grant(state.db, who.tenant, run_id, limits, actor=who.actor)
    state.bell.ring(EVENTS, READY)
    return reply({"run_id": str(root), "resumed": [str(one) for one in gone]}, 202)


def _shown(row: Any) -> dict[str, Any]:
    told = {key: value for key, value in row.items() if key != "config"}
    # The limits as they stand, in place of those that were asked for.
    return {**row["config"], **told}
