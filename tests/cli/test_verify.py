"""`runs verify`: an export proves itself, and whatever was done to it is found and named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import orjson
import pytest

from durable_agent.core.events import ChainBroken, digest, dumps
from durable_agent.core.outcomes import Noted, Recorded, Suspended
from durable_agent.core.records import DEFAULT_TENANT, EffectState, FailureClass, RetryPolicy, WaitKind
from durable_agent.core.waits import Decision, approval_digest
from durable_agent.engine import control
from durable_agent.engine.answer import answer
from durable_agent.engine.export import export, verify_export
from tests.cli.system import Answer, command
from tests.support.runs import Engine, call_of, run_of, step

Lines = list[bytes]


async def exported(engine: Engine, run: UUID) -> Lines:
    """Return a run's export, line by line."""
    with await export(engine.pools, DEFAULT_TENANT, run) as file:
        return file.readlines()


async def a_purchase(engine: Engine) -> UUID:
    """Return a run that asked, was allowed by somebody, called, noted, and asked again."""
    request = dumps({"amount": 5})
    run = await engine.submit(run_of(step("pay"), goal="Pay"))
    hand = engine.hand()
    (pay,) = await hand.claim()
    await hand.settle(Suspended(pay.lease, WaitKind.APPROVAL, "noop", {"amount": 5}, approval_digest("noop", request)))
    ((wait, *_),) = await engine.waits(run)
    await answer(engine.pools, DEFAULT_TENANT, wait, Decision.APPROVED, by="ann", reason="it is due")
    (pay,) = await hand.claim()
    await hand.settle(call_of(pay.lease, 1, request, approval=wait))
    await hand.settle(Recorded(pay.lease, 1, "noop", EffectState.DONE, dumps({"charged": 5})))
    await hand.settle(call_of(pay.lease, 2))
    await hand.settle(Recorded(pay.lease, 2, "noop", EffectState.FAILED, None, {"message": "declined"}))
    await hand.settle(Noted(pay.lease, 3, "now", digest(b"1"), b'"noon"'))
    await hand.settle(Suspended(pay.lease, WaitKind.INPUT, "which account?", {}, "1"))
    open_wait = next(row[0] for row in await engine.waits(run) if row[0] != wait)
    await answer(engine.pools, DEFAULT_TENANT, open_wait, Decision.RESPONDED, by="ann", value="account A")
    (pay,) = await hand.claim()
    await hand.succeed(pay)
    return run


async def a_run(engine: Engine) -> UUID:
    """Return a run with a failed attempt, a condition, a skipped step and a completed end."""
    run = await engine.submit(
        run_of(step("a"), step("b", ("a", "output.rows > 2")), step("c", ("a", "output.rows > 9")), goal="Find out")
    )
    hand = engine.hand()
    (a,) = await hand.claim()
    await hand.fail(a, FailureClass.TRANSIENT)
    await engine.reap()
    (a,) = await hand.claim()
    await hand.succeed(a, {"rows": 3})
    (b,) = await hand.claim()
    await hand.succeed(b, "done")
    assert (await engine.run(run))["status"] == "completed"
    return run


def verify(lines: Lines, folder: Path) -> Answer:
    """Run the command on a file of the lines."""
    file = folder / "run.jsonl"
    file.write_bytes(b"".join(lines))
    return command("runs", "verify", str(file))


async def test_a_completed_export_verifies(engine: Engine, tmp_path: Path) -> None:
    run = await a_run(engine)
    answer = verify(await exported(engine, run), tmp_path)
    assert answer.code == 0, answer.err
    assert str(run) in answer.out


async def test_an_export_verifies_at_every_stage_of_a_run(engine: Engine, tmp_path: Path) -> None:
    """Running, scheduled, paused, dead-lettered, redriven, cancelled: each is a history like another."""
    run = await engine.submit(run_of(step("a", retry=RetryPolicy(max_attempts=2, base_s=60.0)), step("b", "a")))
    hand, stages = engine.hand(), [await exported(engine, run)]
    (a,) = await hand.claim()
    stages.append(await exported(engine, run))
    await hand.fail(a)
    stages.append(await exported(engine, run))
    await control.pause(engine.pools, DEFAULT_TENANT, run, actor="me")
    stages.append(await exported(engine, run))
    await control.cancel(engine.pools, DEFAULT_TENANT, run, actor="me")
    stages.append(await exported(engine, run))
    dead = await engine.submit(run_of(step("a"), step("b", "a")))
    (a,) = await hand.claim()
    await hand.fail(a, FailureClass.INVALID_INPUT)
    stages.append(await exported(engine, dead))
    await control.redrive(engine.pools, DEFAULT_TENANT, run_id=None, actor="me")
    stages.append(await exported(engine, dead))
    for stage in stages:
        answer = verify(stage, tmp_path)
        assert answer.code == 0, answer.err


