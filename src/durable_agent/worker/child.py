"""Handlers in a process of their own, which a deadline, a cancel or the worker's death can kill.

The child is a fresh interpreter and the leader of a session: it gets module, function, the arguments as JSON and the facts
of the context as one document, and leaves another. Both are files in memory, so that nobody waits for a reader, nor for a
process that the handler started and that holds them open. What the handler prints goes to stderr.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib
import inspect
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, BinaryIO
from uuid import UUID

import orjson

from durable_agent.core.records import Claim, Lease, RunId, StepKind, Tenant, Token
from durable_agent.core.text import plain, said
from durable_agent.errors import DurableAgentError, FatalError, RetryableError, StepError
from durable_agent.flow.context import Context
from durable_agent.flow.encoding import Unencodable, encode
from durable_agent.flow.link import NoLink
from durable_agent.flow.tools import Bound, Tool

_PR_SET_PDEATHSIG = 1


class ChildEnded(Exception):
    """A child process ended without an answer: what it was to do may have happened."""


async def run_in_child(tool: Tool, context: Context, arguments: Mapping[str, Any]) -> Any:
    """Return what the tool's function returns in a child process; cancelled, it is killed at once with all its session.

    Raises what the function raised there, by its class and its words, and ChildEnded. A result that cannot be stored is
    returned as Unencodable: the call was made.
    """
    module, name = tool.function.__module__, tool.function.__qualname__
    if module == "__main__" or "<locals>" in name:
        raise FatalError(f"tool {tool.name!r} runs in a child process and must be importable; {module}.{name} is not")
    with _in_memory("order") as order, _in_memory("answer") as answer:
        order.write(orjson.dumps(_order(tool, context, arguments)))
        order.seek(0)
        code = await _ended(tool, order, answer)
        answer.seek(0)
        return _result(tool, code, answer.read())


def _in_memory(name: str) -> BinaryIO:
    return os.fdopen(os.memfd_create(name), "w+b")


async def _ended(tool: Tool, order: BinaryIO, answer: BinaryIO) -> int:
    """Return how the child ended. Raises RetryableError when there is none: nothing was called."""
    try:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "durable_agent.worker.child", str(answer.fileno()),
            stdin=order, pass_fds=(answer.fileno(),), start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise RetryableError(f"no child process can be started for tool {tool.name!r}: {error}") from error
    try:
        return await child.wait()
    finally:
        if child.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            await child.wait()


def _order(tool: Tool, context: Context, arguments: Mapping[str, Any]) -> dict[str, Any]:
    claim = context.claim
    return {
        "parent": os.getpid(),
        "path": sys.path,
        "module": tool.function.__module__,
        "function": tool.function.__qualname__,
        # As they were given: made of JSON here, they might not be the same made of JSON again.
        "arguments": arguments.given if isinstance(arguments, Bound) else arguments,
        "limit_bytes": context.limit_bytes,
        "claim": {
            "run_id": str(claim.lease.run_id), "name": claim.name, "attempt": claim.attempt, "goal": claim.goal,
            "input": claim.input, "run_input": claim.run_input, "parents": claim.parents,
            "idempotency_key": context.idempotency_key,
        },
    }  # fmt: skip


def _result(tool: Tool, code: int, answer: bytes) -> Any:
    if not answer.endswith(b"\n"):
        names = {int(one): one.name for one in signal.Signals}
        how = f"signal {names.get(-code, -code)}" if code < 0 else f"exit code {code}"
        raise ChildEnded(f"the child process of tool {tool.name!r} ended with {how}")
    match orjson.loads(answer):
        case {"result": result}:
            return result
        case {"unencodable": reason}:
            return Unencodable(reason)
        case told:
            raise _again(told)


def _told(error: BaseException) -> dict[str, Any]:
    """Return an exception as JSON: its classes, its words and, of a group, its members."""
    if isinstance(error, BaseExceptionGroup):
        return {"words": plain(error.message), "members": [_told(one) for one in error.exceptions]}
    if isinstance(error, StopIteration):
        error = RuntimeError(f"the handler raised {error!r}")
    elif not isinstance(error, Exception):  # it ends the handler, not the worker
        error = RuntimeError(f"the handler raised {type(error).__name__}: {error}")
    wait_s = getattr(error, "retry_after_s", None)
    return {
        "words": said(error),
        "classes": [(one.__module__, one.__qualname__) for one in type(error).__mro__],
        "failure_class": error.failure_class if isinstance(error, StepError) else None,
        "retry_after_s": wait_s if isinstance(wait_s, int | float) else None,
    }


def _again(told: Mapping[str, Any]) -> Exception:
    """Return an exception of the child's: of the nearest of its classes that is known here, under its own name."""
    words = told["words"]
    if "members" in told:
        return ExceptionGroup(words, [_again(one) for one in told["members"]])
    for module, name in told["classes"]:
        try:
            known = _known(module, name)
            if known is not None:
                return _made(known, told["classes"][0][1].rpartition(".")[2], told)
        except Exception:  # a class with a mind of its own: the next one will do
            continue
    return RuntimeError(words)


