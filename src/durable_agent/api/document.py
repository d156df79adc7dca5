"""The OpenAPI document: FastAPI's, with the requests that are parsed by hand and the answers that are built by hand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, get_args

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel, TypeAdapter

from durable_agent.api import answers, problems, resource_answers, resources, schemas
from durable_agent.api.admin import Admin
from durable_agent.api.answers import Items, Page
from durable_agent.api.runs import Operator, Reader, Writer
from durable_agent.settings import Settings

_REF: Final = "#/components/schemas/{model}"
_ABOUT: Final = (
    "Submit runs, watch them, control them. Times are RFC 3339 UTC; ids are UUIDv7. What a request may hold at most stands in"
    " `x-limits`, as this server is set. Events come live over WebSockets: `/ws/RUN?after=SEQ` has a run's, `/ws` the run-level"
    " ones of all runs."
)
REQUESTS: Final = (
    schemas.RunRequest, schemas.BatchRequest, schemas.ControlRequest, schemas.RedriveRequest, schemas.KeyRequest,
    schemas.RespondRequest, schemas.SettleRequest, schemas.ReplayRequest, schemas.BudgetRequest,
    resources.AgentRequest, resources.MessageRequest, resources.ToolServerRequest, resources.ApproveToolsRequest,
    resources.ModelRequest, resources.GateRequest,
)  # fmt: skip

# What each operation answers with by status; without one: with the status of its success.
ANSWERS: Final[dict[tuple[str, str], Any]] = {
    ("post", "/runs"): {200: answers.StartedRun, 201: answers.StartedRun},
    ("get", "/runs"): Page[answers.RunSummary],
    ("post", "/runs/batch"): Items[answers.StartedRun],
    ("get", "/runs/{run_id}"): answers.Run,
    ("get", "/runs/{run_id}/events"): answers.EventPage,
    ("get", "/runs/{run_id}/explain"): answers.Explanation,
    ("post", "/runs/{run_id}/replay"): answers.StartedRun,
    ("get", "/runs/{run_id}/diff/{other}"): answers.Diff,
    ("post", "/runs/{run_id}/cancel"): answers.ControlledRun,
    ("post", "/runs/{run_id}/pause"): answers.ControlledRun,
    ("post", "/runs/{run_id}/resume"): answers.ControlledRun,
    ("get", "/runs/{run_id}/effects"): Page[answers.Effect],
    ("get", "/runs/{run_id}/artifacts"): Items[answers.Artifact],
    ("get", "/runs/{run_id}/budget"): resource_answers.Budget,
    ("post", "/runs/{run_id}/budget"): resource_answers.BudgetSet,
    ("post", "/runs/{run_id}/messages"): {201: answers.StartedRun, 202: resource_answers.MessageTaken},
    ("post", "/runs/{run_id}/signals/{name}"): {200: answers.Signalled, 202: answers.Signalled},
    ("get", "/waits"): Page[answers.Wait],
    ("get", "/waits/{wait_id}"): answers.WaitRecord,
    ("post", "/waits/{wait_id}/approve"): answers.Answered,
    ("post", "/waits/{wait_id}/reject"): answers.Answered,
    ("post", "/waits/{wait_id}/respond"): answers.Answered,
    ("post", "/waits/{wait_id}/settle"): answers.Answered,
    ("get", "/graphs"): Items[resource_answers.GraphSummary],
    ("get", "/graphs/{name}"): resource_answers.Graph,
    ("get", "/agents"): Items[resource_answers.Agent],
    ("post", "/agents"): resource_answers.Agent,
    ("get", "/agents/{agent_id}"): resource_answers.Agent,
    ("put", "/agents/{agent_id}"): resource_answers.Agent,
    ("get", "/tool-servers"): Items[resource_answers.ToolServer],
    ("post", "/tool-servers"): resource_answers.ToolServer,
    ("get", "/tool-servers/{server_id}"): resource_answers.ToolServer,
    ("put", "/tool-servers/{server_id}"): resource_answers.ToolServer,
    ("post", "/tool-servers/{server_id}/discover"): resource_answers.Discovery,
    ("post", "/tool-servers/{server_id}/approve"): resource_answers.ToolServer,
    ("get", "/models"): Items[resource_answers.Model],
    ("put", "/models/{provider}/{name}"): resource_answers.ModelSet,
    ("get", "/gates"): Items[resource_answers.Gate],
    ("put", "/gates/{name}"): resource_answers.GateSet,
    ("get", "/dead-letters"): resource_answers.DeadLetters,
    ("post", "/dead-letters/redrive"): resource_answers.Redriven,
    ("get", "/workers"): Items[resource_answers.Worker],
    ("get", "/keys"): Items[resource_answers.Key],
    ("post", "/keys"): resource_answers.NewKey,
    ("get", "/livez"): resource_answers.Alive,
    ("get", "/readyz"): resource_answers.Ready,
    ("get", "/healthz"): resource_answers.Health,
    ("get", "/stats"): resource_answers.Stats,
    ("post", "/ws-tickets"): resource_answers.Ticket,
}
# What is no JSON document, by its media type; events come as a stream to who asks for one.
RAW: Final = {
    ("get", "/metrics"): "text/plain", ("get", "/runs/{run_id}/export"): "application/jsonl",
    ("get", "/artifacts/{artifact_id}"): "application/octet-stream",
}  # fmt: skip
STREAMED: Final = ("get", "/runs/{run_id}/events")
# The bodies that may be left out: no reason, no changes, no limits, no payload. A signal's payload is any JSON value.
WITHOUT_BODY: Final[dict[tuple[str, str], type[BaseModel] | None]] = {
    ("post", "/runs/{run_id}/cancel"): schemas.ControlRequest,
    ("post", "/runs/{run_id}/pause"): schemas.ControlRequest,
    ("post", "/runs/{run_id}/resume"): schemas.ControlRequest,
    ("post", "/runs/{run_id}/replay"): schemas.ReplayRequest,
    ("post", "/runs/{run_id}/signals/{name}"): None,
    ("post", "/waits/{wait_id}/approve"): schemas.ControlRequest,
    ("post", "/waits/{wait_id}/reject"): schemas.ControlRequest,
    ("post", "/waits/{wait_id}/respond"): schemas.RespondRequest,
    ("put", "/models/{provider}/{name}"): resources.ModelRequest,
    ("put", "/gates/{name}"): resources.GateRequest,
}
# The settings that limit what a request may hold.
LIMITS: Final = ("max_body_bytes", "max_batch_bytes", "max_steps", "max_depth", "payload_limit_bytes")
# Who may ask, by the dependency that admits him.
SCOPES: Final = {
    get_args(who)[1].dependency: scope
    for who, scope in {Reader: "read", Writer: "write", Operator: "operate", Admin: "admin"}.items()
}


def openapi(app: FastAPI, settings: Settings, routers: Iterable[APIRouter]) -> dict[str, Any]:
    """Return the document, made once, with the limits of these settings."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes, description=_ABOUT)
        document["x-limits"] = _limits(settings)
        known = document.setdefault("components", {}).setdefault("schemas", {})
        known["Problem"] = problems.PROBLEM_SCHEMA
        for model in REQUESTS:
            schema = model.model_json_schema(ref_template=_REF)
            known.update(schema.pop("$defs", {}))
            known[model.__name__] = schema
        _take(document["paths"])
        _answer(document["paths"], known)
        document["components"]["responses"] = _refuse(document["paths"])
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}, {}]
        _guard(document["paths"], routers)
        app.openapi_schema = document
    return app.openapi_schema


