"""W9: what agents cost beside their models: calls through the engine, overhead of a call, reservations, checkpoints."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from durable_agent.core.records import Limit, RunSpec, StepKind, StepSpec
from harness import checkpoints
from harness.llm import Llm, stub
from harness.stand import SLOTS, Bench, run
from harness.zygote import Zygote

RUNS, TOOL_CALLS, DELAY_S = 200, 5, 0.05
RESERVING_STEPS, RESERVATIONS = 100, 20


def agent_run(model: str) -> RunSpec:
    """Return a run of an agent that calls a tool five times and then answers."""
    given = {"agent": {"name": "a", "model": model, "tools": ["work"], "max_tokens": 200}, "input": "go"}
    return RunSpec((StepSpec("a", StepKind.AGENT, "agent", given),), budget=(Limit("tokens", 10**12),))


def zygote_for(bench: Bench, llm: Llm, slots: int = SLOTS) -> Zygote:
    """Return a zygote whose workers know the provider; its client library is loaded before they are forked."""
    more = {"OPENAI_BASE_URL": llm.url, "OPENAI_API_KEY": "none", "MAX_CONCURRENT_TASKS": str(slots)}
    made = Zygote(["harness.agent_tools"], {**bench.environment, **more}, bench.directory / "agents.log")
    bench.closing(made.close)
    return made


def calls_a_second(bench: Bench, zygote: Zygote, model: str) -> float:
    """Return the calls of models and tools a second that 200 agent runs make on two workers of 50 slots."""
    bench.clean()
    open_runs = "select count(*)::int from runs where finished_at is null"
    with bench.workers(zygote) as pids:
        bench.until("select count(*)::int from workers where state = 'active' and lease_until > now()", len(pids))
        run(bench.fill([agent_run(model)] * 20))  # clients are made, connections opened
        bench.until(open_runs, 0)
        mark = bench.query("select clock_timestamp()")[0][0]
        run(bench.fill([agent_run(model)] * RUNS))
        bench.until(open_runs, 0)
    query = "select count(*), extract(epoch from max(ended_at) - min(at)) from effects where name in ('llm', 'work') and at > %s"
    ((calls, took_s),) = bench.query(query, mark)
    bench.query("select 1")
    return float(calls) / float(took_s)


def overhead_ms(bench: Bench, zygote: Zygote, llm: Llm, model: str, times: int = 20) -> list[float]:
    """Return what a call takes beside its provider, in milliseconds: runs one at a time on an idle engine."""
    bench.clean()
    found = []
    with bench.workers(zygote, 1):
        for number in range(times + 3):
            before_s = llm.took_s
            run(bench.fill([agent_run(model)]))
            bench.until("select count(*)::int from runs where finished_at is null", 0)
            if number >= 3:
                ((took_s,),) = bench.query(
                    "select extract(epoch from max(at) filter (where type = 'step.succeeded') - "
                    "max(at) filter (where type = 'step.claimed')) from events where run_id = (select max(id::text)::uuid from runs)"
                )
                found.append((float(took_s) - (llm.took_s - before_s)) * 1000 / (2 * TOOL_CALLS + 1))
    return found


def reservations(bench: Bench, zygote: Zygote) -> float:
    """Return the reservations a second on one budget: 100 steps of one run, each with 20 calls of the offline model."""
    steps = tuple(
        StepSpec(f"s{n}", StepKind.TOOL_CALL, "reserves", {"times": RESERVATIONS}) for n in range(RESERVING_STEPS)
    )
    bench.clean()
    with bench.workers(zygote) as pids:
        bench.until("select count(*)::int from workers where state = 'active' and lease_until > now()", len(pids))
        time.sleep(1.0)
        run(bench.fill([RunSpec(steps, budget=(Limit("tokens", 10**12), Limit("microusd", 10**12)))]))
        bench.until("select count(*)::int from runs where finished_at is null", 0)
    query = "select count(*), extract(epoch from max(ended_at) - min(at)) from effects where name = 'llm'"
    ((count, took_s),) = bench.query(query)
    ((reserved,),) = bench.query("select sum(reserved) from budgets")
    if reserved:
        raise RuntimeError(f"{reserved} are still reserved")
    return float(count) / float(took_s)


def measure(bench: Bench, repeat: int, quantiles: Callable[[list[float]], Any]) -> dict[str, Any]:
    """Return the figures of W9."""
    stock, fenced = checkpoints.puts(bench, 5 * repeat)  # a round takes a quarter of a second, and tells as little
    with stub(tool="work", calls=TOOL_CALLS, delay_s=DELAY_S) as llm:
        zygote = zygote_for(bench, llm)
        figures: dict[str, Any] = {}
        for name, model in (("a plain client", "plain:stub"), ("the OpenAI client", "openai:stub")):
            rates = [calls_a_second(bench, zygote, model) for _ in range(repeat)]
            figures[f"W9 agents over {name}, calls/s"] = statistics.median(rates)
            figures[f"W9 a call over {name}, beside its provider, ms"] = quantiles(
                overhead_ms(bench, zygote, llm, model)
            )
        figures["W9 reservations/s on one budget"] = statistics.median(
            reservations(bench, zygote) for _ in range(repeat)
        )
        zygote.close()
    figures["W9 checkpoints/s, LangGraph's own saver"] = stock
    figures["W9 checkpoints/s, fenced"] = fenced
    figures["ratios"] = {"W9 checkpoints/s, fenced": round(fenced / stock, 2)}
    return figures
