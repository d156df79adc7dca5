"""Spend: reservations before calls, charges after them, in the transaction of the intent and of the result.

The budgets of a batch are locked after its runs (R1), decided on in the order of the outcomes, and written once. What a
lease held when it ended is charged in full: nobody knows what became of the call.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from durable_agent.core import budget
from durable_agent.core.budget import Budget, Exceeded, Unbounded
from durable_agent.core.events import dumps
from durable_agent.core.outcomes import Booked, Used
from durable_agent.core.states import RunEvent, RunStatus, StepEvent
from durable_agent.db.arrays import literals
from durable_agent.db.pool import Connection
from durable_agent.db.sql import load
from durable_agent.engine.journal import JOURNAL, Head, Journal, Row, RunKey, StepKey

BUDGETS = load("budgets")

BUDGET_COLUMNS = ("tenants", "owners", "scopes", "meters", "windows", "caps", "spent", "reserved", "on_limits", "since")

Key = tuple[int, UUID, str, int]


async def read(conn: Connection, runs: Iterable[RunKey]) -> tuple[Any, Any]:
    """Queue the locking of the budgets that the runs spend; the cursors are for `Purse.know` after the sync."""
    rows = literals(("tenants", "runs"), sorted(runs, key=lambda key: key[1]))
    return await conn.execute(BUDGETS.lock_budgets, rows), await conn.execute(BUDGETS.expire_windows, rows)


@dataclass(slots=True)
class Purse:
    """The budgets of one batch, under their locks, and what its calls do to them."""

    budgets: dict[Key, Budget] = field(default_factory=dict)
    pausing: dict[RunKey, Exceeded] = field(default_factory=dict)
    _of_run: dict[RunKey, list[Budget]] = field(default_factory=lambda: defaultdict(list))
    _before: dict[Key, tuple[int, int]] = field(default_factory=dict)
    _expired: set[Key] = field(default_factory=set)
    _booked: list[tuple[Head, Booked]] = field(default_factory=list)

    async def know(self, locked: Any, expired: Any) -> None:
        """Take the answers of `read`."""
        for run, tenant, owner, scope, meter, window_s, *amounts in await locked.fetchall():
            key = tenant, owner, meter, window_s
            found = self.budgets.setdefault(key, Budget(scope, meter, window_s, *amounts))
            self._of_run[tenant, run].append(found)
        for tenant, owner, meter, window_s, gone in await expired.fetchall():
            one = self.budgets.get((tenant, owner, meter, window_s))
            if one is not None:
                one.spent = max(0, one.spent - gone)
                self._expired.add((tenant, owner, meter, window_s))
        self._before = {key: (one.spent, one.reserved) for key, one in self.budgets.items()}

    def admit(self, head: Head, wanted: Mapping[str, int | None]) -> Exceeded | Unbounded | None:
        """Reserve what a call may cost at most; what undoes a run is never refused."""
        return budget.admit(self._of_run.get(head.key, ()), wanted, force=head.status is RunStatus.COMPENSATING)

    def end(self, head: Head, reserved: Mapping[str, int | None], used: Used | None) -> None:
        """End a reservation and charge what was used."""
        if used is not None:
            head.use(used)
        spent = used.spent if used is not None else {}
        for one in self._of_run.get(head.key, ()):
            if not budget.counts(one.meter):
                budget.charge(one, reserved=reserved.get(one.meter) or 0, spent=spent.get(one.meter, 0))

    def book(self, head: Head, outcome: Booked) -> None:
        """Take note of what a call that was cut off had used."""
        self._booked.append((head, outcome))

    async def charge(self, conn: Connection, steps: Iterable[StepKey], runs: Iterable[RunKey]) -> None:
        """Charge what the leases that ended in this transaction, and the runs that did, still held."""
        if not any(one.reserved for one in self.budgets.values()):
            return
        steps, runs = sorted(steps), sorted(runs)
        for statement, columns, rows in (
            (BUDGETS.charge_steps, ("tenants", "runs", "nos"), steps),
            (BUDGETS.charge_runs, ("tenants", "runs"), runs),
        ):
            if not rows:
                continue
            cursor = await conn.execute(statement, literals(columns, rows))
            for tenant, run, meter, amount in await cursor.fetchall():
                for one in self._of_run.get((tenant, run), ()):
                    if one.meter == meter:
                        budget.charge(one, reserved=amount, spent=amount)

    async def write(self, conn: Connection, journal: Journal) -> None:
        """Write budgets and slices, and why runs are paused; the journal's heads are written before."""
        changed = [
            (key, one) for key, one in self.budgets.items()
            if self._before.get(key) != (one.spent, one.reserved) or key in self._expired
        ]  # fmt: skip
        if changed:
            rows = Row(BUDGETS.put_budgets, ("tenants", "owners", "meters", "windows", "spent", "reserved"))
            slices = Row(BUDGETS.add_slices, ("tenants", "owners", "meters", "windows", "slices", "spent"))
            for key, one in changed:
                rows.add(*key, one.spent, one.reserved)
                added = one.spent - self._before[key][0]
                if one.window_s and added:
                    slices.add(*key, budget.slice_of(journal.now.timestamp(), one.window_s), added)
            await journal.send(conn, rows)
            await journal.send(conn, slices)
        for (tenant, run_id), found in self._paused(journal).items():
            window_s = found.budget.window_s
            wait_s = window_s / budget.SLICES if window_s else None
            where = {"tenant": tenant, "run": run_id, "now": journal.now, "wait_s": wait_s}
            await conn.execute(BUDGETS.mark_paused, where)

    async def settle_bookings(self, conn: Connection, journal: Journal) -> None:
        """Put what was booked in place of what is held or was charged; before `charge`, which would charge the bound."""
        for head, outcome in self._booked:
            await self._book(conn, journal, head, outcome)

    async def _book(self, conn: Connection, journal: Journal, head: Head, outcome: Booked) -> None:
        lease, used = outcome.lease, outcome.used
        params = {
            "tenant": lease.tenant, "run": lease.run_id, "no": lease.step_no, "effect": outcome.no, "key": outcome.key,
            "claim_no": lease.claim_no, "usage": dumps(used.facts).decode(), "microusd": used.microusd,
        }  # fmt: skip
        row = await (await conn.execute(BUDGETS.book, params)).fetchone()
        if row is None:
            return  # it was booked or recorded before, or sent again meanwhile
        reserved, charged = row
        head.use(used)
        for one in self._of_run.get(head.key, ()):
            # In a rolling window the bound stays until the slice that it was charged in leaves.
            if not budget.counts(one.meter) and (charged is None or not one.window_s):
                held, bound = (reserved or {}).get(one.meter) or 0, (charged or {}).get(one.meter) or 0
                budget.charge(one, reserved=held, spent=used.spent.get(one.meter, 0) - bound)
        facts = {"tokens": used.input_tokens + used.output_tokens, "microusd": used.microusd}
        journal.append(head, StepEvent.BOOKED, lease.step_no, effect=outcome.no, claim_no=lease.claim_no, **facts)

    def stop(self, journal: Journal, head: Head, found: Exceeded) -> None:
        """Pause the run: a budget says so."""
        self.pausing[head.key] = found
        journal.move(head, RunEvent.PAUSED, by="engine", reason="budget", **found.facts())

    async def hold(self, conn: Connection, journal: Journal) -> None:
        """Queue the statements that hold the steps of the runs that a budget paused here."""
        for tenant, run in self._paused(journal):
            await conn.execute(JOURNAL.hold_steps, {"tenant": tenant, "run": run, "now": journal.now})

    def _paused(self, journal: Journal) -> dict[RunKey, Exceeded]:
        """Of the runs that a budget paused here those that still are: another outcome of the batch may have ended one since."""
        return {key: found for key, found in self.pausing.items() if journal.heads[key].status is RunStatus.PAUSED}


async def under_way(conn: Connection, tenant: int, owner: UUID) -> dict[str, int]:
    """Return by meter what the calls under way in a tree, or in an agent's runs, hold; their runs are locked from now on.

    For a limit that comes while they are: it holds what they may take, as if it had been there when they began.
    """
    where = {"tenant": tenant, "owner": owner}
    await conn.execute(BUDGETS.lock_spenders, where)
    return dict(await (await conn.execute(BUDGETS.under_way, where)).fetchall())


async def charge_run(conn: Connection, journal: Journal, head: Head) -> None:
    """Charge what the calls of a run that ends here still held; the run is locked. Writes it at once."""
    purse = Purse()
    await purse.know(*await read(conn, [head.key]))
    await journal.flush(conn)
    await purse.charge(conn, (), [head.key])
    await purse.write(conn, journal)
