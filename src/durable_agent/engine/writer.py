"""The rows of new runs: what was planned, written into whatever transaction is under way."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from durable_agent.core.events import dumps, genesis, inputs_digest
from durable_agent.core.graph import Graph
from durable_agent.core.records import RunSpec, StepSpec
from durable_agent.core.states import RunEvent, RunStatus, StepEvent
from durable_agent.core.turns import claim_order
from durable_agent.db.arrays import ints
from durable_agent.db.pool import Connection
from durable_agent.engine.journal import Head, Journal, Row
from durable_agent.engine.routes import Routes
from durable_agent.engine.rows import RUN_COLUMNS, STEP_COLUMNS, SUBMIT, json_text, policy_text
from durable_agent.engine.spend import BUDGET_COLUMNS, BUDGETS

if TYPE_CHECKING:
    from durable_agent.engine.submit import Planned


class Writer:
    """The rows of new runs, gathered for one transaction."""

    def __init__(self, now: datetime, routes: Routes) -> None:
        self._journal = Journal(now)
        self._routes = routes
        self._runs = Row(SUBMIT.add_runs, RUN_COLUMNS)
        self._steps = Row(SUBMIT.add_steps, STEP_COLUMNS)
        self._budgets = Row(BUDGETS.add_budgets, BUDGET_COLUMNS)

    def add(self, one: Planned) -> RunStatus:
        """Gather a run, its steps, its ready roots and its first events; return the status it starts in."""
        spec, graph, roots = one.submission.spec, one.graph, one.roots
        head = Head(
            one.tenant, one.run_id, RunStatus.PENDING, len(spec.steps), len(spec.steps), 0, genesis(one.run_id), "", 0
        )
        self._journal.append(
            head, RunEvent.CREATED, None, {"goal": spec.goal} if spec.goal else None,
            steps=len(spec.steps), graph_sha256=graph.digest(),
            inputs_sha256=inputs_digest(spec.input, [step.input for step in spec.steps]), **({"lane": spec.lane} if spec.lane else {}),
            **({"agent": str(spec.agent), "agent_version": spec.agent_version} if spec.agent else {}),
        )  # fmt: skip
        created_us = (one.run_id.int >> 80) * 1000
        for no, step in enumerate(spec.steps):
            route = self._routes.ids[one.tenant, step.queue, spec.lane, step.tool]
            ord_ = claim_order(step.priority, created_us)
            self._add_step(one, no, step, graph, route, ord_, roots)
            if no in roots.ready:
                self._journal.append(head, StepEvent.READY, no)
                self._journal.enqueued.add(
                    one.tenant, one.run_id, no, route, ord_, "capped" if step.capped else "ready", 0, 0, 0,
                    step.max_crashes, None, step.deadline_s, None,
                )  # fmt: skip
            elif no in roots.skipped:
                self._journal.append(head, StepEvent.SKIPPED, no, why=roots.skipped[no])
                head.steps_left -= 1
        self._end(head, roots, spec)
        self._runs.add(
            one.tenant, one.run_id, head.status.value, head.steps_total, head.steps_left, head.last_seq, head.chain,
            spec.lane, spec.graph, spec.goal, head.error.decode() if head.error else None,
            json_text(spec.input), json_text(spec.metadata), spec.graph_version, one.submission.by,
            *(one.submission.parent or (None, None)), spec.origin, None, None, *self._tree(one),
        )  # fmt: skip
        return head.status

    def _tree(self, one: Planned) -> tuple[UUID | None, UUID | None, bool]:
        """Gather the limits of a run at the top of a tree; return its root, its agent, and whether its calls are metered."""
        spec, tree = one.submission.spec, one.submission.tree
        if tree is not None:
            return tree.root, tree.agent, tree.budgeted
        for limit in spec.budget:
            self._budgets.add(
                one.tenant, one.run_id, "run", limit.meter, 0, limit.cap, 0, 0, limit.on_limit or "fail",
                self._journal.now.isoformat(),
            )  # fmt: skip
        return None, spec.agent, bool(spec.budget) or spec.agent is not None

    def _add_step(self, one: Planned, no: int, step: StepSpec, graph: Graph, route: int, ord_: int, roots: Any) -> None:
        parents, children = graph.parents[no], graph.children[no]
        edges = {str(p): graph.edge_conditions[p, no] for p in parents if (p, no) in graph.edge_conditions}
        status = "queued" if no in roots.ready else "skipped" if no in roots.skipped else "pending"
        error = None
        if roots.failed is not None:
            status = "dead_letter" if no == roots.failed.no else "cancelled" if status != "skipped" else status
            error = dumps({"reason": "condition_error", "message": roots.failed.message}).decode()
        self._steps.add(
            one.tenant, one.run_id, no, status, roots.deps_left.get(no, len(parents)) if status != "skipped" else 0,
            step.retry.max_attempts, step.max_crashes, route, ord_, step.timeout_s, step.deadline_s, step.name,
            step.kind.value, step.tool, step.when, ints(parents), ints(children), json_text(edges or None),
            policy_text(step), json_text(step.input), error if status == "dead_letter" else None, step.compensate,
            None, None, None, None, False, False, None, 0,
        )  # fmt: skip

    def _end(self, head: Head, roots: Any, spec: RunSpec) -> None:
        """End a run that its roots' conditions decide already: everything skipped, or one that cannot be decided."""
        if roots.failed is not None:
            no, message = roots.failed.no, roots.failed.message
            self._journal.append(
                head, StepEvent.DEAD_LETTER, no, {"message": message}, reason="condition_error", failure="invalid_input"
            )
            for other in range(len(spec.steps)):
                if other != no and other not in roots.skipped:
                    self._journal.append(head, StepEvent.CANCELLED, other, why="run_failed")
            step = spec.steps[no]
            self._journal.dead.add(
                head.tenant, head.id, no, step.name, step.tool, "condition_error", "invalid_input", message[:2000]
            )
            head.steps_left = 0
            head.error = dumps({"step": step.name, "reason": "condition_error"})
            self._journal.move(head, RunEvent.FAILED, step=step.name, reason="condition_error")
        elif head.steps_left == 0:
            self._journal.move(head, RunEvent.COMPLETED)

    async def write(self, conn: Connection) -> None:
        """Queue every statement on the pipeline."""
        for row in (self._runs, self._steps, self._budgets):
            await self._journal.send(conn, row)
        await self._journal.write(conn)
