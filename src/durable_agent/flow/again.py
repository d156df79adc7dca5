"""Recorded failures, raised again: what a call ended with is the same at every attempt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from durable_agent import errors
from durable_agent.errors import FatalError, StepError

# Python's own failures that a replayed handler meets as what they were.
_AGAIN: Final[Mapping[str, type[Exception]]] = {
    one.__name__: one
    for one in (
        ArithmeticError, AssertionError, AttributeError, ConnectionError, ConnectionAbortedError, ConnectionRefusedError,
        ConnectionResetError, BrokenPipeError, EOFError, FileExistsError, FileNotFoundError, IndexError, KeyError,
        LookupError, NotImplementedError, OSError, OverflowError, PermissionError, RuntimeError, TimeoutError, TypeError,
        ValueError, ZeroDivisionError,
    )
}  # fmt: skip


class ToolFailed(FatalError):
    """A call that is not made again has failed; its words are those of the record."""


def failure_again(error: Mapping[str, Any]) -> Exception:
    """Return a recorded failure as the exception it was, if that is made of a sentence, else as a StepError."""
    name, message = str(error.get("type")), str(error.get("message"))
    kind = _AGAIN.get(name) or getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            return kind(message)
        except Exception:
            return StepError(message)
    return StepError(message)


def tool_failed(error: Mapping[str, Any]) -> ToolFailed:
    """Return a recorded failure as what a call that is not made again ends with: the same words at every attempt."""
    return ToolFailed(f"{error['type']}: {error['message']}")
