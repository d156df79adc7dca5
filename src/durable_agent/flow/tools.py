"""Tools and steps: an author's functions with a name, typed arguments and a policy.

A decorated function stays callable. Nothing is registered globally: a worker is given modules and collects the tools
it finds in them.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, get_type_hints, overload

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from durable_agent.core.records import RetryPolicy
from durable_agent.errors import FatalError, InvalidRequest

Effect = Literal["safe", "idempotent", "verify", "manual"]
Isolation = Literal["inline", "process"]

_NAME = re.compile(r"[A-Za-z_][\w.\-]{0,199}\Z")


class Bound(dict[str, Any]):
    """Arguments as a function takes them; `given` is the JSON they were made of, for who makes them again elsewhere."""

    def __init__(self, arguments: Mapping[str, Any], given: Mapping[str, Any]) -> None:
        super().__init__(arguments)
        self.given = given


@dataclass(frozen=True, slots=True)
class Tool:
    """A named function that steps can ask for. `effect` says what a repeated call may do to the outside world.

    A tool that `orchestrates` does nothing to it by itself, only through the effects it records: it may always be run
    again. `verify` looks up whether a call happened: it takes what the tool takes and returns its result, or None. With a
    `breaker`, calls that fail in a row keep the whole fleet from calling it for a while.
    """

    name: str
    function: Callable[..., Any]
    effect: Effect
    retry: RetryPolicy | None
    timeout_s: float | None
    compensate: str | None
    isolation: Isolation
    takes_context: str | None
    verify: Callable[..., Any] | None
    orchestrates: bool
    breaker: bool
    arguments: type[BaseModel] = field(repr=False)

    @property
    def is_async(self) -> bool:
        """Whether the function is a coroutine function and runs in the worker's event loop."""
        return inspect.iscoroutinefunction(self.function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the author's function as it was written."""
        return self.function(*args, **kwargs)

    @property
    def accepts(self) -> frozenset[str] | None:
        """The names of its arguments; None when it takes any."""
        extra = self.arguments.model_config.get("extra") == "allow"
        return None if extra else frozenset(self.arguments.model_fields)

    def bind(self, given: Mapping[str, Any]) -> Bound:
        """Return the arguments, validated and converted. Raises FatalError naming the failing argument."""
        try:
            model = self.arguments.model_validate(dict(given))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"])) or "input"
            raise FatalError(f"tool {self.name!r}: argument {where!r}: {first['msg']}") from None
        known = {name: getattr(model, name) for name in type(model).model_fields}
        bound = Bound(known, given)
        bound.update(model.model_extra or {})
        return bound


@overload
def tool(name: Callable[..., Any], /) -> Tool: ...


@overload
def tool(
    name: str | None = None, *, effect: Effect = ..., retry: RetryPolicy | None = ..., timeout_s: float | None = ...,
    compensate: str | None = ..., isolation: Isolation = ..., verify: Callable[..., Any] | None = ..., breaker: bool = ...,
) -> Callable[[Callable[..., Any]], Tool]: ...  # fmt: skip


def tool(
    name: str | Callable[..., Any] | None = None, *, effect: Effect = "manual", retry: RetryPolicy | None = None,
    timeout_s: float | None = None, compensate: str | None = None, isolation: Isolation = "inline",
    verify: Callable[..., Any] | None = None, breaker: bool = False,
) -> Tool | Callable[[Callable[..., Any]], Tool]:  # fmt: skip
    """Make a function a tool that steps ask for by `name` (default: the function's own). `@tool` alone does, too.

    `async def` runs in the worker's event loop, `def` in a thread; `isolation="process"` runs a `def` or `async def`
    in a child process, which the deadline can kill. The function's annotations type its arguments; a first parameter
    named `ctx` receives the Context. `effect` says what may be done when a call was begun and its end is not known:
    `safe` and `idempotent` are called again (with the same key), `verify` asks the `verify` function first, `manual`,
    the default, waits for a person. With a `breaker`, five failures in a row keep the whole fleet from calling it for a
    while. Raises InvalidRequest for an unusable name or signature.
    """
    if callable(name):
        return tool()(name)

    def decorate(function: Callable[..., Any]) -> Tool:
        made = _made(
            function, name, effect, retry, timeout_s, compensate, isolation, verify, orchestrates=False, breaker=breaker
        )
        if (effect == "verify") != (verify is not None):
            raise InvalidRequest(
                f"tool {made.name!r}: effect='verify' and a verify function come together", field="verify"
            )
        return made

    return decorate


@overload
def step(name: Callable[..., Any], /) -> Tool: ...


@overload
def step(
    name: str | None = None,
    *,
    retry: RetryPolicy | None = ...,
    timeout_s: float | None = ...,
    compensate: str | None = ...,
) -> Callable[[Callable[..., Any]], Tool]: ...


def step(
    name: str | Callable[..., Any] | None = None, *, retry: RetryPolicy | None = None, timeout_s: float | None = None,
    compensate: str | None = None,
) -> Tool | Callable[[Callable[..., Any]], Tool]:  # fmt: skip
    """Make a function a step's handler: code that calls tools, waits and decides, and does nothing else outside.

    It is run again from its beginning after a crash or a wait; what it did through its Context is not done again.
    Otherwise as `tool`.
    """
    if callable(name):
        return step()(name)

    def decorate(function: Callable[..., Any]) -> Tool:
        return _made(function, name, "safe", retry, timeout_s, compensate, "inline", None, orchestrates=True)

    return decorate


def _made(
    function: Callable[..., Any], name: str | None, effect: Effect, retry: RetryPolicy | None, timeout_s: float | None,
    compensate: str | None, isolation: Isolation, verify: Callable[..., Any] | None, *, orchestrates: bool,
    breaker: bool = False,
) -> Tool:  # fmt: skip
    chosen = name or function.__name__
    if not _NAME.match(chosen):
        raise InvalidRequest(f"{chosen!r} is no tool name: letters, digits, '_', '.', '-', at most 200", field="name")
    context, arguments = _signature(chosen, function)
    return Tool(
        chosen,
        function,
        effect,
        retry,
        timeout_s,
        compensate,
        isolation,
        context,
        verify,
        orchestrates,
        breaker,
        arguments,
    )


@lru_cache(1024)
def stand_in(name: str, effect: Effect = "safe") -> Tool:
    """Return what stands in the record for calls that are not a worker's own tool; their orders make them."""

    async def stands_in(**request: Any) -> None: ...

    return tool(name, effect=effect)(stands_in)


def arguments_for(tool: Tool, kind: str, given: Any) -> Mapping[str, Any]:
    """Return what a step's input is to its tool: its arguments, without the key that names the tool."""
    if given is None:
        return {}
    if not isinstance(given, dict):
        return {"input": given}
    if kind == "tool_call" and not (tool.accepts and "tool" in tool.accepts):
        return {key: value for key, value in given.items() if key != "tool"}
    return given


def _signature(name: str, function: Callable[..., Any]) -> tuple[str | None, type[BaseModel]]:
    """Return the name of the context parameter, if any, and a model of the others."""
    try:
        hints = get_type_hints(function)
    except NameError:
        hints = {}
    context: str | None = None
    extra: Literal["allow", "forbid"] = "forbid"
    fields: dict[str, Any] = {}
    for position, parameter in enumerate(inspect.signature(function).parameters.values()):
        if position == 0 and parameter.name in ("ctx", "context"):
            context = parameter.name
        elif parameter.kind is parameter.VAR_KEYWORD:
            extra = "allow"
        elif parameter.kind in (parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY):
            raise InvalidRequest(f"tool {name!r}: parameter {parameter.name!r} cannot be passed by name", field="name")
        else:
            default = ... if parameter.default is parameter.empty else parameter.default
            fields[parameter.name] = (hints.get(parameter.name, Any), default)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # an argument may be named like a method of the model
        model = create_model(
            f"{name}_arguments", __config__=ConfigDict(extra=extra, arbitrary_types_allowed=True), **fields
        )
    return context, model
