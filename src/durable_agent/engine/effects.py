"""Effects on their way into the record: intents before the call, results after it, each under the step's live lease."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from durable_agent.core import budget
from durable_agent.core.budget import Exceeded, Unbounded
from durable_agent.core.events import digest, dumps
from durable_agent.core.outcomes import InDoubt, Intended, Metered, Noted, Outcome, Recorded, Verdict
from durable_agent.core.records import EffectState, WaitKind
from durable_agent.core.states import RunStatus, StepEvent
from durable_agent.core.waits import Decision, approval_digest
from durable_agent.db.arrays import literals
from durable_agent.db.pool import Connection
from durable_agent.engine.claim import Step
from durable_agent.engine.gate import GATES
from durable_agent.engine.journal import EFFECTS, JOURNAL, STEP_KEY, WAITS, Head, Journal, RunKey
from durable_agent.engine.spend import Purse

EffectKey = tuple[UUID, int, int]


async def read_gates(conn: Connection, outcomes: Iterable[Any]) -> Any:
    """Queue the reading of which of the gates that the outcomes pass are shut; None when they pass none."""
    names = {(o.lease.tenant, o.gate) for o in outcomes if isinstance(o, Intended) and o.gate is not None}
    return await conn.execute(GATES.shut, literals(("tenants", "names"), sorted(names))) if names else None


async def read(conn: Connection, outcomes: Iterable[Any]) -> tuple[Any, Any, Any]:
    """Queue the reading of what is known of the outcomes' effects, of the approvals they use, and of calls they count; None
    where there are none."""
    known: list[tuple[Any, ...]] = []
    approvals: list[tuple[Any, ...]] = []
    for outcome in outcomes:
        if isinstance(outcome, Intended | Recorded | Noted):
            known.append((outcome.lease.tenant, outcome.lease.run_id, outcome.lease.step_no, outcome.no))
        if isinstance(outcome, Intended) and outcome.approval is not None:
            approvals.append((outcome.lease.tenant, outcome.approval))
    metered = [(o.lease.tenant, o.lease.run_id, o.lease.step_no) for o in outcomes if isinstance(o, Metered)]
    effects = used = counted = None
    if known:
        effects = await conn.execute(EFFECTS.effects_now, literals(("tenants", "runs", "nos", "effects"), known))
    if approvals:
        used = await conn.execute(WAITS.approvals, literals(("tenants", "ids"), approvals))
    if metered:
        counted = await conn.execute(JOURNAL.metered, literals(STEP_KEY, sorted(set(metered), key=str)))
    return effects, used, counted


@dataclass(slots=True)
class Record:
    """What a batch knows of effects and approvals before it writes its own; with `read` it knows all that the rows say."""

    read: bool = False
    states: dict[EffectKey, tuple[str, int]] = field(default_factory=dict)
    approvals: dict[UUID, dict[str, Any]] = field(default_factory=dict)
    metered: set[tuple[Any, ...]] = field(default_factory=set)
    purse: Purse = field(default_factory=Purse)
    exhausted: dict[RunKey, Exceeded] = field(default_factory=dict)
    shut: dict[tuple[int, str], str | None] = field(default_factory=dict)

    async def know_gates(self, cursor: Any) -> None:
        """Take the answer of `read_gates`: the shut gates, each with the session that may probe it."""
        self.shut = {(tenant, name): probe for tenant, name, probe in await cursor.fetchall()}

    async def know(self, effects: Any, approvals: Any, metered: Any) -> None:
        """Take the answers of `read`."""
        self.read = True
        if effects is not None:
            for _tenant, run, step, no, state, claim_no in await effects.fetchall():
                self.states[run, step, no] = state, claim_no
        if approvals is not None:
            names = ("run_id", "kind", "state", "request_sha256", "consumed_at", "answer")
            for wait_id, *row in await approvals.fetchall():
                self.approvals[wait_id] = dict(zip(names, row, strict=True))
        if metered is not None:
            self.metered = set(await metered.fetchall())

    def note(
        self, journal: Journal, head: Head, step: Step, outcome: Intended | Recorded | Noted, worker: str | None
    ) -> Verdict:
        """Put the effect into the journal; what an unknown commit wrote before is not written again (R8)."""
        if self._told_before(outcome):
            return Verdict.ALREADY
        match outcome:
            case Intended():
                return self._intend(journal, head, step, outcome, worker)
            case Recorded() if self.read and _key(outcome) not in self.states:
                # The database forgot the intent, which it had acknowledged: whose call this is, nobody can tell any more.
                journal.append(
                    head, StepEvent.FENCED, step.no, claim_no=outcome.lease.claim_no, what="recorded", worker=worker
                )
                return Verdict.LOST
            case Recorded():
                self._record(journal, head, step, outcome)
            case Noted():
                journal.intended.add(
                    *_fence(step, outcome), outcome.no, outcome.name, "safe", EffectState.DONE.value, outcome.request_sha256,
                    "", None, None, None, outcome.result.decode(), None,
                )  # fmt: skip
                facts = {**_facts(outcome), "result_sha256": digest(outcome.result)}
                journal.append(head, StepEvent.EFFECT_RECORDED, step.no, **facts, state="done")
        return Verdict.OK

    def _intend(self, journal: Journal, head: Head, step: Step, outcome: Intended, worker: str | None) -> Verdict:
        if head.status is RunStatus.PAUSED:
            return Verdict.PAUSED
        if outcome.approval is not None and not self._allowed(outcome):
            return Verdict.REFUSED
        shut = (step.tenant, outcome.gate or "")
        if shut in self.shut and self.shut[shut] != str(journal.session):
            return Verdict.HELD
        refused = self._afford(journal, head, outcome.reserve or budget.of_tool(outcome.name))
        if refused is not None:
            return refused
        facts = _facts(outcome)
        self.states[_key(outcome)] = EffectState.INTENT, outcome.lease.claim_no
        if outcome.approval is not None:
            journal.consumed.add(step.tenant, outcome.approval)
            self.approvals[outcome.approval]["consumed_at"] = journal.now  # it is good for no other call of the batch
            facts["approval"] = str(outcome.approval)
        journal.intended.add(
            *_fence(step, outcome), outcome.no, outcome.name, outcome.effect.value, EffectState.INTENT.value,
            outcome.request_sha256, outcome.key, outcome.compensate, outcome.approval, outcome.request.decode(), None,
            dumps(outcome.reserve).decode() if outcome.reserve else None,
        )  # fmt: skip
        facts |= {"class": outcome.effect.value, "request_sha256": outcome.request_sha256, "key": outcome.key}
        journal.append(head, StepEvent.EFFECT_INTENDED, step.no, **facts, worker=worker)
        return Verdict.OK

    def _record(self, journal: Journal, head: Head, step: Step, outcome: Recorded) -> None:
        result = outcome.result.decode() if outcome.result is not None else None
        error = dumps(outcome.error).decode() if outcome.error is not None else None
        used = outcome.used
        usage = dumps(used.facts).decode() if used is not None else None
        journal.recorded.add(
            *_fence(step, outcome),
            outcome.no,
            outcome.state.value,
            result,
            error,
            usage,
            used.microusd if used else None,
        )
        if outcome.state is not EffectState.UNKNOWN:
            self.purse.end(head, outcome.reserved, used)
        facts = _facts(outcome)
        if outcome.result is not None:
            facts["result_sha256"] = digest(outcome.result)
        if used is not None:
            facts |= {"usage": used.facts, "microusd": used.microusd}
        journal.append(
            head, StepEvent.EFFECT_RECORDED, step.no, {"error": outcome.error} if outcome.error else None,
            **facts, state=outcome.state.value,
        )  # fmt: skip

    def meter(self, journal: Journal, head: Head, step: Step, outcome: Metered) -> Verdict:
        """Count a call of a tool that is no effect, before it begins; what an unknown commit counted is not counted again (R8)."""
        claim_no = outcome.lease.claim_no
        if (step.run_id, step.no, claim_no, outcome.tool, outcome.no) in self.metered:
            return Verdict.ALREADY
        if head.status is RunStatus.PAUSED:
            return Verdict.PAUSED
        refused = self._afford(journal, head, budget.of_tool(outcome.tool))
        if refused is None:
            journal.append(head, StepEvent.METERED, step.no, tool=outcome.tool, claim_no=claim_no, call=outcome.no)
        return refused or Verdict.OK

    def _afford(self, journal: Journal, head: Head, wanted: Mapping[str, int | None]) -> Verdict | None:
        """Reserve what a call may cost; the verdict that refuses it when a budget does not hold that."""
        if head.key in self.exhausted:
            return Verdict.EXHAUSTED
        match self.purse.admit(head, wanted):
            case None:
                return None
            case Unbounded():
                return Verdict.UNBOUNDED
            case Exceeded() as found if found.budget.on_limit == "pause":
                self.purse.stop(journal, head, found)
                return Verdict.PAUSED
            case Exceeded() as found:
                self.exhausted[head.key] = found
                return Verdict.EXHAUSTED

    def _told_before(self, outcome: Intended | Recorded | Noted) -> bool:
        state, claim_no = self.states.get(_key(outcome), (None, 0))
        if claim_no != outcome.lease.claim_no:
            return False
        match outcome:
            case Intended():
                return state == EffectState.INTENT
            case Noted():
                return state == EffectState.DONE
            case Recorded():
                return state == outcome.state

    def _allowed(self, outcome: Intended) -> bool:
        """Whether the approval is this run's, was given for exactly this call, and was not used (I7)."""
        wait = self.approvals.get(outcome.approval) if outcome.approval is not None else None
        return (
            wait is not None
            and wait["run_id"] == outcome.lease.run_id
            and wait["kind"] == WaitKind.APPROVAL
            and wait["state"] == "answered"
            and wait["answer"]["decision"] == Decision.APPROVED
            and wait["consumed_at"] is None
            and wait["request_sha256"] == approval_digest(outcome.name, outcome.request)
        )

    def doubt(self, journal: Journal, head: Head, step: Step, outcome: InDoubt) -> None:
        """Put down that nobody knows whether a call happened; `no` 0 is the step's own, which has no row."""
        lease = outcome.lease
        if outcome.no > 0:
            error = dumps({"message": outcome.message}).decode()
            journal.recorded.add(
                step.tenant, step.run_id, step.no, lease.claim_no, lease.token, outcome.no,
                EffectState.UNKNOWN.value, None, error, None, None,
            )  # fmt: skip
        journal.append(
            head, StepEvent.EFFECT_UNKNOWN, step.no, {"message": outcome.message}, effect=outcome.no, name=outcome.name,
            claim_no=lease.claim_no,
        )  # fmt: skip


def uses_approval(outcomes: Sequence[Outcome]) -> bool:
    """Whether one of the outcomes is allowed by an approval, which only the rows can tell."""
    return any(isinstance(outcome, Intended) and outcome.approval is not None for outcome in outcomes)


def _key(outcome: Intended | Recorded | Noted) -> EffectKey:
    return outcome.lease.run_id, outcome.lease.step_no, outcome.no


def _fence(step: Step, outcome: Intended | Recorded | Noted) -> tuple[Any, ...]:
    return step.tenant, step.run_id, step.no, outcome.lease.claim_no, outcome.lease.token


def _facts(outcome: Intended | Recorded | Noted) -> dict[str, Any]:
    return {"effect": outcome.no, "name": outcome.name, "claim_no": outcome.lease.claim_no}
