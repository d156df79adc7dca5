"""The models of the protocol: each is searched whole, each witness is caught, and the search itself can fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.models import MODELS, Model, Search, check, check_all, load, missing, models

pytestmark = pytest.mark.skipif(
    bool(missing()), reason=f"not installed: {', '.join(missing())} (apt-get install spin tcc)"
)

# What must be there, so that nothing is lost in silence: models, and how many witnesses each has at least.
EXPECTED = {
    "approval": 9, "budget": 8, "effects": 9, "failover": 6, "lease": 13, "locks": 7, "schedules": 7, "timers": 7,
}  # fmt: skip

SMALL = """/* A counter.
 *
 * property  low      I1  it stays low
 * reach     can_one  it counts
 *
 * witness   HIGH     low  it counts on
 */
byte count;
#ifdef HIGH
#define TOP 3
#else
#define TOP 2
#endif
active proctype Counter() { do :: count < TOP -> count++ :: count == TOP -> break od }
ltl low     { [] (count <= 2) }
ltl can_one { [] (count < 1) }
"""


def model_of(place: Path, text: str) -> Model:
    path = place / "small.pml"
    path.write_text(text)
    return load(path)


def verdicts(found: list[Search]) -> dict[str, str]:
    return {one.claim: one.verdict for one in found}


def test_every_model_and_every_witness_is_there_and_says_what_it_is():
    found = {model.name: model for model in models()}
    assert set(found) == set(EXPECTED)
    witnesses = {name: [one for one in model.variants if not one.limit] for name, model in found.items()}
    assert {name: len(some) for name, some in witnesses.items() if len(some) < EXPECTED[name]} == {}
    assert [flaw for model in found.values() for flaw in model.flaws()] == []


def test_the_readme_names_every_model_and_what_breaks_it():
    told = (MODELS / "README.md").read_text()
    absent = [
        name
        for model in models()
        for name in (f"{model.name}.pml", *model.safety, *model.liveness, *(one.symbol for one in model.variants))
        if f"`{name}`" not in told
    ]
    assert absent == []


@pytest.mark.timeout(580)
def test_the_protocol_holds_in_every_state_and_every_witness_is_caught():
    chosen = models()
    found = check_all(chosen, jobs=2)
    assert [one for one in found if one.surprise] == []
    searched = {(one.model, one.variant) for one in found}
    assert searched == {(m.name, symbol) for m in chosen for symbol in ("correct", *(v.symbol for v in m.variants))}


def test_a_property_that_does_not_hold_is_named(tmp_path: Path):
    broken = model_of(tmp_path, SMALL.replace("#define TOP 2", "#define TOP 3"))
    assert verdicts(check(broken, None)) == {"low": "VIOLATED", "can_one": "possible"}


def test_a_witness_that_breaks_nothing_is_a_surprise(tmp_path: Path):
    tame = model_of(tmp_path, SMALL.replace("#define TOP 3", "#define TOP 1"))
    (found,) = check(tame, tame.variants[0])
    assert (found.verdict, found.surprise) == ("NOT CAUGHT", True)


def test_a_model_in_which_nothing_happens_is_a_surprise(tmp_path: Path):
    idle = model_of(tmp_path, SMALL.replace("#define TOP 2", "#define TOP 0"))
    assert verdicts(check(idle, None)) == {"low": "holds", "can_one": "NEVER HAPPENS"}


def test_a_search_that_met_its_bound_does_not_count(tmp_path: Path):
    found = verdicts(check(model_of(tmp_path, SMALL), None, depth=3))
    assert "not everything was searched" in found["low"]


def test_a_model_that_does_not_compile_is_a_surprise(tmp_path: Path):
    (found,) = check(model_of(tmp_path, SMALL.replace("count++", "count+++")), None)
    assert found.surprise


@pytest.mark.parametrize(
    ("change", "flaw"),
    [
        (("#ifdef HIGH", "#ifdef OTHER"), "HIGH changes nothing"),
        (("HIGH     low", "HIGH     can_one"), "breaks 'can_one', which is no property"),
        (("ltl low ", "ltl lower "), "no claim 'low'"),
        ((" * witness   HIGH     low  it counts on\n", ""), "no witness breaks 'low'"),
        ((" * reach     can_one  it counts\n", ""), "nothing is required to be possible"),
    ],
)
def test_a_head_that_does_not_fit_its_model_is_a_flaw(tmp_path: Path, change: tuple[str, str], flaw: str):
    flaws = model_of(tmp_path, SMALL.replace(*change)).flaws()
    assert any(flaw in one for one in flaws), flaws
