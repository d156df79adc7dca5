"""Effects on their way into the simulated record: intents before the call, results after it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from durable_agent.core import budget
from durable_agent.core.events import digest
from durable_agent.core.outcomes import Intended, Metered, Noted, Recorded, Verdict
from durable_agent.core.records import EffectState
from durable_agent.core.states import RunStatus, StepEvent
from durable_agent.core.waits import Decision, approval_digest
from durable_agent.testing.simulation.mutants import Mutant
from durable_agent.testing.simulation.rows import EffectRow, RunRow, StepRow

if TYPE_CHECKING:
    from durable_agent.testing.simulation.settle import Settlement

Note = Intended | Recorded | Noted | Metered


def note_effect(settlement: Settlement, run: RunRow, step: StepRow, outcome: Note) -> Verdict:
    """Put the effect into the record; what an unknown commit wrote before is not written again (R8)."""
    if _told_before(run, outcome):
        return Verdict.LOST if settlement.mutant is Mutant.FORGETFUL else Verdict.ALREADY
    match outcome:
        case Intended():
            return _intend(settlement, run, step, outcome)
        case Metered():
            return _meter(settlement, run, step, outcome)
        case Recorded():
            _record(settlement, run, step, outcome)
        case Noted():
            run.effects[step.no, outcome.no] = EffectRow(
                step.no, outcome.no, outcome.name, "safe", "done", outcome.request_sha256, "", outcome.lease.claim_no, 1,
                None, None, outcome.result,
            )  # fmt: skip
            facts = {**_facts(outcome), "result_sha256": digest(outcome.result)}
            run.append(settlement.at.us, StepEvent.EFFECT_RECORDED, step.no, **facts, state="done")
    return Verdict.OK


def _told_before(run: RunRow, outcome: Note) -> bool:
    lease = outcome.lease
    if isinstance(outcome, Metered):
        return (lease.step_no, lease.claim_no, outcome.tool, outcome.no) in run.metered
    row = run.effects.get((lease.step_no, outcome.no))
    if row is None or row.claim_no != lease.claim_no:
        return False
    match outcome:
        case Intended():
            return row.state == EffectState.INTENT
        case Noted():
            return row.state == EffectState.DONE
        case Recorded():
            return row.state == outcome.state


def _intend(settlement: Settlement, run: RunRow, step: StepRow, outcome: Intended) -> Verdict:
    if run.status is RunStatus.PAUSED:
        return Verdict.PAUSED
    if outcome.approval is not None and not _allowed(settlement, run, outcome):
        return Verdict.REFUSED
    refused = settlement.purse.afford(run, outcome.reserve or budget.of_tool(outcome.name))
    if refused is not None:
        return refused
    facts = _facts(outcome)
    if outcome.approval is not None:
        run.waits[outcome.approval].consumed = str(settlement.at.us)
        facts["approval"] = str(outcome.approval)
    row = run.effects.get((step.no, outcome.no))
    if row is None:
        row = run.effects[step.no, outcome.no] = EffectRow(
            step.no, outcome.no, outcome.name, outcome.effect.value, "intent", outcome.request_sha256, outcome.key,
            outcome.lease.claim_no, 0, outcome.approval, outcome.request,
        )  # fmt: skip
    row.state, row.claim_no, row.error = "intent", outcome.lease.claim_no, None
    row.sends += 1
    row.reserved = dict(outcome.reserve) or None
    facts |= {"class": outcome.effect.value, "request_sha256": outcome.request_sha256, "key": outcome.key}
    run.append(settlement.at.us, StepEvent.EFFECT_INTENDED, step.no, **facts, worker=settlement.worker)
    return Verdict.OK


def _allowed(settlement: Settlement, run: RunRow, outcome: Intended) -> bool:
    wait = run.waits.get(outcome.approval) if outcome.approval is not None else None
    return (
        wait is not None
        and wait.kind == "approval"
        and wait.state == "answered"
        and wait.answer["decision"] == Decision.APPROVED
        and (wait.consumed is None or settlement.mutant is Mutant.UNUSED_APPROVAL)
        and wait.sha == approval_digest(outcome.name, outcome.request)
    )


def _meter(settlement: Settlement, run: RunRow, step: StepRow, outcome: Metered) -> Verdict:
    if run.status is RunStatus.PAUSED:
        return Verdict.PAUSED
    refused = settlement.purse.afford(run, budget.of_tool(outcome.tool))
    if refused is None:
        claim_no = outcome.lease.claim_no
        run.metered.add((step.no, claim_no, outcome.tool, outcome.no))
        settlement.purse.late(run, outcome.tool)
        facts = {"tool": outcome.tool, "claim_no": claim_no, "call": outcome.no}
        run.append(settlement.at.us, StepEvent.METERED, step.no, **facts)
    return refused or Verdict.OK


def _record(settlement: Settlement, run: RunRow, step: StepRow, outcome: Recorded) -> None:
    if (step.no, outcome.no) not in run.effects:
        raise LookupError(f"effect {outcome.no} of step {step.no} has a result, and no intent was committed")
    row, used = run.effects[step.no, outcome.no], outcome.used
    row.state, row.claim_no, row.result, row.error = (
        outcome.state.value, outcome.lease.claim_no, outcome.result, outcome.error,
    )  # fmt: skip
    row.usage = used.facts if used is not None else None
    if outcome.state is not EffectState.UNKNOWN:
        row.reserved = None
        settlement.purse.end(run, outcome.reserved, used)
        if not outcome.reserved:
            settlement.purse.late(run, outcome.name)
    if used is not None:
        run.calls += 1
        run.input_tokens += used.input_tokens
        run.output_tokens += used.output_tokens
    facts = _facts(outcome)
    if outcome.result is not None:
        facts["result_sha256"] = digest(outcome.result)
    if used is not None:
        facts |= {"usage": used.facts, "microusd": used.microusd}
    detail = {"error": outcome.error} if outcome.error else None
    run.append(settlement.at.us, StepEvent.EFFECT_RECORDED, step.no, detail, **facts, state=outcome.state.value)


def _facts(outcome: Intended | Recorded | Noted) -> dict[str, Any]:
    return {"effect": outcome.no, "name": outcome.name, "claim_no": outcome.lease.claim_no}
