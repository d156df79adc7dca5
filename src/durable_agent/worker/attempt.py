"""An attempt: one claim through one handler to one outcome, whatever the handler does."""

from __future__ import annotations

import asyncio
import contextvars
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from durable_agent.core.effects import own_word
from durable_agent.core.events import dumps
from durable_agent.core.outcomes import Failed, InDoubt, Outcome, Released, Succeeded
from durable_agent.core.records import Claim, FailureClass, Replay
from durable_agent.core.replay import first_difference
from durable_agent.core.text import plain, said
from durable_agent.core.waits import Decision
from durable_agent.errors import (
    Divergence,
    EffectRefused,
    FatalError,
    LeaseLost,
    OutsideError,
    StepError,
    Suspend,
    UnknownOutcome,
    Unrecorded,
)
from durable_agent.flow.context import Context
from durable_agent.flow.effects import look_up
from durable_agent.flow.encoding import encode
from durable_agent.flow.link import Link
from durable_agent.flow.registry import Registry
from durable_agent.flow.tools import Tool, arguments_for
from durable_agent.worker.child import run_in_child

# What a worker that drains cancels its attempts with.
DRAINED = "drained"


async def run_attempt(claim: Claim, registry: Registry, link: Link, *, limit_bytes: int) -> Outcome:
    """Run the claim's handler and return what became of it. Raises only CancelledError and LeaseLost.

    The handler is cancelled at `timeout_s`, at the latest at `deadline_s`; a thread cannot be, and is left behind.
    """
    tool = registry.get(claim.tool)
    if tool is None:
        return _doubtful(claim.in_doubt, _failed(claim, FatalError(f"this worker does not offer tool {claim.tool!r}")))
    if claim.refused is not None:
        return _doubtful(claim.in_doubt, _failed(claim, FatalError(claim.refused)))
    decided = _decided_before(claim, tool)
    if decided is not None:
        return decided
    try:
        claim = await _whole(claim, link)
    except (FatalError, OutsideError) as error:
        return Failed(
            claim.lease, _class_of(error), type(error).__name__, said(error), in_doubt=claim.in_doubt
        )  # fmt: skip
    context = Context(claim, link, limit_bytes=limit_bytes)
    try:
        outcome = await _limited(claim, tool, context, limit_bytes)
    except asyncio.CancelledError as cancelled:
        # Given back in the middle of a manual call: it may have happened. A lease that is lost is nobody's to speak of.
        if cancelled.args == (DRAINED,) and (doubt := context.calls.manual_in_flight()) is not None:
            return doubt
        raise
    return context.calls.manual_in_flight() or _doubtful(context.calls.doubted, outcome)


def _doubtful(doubted: bool, outcome: Outcome) -> Outcome:
    """Return the outcome of an attempt that may have ended before it knew what became of the one before it."""
    return replace(outcome, in_doubt=True) if doubted and isinstance(outcome, Failed | Released) else outcome


async def _whole(claim: Claim, link: Link) -> Claim:
    """Return the claim with the outputs of its parents whole, wherever they lie, and the result that it undoes."""
    if any(isinstance(value, dict) for value in claim.parents.values()):
        claim = replace(claim, parents={name: await link.whole(value) for name, value in claim.parents.items()})
    if claim.compensates and isinstance(claim.input, dict):
        claim = replace(claim, input={**claim.input, "result": await link.whole(claim.input.get("result"))})
    return claim


def _class_of(error: Exception) -> FailureClass:
    return FailureClass.TRANSIENT if isinstance(error, OutsideError) else FailureClass.INVALID_INPUT


def _decided_before(claim: Claim, tool: Tool) -> Outcome | None:
    """Return what is known without running anything: a replayed call's record, a person's word about a lost call."""
    if claim.replay is not None and not tool.orchestrates:
        return as_recorded(claim, claim.replay)
    word = own_word(claim.answers)
    decision = word.answer["decision"] if word is not None else None
    match decision:
        case Decision.HAPPENED:
            return Succeeded(claim.lease, dumps(word.answer["value"] if word else None), tool.compensate)
        case Decision.FAILED:
            reason = (word.answer["reason"] if word else None) or "it was decided that this call failed"
            return _failed(claim, EffectRefused(reason))
        case _:
            if claim.in_doubt and tool.effect == "manual" and decision != Decision.RESEND:
                message = "the attempt before this one was ended in the middle of the call"
                return InDoubt(claim.lease, 0, tool.name, message, claim.idempotency_key)
            return None


