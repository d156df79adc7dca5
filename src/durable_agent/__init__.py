"""durable-agent: a fault-tolerant runtime for multi-step LLM-agent work on PostgreSQL alone."""

from typing import TYPE_CHECKING

from durable_agent.lazy import lazily

if TYPE_CHECKING:
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

__getattr__, __dir__ = lazily(
    __name__,
    {
        "Approval": "durable_agent.flow.steps",
        "Context": "durable_agent.flow.context",
        "Expired": "durable_agent.errors",
        "FatalError": "durable_agent.errors",
        "Graph": "durable_agent.flow.builder",
        "LeaseLost": "durable_agent.errors",
        "RateLimited": "durable_agent.errors",
        "Refused": "durable_agent.errors",
        "Registry": "durable_agent.flow.registry",
        "Rejected": "durable_agent.errors",
        "Retry": "durable_agent.core.records:RetryPolicy",
        "RetryableError": "durable_agent.errors",
        "Step": "durable_agent.flow.steps",
        "StepError": "durable_agent.errors",
        "Tool": "durable_agent.flow.tools",
        "UnknownOutcome": "durable_agent.errors",
        "http_tool": "durable_agent.flow.http",
        "step": "durable_agent.flow.tools",
        "tool": "durable_agent.flow.tools",
    },
)
