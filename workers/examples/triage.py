"""Triage: what a request asks for decides where it goes; a refund is made once, or a person is asked."""

from durable_agent import Context, Graph, tool


@tool("stripe_refund", effect="idempotent")
async def stripe_refund(ctx: Context, charge: str = "", amount: int = 0) -> dict[str, object]:
    """Refund a charge. Offline it only says what it would do; the key would make it happen once."""
    return {"charge": charge, "amount": amount, "refund": f"re_{ctx.idempotency_key[:16]}", "offline": True}


triage = (
    Graph("triage")
    .node(
        "classify", agent="supervisor", llm="default", prompt="Say in a line what the customer wants.", max_tokens=1024
    )
    .node("refund", agent="pipeline", tools=[stripe_refund])
    .node("escalate", agent="pipeline", prompt="A person takes over.")
    .edge("classify", "refund", lambda edge: edge.input.get("intent") == "refund")
    .edge("classify", "escalate", lambda edge: edge.input.get("intent") != "refund")
    .budget(tokens=8000, tools=10, wall_clock_s=60, per_tool={"stripe_refund": 1})
)