def _limits(settings: Settings) -> dict[str, Any]:
    """Return what a request may hold at most, each with what it is about."""
    fields = Settings.model_fields
    told = {name: {"most": getattr(settings, name), "description": fields[name].description} for name in LIMITS}
    return {**told, "max_batch_runs": {"most": schemas.MAX_BATCH, "description": "How many runs a batch may have."}}


def _take(paths: dict[str, Any]) -> None:
    """Put the bodies that may be left out into their operations."""
    for (method, path), model in WITHOUT_BODY.items():
        schema = (
            {"$ref": _REF.format(model=model.__name__)} if model is not None else {"description": "Any JSON value."}
        )
        paths[path][method]["requestBody"] = {"required": False, "content": {"application/json": {"schema": schema}}}


def _guard(paths: dict[str, Any], routers: Iterable[APIRouter]) -> None:
    """Tell of each operation the scope it takes; without a key everything is allowed while none exists."""
    for router in routers:
        for route in router.routes:
            if isinstance(route, APIRoute):
                scopes = [SCOPES[one.call] for one in route.dependant.dependencies if one.call in SCOPES]
                for method in route.methods or ():
                    paths[route.path_format][method.lower()]["security"] = [{"key": scopes}, {}] if scopes else []


def _answer(paths: dict[str, Any], known: dict[str, Any]) -> None:
    """Put the answers into the operations, and their shapes among the schemas."""
    by_status = {}
    for (method, path), given in ANSWERS.items():
        [success] = [int(status) for status in paths[path][method]["responses"] if status.startswith("2")]
        for status, shape in (given if isinstance(given, dict) else {success: given}).items():
            by_status[method, path, status] = shape
    refs, defined = TypeAdapter.json_schemas(
        [(key, "serialization", TypeAdapter(shape)) for key, shape in by_status.items()], ref_template=_REF
    )
    for name, schema in defined["$defs"].items():
        known[name] = _closed(schema)
    for (method, path, status), _ in by_status.items():
        responses = paths[path][method]["responses"]
        told = responses.setdefault(str(status), {"description": "Successful Response"})
        told["content"] = {"application/json": {"schema": refs[(method, path, status), "serialization"]}}
    for (method, path), media_type in RAW.items():
        paths[path][method]["responses"]["200"]["content"] = {media_type: {"schema": {"type": "string"}}}
    method, path = STREAMED
    paths[path][method]["responses"]["200"]["content"]["text/event-stream"] = {"schema": {"type": "string"}}


def _refuse(paths: dict[str, Any]) -> dict[str, Any]:
    """Have every operation refer to the refusals, which are the same for all; return these by their names."""
    for of in paths.values():
        for operation in of.values():
            for status in problems.RESPONSES:
                operation["responses"][str(status)] = {"$ref": f"#/components/responses/Problem{status}"}
    return {f"Problem{status}": told for status, told in problems.RESPONSES.items()}


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the shape of an object that has nothing but what is said, without the titles that repeat its names."""
    if "properties" not in schema:
        return schema
    told = {name: {k: v for k, v in one.items() if k != "title"} for name, one in schema["properties"].items()}
    return {**{k: v for k, v in schema.items() if k != "title"}, "properties": told, "additionalProperties": False}
