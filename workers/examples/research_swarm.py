"""Research: a plan, a search, an analysis in parallel, a summary; no search loop runs away with the budget.

durable-agent worker research_swarm    (with workers/examples on PYTHONPATH)
curl -X POST localhost:4000/runs -H 'Content-Type: application/json' \\
  -d '{"graph":"research-swarm","input":{"topic":"mediasoup vs LiveKit in 2026"}}'
"""

from durable_agent import Graph

research = (
    Graph("research-swarm")
    .node("plan", agent="supervisor", llm="default")
    .node("search", agent="pipeline", tools=["web_search"])
    .node("analyse", agent="swarm", llm="default", concurrency=3)
    .node("summarise", agent="pipeline", llm="default", prompt="Summarise what was found, with its sources.")
    .edge("plan", "search")
    .edge("search", "analyse")
    .edge("analyse", "summarise")
    .budget(tokens=50_000, tools=100, wall_clock_s=300, per_tool={"web_search": 20})
)
