"""What a begun call allows, and the keys that calls show."""

from __future__ import annotations

import pytest

from durable_agent.core.effects import Recovery, effect_key, recovery
from durable_agent.core.records import EffectClass, EffectState

BEGUN = [EffectState.INTENT, EffectState.UNKNOWN]
ALLOWED = {
    EffectClass.SAFE: Recovery.SEND, EffectClass.IDEMPOTENT: Recovery.SEND, EffectClass.VERIFY: Recovery.VERIFY,
    EffectClass.MANUAL: Recovery.ASK,
}  # fmt: skip


@pytest.mark.parametrize("effect", EffectClass)
@pytest.mark.parametrize("state", [*BEGUN, EffectState.FAILED, EffectState.RESEND])
def test_what_a_begun_effect_without_a_result_allows(effect: EffectClass, state: EffectState) -> None:
    assert recovery(effect, state) is (ALLOWED[effect] if state in BEGUN else Recovery.SEND)


def test_two_equal_calls_of_a_step_have_two_keys() -> None:
    keys = {effect_key(step, no, sha) for step in ("a", "b") for no in (1, 2) for sha in ("x", "y")}
    assert len(keys) == 8
    assert effect_key("a", 1, "x") == effect_key("a", 1, "x")