def as_recorded(claim: Claim, record: Replay) -> Outcome:
    """Return the recorded outcome of a step as that of this attempt; one without an outcome is a divergence."""
    if record.output is not None:
        return Succeeded(claim.lease, record.output)
    if record.status == "dead_letter" and record.error:
        told = record.error
        failure = FailureClass(told.get("failure", "bug"))
        return Failed(claim.lease, failure, told.get("error_type", "Error"), told.get("message", "it failed"))
    return _failed(claim, Divergence(f"the step was {record.status} and has no recorded result"))


async def _limited(claim: Claim, tool: Tool, context: Context, limit_bytes: int) -> Outcome:
    limit_s = min(claim.timeout_s or claim.deadline_s, claim.deadline_s)
    cut = asyncio.timeout(limit_s)
    try:
        async with cut:
            try:
                result = await _to_its_end(claim, tool, context)
            finally:
                if not cut.expired() and not _cancelled():
                    await context.calls.quiet()
        try:
            output = await context.link.keep(encode(result, limit_bytes))
        except FatalError as error:
            if tool.effect != "manual":
                raise
            # It was done, and only its result cannot be kept: nothing may make it be done again.
            return _unheard(claim, tool, error, FailureClass.INVALID_INPUT)
        diverged = _differs(claim, output, context)
        return _failed(claim, diverged) if diverged else Succeeded(claim.lease, output, _undone_by(claim, tool))
    except TimeoutError as error:
        if not cut.expired():
            return _unheard(claim, tool, error, FailureClass.TIMEOUT)
        return _unheard(claim, tool, TimeLimit(f"the attempt took longer than {limit_s:g} s"), FailureClass.TIMEOUT)
    except UnknownOutcome as error:
        return _unheard(claim, tool, error, FailureClass.TRANSIENT)
    except StepError as error:
        return _failed(claim, error)
    except asyncio.CancelledError:
        if not _cancelled():
            return _unheard(claim, tool, _CANCELLED_BY_ITSELF, FailureClass.BUG)
        # A manual call that is cancelled from outside may have happened; only its end would have told.
        if tool.effect == "manual":
            message = "the attempt was ended in the middle of the call"
            context.calls.leave(InDoubt(claim.lease, 0, tool.name, message, claim.idempotency_key))
        raise
    except BaseException as error:
        return _signalled(claim, tool, error)


def _cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _undone_by(claim: Claim, tool: Tool) -> str | None:
    return None if claim.replay is not None else tool.compensate


def _signalled(claim: Claim, tool: Tool, error: BaseException) -> Outcome:
    """Return what an exception stands for that is not the author's own word. Raises LeaseLost, CancelledError."""
    for one in _leaves(error):
        match one:
            case Suspend():
                outcome: Outcome = one.outcome
                return outcome
            case LeaseLost():
                raise one
            case asyncio.CancelledError() if _cancelled():
                raise one
            case asyncio.CancelledError():
                return _unheard(claim, tool, _CANCELLED_BY_ITSELF, FailureClass.BUG)
            case Divergence():
                return _failed(claim, one)
            case Unrecorded() if claim.replay is not None:
                return as_recorded(claim, claim.replay)
            case _:
                continue
    if isinstance(error, BaseExceptionGroup):
        first = next(_leaves(error))
        if isinstance(first, StepError):
            return _failed(claim, first)
    if isinstance(error, SystemExit | KeyboardInterrupt | GeneratorExit):
        # A handler that calls sys.exit() ends its attempt, not the worker.
        error = RuntimeError(f"the handler raised {type(error).__name__}: {said(error)}")
    return _unheard(claim, tool, error, _classify(error))


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception, or those in its groups: a task group wraps what ends it."""
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _leaves(one)
    else:
        yield error


def broken(
    claim: Claim, registry: Registry, error: BaseException, failure: FailureClass = FailureClass.BUG
) -> Outcome:  # fmt: skip
    """Return the outcome of an attempt that did not come to one by itself: a failure of its own step and of nobody else's."""
    tool = registry.get(claim.tool)
    if tool is None:
        return Failed(claim.lease, failure, type(error).__name__, said(error), in_doubt=claim.in_doubt)
    return _unheard(claim, tool, error, failure)


def _unheard(claim: Claim, tool: Tool, error: BaseException, failure: FailureClass) -> Outcome:
    """Return the outcome of a call that ended without the author's word whether it happened: its class decides."""
    if tool.effect == "manual" and claim.replay is None:
        message = plain(f"{type(error).__name__}: {said(error)}")
        return InDoubt(claim.lease, 0, tool.name, message, claim.idempotency_key)
    name = "Timeout" if isinstance(error, TimeLimit) else type(error).__name__
    return Failed(claim.lease, failure, name, said(error) or "a call timed out", None, tool.effect == "verify")


