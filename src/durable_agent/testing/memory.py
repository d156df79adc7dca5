"""The engine in memory: the same rules without a database, for authors' tests. Nothing survives the process.

It keeps what `core.port.Backend` promises by the same core as the real engine: retries, conditions, effects, waits,
spawned steps, child runs, compensation. The clock stands still until it is moved, so no test waits for a timer.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, assert_never
from uuid import UUID, uuid4

import orjson

from durable_agent.core import retry
from durable_agent.core.budget import Budget, Exceeded, Unbounded, admit, of_tool
from durable_agent.core.graph import plan
from durable_agent.core.outcomes import (
    Booked,
    Emitted,
    Exchange,
    Failed,
    InDoubt,
    Intended,
    Metered,
    Noted,
    Outcome,
    Recorded,
    Released,
    Stored,
    Succeeded,
    Suspended,
    Verdict,
)
from durable_agent.core.port import AuthorTransaction
from durable_agent.core.promotion import (
    ChildState,
    ConditionFailed,
    ParentResolution,
    Ready,
    Skipped,
    as_written,
    own_condition,
    resolve,
    spawn_prefix,
)
from durable_agent.core.promotion import Outcome as ParentOutcome
from durable_agent.core.records import (
    DEFAULT_TENANT,
    Answer,
    Claim,
    Effect,
    EffectClass,
    EffectState,
    Lease,
    RunId,
    RunSpec,
    StepKind,
    StepSpec,
    Token,
    WaitKind,
)
from durable_agent.core.states import StepStatus
from durable_agent.core.waits import OVERDUE, Decision, answer_of, approval_digest
from durable_agent.testing.absent import Absent, no_database
from durable_agent.testing.state import FakeRun, FakeStep, FakeWait


class FakeBackend(Absent):
    """An engine in memory for one worker; `now_s` is its clock, moved by `advance`."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.runs: dict[UUID, FakeRun] = {}
        self.waits: dict[UUID, FakeWait] = {}
        self._hint = asyncio.Event()
        self._order = itertools.count(1)

    def submit(self, spec: RunSpec, parent: FakeRun | None = None) -> UUID:
        """Start a run and return its id. Raises GraphInvalid."""
        run = FakeRun(uuid4(), spec, [], parent=parent)
        run.budgets = [Budget("run", one.meter, 0, one.cap, 0, 0, one.on_limit or "fail") for one in spec.budget]
        self._add(run, spec.steps)
        self.runs[run.id] = run
        self._promote(run)
        self._hint.set()
        return run.id

    def advance(self, seconds: float) -> None:
        """Move the clock; what was due by then happens."""
        self.now_s += seconds
        for wait in [w for w in self.waits.values() if w.open and w.due_s is not None and w.due_s <= self.now_s]:
            self._end(wait, answer_of(OVERDUE[wait.asked.kind], by=None, reason="nobody answered in time", value=None))
        self._hint.set()

    def answer(
        self, wait_id: UUID, decision: Decision, value: Any = None, *, by: str = "test", reason: str | None = None
    ) -> bool:
        """Answer an open wait; False if somebody did before."""
        wait = self.waits[wait_id]
        if not wait.open:
            return False
        self._end(wait, answer_of(decision, by=by, reason=reason, value=value))
        return True

    def signal(self, run_id: UUID, name: str, payload: Any = None) -> None:
        """Deliver a signal, or keep it until somebody waits for it."""
        for wait in self.open_waits(run_id):
            if wait.asked.kind is WaitKind.SIGNAL and wait.asked.name == name:
                self._end(wait, answer_of(Decision.SIGNALLED, by="test", reason=None, value=payload))
                return
        self.runs[run_id].signals.append((name, payload))

    def open_waits(self, run_id: UUID | None = None) -> list[FakeWait]:
        """Return the open waits, of all runs or of one."""
        return [w for w in self.waits.values() if w.open and (run_id is None or w.run_id == run_id)]

    async def exchange(self, outcomes: Sequence[Outcome], *, free: int, solo: bool) -> Exchange:
        """See `core.port.Backend.exchange`."""
        verdicts = tuple(self._settle(outcome) for outcome in outcomes)
        claims = tuple(itertools.islice(self._claims(), free))
        return Exchange(verdicts, claims, (), more=bool(claims))

    async def begin(self) -> AuthorTransaction:
        """Refuse: there is no database."""
        raise no_database()

    async def owned(self) -> frozenset[Token]:
        """See `core.port.Backend.owned`."""
        return frozenset(s.token for run in self.runs.values() for s in run.steps if s.token is not None)

    async def wait(self, timeout_s: float) -> frozenset[str]:
        """Return when something may be ready."""
        await self._hint.wait()
        self._hint.clear()
        return frozenset({"ready"})

    def _add(self, run: FakeRun, specs: Sequence[StepSpec], by: int | None = None, prefix: str = "") -> tuple[int, ...]:
        graph, first = plan(specs, max_steps=100_000), len(run.steps)
        for no, spec in enumerate(specs):
            conditions = {
                first + p: graph.edge_conditions[p, no] for p in graph.parents[no] if (p, no) in graph.edge_conditions
            }
            parents = tuple(first + p for p in graph.parents[no])
            run.steps.append(FakeStep(first + no, spec, parents, conditions, spawned_by=by, prefix=prefix))
        return tuple(range(first, first + len(specs)))

    def _claims(self) -> Iterable[Claim]:
        for run in list(self.runs.values()):
            for step in list(run.steps):
                if step.status is StepStatus.READY and step.due_s <= self.now_s and run.status != "paused":
                    yield self._claim(run, step)

    def _claim(self, run: FakeRun, step: FakeStep) -> Claim:
        run.lose(step)
        step.status, step.claim_no, step.token = StepStatus.RUNNING, step.claim_no + 1, Token(uuid4())
        lease = Lease(DEFAULT_TENANT, RunId(run.id), step.no, step.claim_no, step.token)
        done = {
            run.steps[p].spec.name: run.steps[p].output
            for p in step.parents
            if run.steps[p].status is StepStatus.SUCCEEDED
        }
        key = hashlib.sha256(f"{run.id}|{step.no}".encode()).hexdigest()
        return Claim(
            lease, step.spec.name, step.spec.kind, step.spec.tool, step.spec.input, run.spec.input, run.spec.goal, done,
            step.failures + 1, 0, step.spec.timeout_s, step.spec.deadline_s, key,
            effects=tuple(step.effects.values()), answers=tuple(step.answers), compensates=step.compensates is not None,
            budgeted=bool(run.top.budgets),
        )  # fmt: skip

    def _settle(self, outcome: Outcome) -> Verdict:
        run = self.runs[outcome.lease.run_id]
        step = run.steps[outcome.lease.step_no]
        if isinstance(outcome, Booked):
            run.book(step, outcome)
            return Verdict.OK
        if step.token != outcome.lease.token:
            return Verdict.LOST
        match outcome:
            case Emitted():
                run.events.append((outcome.type, outcome.data))
            case Stored():
                run.events.append(("artifact", outcome.name))
            case Intended() | Recorded() | Noted():
                return self._note(run, step, outcome)
            case Metered():
                return self._afford(run, of_tool(outcome.tool)) or Verdict.OK
            case Succeeded():
                step.output, step.status, step.token = orjson.loads(outcome.output), StepStatus.SUCCEEDED, None
                step.ended = next(self._order)
                undo = step.spec.compensate or outcome.compensate
                if undo and step.compensates is None:
                    step.undo[0] = (
                        undo,
                        {"arguments": step.spec.input, "result": step.output, "key": None, "outcome": "done"},
                        step.ended,
                    )
                self._promote(run)
            case Failed():
                self._fail(run, step, outcome)
            case Released():
                step.status, step.token = StepStatus.READY, None
                step.due_s = self.now_s + (outcome.delay_s or 0.0)
            case Suspended():
                self._suspend(run, step, outcome, None)
            case InDoubt():
                if outcome.no:
                    step.effects[outcome.no] = replace(step.effects[outcome.no], state=EffectState.UNKNOWN)
                request = {"effect": outcome.no, "tool": outcome.name, "message": outcome.message, "key": outcome.key}
                own = "" if outcome.no == 0 else str(outcome.no)
                asked = Suspended(outcome.lease, WaitKind.UNKNOWN_EFFECT, outcome.name, request, own)
                self._suspend(run, step, asked, outcome.no)
            case _:
                assert_never(outcome)
        self._hint.set()
        return Verdict.OK

    def _note(self, run: FakeRun, step: FakeStep, outcome: Intended | Recorded | Noted) -> Verdict:
        match outcome:
            case Intended():
                if outcome.approval is not None and not self._consume(outcome):
                    return Verdict.REFUSED
                if refused := self._afford(run, outcome.reserve or of_tool(outcome.name)):
                    return refused
                step.held[outcome.no] = outcome.reserve
                step.effects[outcome.no] = Effect(
                    outcome.no, outcome.name, outcome.effect, outcome.request_sha256, outcome.key, EffectState.INTENT
                )
                if outcome.compensate:
                    request = orjson.loads(outcome.request)
                    step.undo[outcome.no] = (outcome.compensate, {"arguments": request, "key": outcome.key}, 0)
            case Recorded():
                result = orjson.loads(outcome.result) if outcome.result is not None else None
                step.effects[outcome.no] = replace(
                    step.effects[outcome.no], state=outcome.state, result=result, error=outcome.error
                )
                run.spend(step.held.pop(outcome.no, outcome.reserved), outcome.used.spent if outcome.used else {})
                if outcome.no in step.undo:
                    tool, given, _ = step.undo[outcome.no]
                    given = {**given, "result": result, "outcome": outcome.state.value}
                    step.undo[outcome.no] = tool, given, next(self._order)
            case Noted():
                step.effects[outcome.no] = Effect(
                    outcome.no, outcome.name, EffectClass.SAFE, outcome.request_sha256, "", EffectState.DONE,
                    orjson.loads(outcome.result),
                )  # fmt: skip
        return Verdict.OK

    def _afford(self, run: FakeRun, wanted: Mapping[str, int | None]) -> Verdict | None:
        match admit(run.top.budgets, wanted):
            case Unbounded():
                return Verdict.UNBOUNDED
            case Exceeded() as found if found.budget.on_limit == "pause":
                run.status = "paused"
                return Verdict.PAUSED
            case Exceeded():
                self._finish(run, "budget_exceeded")
                return Verdict.EXHAUSTED
            case _:
                return None

    def _consume(self, outcome: Intended) -> bool:
        wait = self.waits.get(outcome.approval) if outcome.approval else None
        good = (
            wait is not None and not wait.open and not wait.consumed
            and wait.asked.request_sha256 == approval_digest(outcome.name, outcome.request)
        )  # fmt: skip
        if good and wait is not None:
            wait.consumed = True
        return good

    def _fail(self, run: FakeRun, step: FakeStep, outcome: Failed) -> None:
        step.failures, step.token = step.failures + 1, None
        decision = retry.decide(
            step.spec.retry,
            failures=step.failures,
            failure=outcome.failure,
            retry_after_s=outcome.retry_after_s,
            jitter=0.0,
        )
        if isinstance(decision, retry.RetryAt):
            step.status, step.due_s = StepStatus.READY, self.now_s + decision.delay_s
            return
        step.status = StepStatus.DEAD_LETTER
        step.error = {"failure": outcome.failure.value, "error_type": outcome.error_type, "message": outcome.message}
        self._finish(run, "failed")

    def _suspend(self, run: FakeRun, step: FakeStep, asked: Suspended, effect: int | None) -> None:
        step.status, step.token = StepStatus.WAITING, None
        due_s = self.now_s + asked.expires_s if asked.expires_s is not None else None
        wait = FakeWait(uuid4(), run.id, step.no, asked, due_s, effect)
        self.waits[wait.id] = wait
        match asked.kind:
            case WaitKind.STEPS:
                wait.spawned = self._add(run, asked.steps, step.no, spawn_prefix(step.spec.name, asked.name))
                self._promote(run)
            case WaitKind.RUN if asked.run is not None:
                wait.child = self.submit(asked.run, run)
            case WaitKind.SIGNAL:
                early = next((s for s in run.signals if s[0] == asked.name), None)
                if early is not None:
                    run.signals.remove(early)
                    self._end(wait, answer_of(Decision.SIGNALLED, by="test", reason=None, value=early[1]))
            case _:
                pass

    def _end(self, wait: FakeWait, told: dict[str, Any]) -> None:
        run = self.runs[wait.run_id]
        step = run.steps[wait.step]
        wait.open = False
        if wait.effect:
            state = {"happened": EffectState.DONE, "resend": EffectState.RESEND}.get(
                told["decision"], EffectState.REFUSED
            )
            step.effects[wait.effect] = replace(step.effects[wait.effect], state=state, result=told["value"])
        asked = wait.asked
        step.answers.append(Answer(len(step.answers) + 1, asked.kind, asked.name, asked.request_sha256, wait.id, told))
        step.status = StepStatus.READY
        self._hint.set()

    def _promote(self, run: FakeRun) -> None:
        """Decide every pending step whose parents are all resolved, tell who waits for what ended, end the run."""
        moved = True
        while moved and run.status in ("running", "compensating"):
            moved = any([self._decide(run, step) for step in run.steps if step.status is StepStatus.PENDING])
        for wait in self.open_waits(run.id):
            if wait.spawned and all(run.steps[no].status.final for no in wait.spawned):
                value = [{"name": run.steps[n].spec.name, "status": run.steps[n].status.value, "output": run.steps[n].output}
                         for n in wait.spawned]  # fmt: skip
                self._end(wait, answer_of(Decision.FINISHED, by=None, reason=None, value=value))
        if run.status in ("running", "compensating") and all(step.status.final for step in run.steps):
            self._close(run, run.ending or "completed")

    def _decide(self, run: FakeRun, step: FakeStep) -> bool:
        known = [run.steps[p] for p in step.parents]
        if not all(p.status in (StepStatus.SUCCEEDED, StepStatus.SKIPPED) for p in known):
            return False
        facts = [
            ParentResolution(p.no, p.spec.name, ParentOutcome.SKIPPED if p.status is StepStatus.SKIPPED else ParentOutcome.SUCCEEDED,
                             p.output, step.conditions.get(p.no)) for p in known
        ]  # fmt: skip
        outputs = as_written({p.spec.name: p.output for p in known if p.status is StepStatus.SUCCEEDED}, step.prefix)
        if known:
            child = ChildState(step.no, step.spec.name, len(known), 0, step.spec.when)
            verdict = resolve(child, facts, run.spec.input, outputs=outputs)
        else:
            verdict = own_condition(step.spec.when, 0, {}, run.spec.input)
        match verdict:
            case Ready():
                step.status = StepStatus.READY
            case Skipped():
                step.status = StepStatus.SKIPPED
            case ConditionFailed(_, message):
                step.status, step.error = StepStatus.DEAD_LETTER, {"failure": "invalid_input", "message": message}
                self._finish(run, "failed")
            case _:
                return False
        return True

    def _finish(self, run: FakeRun, ending: str) -> None:
        """End a run that failed: what is open is cancelled, what it did is undone, the last first."""
        for step in run.steps:
            if not step.status.final:
                step.status, step.token = StepStatus.CANCELLED, None
        for wait in self.open_waits(run.id):
            wait.open = False
        undo = sorted(
            ((at, step.no, tool, given) for step in run.steps for tool, given, at in step.undo.values() if at),
            reverse=True,
        )
        if not undo or run.status == "compensating":
            self._close(run, ending)
            return
        run.status, run.ending = "compensating", ending
        first = len(run.steps)
        for index, (_, no, tool, given) in enumerate(undo):
            spec = StepSpec(f"undo.{run.steps[no].spec.name}.{index}", StepKind.TOOL_CALL, tool, given,
                            retry=retry.default_policy(StepKind.TOOL_CALL))  # fmt: skip
            parents = (first + index - 1,) if index else ()
            run.steps.append(FakeStep(first + index, spec, parents, {}, compensates=no))
        self._promote(run)

    def _close(self, run: FakeRun, status: str) -> None:
        if run.status == "compensating":
            for step in run.steps:
                if step.compensates is not None and run.steps[step.compensates].status is StepStatus.SUCCEEDED:
                    run.steps[step.compensates].status = StepStatus.COMPENSATED
        run.status = status
        for step in run.steps:
            run.lose(step)
        for wait in [w for w in self.open_waits() if w.child == run.id]:
            last = {s.spec.name: s.output for s in run.steps if not any(s.no in other.parents for other in run.steps)}
            value = {"run_id": str(run.id), "status": status, "output": last, "error": None}
            self._end(wait, answer_of(Decision.FINISHED, by=None, reason=None, value=value))
        self._hint.set()