def _known(module: str, name: str) -> type[Exception] | None:
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) and issubclass(found, Exception) else None


def _made(known: type[Exception], name: str, told: Mapping[str, Any]) -> Exception:
    """Return an exception without calling its constructor, which may ask for more than words."""
    words = told["words"]
    kind: type[Exception] = type(name, (known,), {"__module__": known.__module__, "__str__": lambda _: words})
    error: Any = kind.__new__(kind, words)
    if isinstance(error, StepError):
        error.failure_class, error.retry_after_s = told["failure_class"], told["retry_after_s"]
    elif isinstance(error, DurableAgentError):
        error.message, error.facts = words, {}
    made: Exception = error
    return made


def main() -> None:
    """Run one order from standard input and write the answer; a line's end says that it is whole."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    place = int(sys.argv[1])
    os.set_inheritable(place, False)
    order = orjson.loads(sys.stdin.buffer.read())
    if os.getppid() != order["parent"]:
        return  # the worker died before it could have taken this process along
    os.dup2(2, 1)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    sys.path[:] = order["path"]
    answer = orjson.dumps(_answer(order))
    with os.fdopen(place, "wb") as out:
        out.write(answer + b"\n")


def _answer(order: Mapping[str, Any]) -> dict[str, Any]:
    try:
        result = _run(order)
        try:
            return {"result": orjson.Fragment(encode(result, order["limit_bytes"]))}
        except FatalError as error:
            return {"unencodable": plain(str(error))}
    except BaseException as error:
        return _told(error)


def _run(order: Mapping[str, Any]) -> Any:
    found = _found(order["module"], order["function"])
    arguments: dict[str, Any] = found.bind(order["arguments"])
    if found.takes_context is not None:
        context = Context(_claim(found, order["claim"]), NoLink(), limit_bytes=order["limit_bytes"])
        arguments = {found.takes_context: context, **arguments}
    result = found.function(**arguments)
    return asyncio.run(result) if inspect.iscoroutine(result) else result


def _found(module: str, function: str) -> Tool:
    """Return the tool. Raises StepError when it is not to be had: nothing was called."""
    try:
        found: Any = importlib.import_module(module)
        for part in function.split("."):
            found = getattr(found, part)
    except BaseException as error:
        raise StepError(f"{module} cannot be imported in the child process: {type(error).__name__}: {error}") from error
    if not isinstance(found, Tool):
        raise FatalError(f"{module}.{function} is no tool in the child process")
    return found


def _claim(tool: Tool, facts: dict[str, Any]) -> Claim:
    nobody = Token(UUID(int=0))
    lease = Lease(Tenant(0), RunId(UUID(facts["run_id"])), 0, 0, nobody)
    return Claim(
        lease, facts["name"], StepKind.TOOL_CALL, tool.name, facts["input"], facts["run_input"], facts["goal"],
        facts["parents"], facts["attempt"], 0, None, 0.0, facts["idempotency_key"],
    )  # fmt: skip


if __name__ == "__main__":
    main()
