"""Retry, conditions, turns: the small rules."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_agent.core import retry
from durable_agent.core.conditions import ConditionError, check, holds, refuse_large
from durable_agent.core.records import FailureClass, RetryPolicy, StepKind, Tenant, Turn
from durable_agent.core.turns import claim_order, priority_rank, share
from durable_agent.errors import ConditionInvalid

POLICIES = st.builds(
    RetryPolicy, st.integers(1, 50), st.floats(0, 100), st.floats(1, 10), st.floats(0, 60), st.just(frozenset())
)
JITTER = st.floats(0, 1, exclude_max=True)


@given(POLICIES, st.integers(1, 60), JITTER)
def test_the_delay_is_within_the_cap_and_attempts_are_bounded(
    policy: RetryPolicy, failures: int, jitter: float
) -> None:
    decision = retry.decide(
        policy, failures=failures, failure=FailureClass.TRANSIENT, retry_after_s=None, jitter=jitter
    )
    if failures >= policy.max_attempts:
        assert decision == retry.GiveUp("attempts_exhausted")
    else:
        assert isinstance(decision, retry.RetryAt)
        assert 0 <= decision.delay_s <= min(policy.cap_s, policy.base_s * policy.factor ** (failures - 1))


def test_the_delay_doubles_up_to_sixty_seconds() -> None:
    def longest(failures: int) -> float:
        decision = retry.decide(
            RetryPolicy(max_attempts=99), failures=failures, failure=FailureClass.BUG, retry_after_s=None, jitter=1.0
        )
        assert isinstance(decision, retry.RetryAt)
        return decision.delay_s

    assert [longest(n) for n in range(1, 9)] == [1, 2, 4, 8, 16, 32, 60, 60]


@given(st.floats(0, 1e9), JITTER)
def test_retry_after_wins_over_the_back_off(asked_s: float, jitter: float) -> None:
    decision = retry.decide(
        RetryPolicy(), failures=1, failure=FailureClass.RATE_LIMITED, retry_after_s=asked_s, jitter=jitter
    )
    assert isinstance(decision, retry.RetryAt)
    assert min(asked_s, 3600.0) <= decision.delay_s <= 3600.0 * 1.1


@pytest.mark.parametrize("failure", sorted(retry.NEVER_RETRIED))
def test_some_failures_are_never_retried(failure: FailureClass) -> None:
    decision = retry.decide(RetryPolicy(), failures=1, failure=failure, retry_after_s=1.0, jitter=0.5)
    assert decision == retry.GiveUp("non_retryable")


def test_a_policy_may_name_more_that_is_not_retried() -> None:
    policy = RetryPolicy(non_retryable=frozenset({FailureClass.BUG}))
    assert retry.decide(policy, failures=1, failure=FailureClass.BUG, retry_after_s=None, jitter=0) == retry.GiveUp(
        "non_retryable"
    )


def test_the_third_lost_lease_seals() -> None:
    assert [type(retry.crash(n, 3)).__name__ for n in (1, 2, 3)] == ["Requeue", "Requeue", "Seal"]


def test_every_kind_has_a_policy() -> None:
    assert all(retry.default_policy(kind).max_attempts >= 1 for kind in StepKind)


@pytest.mark.parametrize(
    ("expression", "values", "answer"),
    [
        ("output.score > 3", {"output": {"score": 4}}, True),
        ("has(output.score)", {"output": {}}, False),
        (
            "outputs['a'].x == input.y",
            {"outputs": {"a": {"x": [1, {"q": None}]}}, "input": {"y": [1, {"q": None}]}},
            True,
        ),
        ("output", {"output": False}, False),
        ("size(output) == 2 && output[0] == 'a'", {"output": ["a", "b"]}, True),
    ],
)
def test_conditions_are_decided(expression: str, values: dict[str, Any], answer: bool) -> None:
    assert holds(expression, **values) is answer


@pytest.mark.parametrize(
    ("expression", "output", "words"),
    [
        ("output.score > 3", {}, "not found"),
        ("output.score", {"score": 1}, "not true or false"),
        ("output > 3", "text", "No matching overload"),
        ("output == 1", 2**70, "out of range"),
        ("output.all(a, output.all(b, output.all(c, a + b + c >= 0)))", list(range(400)), "budget"),
    ],
)
def test_what_cannot_be_decided_is_an_error_and_never_false(expression: str, output: Any, words: str) -> None:
    with pytest.raises(ConditionError, match=words):
        holds(expression, output=output)


@pytest.mark.parametrize("given", [{"k": "admin\x00not"}, {"k": ["admin", {"x": "a\x00"}]}, {"a\x00": 1, "k": "admin"}])
def test_a_condition_is_not_decided_on_a_text_that_would_be_cut_off(given: dict[str, object]) -> None:
    with pytest.raises(ConditionError, match="NUL"):
        holds("input.k == 'admin'", input=given)


LARGE = {"$artifact": "0" * 64, "bytes": 300_000}


@pytest.mark.parametrize(
    "expression",
    [
        "outputs.a.ok", "outputs . a", 'outputs["a"]', "outputs[ 'a' ].ok", "has(outputs.a.ok)", "outputs[r'a'] == 1",
        "outputs.all(k, outputs[k] != null)", "outputs == input", "1 in outputs.a", 'outputs["b" + ""] == 1',
        "1 in outputs // c\n .a", "outputs.?a.orValue(1) == 1", "outputs.b && outputs.a.ok", "outputs.`a` == 1",
    ],
)  # fmt: skip
def test_a_condition_that_may_look_into_what_is_too_large_is_refused(expression: str) -> None:
    with pytest.raises(ConditionError, match="step 'a' has 300000 bytes"):
        refuse_large(expression, "outputs", {"b": 1, "a": LARGE})


@pytest.mark.parametrize(
    "expression", ["outputs.b == 1", "has(outputs.a)", "'a' in outputs && outputs.b > 0", "input.outputs_a", "true"]
)
def test_a_condition_that_looks_elsewhere_is_decided(expression: str) -> None:
    refuse_large(expression, "outputs", {"b": 1, "a": LARGE})


def test_a_condition_of_an_edge_from_what_is_too_large_may_look_at_the_runs_input() -> None:
    refuse_large("input.output_size > 3", "output", {"a": LARGE})
    with pytest.raises(ConditionError, match="policy step"):
        refuse_large("has(output.ok)", "output", {"a": LARGE})


@pytest.mark.parametrize("expression", ["", "output.", "nope > 1", "1 +", "output > 1" + " " * 2000])
def test_what_does_not_compile_is_refused(expression: str) -> None:
    with pytest.raises(ConditionInvalid):
        check(expression, ("output", "input"))


TURNS = st.lists(
    st.builds(Turn, st.integers(1, 5).map(Tenant), st.integers(1, 9), st.integers(-3, 3).map(lambda p: claim_order(p, 7))),
    unique_by=lambda turn: (turn.tenant, turn.route), max_size=20,
).map(lambda turns: sorted(turns, key=lambda turn: (turn.tenant, turn.route)))  # fmt: skip


@given(TURNS, st.integers(0, 40), st.integers(0, 100))
def test_shares_fill_the_slots_and_starve_no_tenant(turns: list[Turn], slots: int, after: int) -> None:
    shares = share(turns, slots, after=after)
    limits = {tenant: sum(s.limit for s in own) for tenant, own in shares.items()}
    tenants = {turn.tenant for turn in turns}
    assert sum(limits.values()) == (slots if turns else 0)
    if slots >= len(tenants):
        assert set(limits) == tenants
        assert not limits or max(limits.values()) - min(limits.values()) <= 1


@given(TURNS.filter(bool), st.integers(1, 3))
def test_the_rotation_serves_every_tenant_in_due_course(turns: list[Turn], slots: int) -> None:
    tenants = {turn.tenant for turn in turns}
    served = {tenant for after in range(len(tenants)) for tenant in share(turns, slots, after=after)}
    assert served == tenants


@given(TURNS.filter(bool), st.integers(1, 40))
def test_within_a_tenant_the_most_urgent_goes_first(turns: list[Turn], slots: int) -> None:
    for tenant, own in share(turns, slots).items():
        urgent = min(priority_rank(turn.ord) for turn in turns if turn.tenant == tenant)
        assert all(priority_rank(s.ord) == urgent for s in own)


@given(st.integers(-1000, 1000), st.integers(-1000, 1000), st.integers(0, 2**51), st.integers(0, 2**51))
def test_the_claim_order_is_priority_then_age(p: int, q: int, a: int, b: int) -> None:
    assert (claim_order(p, a) < claim_order(q, b)) == ((-p, a) < (-q, b))
    assert claim_order(p, a) < 2**63
