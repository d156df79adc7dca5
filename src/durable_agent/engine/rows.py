"""The rows of new runs and steps: the columns of their statements, and how values become their texts."""

from __future__ import annotations

from typing import Any, Final

from durable_agent.core.events import dumps
from durable_agent.core.records import StepSpec
from durable_agent.db.sql import load

SUBMIT = load("submit")

RUN_COLUMNS: Final = (
    "tenants", "runs", "statuses", "steps_total", "steps_left", "last_seqs", "chains", "lanes", "graphs", "goals",
    "errors", "inputs", "metadata", "graph_versions", "started_by", "parent_runs", "parent_steps", "origins", "modes",
    "from_steps", "roots", "agents", "budgeted",
)  # fmt: skip
STEP_COLUMNS: Final = (
    "tenants", "runs", "nos", "statuses", "deps_left", "max_attempts", "max_crashes", "routes", "ords", "timeouts",
    "deadlines", "names", "kinds", "tools", "conditions", "parents", "children", "edge_conditions", "retries", "inputs",
    "errors", "compensate", "spawned_by", "spawn_indexes", "compensates", "origins", "shared", "edited", "outputs",
    "taken",
)  # fmt: skip


def json_text(value: Any) -> str | None:
    """Return a value as canonical JSON, None as None."""
    return None if value is None else dumps(value).decode()


def policy_text(step: StepSpec) -> str:
    """Return a step's retry policy as the JSON its row keeps; the attempts have a column of their own."""
    policy = step.retry
    text = {"base_s": policy.base_s, "factor": policy.factor, "cap_s": policy.cap_s}
    if policy.non_retryable:
        return dumps({**text, "non_retryable": sorted(policy.non_retryable)}).decode()
    return dumps(text).decode()
