"""What a history must not show, one defect each: what breaks it, and under which invariant it has to be found."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

from durable_agent.core.events import dumps
from tests.testing.stories import History, Line, said, say

Mutation = Callable[[History], list[Line]]

# Each breaks one promise of the engine, and forges the chain over it, as a defect of the engine would; each returns the
# lines that are guilty.


def second_success(h: History) -> list[Line]:
    first = h.event("chain", "step.succeeded", "a")
    return [first, h.put("chain", first, first)]


def stale_success(h: History) -> list[Line]:
    won = say(h.event("buy", "step.succeeded", "big"), claim_no=1, worker="zombie")
    return [h.event("buy", "step.claimed", "big"), h.event("buy", "step.lease_lost", "big"), won]


def success_of_another(h: History) -> list[Line]:
    return [h.event("chain", "step.claimed", "a"), say(h.event("chain", "step.succeeded", "a"), worker="stranger")]


def effect_after_the_lease(h: History) -> list[Line]:
    lost = h.event("buy", "step.lease_lost", "big")
    return [lost, h.put("buy", h.event("buy", "step.emitted"), lost, claim_no=1)]


def claim_number_skipped(h: History) -> list[Line]:
    return [say(h.event("chain", "step.claimed", "b"), claim_no=2)]


def claim_number_repeated(h: History) -> list[Line]:
    second = say(h.event("buy", "step.claimed", "plan", 1), claim_no=1)
    return [h.event("buy", "step.claimed", "plan"), second]


def claims_without_a_release(h: History) -> list[Line]:
    h.drop("buy", h.event("buy", "step.lease_lost", "big"))
    return [h.event("buy", "step.claimed", "big"), h.event("buy", "step.claimed", "big", 1)]


def cancelled_after_its_success(h: History) -> list[Line]:
    done = h.event("chain", "step.succeeded", "b")
    moved = h.put("chain", done, done)
    moved["type"], moved["data"] = "step.cancelled", "{}"
    return [done, moved]


def run_goes_on_after_its_end(h: History) -> list[Line]:
    end = h.event("chain", "run.completed")
    moved = h.put("chain", end, end)
    moved["type"] = "run.paused"
    return [end, moved]


def claimed_before_its_parent(h: History) -> list[Line]:
    done, claim = h.event("chain", "step.succeeded", "a"), h.event("chain", "step.claimed", "b")
    h.drop("chain", done)
    h.put("chain", done, claim)
    return [h.event("chain", "step.claimed", "a"), claim]


def promoted_twice(h: History) -> list[Line]:
    ready = h.event("chain", "step.ready", "b")
    return [ready, h.put("chain", ready, ready)]


def promoted_against_its_condition(h: History) -> list[Line]:
    skipped = h.event("buy", "step.skipped", "small")
    skipped["type"], skipped["data"] = "step.ready", "{}"
    return [h.event("buy", "step.succeeded", "plan"), skipped]


def left_behind(h: History) -> list[Line]:
    ready = h.event("chain", "step.ready", "b")
    after = h.events("chain")[h.events("chain").index(ready) :]
    h.drop("chain", *after)
    return [h.event("chain", "step.succeeded", "a")]


def approval_used_twice(h: History) -> list[Line]:
    used = h.event("buy", "effect.intended")
    return [used, h.put("buy", used, used, effect=7)]


def approved_something_else(h: History) -> list[Line]:
    h.row("buy", "effect")["request"] = {"n": 1000}
    return [h.event("buy", "step.waiting"), h.event("buy", "step.answered"), h.event("buy", "effect.intended")]


def called_though_rejected(h: History) -> list[Line]:
    return [say(h.event("buy", "step.answered"), decision="rejected"), h.event("buy", "effect.intended")]


def two_decisions(h: History) -> list[Line]:
    first = h.event("buy", "step.answered")
    return [first, h.put("buy", first, first, decision="rejected")]


def approval_not_used_up(h: History) -> list[Line]:
    h.row("buy", "wait")["consumed_at"] = None
    return [h.event("buy", "effect.intended")]


def result_without_an_intent(h: History) -> list[Line]:
    h.drop("buy", h.event("buy", "effect.intended"))
    return [h.event("buy", "effect.recorded")]


def another_key_the_second_time(h: History) -> list[Line]:
    return [h.event("doubt", "effect.intended"), say(h.event("doubt", "effect.intended", nth=1), key="f" * 64)]


def another_result_than_recorded(h: History) -> list[Line]:
    h.row("buy", "effect")["result"] = "something else"
    return [h.event("buy", "effect.recorded")]


def more_used_than_the_run_says(h: History) -> list[Line]:
    h.row("buy", "run")["input_tokens"] += 1
    return []


def overspent_when_it_was_stopped(h: History) -> list[Line]:
    end = h.event("chain", "run.completed")
    found = {"meter": "tokens", "cap": 10, "spent": 8, "reserved": 4, "wanted": 1}
    return [say(end, budget=found)]


def refused_though_it_fits(h: History) -> list[Line]:
    found = {"meter": "tokens", "cap": 10, "spent": 1, "reserved": 1, "wanted": 8}
    return [say(h.event("chain", "run.completed"), budget=found)]


def goes_on_after_its_last_lease(h: History) -> list[Line]:
    return [say(h.event("buy", "step.lease_lost"), of=1), h.event("buy", "step.claimed", "big", 1)]


def crash_not_counted(h: History) -> list[Line]:
    return [say(h.event("poisoned", "step.lease_lost", nth=1), crashes=1)]


def never_ends(h: History) -> list[Line]:
    claim = h.event("chain", "step.claimed", "b")
    after = h.events("chain")[h.events("chain").index(claim) + 1 :]
    h.drop("chain", *after)
    h.row("chain", "run").update(status="running", steps_left=1)
    h.row("chain", "step", 1).update(status="running")
    return [claim]


def resumed_when_it_runs(h: History) -> list[Line]:
    started = h.event("chain", "run.started")
    moved = h.put("chain", started, started)
    moved["type"] = "run.resumed"
    return [started, moved]


def row_of_another_status(h: History) -> list[Line]:
    h.row("chain", "step", 1)["status"] = "dead_letter"
    return [h.event("chain", "step.succeeded", "b")]


FORGED: dict[str, list[Mutation]] = {
    "I1": [second_success],
    "I2": [stale_success, success_of_another, effect_after_the_lease],
    "I3": [claim_number_skipped, claim_number_repeated],
    "I4": [claims_without_a_release],
    "I5": [cancelled_after_its_success, run_goes_on_after_its_end],
    "I6": [claimed_before_its_parent, promoted_twice, promoted_against_its_condition, left_behind],
    "I7": [approval_used_twice, approved_something_else, called_though_rejected, two_decisions, approval_not_used_up],
    "I11": [result_without_an_intent, another_key_the_second_time, another_result_than_recorded],
    "I12": [more_used_than_the_run_says, overspent_when_it_was_stopped, refused_though_it_fits],
    "P1": [never_ends],
    "P2": [goes_on_after_its_last_lease, crash_not_counted],
    "states": [resumed_when_it_runs, row_of_another_status],
}


# These are in the documents as they are read; nobody forged the chain.


def dropped(h: History) -> list[Line]:
    line = h.events("buy")[8]
    around = [h.events("buy")[7], h.events("buy")[9]]
    h.drop("buy", line)
    return around


def tail_cut(h: History) -> list[Line]:
    last = h.events("buy")[-1]
    h.drop("buy", last)
    return [h.events("buy")[-1]]


def swapped(h: History) -> list[Line]:
    one, other = h.events("buy")[4:6]
    at = next(n for n, line in enumerate(h.runs["buy"]) if line is one)
    h.runs["buy"][at], h.runs["buy"][at + 1] = other, one
    return [one, other]


def end_missing(h: History) -> list[Line]:
    h.drop("chain", h.row("chain", "end"))
    return []


def frames(h: History, watcher: str, name: str) -> list[Line]:
    run = h.row(name, "run")["id"]
    return [one for one in h.watchers if one["watcher"] == watcher and one["run_id"] == run and "seq" in one]


def watcher_gap(h: History) -> list[Line]:
    before, gone, after = frames(h, "w1", "buy")[5:8]
    h.watchers = [one for one in h.watchers if one is not gone]
    return [before, after]


def watcher_twice(h: History) -> list[Line]:
    one = frames(h, "w2", "buy")[3]
    h.watchers.insert(h.watchers.index(one) + 1, deepcopy(one))
    return [one, one]


def watcher_ends_early(h: History) -> list[Line]:
    *_, before, gone = frames(h, "w1", "chain")
    h.watchers = [one for one in h.watchers if one is not gone]
    return [before]


def watcher_saw_another_event(h: History) -> list[Line]:
    one = frames(h, "w1", "buy")[2]
    one["data"] = {**one["data"], "worker": "another"} | ({"x": 1} if not one["data"] else {})
    one["type"] = "step.failed"
    return [one, h.events("buy")[2]]


def two_runs_with_one_key(h: History) -> list[Line]:
    first, other = h.client[0], h.client[2]
    other["key"] = first["key"]
    return [first, other]


def one_key_with_two_bodies(h: History) -> list[Line]:
    again = {**h.client[0], "body": "another"}
    h.client.append(again)
    return [h.client[0], again]


def nobody_asked(h: History) -> list[Line]:
    run = h.row("chain", "run")["id"]
    h.client = [one for one in h.client if one["key"] not in ("chain", "lost")]
    return [{"run_id": run}]


def exported_twice(h: History) -> list[Line]:
    h.runs["again"] = h.runs["chain"]
    return []


def acknowledged_and_gone(h: History) -> list[Line]:
    gone = {"key": "gone", "body": "gone", "answer": "ok", "run_id": "01990000-0000-7000-8000-000000000000"}
    h.client.append(gone)
    return [gone]


def call_without_an_intent(h: History) -> list[Line]:
    call = {"key": "0" * 64, "what": "book", "result": "x"}
    h.receiver.append(call)
    return [call]


def two_calls_with_one_key(h: History) -> list[Line]:
    one, other = h.event("buy", "effect.intended"), h.event("doubt", "effect.intended")
    say(other, key=said(one)["key"])
    return [one, other]


def called_more_often_than_intended(h: History) -> list[Line]:
    call = next(one for one in h.receiver if one["what"] == "book")
    h.receiver.append(call)
    return [call, call, h.event("buy", "effect.intended")]


def manual_call_made_twice_in_silence(h: History) -> list[Line]:
    """Both were intended, and no person said so."""
    settled = h.event("doubt", "effect.settled")
    say(settled, decision="failed")
    return [one for one in h.receiver if one["what"] == "send"]


def another_result_than_the_receivers(h: History) -> list[Line]:
    call = next(one for one in h.receiver if one["what"] == "book")
    call["result"] = "another"
    return [call]


def overspent(h: History) -> list[Line]:
    h.budgets[0]["spent"] = h.budgets[0]["cap"] + 1
    return [h.budgets[0]]


def reserved_at_rest(h: History) -> list[Line]:
    h.budgets[0]["reserved"] = 1
    return [h.budgets[0]]


def event_altered(h: History) -> list[Line]:
    return [say(h.event("chain", "step.claimed", "b"), attempt=9)]


def detail_altered(h: History) -> list[Line]:
    line = h.event("chain", "run.created")
    line["detail"] = dumps({"goal": "another"}).decode()
    return [line]


def output_altered(h: History) -> list[Line]:
    h.row("chain", "step")["output"] = {"n": 2}
    return [h.event("chain", "step.succeeded", "a")]


def input_altered(h: History) -> list[Line]:
    h.row("buy", "run")["input"] = {"for": "them"}
    return [h.event("buy", "run.created")]


def edge_altered(h: History) -> list[Line]:
    h.row("buy", "step", 2)["edge_conditions"] = {"0": "output.rows > 8"}
    return [h.event("buy", "run.created")]


def artifact_altered(h: History) -> list[Line]:
    content = {"record": "content", "sha256": "0" * 64, "content": "altered"}
    h.runs["chain"].insert(3, content)
    return [content]


def row_beyond_reading(h: History) -> list[Line]:
    del h.row("chain", "step")["parents"]
    return []


def forged_and_a_head_was_kept(h: History) -> list[Line]:
    line = h.event("chain", "step.claimed", "b")
    h.heads = [{"run_id": h.row("chain", "run")["id"], "seq": line["seq"], "hash": line["hash"]}]
    say(line, attempt=9)
    h.forge("chain")
    return [line]


def tail_forged_and_a_head_was_kept(h: History) -> list[Line]:
    *_, before, last = h.events("chain")
    h.heads = [{"run_id": h.row("chain", "run")["id"], "seq": last["seq"], "hash": last["hash"]}]
    h.drop("chain", last)
    h.forge("chain")
    return [before]


def deadlock(h: History) -> list[Line]:
    h.deadlocks = 2
    return [{"deadlocks": 2}]


AS_READ: dict[str, list[Mutation]] = {
    "I9": [dropped, tail_cut, swapped, end_missing, watcher_gap, watcher_twice, watcher_ends_early, watcher_saw_another_event],
    "I10": [two_runs_with_one_key, one_key_with_two_bodies, nobody_asked, exported_twice],
    "I11": [call_without_an_intent, called_more_often_than_intended, manual_call_made_twice_in_silence,
            another_result_than_the_receivers, two_calls_with_one_key],
    "I12": [overspent, reserved_at_rest],
    "I13": [event_altered, detail_altered, output_altered, input_altered, edge_altered, artifact_altered, row_beyond_reading, forged_and_a_head_was_kept,
            tail_forged_and_a_head_was_kept],
    "P1": [acknowledged_and_gone],
    "P4": [deadlock],
}  # fmt: skip
