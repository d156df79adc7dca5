"""Conditions on edges and steps: the Common Expression Language behind one function.

CEL is total, bounded and has no clock, no I/O and no host objects. An error is an error, never a silent false: a
missing key must be asked for with `has()`. Nor is what stands for a large output taken for the output: a condition that
looks into one cannot be decided. The library is bulky, so it is loaded at the first condition.
Source: the CEL specification; evaluated by Google's C++ implementation (`cel-expr-python`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from typing import Any, Final

from durable_agent.core.large import is_reference
from durable_agent.errors import ConditionInvalid

LANGUAGE: Final = "cel"
MAX_LENGTH: Final = 2000
# Asks of `outputs` only whether a step is among them.
_ASKED: Final = re.compile(r"\bhas\(\s*outputs\.[A-Za-z_]\w*\s*\)|\bin\s+outputs\b(?!\s*[.\[])")
_READ: Final = re.compile(r"""\boutputs\s*(?:\.\s*([A-Za-z_]\w*)\b(?!\s*\()|\[\s*(?:"([^"\\]*)"|'([^'\\]*)')\s*\])""")


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
    if _has_nul(variables):
        raise ConditionError(
            "a text it is asked about contains NUL (U+0000), and all after that would be left out of it"
        )
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


def _has_nul(value: Any) -> bool:
    """Whether a text in a JSON value holds what ends a text in the library's own language."""
    match value:
        case str():
            return "\x00" in value
        case dict():
            return any(_has_nul(key) or _has_nul(item) for key, item in value.items())
        case list():
            return any(map(_has_nul, value))
        case _:
            return False


def refuse_large(expression: str, variable: str, outputs: Mapping[str, Any]) -> None:
    """Return if the expression looks into none of the outputs that are too large for a row. Raises ConditionError.

    `variable` is how it calls them: `outputs`, by name, or `output`, which is the only one.
    """
    for name, output in outputs.items():
        if is_reference(output) and _looks_into(expression, variable, name):
            raise ConditionError(
                f"the output of step {name!r} has {output['bytes']} bytes, and what is too large for a row cannot be looked into "
                "here; return what decides from a step of its own, or decide in a Python predicate or a policy step"
            )


def _looks_into(expression: str, variable: str, name: str) -> bool:
    """Whether the expression may look into an output; told from its text, and when in doubt it may."""
    if variable != "outputs" or "//" in expression:  # a comment may stand between a name and its part
        return re.search(rf"\b{variable}\b", expression) is not None
    rest = _ASKED.sub("true", expression)
    read = {part for found in _READ.findall(rest) for part in found}
    return name in read or re.search(r"\boutputs\b", _READ.sub("true", rest)) is not None


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
