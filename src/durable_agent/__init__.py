"""durable-agent: a fault-tolerant runtime for multi-step LLM-agent work on PostgreSQL alone."""

from durable_agent.core.records import RetryPolicy as Retry
from durable_agent.errors import FatalError, LeaseLost, RateLimited, RetryableError, StepError
from durable_agent.flow.context import Context
from durable_agent.flow.registry import Registry, Tool, step, tool

__version__ = "0.1.0"

__all__ = [
    "Context",
    "FatalError",
    "LeaseLost",
    "RateLimited",
    "Registry",
    "Retry",
    "RetryableError",
    "StepError",
    "Tool",
    "__version__",
    "step",
    "tool",
]
