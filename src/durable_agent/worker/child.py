"""Handlers in a process of their own, which a deadline, a cancel or the worker's death can kill.

The child is a fresh interpreter: it gets module, function, arguments and the facts of the context as one JSON
document on its standard input and answers with one on its standard output. What the handler prints goes to stderr.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib
import inspect
import os
import signal
import sys
from typing import Any
from uuid import UUID

import orjson

from durable_agent.core.records import Claim, FailureClass, Lease, RunId, StepKind, Tenant, Token
from durable_agent.errors import FatalError, StepError
from durable_agent.flow.context import Context
from durable_agent.flow.link import NoLink
from durable_agent.flow.tools import Tool

_PR_SET_PDEATHSIG = 1


async def run_in_child(tool: Tool, context: Context, arguments: dict[str, Any]) -> Any:
    """Return what the tool's function returns in a child process; cancelled, the child is killed at once.

    Raises StepError with the class the handler chose; a child that died is a `bug` naming its signal or exit code.
    """
    module, name = tool.function.__module__, tool.function.__qualname__
    if module == "__main__" or "<locals>" in name:
        raise FatalError(f"tool {tool.name!r} runs in a child process and must be importable; {module}.{name} is not")
    order = orjson.dumps(_order(tool, context, arguments), default=str)
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "durable_agent.worker.child",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        answer, _ = await child.communicate(order)
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    return _result(tool, child.returncode, answer)


def _order(tool: Tool, context: Context, arguments: dict[str, Any]) -> dict[str, Any]:
    claim = context.claim
    return {
        "path": sys.path,
        "module": tool.function.__module__,
        "function": tool.function.__qualname__,
        "arguments": arguments,
        "claim": {
            "run_id": str(claim.lease.run_id), "name": claim.name, "attempt": claim.attempt, "goal": claim.goal,
            "input": claim.input, "run_input": claim.run_input, "parents": claim.parents,
            "idempotency_key": context.idempotency_key,
        },
    }  # fmt: skip


def _result(tool: Tool, code: int | None, answer: bytes) -> Any:
    if code != 0 or not answer:
        how = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
        raise StepError(f"the child process of tool {tool.name!r} ended with {how}")
    document = orjson.loads(answer)
    if "result" in document:
        return document["result"]
    error = StepError(document["message"], retry_after_s=document["retry_after_s"])
    error.failure_class = document["failure"]
    raise error


def main() -> None:
    """Run one order from standard input; the answer is the last thing written to the real standard output."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    order = orjson.loads(sys.stdin.buffer.read())
    sys.path[:] = order["path"]
    try:
        answer: dict[str, Any] = {"result": _run(order)}
    except StepError as error:
        answer = {"failure": error.failure_class, "message": str(error), "retry_after_s": error.retry_after_s}
    except Exception as error:
        answer = {
            "failure": FailureClass.BUG.value,
            "message": f"{type(error).__name__}: {error}",
            "retry_after_s": None,
        }
    try:
        text = orjson.dumps(answer)
    except (TypeError, ValueError) as error:
        message = f"the result cannot be stored: {error}; return plain JSON values"
        text = orjson.dumps({"failure": FailureClass.INVALID_INPUT.value, "message": message, "retry_after_s": None})
    out.write(text)
    out.close()


def _run(order: dict[str, Any]) -> Any:
    found: Any = importlib.import_module(order["module"])
    for part in order["function"].split("."):
        found = getattr(found, part)
    if not isinstance(found, Tool):
        raise FatalError(f"{order['module']}.{order['function']} is no tool in the child process")
    arguments = found.bind(order["arguments"])
    if found.takes_context is not None:
        arguments = {found.takes_context: Context(_claim(found, order["claim"]), NoLink()), **arguments}
    result = found.function(**arguments)
    return asyncio.run(result) if inspect.iscoroutine(result) else result


def _claim(tool: Tool, facts: dict[str, Any]) -> Claim:
    nobody = Token(UUID(int=0))
    lease = Lease(Tenant(0), RunId(UUID(facts["run_id"])), 0, 0, nobody)
    return Claim(
        lease, facts["name"], StepKind.TOOL_CALL, tool.name, facts["input"], facts["run_input"], facts["goal"],
        facts["parents"], facts["attempt"], 0, None, 0.0, facts["idempotency_key"],
    )  # fmt: skip


if __name__ == "__main__":
    main()
