"""Graphs: what is sound is numbered, what is not is refused with the step named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_agent.core.graph import MAX_PROBLEMS, plan
from durable_agent.core.records import StepSpec
from durable_agent.errors import GraphInvalid, Problem
from tests.support.runs import step


def problems(*steps: StepSpec, max_steps: int = 100) -> list[Problem]:
    with pytest.raises(GraphInvalid) as refused:
        plan(steps, max_steps=max_steps)
    return list(refused.value.problems)


@pytest.mark.parametrize(
    ("steps", "code", "named", "words"),
    [
        ((), "empty", "", "at least one"),
        ((step("a"), step("a")), "duplicate_step", "a", "twice"),
        ((step("fetch"), step("b", "fetsh")), "unknown_dependency", "b", "did you mean 'fetch'"),
        ((step("a", "a"),), "self_dependency", "a", "itself"),
        ((step("a"), step("b", "a", "a")), "duplicate_dependency", "b", "twice"),
        ((step("a", "c"), step("b", "a"), step("c", "b")), "cycle", "a", "→"),
        ((step("a", when="input."),), "condition_invalid", "a", "does not compile"),
        ((step("a"), step("b", ("a", "nope > 1"))), "condition_invalid", "b", "undeclared"),
    ],
)
def test_each_defect_is_refused_with_its_step_named(
    steps: tuple[StepSpec, ...], code: str, named: str, words: str
) -> None:
    (problem,) = problems(*steps)
    assert (problem.code, problem.step) == (code, named)
    assert words in problem.message


def test_too_many_steps_are_refused_by_number() -> None:
    (problem,) = problems(*(step(f"s{n}") for n in range(11)), max_steps=10)
    assert (problem.code, problem.step) == ("too_many_steps", "s10")


def test_all_problems_are_told_at_once_up_to_a_limit() -> None:
    assert len(problems(step("a", "x", "y"), step("b", "z"))) == 3
    assert len(problems(*(step(f"s{n}", "missing") for n in range(90)))) == MAX_PROBLEMS


EDGES = st.integers(2, 25).flatmap(
    lambda size: st.tuples(
        st.just(size),
        st.sets(st.tuples(st.integers(0, size - 1), st.integers(0, size - 1)).filter(lambda e: e[0] < e[1])),
        st.randoms(use_true_random=False),
    )
)


@given(EDGES)
def test_every_acyclic_graph_is_planned_in_whatever_order_it_is_given(
    drawn: tuple[int, set[tuple[int, int]], object],
) -> None:
    size, edges, rng = drawn
    names = list(range(size))
    rng.shuffle(names)  # type: ignore[attr-defined]
    graph = plan([step(f"s{n}", *(f"s{a}" for a, b in edges if b == n)) for n in names], max_steps=100)
    found = {(int(graph.names[p][1:]), int(graph.names[c][1:])) for c, own in enumerate(graph.parents) for p in own}
    assert found == edges
    assert {(p, c) for p, own in enumerate(graph.children) for c in own} == {
        (p, c) for c, own in enumerate(graph.parents) for p in own
    }
    assert all(list(own) == sorted(own) for own in (*graph.parents, *graph.children))


@given(st.integers(2, 30), st.data())
def test_closing_a_path_to_a_circle_names_the_circle(length: int, data: object) -> None:
    back = data.draw(st.integers(0, length - 2))  # type: ignore[attr-defined]
    steps = [step("s0")] + [step(f"s{n}", f"s{n - 1}") for n in range(1, length)]
    steps[back] = step(f"s{back}", f"s{length - 1}", *([f"s{back - 1}"] if back else []))
    (problem,) = problems(*steps)
    assert problem.code == "cycle"
    named = problem.message.split(": ")[1].split(";")[0].split(" → ")
    assert named[0] == named[-1]
    assert set(named) == {f"s{n}" for n in range(back, length)}


def test_a_deep_chain_needs_no_deep_stack() -> None:
    assert len(plan([step("s0"), *(step(f"s{n}", f"s{n - 1}") for n in range(1, 10_000))], max_steps=10_000).roots) == 1


def test_the_digest_tells_graphs_apart() -> None:
    one = plan([step("a"), step("b", "a")], max_steps=9).digest()
    assert one == plan([step("a"), step("b", "a")], max_steps=9).digest()
    assert one != plan([step("a"), step("b")], max_steps=9).digest()
    assert one != plan([step("a"), step("b", ("a", "output"))], max_steps=9).digest()
