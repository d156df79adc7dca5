"""The engine's commands on rows in memory: each is one transaction, whole or not at all, at a moment of its own.

What PostgreSQL promises is taken for granted here (locks, atomicity, one clock); what the engine makes of it is compared
with PostgreSQL, command by command, in `tests/testing/test_simulation_trace.py`.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any
from uuid import UUID

from durable_agent.core.budget import Budget
from durable_agent.core.events import inputs_digest
from durable_agent.core.graph import plan
from durable_agent.core.outcomes import Exchange, Outcome, Verdict
from durable_agent.core.port import Offer
from durable_agent.core.promotion import decide_roots
from durable_agent.core.records import DEFAULT_TENANT, Claim, Lease, RunId, RunSpec, Token, WaitKind
from durable_agent.core.states import RunEvent, RunStatus, StepEvent
from durable_agent.core.waits import OVERDUE, Decision, answer_of, refuse
from durable_agent.errors import Conflict, InvalidRequest, KeyReused, NotFound
from durable_agent.testing.simulation.clock import Moment
from durable_agent.testing.simulation.mutants import Mutant
from durable_agent.testing.simulation.purse import Purse
from durable_agent.testing.simulation.rows import (
    Place,
    RunRow,
    StepRow,
    WaitRow,
    answers_of,
    outputs_of,
    settle_effect,
)
from durable_agent.testing.simulation.settle import Lost, Settlement
from durable_agent.testing.simulation.wind import (
    Winding,
    close_open_steps,
    end_wait,
    hold,
    rows_of,
    settle_waiting,
    unhold,
    wait_on,
)

SECRET = b"the simulation's"
CLAIMABLE = frozenset({RunStatus.PENDING, RunStatus.RUNNING})
# An attempt's own deadline is looked at so much later than it is.
LENIENT_S = 5.0


@dataclass(slots=True)
class Session:
    """A worker session as the registry has it."""

    offer: Offer
    lease_until_s: float


@dataclass(slots=True)
class Store:
    """The rows, and the commands on them. `now_s` is the only clock; `hint` is rung after a commit."""

    random: Random
    now_s: Callable[[], float]
    mutant: Mutant | None = None
    hint: Callable[[str], None] = lambda what: None
    claimed: Callable[[Claim], None] = lambda claim: None
    runs: dict[UUID, RunRow] = field(default_factory=dict)
    keys: dict[str, tuple[bytes, UUID]] = field(default_factory=dict)
    sessions: dict[UUID, Session] = field(default_factory=dict)
    commits: int = 0
    _last_us: int = 0

    def moment(self) -> Moment:
        """Begin a transaction: its time is later than that of every one before."""
        now_s = self.now_s()
        self._last_us = max(self._last_us + 1, int(now_s * 1_000_000))
        self.commits += 1
        return Moment(now_s, self._last_us, self.random)

    def submit(self, spec: RunSpec, key: str, digest: bytes, run_id: UUID | None = None) -> UUID:
        """Store a run with its steps and budget, and return its id; an equal key is an equal run. Raises KeyReused."""
        known = self.keys.get(key)
        if known is not None:
            if known[0] != digest:
                raise KeyReused("the key belongs to another body", field="Idempotency-Key")
            return known[1]
        at, graph = self.moment(), plan(spec.steps, max_steps=10_000)
        run = RunRow(run_id or at.new_id(), spec, steps=rows_of(spec.steps, graph, 0))
        run.steps_left = len(run.steps)
        run.budgets = [Budget("run", b.meter, 0, b.cap, 0, 0, b.on_limit or "fail") for b in spec.budget]
        inputs = inputs_digest(spec.input, [step.input for step in spec.steps])
        facts = {"steps": len(run.steps), "graph_sha256": graph.digest(), "inputs_sha256": inputs}
        run.append(at.us, RunEvent.CREATED, None, {"goal": spec.goal} if spec.goal else None, **facts)
        roots = decide_roots(spec.steps, graph, spec.input)
        for step in run.steps:
            if step.no in roots.ready:
                step.status, step.place = "queued", Place("ready")
                run.append(at.us, StepEvent.READY, step.no)
            elif step.no in roots.skipped:
                step.status, step.deps_left = "skipped", 0
                run.append(at.us, StepEvent.SKIPPED, step.no, why=roots.skipped[step.no])
                run.steps_left -= 1
            else:
                step.deps_left = roots.deps_left.get(step.no, step.deps_left)
        if run.steps_left == 0:
            run.move(at.us, RunEvent.COMPLETED)
        self.runs[run.id] = run
        self.keys[key] = digest, run.id
        self.hint("ready")
        return run.id

    def beat(self, offer: Offer, ttl_s: float) -> frozenset[Token]:
        """Register a session, or keep its leases alive; return what it still owns."""
        self.sessions[offer.session] = Session(offer, self.now_s() + ttl_s)
        return self.owned(offer.session)

    def owned(self, session: UUID) -> frozenset[Token]:
        """Return the tokens that a session still owns."""
        return frozenset(step.place.token for _, step in self._leased() if step.place and step.place.session == session
                         and step.place.token is not None)  # fmt: skip

    def strays(self, session: UUID, known: Collection[Token], age_s: float, disowned: Collection[Token]) -> list[Lease]:
        """Return the leases that a session took within a time and does not know of, and those of some tokens."""
        since_s = self.now_s() - age_s
        return [
            Lease(DEFAULT_TENANT, RunId(run.id), step.no, step.claim_no, step.place.token)
            for run, step in self._leased()
            if step.place is not None and step.place.token is not None and step.place.session == session
            and (step.place.token in disowned or (
                step.place.token not in known and step.place.deadline_s - step.spec.deadline_s > since_s
            ))
        ]  # fmt: skip

    def exchange(
        self, offer: Offer, outcomes: Sequence[Outcome], *, free: int, solo: bool, jitter: float = 0.0,
        choose: Callable[[list[tuple[RunRow, StepRow]]], list[tuple[RunRow, StepRow]]] | None = None,
    ) -> Exchange:  # fmt: skip
        """Settle and claim in one transaction. `choose` puts the ready steps in order."""
        at = self.moment()
        settlement = Settlement(at, self.runs, self.mutant, offer.worker, Purse(at, self.mutant), jitter)
        settlement.settle(outcomes)
        Winding(settlement).wind_up()
        ready = self._ready(offer, solo)
        claims: list[Claim] = []
        chanced = False
        for run, step in choose(ready) if choose is not None else ready:
            if len(claims) >= free:
                break
            risky = step.crashes > 0 and step.crashes >= step.max_crashes - 1
            if not (risky and chanced):
                chanced = chanced or risky
                claims.append(self._claim(at, run, step, offer))
        self._rest(settlement)
        for claim in claims:
            self.claimed(claim)
        return Exchange(tuple(settlement.verdicts), tuple(claims), (), more=bool(self._ready(offer, solo)))

    def _rest(self, settlement: Settlement) -> None:
        """Charge what ended, hold what is paused, tell who waits for whom; then ring."""
        touched = {run_id for run_id, _ in settlement.let_go} | set(settlement.failing)
        touched |= {run.id for run in settlement.purse.paused}
        for run_id in touched:
            run = self.runs[run_id]
            settlement.purse.charge(run, None if run.final else [no for own, no in settlement.let_go if own == run_id])
        for run in settlement.purse.paused:
            hold(run)
        for run in self.runs.values():
            settle_waiting(settlement.at, run)
        if touched:
            self.hint("ready")
        if settlement.failing:
            self.hint("control")

    def _ready(self, offer: Offer, solo: bool) -> list[tuple[RunRow, StepRow]]:
        return [
            (run, step)
            for run in self.runs.values() if run.status in CLAIMABLE
            for step in run.steps
            if step.place is not None and step.place.state == "ready" and step.spec.tool in offer.tools
            and (solo or step.crashes == 0 or step.crashes < step.max_crashes - 1)
        ]  # fmt: skip

    def _claim(self, at: Moment, run: RunRow, step: StepRow, offer: Offer) -> Claim:
        if run.status is RunStatus.PENDING:
            run.move(at.us, RunEvent.STARTED)
        before, place = step.claim_no, step.place
        assert place is not None
        step.claim_no += 1
        lease = Lease(DEFAULT_TENANT, RunId(run.id), step.no, step.claim_no, Token(at.new_id()))
        facts = {"claim_no": step.claim_no, "attempt": step.failures + 1, "worker": offer.worker}
        run.append(at.us, StepEvent.CLAIMED, step.no, **facts)
        kind = offer.effects.get(step.spec.tool)
        in_doubt = place.effect is not None and before > 0
        step.place = Place(
            "leased", lease.token, offer.session, None, at.s + step.spec.deadline_s, kind, place.last_token
        )
        spec = step.spec
        return Claim(
            lease, spec.name, spec.kind, spec.tool, spec.input, run.spec.input, run.spec.goal, outputs_of(run, step),
            step.failures + 1, step.crashes, spec.timeout_s, spec.deadline_s, key_of(lease),
            effects=tuple(run.effects[k].recorded() for k in sorted(run.effects) if k[0] == step.no) if before else (),
            answers=answers_of(run, step) if before else (), in_doubt=in_doubt, budgeted=bool(run.budgets),
        )  # fmt: skip

    def _leased(self) -> Iterable[tuple[RunRow, StepRow]]:
        for run in self.runs.values():
            for step in run.steps:
                if step.place is not None and step.place.state == "leased":
                    yield run, step

    def look(self) -> list[Lost]:
        """Make ready what is due, and return the leases that nobody keeps alive: candidates for `reap`."""
        now_s, promoted = self.now_s(), False
        for run in self.runs.values():
            for step in run.steps:
                place = step.place
                if place is not None and place.state == "scheduled" and (place.due_s or 0.0) <= now_s:
                    step.place, promoted = replace(place, state="ready", due_s=None), True
        if promoted:
            self.hint("ready")
        found = []
        for run, step in self._leased():
            why = self._expired(step, now_s)
            if why is not None and step.place is not None and step.place.token is not None:
                lease = Lease(DEFAULT_TENANT, RunId(run.id), step.no, step.claim_no, step.place.token)
                session = self.sessions.get(step.place.session) if step.place.session else None
                found.append(Lost(lease, why, session.offer.worker if session else None, key_of(lease)))
        return found

    def _expired(self, step: StepRow, now_s: float) -> str | None:
        place = step.place
        if place is None or place.state != "leased":
            return None
        if place.deadline_s + LENIENT_S < now_s:
            return "deadline"
        session = self.sessions.get(place.session) if place.session is not None else None
        return "expired" if session is None or session.lease_until_s < now_s else None

    def reap(self, found: Sequence[Lost]) -> int:
        """Give back the leases that are still nobody's; return how many (R7)."""
        now_s, still = self.now_s(), []
        for one in found:
            step = self.runs[one.lease.run_id].steps[one.lease.step_no]
            place = step.place
            if self.mutant is Mutant.REAP_BY_STEP and place is not None and place.token is not None:
                still.append(replace(one, lease=replace(one.lease, claim_no=step.claim_no, token=place.token)))
            elif place is not None and place.token == one.lease.token and self._expired(step, now_s) is not None:
                still.append(one)
        if not still:
            return 0
        at = self.moment()
        settlement = Settlement(at, self.runs, self.mutant, None, Purse(at, self.mutant), 0.0)
        settlement.settle(still)
        Winding(settlement).wind_up()
        self._rest(settlement)
        self.hint("ready")
        self.hint("control")
        return sum(verdict is Verdict.OK for verdict in settlement.verdicts)

    def settle_due(self) -> int:
        """End the waits whose time is over."""
        now_s = self.now_s()
        due = [(run, wait) for run in self.runs.values() for wait in run.waits.values()
               if wait.state == "open" and wait.due_s is not None and wait.due_s <= now_s]  # fmt: skip
        for run, wait in due:
            self._overdue(run, wait)
        return len(due)

    def _overdue(self, run: RunRow, wait: WaitRow) -> None:
        decision = OVERDUE[wait.kind]
        reason = None if decision is Decision.ELAPSED else "nobody answered in time"
        self._close(run, wait, answer_of(decision, by=None, reason=reason, value=None))

    def answer(
        self, wait_id: UUID, decision: Decision, *, by: str, value: Any = None, reason: str | None = None
    ) -> None:
        """Answer an open wait. Raises NotFound, Conflict, InvalidRequest."""
        found = next(((run, run.waits[wait_id]) for run in self.runs.values() if wait_id in run.waits), None)
        if found is None:
            raise NotFound(f"wait {wait_id} does not exist", wait_id=str(wait_id))
        run, wait = found
        if wait.state != "open":
            raise Conflict(f"wait {wait_id} is closed", wait_id=str(wait_id))
        if wait.due_s is not None and wait.due_s <= self.now_s():
            self._overdue(run, wait)
            raise Conflict(f"wait {wait_id} expired", wait_id=str(wait_id))
        refused = refuse(wait.kind, decision, by=by, asked_by=None, allow_self=wait.allow_self)
        if refused is not None:
            raise InvalidRequest(refused.message, field="wait_id")
        self._close(run, wait, answer_of(decision, by=by, reason=reason, value=value))

    def _close(self, run: RunRow, wait: WaitRow, told: dict[str, Any]) -> None:
        at = self.moment()
        if wait.kind is WaitKind.UNKNOWN_EFFECT:
            facts = {"effect": wait.effect, "name": wait.name, "decision": told["decision"], "by": told["by"]}
            detail = {"reason": told["reason"], "result": told["value"]}
            run.append(at.us, StepEvent.EFFECT_SETTLED, wait.step, detail, **facts)
            if wait.effect:
                settle_effect(run, wait, told)
        end_wait(at, run, wait, told)
        settle_waiting(at, run)
        self.hint("ready")

    def signal(self, run_id: UUID, name: str, payload: Any, *, key: str, by: str) -> bool:
        """Deliver a signal, or keep it; False if its key is known. Raises NotFound, Conflict."""
        run = self._run(run_id)
        if any(one["key"] == key for one in run.signals):
            return False
        if run.final:
            raise Conflict(f"run {run_id} is {run.status.value}", run_id=str(run_id))
        at = self.moment()
        run.append(at.us, RunEvent.SIGNALLED, None, {"payload": payload}, name=name, by=by)
        kept = {"name": name, "payload": payload, "key": key, "by": by, "taken": False}
        run.signals.append(kept)
        waiting = [w for w in run.waits.values() if w.kind == "signal" and w.name == name and w.state == "open"]
        if waiting:
            kept["taken"] = True
            told = answer_of(Decision.SIGNALLED, by=by, reason=None, value=payload)
            end_wait(at, run, min(waiting, key=lambda w: (w.step, w.no)), told)
            self.hint("ready")
        settle_waiting(at, run)
        return True

    def pause(self, run_id: UUID, *, actor: str) -> None:
        """Stop claiming the run's steps. Raises NotFound, IllegalTransition."""
        run, at = self._run(run_id), self.moment()
        run.move(at.us, RunEvent.PAUSED, by=actor)
        hold(run)
        self.hint("control")

    def resume(self, run_id: UUID, *, actor: str) -> None:
        """Let a paused run's steps be claimed again. Raises NotFound, IllegalTransition."""
        run, at = self._run(run_id), self.moment()
        run.move(at.us, RunEvent.RESUMED, by=actor)
        unhold(run, at.s)
        settle_waiting(at, run)
        self.hint("ready")

    def cancel(self, run_id: UUID, *, actor: str) -> None:
        """End the run with every open step. Raises NotFound, Conflict."""
        run, at = self._run(run_id), self.moment()
        if run.final:
            raise Conflict(f"run {run_id} is {run.status.value}", run_id=str(run_id))
        close_open_steps(at, run, why="run_cancelled")
        run.move(at.us, RunEvent.CANCELLED, by=actor)
        Purse(at, self.mutant).charge(run, None)
        self.hint("control")

    def redrive(self, run_id: UUID, *, actor: str) -> int:
        """Give the dead steps of a failed run another chance; return how many. Raises NotFound."""
        run = self._run(run_id)
        dead = [step for step in run.steps if step.dead is not None]
        if not dead:
            raise NotFound(f"run {run_id} has no such dead letter", run_id=str(run_id))
        if run.status is not RunStatus.FAILED:
            return 0
        if any(step.dead == "condition_error" for step in dead):
            raise Conflict(f"run {run_id} cannot go on", run_id=str(run_id))
        at = self.moment()
        run.move(at.us, RunEvent.REDRIVEN, by=actor, steps=len(dead))
        run.error = None
        for step in dead:
            step.status, step.error, step.dead = "pending", None, None
            step.max_attempts = max(step.max_attempts, step.failures) + max(step.max_attempts, 1)
            step.max_crashes = max(step.max_crashes, step.crashes) + 3
        for step in run.steps:
            if step.status not in ("pending", "cancelled"):
                continue
            step.status = "queued" if step.deps_left == 0 else "pending"
            run.append(at.us, StepEvent.REDRIVEN, step.no)
            if self.mutant is Mutant.RESET_CLAIM:
                step.claim_no = 0
            if step.deps_left == 0:
                run.append(at.us, StepEvent.READY, step.no)
                step.place, step.in_doubt = Place("ready", effect=step.in_doubt), None
        wait_on(at, run)
        run.steps_left = sum(step.open for step in run.steps)
        settle_waiting(at, run)
        self.hint("ready")
        return len(dead)

    def _run(self, run_id: UUID) -> RunRow:
        if run_id not in self.runs:
            raise NotFound(f"run {run_id} does not exist", run_id=str(run_id))
        return self.runs[run_id]


def key_of(lease: Lease) -> str:
    """Return the key that a step hands to the outside world."""
    return hmac.digest(SECRET, f"{lease.tenant}|{lease.run_id}|{lease.step_no}".encode(), "sha256").hex()
