"""I1 to I6, P1 and P2 of one run: its events walked one by one through the tables of `core.states`.

What a step's life says is derived here anew: who holds its lease, whether its parents are resolved, whether it had to
become ready. A move that is not allowed is told once and then believed, so that one fault is one violation.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from durable_agent.core.states import (
    FINAL_RUN,
    RUN_TABLE,
    STEP_TABLE,
    WAITING_RUN,
    RunEvent,
    RunStatus,
    StepEvent,
    StepStatus,
)
from durable_agent.testing.history.documents import Event, ExportedRun
from durable_agent.testing.history.life import ENDS, HELD, LEADS, RESOLVED, Life
from durable_agent.testing.history.promotion import Promotions
from durable_agent.testing.history.report import STATES, Report

_E = StepEvent
# In a run that is so nothing begins.
_STILL = frozenset({RunStatus.PENDING, RunStatus.PAUSED, *FINAL_RUN})


@dataclass(slots=True)
class Walk:
    """One run's events, walked in order."""

    found: ExportedRun
    report: Report
    status: RunStatus | None = None
    lives: dict[int, Life] = field(default_factory=dict)
    born: int = 0
    promotions: Promotions = field(init=False)
    _last_move: Event | None = None

    def __post_init__(self) -> None:
        self.promotions = Promotions(self.found, self.report, self.lives)

    def walk(self, *, at_rest: bool) -> None:
        """Add what is wrong with the lives of a run and its steps; `at_rest`: nothing will happen any more (P1)."""
        for event in self.found.events:
            self.promotions.arrive(event)
            if event.step_no is None:
                self._run(event)
            elif event.step_no in self.lives:
                self._step(self.lives[event.step_no], event)
            else:
                self._tell("I6", f"event {event.seq} tells of step {event.step_no}, which is not there yet", event)
        self.promotions.finish()
        self._left_behind()
        self._rows()
        if at_rest:
            self._rest()

    def _tell(self, invariant: str, message: str, *excerpt: Event | None) -> None:
        self.report.found(invariant, self.found.id, message, *(one for one in excerpt if one is not None))

    def _run(self, event: Event) -> None:
        try:
            kind = RunEvent(event.type)
        except ValueError:
            self._tell(STATES, f"event {event.seq}: nobody knows what {event.type!r} is", event)
            return
        if kind in (RunEvent.CREATED, RunEvent.EXTENDED):
            self._born(event)
        if kind is RunEvent.CREATED:
            if self.status is not None:
                self._tell("I10", "the run is created twice", self.found.events[0], event)
            else:
                self.status, self._last_move = RunStatus.PENDING, event
            return
        if self.status is None:
            self._tell(STATES, "the history does not begin with run.created", event)
            self.status = RunStatus.PENDING
        target = RUN_TABLE.get((self.status, kind))
        if target is None:
            invariant = "I5" if self.status.final else STATES
            self._tell(invariant, f"{event.type} in a run that is {self.status}", self._last_move, event)
            return
        if target is not self.status:
            self.status, self._last_move = target, event

    def _born(self, event: Event) -> None:
        for no in range(self.born, self.born + int(event.data.get("steps", 0))):
            row = self.found.steps[no] if no < len(self.found.steps) else {}
            self.lives[no] = Life(no, row)
            self.born = no + 1
            self.promotions.born(no, row)
            if row.get("compensates") is not None and self.status is not RunStatus.COMPENSATING:
                text = f"{self.lives[no].name} is to undo something in a run that is {self.status}"
                self._tell(STATES, text, self._last_move, event)

    def _step(self, life: Life, event: Event) -> None:
        try:
            kind = StepEvent(event.type)
        except ValueError:
            self._tell(STATES, f"event {event.seq}: nobody knows what {event.type!r} is", event)
            return
        self._sealed(life, kind, event)
        before, after = life.status, STEP_TABLE.get((life.status, kind))
        if kind in HELD and not self._holds(life, kind, event):
            pass  # told already
        elif after is None:
            self._refused(life, kind, event)
        if kind in (_E.CLAIMED, _E.EFFECT_INTENDED) and self.status in _STILL:
            invariant = "I5" if self.status in FINAL_RUN else STATES
            self._tell(invariant, f"{life.name}: {event.type} in a run that is {self.status}", self._last_move, event)
        if kind is _E.CLAIMED:
            self._claim(life, event)
        if kind in (_E.SUCCEEDED, _E.SHARED):
            self._success(life, event)
        if before is StepStatus.PENDING and kind in (_E.READY, _E.SKIPPED, _E.DEAD_LETTER):
            self.promotions.promoted(life.no, kind, event)
        life.status = after or LEADS.get(kind, life.status)
        self._count(life, kind, event)
        life.last = event
        if kind is _E.WAITING:
            life.waited = event
        if kind in ENDS and life.lease is not None:
            life.past[life.claims] = (life.lease, event)
            life.ended, life.lease = event, None

    def _holds(self, life: Life, kind: StepEvent, event: Event) -> bool:
        """I2: who writes holds the lease."""
        live = life.lease.claim_no if life.lease is not None else None
        if live is not None and event.claim_no == live:
            return self._same_worker(life, kind, event)
        # A lease that was lost in the middle of a call that must not be made twice: its step waits, in the same commit.
        if kind is _E.WAITING and life.last is not None and life.last.type == _E.LEASE_LOST:
            return event.claim_no == life.last.claim_no
        if kind is _E.WAITING and _waits_on(life, event):
            return True
        claim, end = life.past.get(event.claim_no or 0, (life.claimed, None))
        if kind is _E.SUCCEEDED and life.succeeded is not None:
            self.report.double += 1
            return False  # I1 tells of it
        held = f"claim {live} holds the lease" if live is not None else "nobody holds the lease"
        self.report.double += kind is _E.SUCCEEDED
        self._tell(
            "I2", f"{life.name}: {event.type} by claim {event.claim_no}, and {held}", claim, end, life.lease, event
        )
        return False

    def _same_worker(self, life: Life, kind: StepEvent, event: Event) -> bool:
        one, other = (life.lease.data.get("worker") if life.lease is not None else None), event.data.get("worker")
        if kind is _E.LEASE_LOST or one is None or other is None or one == other:
            return True
        self._tell("I2", f"{life.name}: {event.type} by {other}, and {one} holds the lease", life.lease, event)
        return False

    def _refused(self, life: Life, kind: StepEvent, event: Event) -> None:
        """Tell of a move that the table does not have, by the invariant that it breaks."""
        text = f"{life.name}: {event.type} when it is {life.status}"
        match kind:
            case _E.CLAIMED if life.status is StepStatus.RUNNING:
                self._tell("I4", f"{life.name} is claimed twice, and nothing ended the first", life.lease, event)
            case _E.SUCCEEDED if life.succeeded is not None:
                pass  # I1 tells of it
            case _ if life.status.final:
                self._tell("I5", text, life.last, event)
            case _E.READY | _E.SKIPPED | _E.CLAIMED | _E.SHARED:
                self._tell("I6", text, life.last, event)
            case _E.ANSWERED:
                self._tell("I7", text, life.last, event)
            case _:
                self._tell(STATES, text, life.last, event)

    def _claim(self, life: Life, event: Event) -> None:
        expected = life.claims + 1
        if event.claim_no != expected:
            text = f"{life.name}: claim number {event.claim_no}, and {expected} is next"
            self._tell("I3", text, life.claimed, event)
        open_ = [self.lives.get(p) for p in life.row.get("parents", ())]
        unresolved = [one for one in open_ if one is None or one.status not in RESOLVED]
        if unresolved:
            names = ", ".join(one.name if one is not None else "a step that is not there" for one in unresolved)
            last = [one.last for one in unresolved if one is not None]
            self._tell("I6", f"{life.name} is claimed, and {names} is not resolved", *last, event)
        life.claims = event.claim_no if isinstance(event.claim_no, int) else expected
        life.lease = life.claimed = event
        life.past[life.claims] = (event, None)

    def _success(self, life: Life, event: Event) -> None:
        if life.succeeded is not None:
            self._tell("I1", f"{life.name} has two successes", life.succeeded, event)
        life.succeeded = event

    def _count(self, life: Life, kind: StepEvent, event: Event) -> None:
        match kind:
            case _E.FENCED:
                self.report.fenced += 1
            case _E.FAILED:
                life.failures += 1
            case _E.EFFECT_RECORDED if event.data.get("state") in ("done", "failed"):
                life.got_on = life.claims
            case _E.LEASE_LOST:
                self.report.leases_lost += 1
                # A lease that got its step on counts as the first that was lost.
                life.crashes = 1 if life.got_on == life.claims else life.crashes + 1
                said, most = event.data.get("crashes"), event.data.get("of")
                if said != life.crashes:
                    text = f"{life.name} lost {life.crashes} leases in a row, and the event says {said}"
                    self._tell("P2", text, event)
                if isinstance(most, int) and life.crashes >= most:
                    life.seal = event
            case _:
                pass

    def _sealed(self, life: Life, kind: StepEvent, event: Event) -> None:
        """P2: after the last lease that it may lose a step is dead, or a person is asked."""
        if life.seal is None or kind in (_E.FENCED, _E.BOOKED, _E.EFFECT_UNKNOWN):
            return
        if kind not in (_E.DEAD_LETTER, _E.WAITING, _E.CANCELLED):
            self._tell("P2", f"{life.name} goes on after the last lease that it may lose", life.seal, event)
        life.seal = None

    def _left_behind(self) -> None:
        """I6: what waits for nothing any more is ready, unless the run is over."""
        if self.status is None or self.status.final:
            return
        for life in self.lives.values():
            if life.status is not StepStatus.PENDING:
                continue
            parents = [self.lives[p] for p in life.row.get("parents", ()) if p in self.lives]
            if all(one.status in RESOLVED for one in parents):
                text = f"{life.name} is left behind: nothing it waits for is open, and it is not ready"
                self._tell("I6", text, *(one.last for one in parents), life.last)

    def _rows(self) -> None:
        run, told = self.found.run, self.status.value if self.status is not None else None
        if run["status"] != told:
            self._tell(STATES, f"the run is {run['status']}, its events say {told}", self._last_move)
        left = sum(not life.status.final for life in self.lives.values())
        if run["steps_left"] != left:
            self._tell(STATES, f"the run has {run['steps_left']} steps left, its events say {left}", self._last_move)
        for life in self.lives.values():
            said = (
                (STATES, "status", life.status.value), ("I3", "claim_no", life.claims), (STATES, "failures", life.failures),
                ("P2", "crashes", life.crashes),
            )  # fmt: skip
            for invariant, name, mine in said:
                if life.row.get(name) != mine:
                    text = f"{life.name}: {name} is {life.row.get(name)}, its events say {mine}"
                    self._tell(invariant, text, life.last)
            self.report.steps += 1
        if run["status"] == RunStatus.COMPLETED:
            self._completed()

    def _completed(self) -> None:
        failed = [life for life in self.lives.values() if life.status not in RESOLVED]
        for life in failed:
            self._tell(STATES, f"the run is completed, and {life.name} is {life.status}", life.last, self._last_move)

    def _rest(self) -> None:
        """P1: an end, or a named cause: an open wait, a person who paused it, a budget."""
        status = RunStatus(self.found.run["status"]) if self.found.run["status"] in set(RunStatus) else None
        if status is None or status.final or status is RunStatus.PAUSED:
            return
        waits = [wait for wait in self.found.waits if wait["state"] == "open"]
        if status in WAITING_RUN and waits:
            return
        by_status: dict[str, list[Life]] = defaultdict(list)
        for life in self.lives.values():
            by_status[life.status.value].append(life)
        stuck = [life for name in ("running", "ready", "waiting", "pending") for life in by_status[name]]
        self.report.lost += len(stuck)
        first = stuck[0].last if stuck else None
        self._tell("P1", f"the run is still {status.value}", first or self._last_move)


def _waits_on(life: Life, event: Event) -> bool:
    """Whether a redriven step goes on to wait for steps it had added, or a run: the same wait, asked for by its last claim."""
    if life.waited is None or life.last is None or life.last.type != _E.READY:
        return False
    same = [
        (one.data.get("kind"), one.data.get("wait"), one.data.get("request_sha256")) for one in (life.waited, event)
    ]
    return same[0] == same[1] and same[0][0] in ("steps", "run") and event.claim_no == life.claims
