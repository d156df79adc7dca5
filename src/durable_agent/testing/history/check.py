"""The check of a whole history: every run alone, then all of them against the logs from outside."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from durable_agent.testing.history.calls import Calls
from durable_agent.testing.history.chain import check_chain
from durable_agent.testing.history.documents import Document, ExportedRun
from durable_agent.testing.history.lifecycle import Walk
from durable_agent.testing.history.outside import Outside
from durable_agent.testing.history.report import Report

# What documents cannot tell, whoever gives them.
_UNTOLD: Final = {
    "I8": "no schedule is in this history",
    "I14": "an export is of one tenant",
    "P3": "an export does not tell who was idle",
}


class Checker:
    """A check in the making: runs are added one by one, and only what the logs are compared with is kept of each.

    `watched` are the runs that watchers followed; `own_keys` are the keys that steps show which are tools themselves, by
    run and number, where the secret is at hand (it may grow until its run is added); None: the first call of a step with
    an unknown key is taken for its own. `at_rest`: faults have stopped and all had time to end, so what has not is stuck.
    """

    def __init__(
        self, *, watched: Iterable[str] = (), heads: Iterable[Document] = (),
        own_keys: Mapping[tuple[str, int], str] | None = None, at_rest: bool = True,
    ) -> None:  # fmt: skip
        self.report = Report(untold=dict(_UNTOLD))
        self._outside = Outside(self.report, frozenset(watched), own_keys)
        self._at_rest = at_rest
        self._heads: dict[str, dict[int, str]] = {}
        for head in heads:
            self._heads.setdefault(head["run_id"], {})[head["seq"]] = head["hash"]
        if not at_rest:
            self.report.untold["P1"] = "the history was taken while work was under way"

    def add(self, found: ExportedRun) -> None:
        """Add what is wrong with one run to the report."""
        report = self.report
        report.runs += 1
        report.events += len(found.events)
        calls = Calls(found, report)
        try:
            check_chain(found, report, self._heads.get(found.id, {}))
            Walk(found, report).walk(at_rest=self._at_rest)
            calls.check()
            self._outside.know(found, calls)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            # A line that lacks what every export has, or has it of another kind, was not written by the engine.
            report.found("I13", found.id, f"a line of the export was altered beyond reading: {error!r}")

    def compare(
        self, *, client: Iterable[Document] | None = None, receiver: Iterable[Document] | None = None,
        watchers: Iterable[Document] | None = None, budgets: Iterable[Document] | None = None,
        deadlocks: int | None = None,
    ) -> Report:  # fmt: skip
        """Compare all runs with the logs from outside and return the report; what no log is given for is `untold`."""
        logs = (
            ("I10", client, self._outside.clients, "no log of a client was given"),
            ("I11, calls", receiver, self._outside.receivers, "no log of a receiver was given"),
            ("I9, watchers", watchers, self._outside.watchers, "no log of a watcher was given"),
            ("I12, at rest", budgets, self._outside.budgets, "no budgets were given"),
        )
        for name, log, compare, why in logs:
            if log is None:
                self.report.untold[name] = why
            else:
                compare(log)
        if deadlocks is None:
            self.report.untold["P4"] = "nobody gave the deadlocks that PostgreSQL counted"
        elif deadlocks:
            self.report.found("P4", None, f"{deadlocks} deadlocks", {"deadlocks": deadlocks})
        return self.report


def check(
    runs: Iterable[ExportedRun], *, client: Iterable[Document] | None = None, receiver: Iterable[Document] | None = None,
    watchers: Iterable[Document] | None = None, budgets: Iterable[Document] | None = None, heads: Iterable[Document] = (),
    own_keys: Mapping[tuple[str, int], str] | None = None, deadlocks: int | None = None, at_rest: bool = True,
) -> Report:  # fmt: skip
    """Return what a history says about the invariants; see `Checker` for what is given, `documents` for its shape.

    `deadlocks` are those that PostgreSQL counted.
    """
    frames = list(watchers) if watchers is not None else None
    watched = {line["run_id"] for line in frames or ()}
    checker = Checker(watched=watched, heads=heads, own_keys=own_keys, at_rest=at_rest)
    for found in runs:
        checker.add(found)
    return checker.compare(client=client, receiver=receiver, watchers=frames, budgets=budgets, deadlocks=deadlocks)
