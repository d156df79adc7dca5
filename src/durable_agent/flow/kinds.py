"""The step kinds that need no author: waits, policies, maps and runs, as handlers that every worker offers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from durable_agent.core.conditions import ConditionError, holds
from durable_agent.core.events import dumps
from durable_agent.errors import BudgetExceeded, ConditionInvalid, FatalError, Refused
from durable_agent.flow.context import EVENT_LIMIT_BYTES, Context
from durable_agent.flow.tools import Tool, step


@step("approval")
async def approval(
    ctx: Context, tool: str | None = None, arguments: dict[str, Any] | None = None, prompt: str = "",
    expires_s: float | None = None, allow_self: bool = True, on_reject: str = "fail",
) -> dict[str, Any]:  # fmt: skip
    """Wait for a person's approval; a rejection ends the run, with `on_reject` "continue" it is the output."""
    given = await ctx.approval(
        tool, arguments, prompt=prompt or ctx.goal or "", expires=expires_s, allow_self=allow_self,
        on_reject="return" if on_reject == "continue" else "raise",
    )  # fmt: skip
    return {"approved": given.approved, "by": given.by, "reason": given.reason}


@step("input")
async def ask(
    ctx: Context, prompt: str = "", schema: dict[str, Any] | None = None, expires_s: float | None = None
) -> Any:
    """Wait for a person's answer; it is the output."""
    return await ctx.ask(prompt or ctx.goal or "", schema=schema, expires=expires_s)


@step("signal")
async def signal(ctx: Context, signal: str = "", timeout_s: float | None = None) -> Any:
    """Wait for a signal (by default of the step's own name); its payload is the output."""
    name = signal or ctx.step.removeprefix("signal.")
    return await ctx.wait_for_signal(name, timeout=timeout_s)


@step("sleep")
async def sleep(ctx: Context, seconds: float) -> None:
    """Wait so many seconds without a worker."""
    await ctx.sleep(seconds)


@step("policy")
async def policy(
    ctx: Context, rules: list[dict[str, Any]], otherwise: str = "approve", prompt: str = "",
    expires_s: float | None = None, allow_self: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """Decide by the first rule whose condition holds over `outputs`, `input`: pass, ask for an approval, or refuse."""
    verdict, rule = _verdict(ctx, rules, otherwise)
    reason = str((rule or {}).get("reason") or "")
    match verdict:
        case "pass":
            return {"decision": "pass", "reason": reason, "by": None}
        case "approve":
            said = prompt or reason or ctx.goal or ""
            asked = await ctx.approval(None, _asked(ctx, said), prompt=said, expires=expires_s, allow_self=allow_self)
            return {"decision": "approved", "reason": asked.reason, "by": asked.by}
        case "refuse":
            raise Refused(reason or f"policy {ctx.step!r} refuses it")
        case _:
            raise FatalError(f"policy {ctx.step!r}: `then` is {verdict!r}; use pass, approve or refuse")


def _asked(ctx: Context, prompt: str) -> dict[str, Any]:
    """Return what a person is asked to approve: of outputs that do not fit into a question, only the size of the large ones."""
    asked = {"policy": ctx.step, "parents": dict(ctx.parents)}
    if len(dumps({"tool": None, "arguments": asked, "prompt": prompt})) <= EVENT_LIMIT_BYTES:
        return asked
    sizes, most = {name: len(dumps(output)) for name, output in ctx.parents.items()}, EVENT_LIMIT_BYTES // 2
    shown = {name: o if sizes[name] * len(sizes) <= most else {"bytes": sizes[name]} for name, o in ctx.parents.items()}
    return {**asked, "parents": shown}


def _verdict(ctx: Context, rules: Sequence[Mapping[str, Any]], otherwise: str) -> tuple[str, Mapping[str, Any] | None]:
    for rule in rules:
        condition = rule.get("when")
        try:
            if condition is None or holds(str(condition), outputs=dict(ctx.parents), input=ctx.run_input):
                return str(rule.get("then", "approve")), rule
        except (ConditionError, ConditionInvalid) as error:
            raise FatalError(f"policy {ctx.step!r}: the condition {condition!r} cannot be decided: {error}") from None
    return otherwise, None


@step("map")
async def each(
    ctx: Context, tool: str, items: list[Any] | None = None, over: str | None = None, concurrency: int = 10,
    argument: str = "item",
) -> list[Any]:  # fmt: skip
    """Run a tool over `items`, or over the list that parent `over` returned; the outputs by index."""
    given = items if items is not None else ctx.parents.get(over or next(iter(ctx.parents), ""))
    if not isinstance(given, list):
        raise FatalError(
            f"map {ctx.step!r} needs a list: give `items`, or `over` the name of a parent that returns one"
        )
    return await ctx.map(tool, given, concurrency=concurrency, argument=argument)


@step("run")
async def run(ctx: Context, steps: list[dict[str, Any]], goal: str | None = None, input: Any = None) -> dict[str, Any]:
    """Start a run of its own and wait for it; one that does not complete fails the step."""
    ended = await ctx.run(steps, goal=goal, input=input)
    if ended["status"] == "budget_exceeded":
        raise BudgetExceeded(f"run {ended['run_id']} has used up the budget: {ended['error'] or ''}")
    if ended["status"] != "completed":
        raise FatalError(f"run {ended['run_id']} ended as {ended['status']}: {ended['error'] or ''}")
    return ended


KINDS: tuple[Tool, ...] = (approval, ask, signal, sleep, policy, each, run)
