"""Tools and steps: an author's functions with a name, typed arguments and a policy.

A decorated function stays callable. Nothing is registered globally: a worker is given modules and collects the tools
it finds in them.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from durable_agent.core.records import RetryPolicy
from durable_agent.errors import FatalError, InvalidRequest

Effect = Literal["safe", "idempotent", "verify", "manual"]
Isolation = Literal["inline", "process"]

_NAME = re.compile(r"[A-Za-z_][\w.\-]{0,199}\Z")


@dataclass(frozen=True, slots=True)
class Tool:
    """A named function that steps can ask for. `effect` says what a repeated call may do to the outside world."""

    name: str
    function: Callable[..., Any]
    effect: Effect
    retry: RetryPolicy | None
    timeout_s: float | None
    compensate: str | None
    isolation: Isolation
    takes_context: str | None
    arguments: type[BaseModel] = field(repr=False)

    @property
    def is_async(self) -> bool:
        """Whether the function is a coroutine function and runs in the worker's event loop."""
        return inspect.iscoroutinefunction(self.function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the author's function as it was written."""
        return self.function(*args, **kwargs)

    def bind(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments, validated and converted. Raises FatalError naming the failing argument."""
        try:
            model = self.arguments.model_validate(dict(given))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"])) or "input"
            raise FatalError(f"tool {self.name!r}: argument {where!r}: {first['msg']}") from None
        known = {name: getattr(model, name) for name in type(model).model_fields}
        return {**known, **(model.model_extra or {})}


def tool(
    name: str | None = None, *, effect: Effect = "manual", retry: RetryPolicy | None = None,
    timeout_s: float | None = None, compensate: str | None = None, isolation: Isolation = "inline",
) -> Callable[[Callable[..., Any]], Tool]:  # fmt: skip
    """Make a function a tool that steps ask for by `name` (default: the function's own).

    `async def` runs in the worker's event loop, `def` in a thread; `isolation="process"` runs a `def` or `async def`
    in a child process, which the deadline can kill. The function's annotations type its arguments; a first parameter
    named `ctx` receives the Context. Raises InvalidRequest for an unusable name or signature.
    """

    def decorate(function: Callable[..., Any]) -> Tool:
        chosen = name or function.__name__
        if not _NAME.match(chosen):
            raise InvalidRequest(
                f"{chosen!r} is no tool name: letters, digits, '_', '.', '-', at most 200", field="name"
            )
        context, arguments = _signature(chosen, function)
        return Tool(chosen, function, effect, retry, timeout_s, compensate, isolation, context, arguments)

    return decorate


# A step handler is a tool that a step finds by its own name.
step = tool


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
    model = create_model(
        f"{name}_arguments", __config__=ConfigDict(extra=extra, arbitrary_types_allowed=True), **fields
    )
    return context, model


class Registry:
    """The tools one worker offers, by name."""

    def __init__(self, tools: Iterable[Tool] = ()) -> None:
        self._tools: dict[str, Tool] = {}
        for one in tools:
            self.add(one)

    @classmethod
    def from_modules(cls, modules: Iterable[str]) -> Registry:
        """Return the tools found in the modules, imported by name. Raises InvalidRequest for one that cannot be."""
        registry = cls()
        for name in modules:
            try:
                module = importlib.import_module(name)
            except ImportError as error:
                raise InvalidRequest(
                    f"module {name!r} cannot be imported: {error}; give importable names, with PYTHONPATH set",
                    field="MODULE",
                ) from error
            for value in vars(module).values():
                if isinstance(value, Tool):
                    registry.add(value)
        return registry

    def add(self, one: Tool) -> None:
        """Offer a tool. Raises InvalidRequest when another function has its name."""
        known = self._tools.setdefault(one.name, one)
        if known.function is not one.function:
            raise InvalidRequest(f"two functions are named tool {one.name!r}; rename one", field="name")

    def get(self, name: str) -> Tool | None:
        """Return the tool of that name, or None."""
        return self._tools.get(name)

    def names(self) -> tuple[str, ...]:
        """Return the names offered, sorted."""
        return tuple(sorted(self._tools))

    def __iter__(self) -> Iterator[Tool]:
        """Iterate over the tools by name."""
        return iter(self._tools[name] for name in self.names())

    def __len__(self) -> int:
        """Return how many tools are offered."""
        return len(self._tools)
