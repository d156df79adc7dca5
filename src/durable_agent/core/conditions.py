"""Conditions on edges and steps: the Common Expression Language behind one function.

CEL is total, bounded and has no clock, no I/O and no host objects. An error is an error, never a silent false: a
missing key must be asked for with `has()`. The library is bulky, so it is loaded at the first condition.
Source: the CEL specification; evaluated by Google's C++ implementation (`cel-expr-python`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any, Final

from durable_agent.errors import ConditionInvalid

LANGUAGE: Final = "cel"
MAX_LENGTH: Final = 2000


class ConditionError(Exception):
    """A condition that compiles could not be decided on these values."""


def check(expression: str, names: Sequence[str]) -> None:
    """Return if the expression compiles with these variables. Raises ConditionInvalid with place and cause."""
    if len(expression) > MAX_LENGTH:
        raise ConditionInvalid(f"it has {len(expression)} characters, more than {MAX_LENGTH}")
    _compiled(expression, tuple(names))


def holds(expression: str, **variables: Any) -> bool:
    """Return whether the expression is true of the variables (JSON values). Raises ConditionError, ConditionInvalid."""
    compiled = _compiled(expression, tuple(variables))
    try:
        answer = compiled.eval(data=variables)
        value, kind = answer.plain_value(), answer.type().name()
    except Exception as error:  # the binding raises its own types, and overflow errors for integers over 64 bits
        raise ConditionError(_first_line(error)) from None
    if value is True or value is False:
        return bool(value)
    if "error" in kind.lower():
        raise ConditionError(_first_line(value))
    raise ConditionError(f"the value is {_shown(value)}, not true or false")


@cache
def _environment(names: tuple[str, ...]) -> Any:
    from cel_expr_python import cel

    return cel.NewEnv(variables=dict.fromkeys(names, cel.Type.DYN))


@lru_cache(maxsize=4096)
def _compiled(expression: str, names: tuple[str, ...]) -> Any:
    try:
        return _environment(names).compile(expression)
    except Exception as error:  # as above: the binding has no exception type of its own
        raise ConditionInvalid(_first_line(error)) from None


def _first_line(error: object) -> str:
    text = str(error).strip().removeprefix("INVALID_ARGUMENT: ")
    return (text.splitlines() or ["it failed without a word"])[0].removeprefix("ERROR: <input>:")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
