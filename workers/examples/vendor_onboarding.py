"""Vendor onboarding: collect the documents, screen them by policy, let a person decide, write the decision down.

durable-agent worker workers.examples.vendor_onboarding
durable-agent run vendor-onboarding --goal "vendor onboarding review"
"""

from typing import Any

from durable_agent import Context, Graph, step, tool


@tool("vendor.fetch_document", effect="safe")
async def fetch_document(kind: str) -> dict[str, Any]:
    """Return a document of the vendor's; a real one would come from their portal."""
    return {"kind": kind, "valid": kind != "insurance"}


@step("vendor.collect")
async def collect(ctx: Context) -> dict[str, Any]:
    """Fetch every document, each a recorded effect, and say how risky what is missing makes the vendor."""
    documents = [await ctx.call(fetch_document, kind=kind) for kind in ("register", "tax", "insurance")]
    missing = [document["kind"] for document in documents if not document["valid"]]
    return {"documents": documents, "missing": missing, "risk": len(missing)}


@step("vendor.decide")
async def decide(ctx: Context) -> dict[str, Any]:
    """Decide by what the screening said, and store the decision as a file."""
    collected, screened = ctx.parents["docs_collect"], ctx.parents["policy_screen"]
    decision = "approved_with_controls" if collected["missing"] else "approved"
    record = {"goal": ctx.goal, "decision": decision, "screening": screened, "missing": collected["missing"]}
    return {"decision": decision, "file": await ctx.artifact("onboarding_decision.json", record)}


vendor_onboarding = (
    Graph("vendor-onboarding")
    .node("docs_collect", tool=collect)
    .node(
        "policy_screen", kind="policy",
        input={"rules": [
            {"when": 'outputs["docs_collect"].risk == 0', "then": "pass"},
            {"when": 'outputs["docs_collect"].risk > 2', "then": "refuse", "reason": "too many documents are missing"},
        ], "otherwise": "approve", "prompt": "A document is missing. Take the vendor on with controls?"},
    )
    .node("final_decision", tool=decide)
    .edge("docs_collect", "policy_screen")
    .edge("docs_collect", "final_decision")
    .edge("policy_screen", "final_decision")
)  # fmt: skip
