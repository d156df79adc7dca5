"""durable-agent: a fault-tolerant runtime for multi-step LLM-agent work on PostgreSQL alone."""

from durable_agent.core.records import RetryPolicy as Retry
from durable_agent.errors import (
    Expired,
    FatalError,
    LeaseLost,
    RateLimited,
    Refused,
    Rejected,
    RetryableError,
    StepError,
    UnknownOutcome,
)
from durable_agent.flow.builder import Graph
from durable_agent.flow.context import Context
from durable_agent.flow.http import http_tool
from durable_agent.flow.registry import Registry
from durable_agent.flow.steps import Approval, Step
from durable_agent.flow.tools import Tool, step, tool

__version__ = "0.1.0"

__all__ = [
    "Approval",
    "Context",
    "Expired",
    "FatalError",
    "Graph",
    "LeaseLost",
    "RateLimited",
    "Refused",
    "Registry",
    "Rejected",
    "Retry",
    "RetryableError",
    "Step",
    "StepError",
    "Tool",
    "UnknownOutcome",
    "__version__",
    "http_tool",
    "step",
    "tool",
]