class TimeLimit(Exception):
    """The attempt took longer than it may."""


class CancelledItself(Exception):
    """The handler let out a cancellation that nobody asked of its attempt."""


_CANCELLED_BY_ITSELF = CancelledItself(
    "the handler ended with a CancelledError of its own; catch it where it awaits the task"
)


def _differs(claim: Claim, output: bytes, context: Context) -> Divergence | None:
    """Return how a replayed step differs from its record, or None."""
    if claim.replay is None:
        return None
    if (left := context.calls.ledger.left()) is not None:
        return Divergence(f"it did not ask for {left!r}, which was recorded")
    if claim.replay.output != output:
        return Divergence(f"its output differs from the recorded one {first_difference(claim.replay.output, output)}")
    return None


async def _to_its_end(claim: Claim, tool: Tool, context: Context) -> Any:
    """Return the handler's result. Raises the signal that ended the attempt where the handler kept it to itself.

    It does who gathers with `return_exceptions` and takes a Suspend for a result. Only the author's own word goes before it.
    """
    try:
        result = await _call(claim, tool, context)
    except Exception as error:
        if not any(isinstance(one, StepError) for one in _leaves(error)):
            context.calls.still_open()
        raise
    context.calls.still_open()
    return result


async def _call(claim: Claim, tool: Tool, context: Context) -> Any:
    arguments = tool.bind(arguments_of(claim, tool))
    link = context.link
    if claim.in_doubt and tool.verify is not None:
        # An attempt before this one may have done it.
        found = await look_up(link, tool, arguments, context)
        if found is not None:
            return found
        await link.still_ours()
    context.calls.doubted = False
    if claim.budgeted and not tool.orchestrates and claim.replay is None and not claim.compensates:
        await context.calls.metered(tool.name)
    return await link.invoke(tool, arguments, context)


async def invoke(tool: Tool, arguments: Mapping[str, Any], context: Context) -> Any:
    """Call a tool with arguments that are bound: in the loop, in a thread, or in a child process; for its own time at most.

    Raises TimeoutError, and whatever the tool raises.
    """
    if tool.timeout_s is None:
        return await _invoked(tool, arguments, context)
    async with asyncio.timeout(tool.timeout_s):
        return await _invoked(tool, arguments, context)


async def _invoked(tool: Tool, arguments: Mapping[str, Any], context: Context) -> Any:
    if tool.isolation == "process":
        return await run_in_child(tool, context, arguments)
    given = dict(arguments)
    if tool.takes_context is not None:
        given = {tool.takes_context: context, **given}
    if tool.is_async:
        return await tool.function(**given)
    return await in_thread(lambda: tool.function(**given))


def arguments_of(claim: Claim, tool: Tool) -> Mapping[str, Any]:
    """Return what the handler is called with: the step's input, without the key that names the tool.

    What undoes something takes of `arguments`, `result`, `key` and `outcome` those it names.
    """
    if claim.compensates and isinstance(claim.input, dict) and tool.accepts is not None:
        return {name: value for name, value in claim.input.items() if name in tool.accepts}
    return arguments_for(tool, claim.kind, claim.input)


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


def _classify(error: BaseException) -> FailureClass:
    """Return the class of an exception nobody classified: the network is transient, all else is a bug."""
    return FailureClass.TRANSIENT if isinstance(error, ConnectionError | OSError | OutsideError) else FailureClass.BUG


def _failed(claim: Claim, error: StepError | Divergence) -> Failed:
    if isinstance(error, Divergence):
        return Failed(claim.lease, FailureClass.DIVERGED, "Divergence", said(error))
    return Failed(claim.lease, _class_said(error), type(error).__name__, said(error), _seconds(error.retry_after_s))


def _class_said(error: StepError) -> FailureClass:
    """Return the class the exception names; where that is none of the engine's, the one of its nearest base that is."""
    named = (error.failure_class, *(vars(base).get("failure_class") for base in type(error).__mro__))
    return next(FailureClass(name) for name in named if name in _CLASSES)


_CLASSES = frozenset(FailureClass)


def _seconds(given: Any) -> float | None:
    """Return what an author gave as a number of seconds, a header's text perhaps; None where it is no number."""
    try:
        found = float(given)
    except (TypeError, ValueError, OverflowError):
        return None
    return None if math.isnan(found) else found