def record(kind: str, nth: int = 0) -> Callable[[Lines], int]:
    """Return what finds the n-th line of a kind."""
    return lambda lines: [n for n, line in enumerate(lines) if orjson.loads(line)["record"] == kind][nth]


def edited(find: Callable[[Lines], int], **fields: object) -> Callable[[Lines], Lines]:
    """Return what changes fields of a line."""

    def change(lines: Lines) -> Lines:
        at = find(lines)
        lines[at] = orjson.dumps({**orjson.loads(lines[at]), **fields}) + b"\n"
        return lines

    return change


def deleted(find: Callable[[Lines], int]) -> Callable[[Lines], Lines]:
    """Return what takes a line away."""
    return lambda lines: [line for n, line in enumerate(lines) if n != find(lines)]


def exchanged(kind: str) -> Callable[[Lines], Lines]:
    """Return what exchanges the second and third line of a kind."""

    def change(lines: Lines) -> Lines:
        one, other = record(kind, 1)(lines), record(kind, 2)(lines)
        lines[one], lines[other] = lines[other], lines[one]
        return lines

    return change


TAMPERED = {
    "an event edited": (edited(record("event", 3), data='{"attempt":9}'), "event 4"),
    "an event's type edited": (edited(record("event", 1), type="step.failed"), "event 2"),
    "an event's time edited": (edited(record("event", 2), at="2020-01-01T00:00:00+00:00"), "event 3"),
    "an event's time made unreadable": (edited(record("event", 2), at="yesterday"), "event 3"),
    "an event moved to another step": (edited(record("event", 1), step_no=1), "event 2"),
    "an event's hash edited": (edited(record("event", 4), hash="00" * 32), "event 5"),
    "an event's detail edited": (edited(record("event", 0), detail='{"goal":"Forget it"}'), "event 1"),
    "an event deleted": (deleted(record("event", 2)), "event 3"),
    "the first event deleted": (deleted(record("event", 0)), "event 1"),
    "the last event deleted": (deleted(record("event", -1)), "ends at event"),
    "events exchanged": (exchanged("event"), "event 2"),
    "an event repeated": (lambda lines: [*lines[:5], lines[4], *lines[5:]], "event"),
    "the file truncated after a line": (lambda lines: lines[:-1], "last line"),
    "the file truncated in a line": (lambda lines: [*lines[:-3], lines[-3][:20]], "cannot be read"),
    "the end edited": (edited(record("end"), events=3), "last line"),
    "something after the end": (lambda lines: [*lines, lines[-2]], "out of place"),
    "the run's status edited": (edited(record("run"), status="failed"), "the run is failed"),
    "the run's head edited": (edited(record("run"), chain="00" * 32), "head"),
    "the run's head made unreadable": (edited(record("run"), chain="zz"), "altered"),
    "the run's id edited": (edited(record("run"), id="018f0000-0000-7000-8000-000000000000"), "event 1"),
    "a step's output edited": (edited(record("step", 0), output={"rows": 4}), "output"),
    "a step's status edited": (edited(record("step", 2), status="succeeded"), "status"),
    "a step's attempts edited": (edited(record("step", 0), failures=0), "failures"),
    "a step renamed": (edited(record("step", 1), name="z"), "graph"),
    "a step's condition edited": (edited(record("step", 1), edge_conditions={"0": "true"}), "graph"),
    "a step deleted": (deleted(record("step", 2)), ""),
    "steps exchanged": (exchanged("step"), ""),
    "a second run line": (lambda lines: [lines[0], *lines], "out of place"),
}


