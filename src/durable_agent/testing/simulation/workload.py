"""What is run: graphs drawn from the seed, with steps of every effect class, waits, models, spawned steps and poison.

A `story` does what its input says, so that it asks for the same again after every crash.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

from durable_agent.core.outcomes import Used
from durable_agent.core.records import Dependency, Limit, RetryPolicy, RunSpec, StepKind, StepSpec
from durable_agent.errors import FatalError, RetryableError
from durable_agent.flow.context import Context
from durable_agent.flow.effects import Order, Terms
from durable_agent.flow.registry import Registry
from durable_agent.flow.steps import Step
from durable_agent.flow.tools import stand_in, step, tool
from durable_agent.testing.simulation.receiver import Receiver


class Host(Protocol):
    """What the tools need of the world they run in."""

    random: Random

    @property
    def receiver(self) -> Receiver:
        """The outside world."""
        ...

    def die(self) -> None:
        """Kill the process whose step this is."""
        ...


HOST: ContextVar[Host] = ContextVar("host")


async def _send(ctx: Context, kind: str) -> Any:
    return await HOST.get().receiver.call(ctx.idempotency_key, kind, str(ctx.run_id), ctx.step)


@tool(effect="safe")
async def noop(ctx: Context, fails: float = 0.0) -> Any:
    """Take a moment; fail at times."""
    random = HOST.get().random
    await asyncio.sleep(random.random() * random.choice((0.01, 0.2, 3.0)))
    if random.random() < fails:
        raise RetryableError("it did not work")
    return {"n": len(ctx.parents), "ok": random.random() < 0.7}


@tool(effect="safe")
async def doomed(ctx: Context) -> Any:
    """Fail for good."""
    raise FatalError("it never works")


@tool(effect="safe")
async def poison(ctx: Context) -> Any:
    """Kill the process."""
    await asyncio.sleep(0.01)
    HOST.get().die()
    await asyncio.sleep(3600.0)


@tool(effect="idempotent")
async def pay(ctx: Context, n: int = 0) -> Any:
    """Call a receiver that knows keys."""
    return await _send(ctx, "idempotent")


@tool(effect="manual")
async def once(ctx: Context, n: int = 0) -> Any:
    """Call a receiver that does not, and cannot be asked."""
    return await _send(ctx, "manual")


async def _looked_up(ctx: Context, n: int = 0) -> Any:
    return await HOST.get().receiver.look_up(ctx.idempotency_key)


@tool(effect="verify", verify=_looked_up)
async def checked(ctx: Context, n: int = 0) -> Any:
    """Call a receiver that does not know keys, and can be asked what it took."""
    return await _send(ctx, "verify")


@step()
async def story(ctx: Context, ops: list[Any]) -> Any:
    """Do what the input says, one thing after the other."""
    return [await _do(ctx, number, op) for number, op in enumerate(ops)]


async def _do(ctx: Context, number: int, op: list[Any]) -> Any:
    match op:
        case ["call", name]:
            return await ctx.call(name, n=number)
        case ["abreast", *names]:
            calls = [ctx.call(name, n=100 * number + i) for i, name in enumerate(names)]
            return list(await asyncio.gather(*calls))
        case ["model", bound, used]:
            return await _model(ctx, bound, used, number)
        case ["models", bound, used, count]:
            calls = [_model(ctx, bound, used, 100 * number + i) for i in range(count)]
            return list(await asyncio.gather(*calls))
        case ["sleep", seconds]:
            await ctx.sleep(seconds)
        case ["emit"]:
            await ctx.emit("note", {"n": number})
        case ["signal", name]:
            return await ctx.wait_for_signal(name, timeout=8.0)
        case ["approve", name]:
            given = await ctx.approval(name, {"n": number}, on_reject="return")
            return await ctx.call(name, given, n=number) if given.approved else None
        case ["twice", name]:
            given = await ctx.approval(name, {"n": number}, on_reject="return")
            return [await ctx.call(name, given, n=number) for _ in range(2)] if given.approved else None
        case ["ask"]:
            return await ctx.ask("what?", expires=8.0)
        case ["spawn", count]:
            return await ctx.spawn([_spawned(i, number) for i in range(count)], name=f"spawn{number}")
        case ["think", seconds]:
            await asyncio.sleep(seconds)
    return None


def _spawned(no: int, number: int) -> Step:
    """The first may fail for good; what follows it runs by an edge's condition, or by its own."""
    edge = "s0" if number % 2 else ("s0", "output.ok")
    return Step(
        f"s{no}", "noop", {"fails": 0.4}, depends_on=[edge] if no else [], retry=RetryPolicy(2, 0.05), deadline_s=20.0,
        when="outputs['s0'].ok" if no and number % 2 else None,
    )  # fmt: skip


