"""The backend between a worker and the verbs: a value that PostgreSQL refuses fails its own step alone."""

from __future__ import annotations

from durable_agent.core.outcomes import Succeeded, Verdict
from durable_agent.db.doorbell import Bell, Listener
from durable_agent.engine.backend import PostgresBackend
from durable_agent.telemetry import Counters
from tests.support.runs import Engine, ok, run_of, step


async def test_a_value_the_database_refuses_fails_its_step_and_no_other(engine: Engine) -> None:
    run = await engine.submit(run_of(step("good")))
    bad_run = await engine.submit(run_of(step("bad")))
    hand = engine.hand()
    claims = {claim.name: claim for claim in await hand.claim()}
    backend = PostgresBackend(
        engine.pools,
        hand.room.offer,
        Bell(engine.pools, enabled=False),
        Listener(engine.pools, [], enabled=False),
        Counters(),
    )
    outcomes = [ok(claims["good"], 1), Succeeded(claims["bad"].lease, b"{no json")]
    answer = await backend.exchange(outcomes, free=0, solo=True)
    assert answer.verdicts == (Verdict.OK, Verdict.OK)
    assert (await engine.run(run))["status"] == "completed"
    bad = (await engine.run(bad_run))["steps"]["bad"]
    assert (bad["status"], bad["error"]["failure"]) == ("dead_letter", "invalid_input")
    assert "cannot be stored" in bad["error"]["message"]