async def test_whatever_is_done_to_an_export_is_found(engine: Engine, tmp_path: Path) -> None:
    lines = await exported(engine, await a_run(engine))
    for what, (tamper, said) in TAMPERED.items():
        answer = verify(tamper(list(lines)), tmp_path)
        assert answer.code == 1, (what, answer)
        assert "broken at event" in answer.err, (what, answer.err)
        assert said in answer.err, (what, answer.err)
        assert "Traceback" not in answer.err, what


def forged(find: Callable[[Lines], int], **fields: object) -> Callable[[Lines], Lines]:
    """Return what changes fields of a line, and the digest of its request with it."""

    def change(lines: Lines) -> Lines:
        line = orjson.loads(lines[find(lines)])
        more = {"request_sha256": digest(dumps(fields["request"]))} if line["record"] == "effect" else {}
        return edited(find, **fields, **more)(lines)

    return change


def answered(nth: int, **told: object) -> Callable[[Lines], Lines]:
    """Return what changes the answer of a wait."""

    def change(lines: Lines) -> Lines:
        wait = orjson.loads(lines[record("wait", nth)(lines)])
        return edited(record("wait", nth), answer={**wait["answer"], **told})(lines)

    return change


def without(kind: str) -> Callable[[Lines], Lines]:
    """Return what takes all lines of a kind away."""
    return lambda lines: [line for line in lines if orjson.loads(line)["record"] != kind]


FORGED = {
    "a request": (edited(record("effect"), request={"amount": 5000}), "request"),
    "a request and its digest": (forged(record("effect"), request={"amount": 5000}), "request"),
    "a result": (edited(record("effect"), result={"charged": 0}), "result"),
    "a result's state": (edited(record("effect"), state="failed", result=None, error={"message": "declined"}), "events say done"),
    "an error": (edited(record("effect", 1), error={"message": "it is paid"}), "error"),
    "what was noted": (edited(record("effect", 2), result="midnight"), "result"),
    "a call's class": (edited(record("effect"), **{"class": "manual"}), "intent"),
    "a call's name": (edited(record("effect"), name="refund"), "intent"),
    "a call's approval": (edited(record("effect"), approval=None), "approval"),
    "how often it was sent": (edited(record("effect"), sends=9), "sent"),
    "one call left out": (deleted(record("effect")), "effect 1 of step 0 is missing"),
    "all calls left out": (without("effect"), "missing"),
    "a call made up": (edited(record("effect"), no=7), "no event tells of it"),
    "what was approved": (edited(record("wait"), request={"amount": 5000}), "not opened for this request"),
    "what was asked": (edited(record("wait", 1), name="which bank?"), "not opened for this request"),
    "who approved": (edited(record("wait"), answered_by="the CFO"), "answer"),
    "who the answer says approved": (answered(0, by="the CFO"), "answer"),
    "why": (answered(0, reason="it is not due"), "answered"),
    "the decision": (answered(0, decision="rejected"), "answer"),
    "the answer": (answered(1, value="account B"), "answered"),
    "an answer taken back": (edited(record("wait"), state="open", answer=None, answered_by=None), "events say answered"),
    "one wait left out": (deleted(record("wait", 1)), "missing"),
    "all waits left out": (without("wait"), "missing"),
    "whose event it is": (edited(record("event", -1), step="refund"), "is not of step 'refund'"),
    "the goal": (edited(record("run"), goal="Pay nothing"), "goal"),
    "how many steps": (edited(record("run"), steps_total=99), "99"),
}  # fmt: skip


async def test_whatever_is_forged_of_calls_and_answers_is_found(engine: Engine) -> None:
    lines = await exported(engine, await a_purchase(engine))
    verify_export(lines)
    for what, (forge, said) in FORGED.items():
        with pytest.raises(ChainBroken) as broken:
            verify_export(forge(list(lines)))
        assert said in str(broken.value), (what, broken.value)


@pytest.mark.parametrize("content", [b"", b"no json\n", b"{}\n", b"[1]\n", b'{"record": "event"}\n', b"\xff\xfe"])
def test_what_is_no_export_is_the_callers_mistake(content: bytes, tmp_path: Path) -> None:
    answer = verify([content], tmp_path)
    assert answer.code == 2, answer
    assert "Traceback" not in answer.err


def test_a_file_that_is_not_there_is_the_callers_mistake(tmp_path: Path) -> None:
    answer = command("runs", "verify", str(tmp_path / "missing.jsonl"))
    assert answer.code == 2
    assert "missing.jsonl cannot be read" in answer.err