async def _model(ctx: Context, bound: int, used: int, number: int) -> Any:
    async def make(no: int, key: str) -> Any:
        return await HOST.get().receiver.call(key, "safe", str(ctx.run_id), ctx.step)

    order = Order(
        {"ask": number}, make, terms=lambda: Terms({"tokens": bound}),
        used=lambda _: Used(used - 1, 1, 0, {"input_tokens": used - 1, "output_tokens": 1}),
    )  # fmt: skip
    return await ctx.order(stand_in("model"), {}, order)


TOOLS = Registry([noop, doomed, poison, pay, once, checked, story])
_PLAIN = ("noop", "noop", "noop", "pay", "once", "checked", "story", "story", "story")


@dataclass(frozen=True, slots=True)
class Mix:
    """What a seed's runs are made of."""

    poison: float
    doomed: float
    conditions: float
    deadline_s: float


def drawn_mix(random: Random) -> Mix:
    """Return a mix."""
    return Mix(random.choice((0.0, 0.0, 0.1)), random.choice((0.0, 0.05)), random.choice((0.0, 0.3)), 20.0)


def drawn_run(random: Random, mix: Mix) -> RunSpec:
    """Return a run: up to eight steps, each after some of those before it."""
    count = random.choice((1, 2, 3, 4, 6, 8))
    steps: list[StepSpec] = []
    for no in range(count):
        name = _tool(random, mix)
        parents = random.sample(range(no), random.choice([k for k in (0, 1, 1, 2, 3) if k <= no]))
        edges = tuple(Dependency(f"s{p}", _condition(random, mix, steps[p].tool)) for p in sorted(parents))
        given = {"ops": _ops(random)} if name == "story" else {"fails": 0.3} if name == "noop" else None
        retry = RetryPolicy(random.choice((2, 4)), 0.1, 2.0, 5.0, frozenset())
        steps.append(
            StepSpec(f"s{no}", StepKind.TOOL_CALL, name, given, edges, None, retry, None, mix.deadline_s)
        )  # fmt: skip
    return RunSpec(tuple(steps), None, {"go": True}, budget=_budget(random))


def _tool(random: Random, mix: Mix) -> str:
    draw = random.random()
    if draw < mix.poison:
        return "poison"
    return "doomed" if draw < mix.poison + mix.doomed else random.choice(_PLAIN)


def _condition(random: Random, mix: Mix, parent: str) -> str | None:
    if parent != "noop" or random.random() >= mix.conditions:
        return None
    return random.choice(("output.ok", "!output.ok", "output.n >= 0"))


def _ops(random: Random) -> list[Any]:
    kinds: list[Any] = [
        ["call", "pay"], ["call", "once"], ["call", "checked"], ["call", "checked"], ["call", "checked"], ["abreast", "pay", "pay", "pay"], ["model", 40, 25],
        ["models", 40, 25, 3], ["sleep", 1.0], ["emit"], ["signal", "go"], ["approve", "once"], ["approve", "pay"],
        ["twice", "pay"], ["ask"], ["spawn", 2], ["think", 3.0],
    ]  # fmt: skip
    return [random.choice(kinds) for _ in range(random.choice((1, 1, 2, 3)))]


def _budget(random: Random) -> tuple[Limit, ...]:
    if random.random() < 0.6:
        return ()
    on_limit = random.choice(("fail", "fail", "pause"))
    return random.choice(
        ((Limit("tokens", 100, on_limit),), (Limit("tools", 4, on_limit),), (Limit("tokens", 60, on_limit), Limit("tools", 9, on_limit)))
    )  # fmt: skip
