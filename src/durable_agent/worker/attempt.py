"""An attempt: one claim through one handler to one outcome, whatever the handler does."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Mapping
from typing import Any

import orjson
from pydantic import BaseModel

from durable_agent.core.records import Claim, Failed, FailureClass, Outcome, StepKind, Succeeded
from durable_agent.errors import FatalError, LeaseLost, StepError
from durable_agent.flow.context import Context, Emit
from durable_agent.flow.registry import Registry
from durable_agent.worker.child import run_in_child

MESSAGE_LIMIT = 2000


async def run_attempt(claim: Claim, registry: Registry, emit: Emit, *, payload_limit_bytes: int) -> Outcome:
    """Run the claim's handler and return what became of it. Raises only CancelledError and LeaseLost.

    The handler is cancelled at `timeout_s`, at the latest at `deadline_s`; a thread cannot be, and is left behind.
    """
    limit_s = min(claim.timeout_s or claim.deadline_s, claim.deadline_s)
    try:
        async with asyncio.timeout(limit_s) as timer:
            result = await _call(claim, registry, emit)
        return Succeeded(claim.lease, encode(result, payload_limit_bytes))
    except TimeoutError as error:
        if timer.expired():
            return _failed(claim, FailureClass.TIMEOUT, "Timeout", f"the attempt took longer than {limit_s:g} s")
        return _failed(claim, FailureClass.TIMEOUT, type(error).__name__, str(error) or "a call timed out")
    except StepError as error:
        failure = FailureClass(error.failure_class)
        return _failed(claim, failure, type(error).__name__, str(error), error.retry_after_s)
    except (LeaseLost, asyncio.CancelledError):
        raise
    except Exception as error:
        return _failed(claim, _classify(error), type(error).__name__, str(error))
    except (SystemExit, KeyboardInterrupt, GeneratorExit) as error:
        # A handler that calls sys.exit() ends its attempt, not the worker.
        return _failed(
            claim, FailureClass.BUG, type(error).__name__, f"the handler raised {type(error).__name__}: {error}"
        )


async def _call(claim: Claim, registry: Registry, emit: Emit) -> Any:
    tool = registry.get(claim.tool)
    if tool is None:
        raise FatalError(f"this worker does not offer tool {claim.tool!r}")
    arguments = tool.bind(arguments_of(claim))
    if tool.isolation == "process":
        return await run_in_child(tool, claim, arguments)
    if tool.takes_context is not None:
        arguments = {tool.takes_context: Context(claim, emit), **arguments}
    if tool.is_async:
        return await tool.function(**arguments)
    return await in_thread(lambda: tool.function(**arguments))


def arguments_of(claim: Claim) -> Mapping[str, Any]:
    """Return what the handler is called with: the step's input, without the key that names the tool."""
    if claim.input is None:
        return {}
    if not isinstance(claim.input, dict):
        return {"input": claim.input}
    if claim.kind is StepKind.TOOL_CALL:
        return {key: value for key, value in claim.input.items() if key != "tool"}
    return claim.input


async def in_thread(call: Callable[[], Any]) -> Any:
    """Return what the call returns in a thread of its own; when cancelled, the thread is left to end by itself.

    A daemon thread per call and no pool: one that hangs for ever costs a thread, not the pool's last slot nor the
    worker's exit.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()
    context = contextvars.copy_context()

    def deliver(set_it: Callable[[Any], None], value: Any) -> None:
        if not future.done():
            set_it(value)

    def run() -> None:
        try:
            result = context.run(call)
        except BaseException as error:
            outcome: tuple[Callable[[Any], None], Any] = (future.set_exception, _portable(error))
        else:
            outcome = (future.set_result, result)
        try:
            loop.call_soon_threadsafe(deliver, *outcome)
        except RuntimeError:
            return  # the loop is closed: the worker ended before the thread did

    threading.Thread(target=run, name="step", daemon=True).start()
    return await future


def _portable(error: BaseException) -> BaseException:
    # A future cannot carry StopIteration.
    return RuntimeError(f"the handler raised {error!r}") if isinstance(error, StopIteration) else error


def encode(result: Any, limit_bytes: int) -> bytes:
    """Return the handler's result as canonical JSON. Raises FatalError for what JSON, Unicode or the limit refuses."""
    try:
        if isinstance(result, BaseModel):
            result = result.model_dump(mode="json")
        text = orjson.dumps(result, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)
    except (TypeError, ValueError, RecursionError) as error:
        raise FatalError(f"the result cannot be stored: {error}; return plain JSON values") from None
    if len(text) > limit_bytes:
        raise FatalError(f"the result has {len(text)} bytes, more than the {limit_bytes} a step may return")
    return text


def _classify(error: Exception) -> FailureClass:
    """Return the class of an exception nobody classified: the network is transient, all else is a bug."""
    return FailureClass.TRANSIENT if isinstance(error, ConnectionError | OSError) else FailureClass.BUG


def _failed(
    claim: Claim, failure: FailureClass, error_type: str, message: str, retry_after_s: float | None = None
) -> Failed:
    text = message.encode("utf-8", "replace").decode().replace("\x00", "\ufffd")
    return Failed(claim.lease, failure, error_type, text[:MESSAGE_LIMIT], retry_after_s)
