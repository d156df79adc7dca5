"""A conversation that nears its model's window: the task stays, what suffices is done first, a summary is one text."""

from __future__ import annotations

import re
from typing import Any

import pytest

from durable_agent.agents.compaction import KEPT_MESSAGES, shortened
from durable_agent.agents.offline import ScriptedModel
from durable_agent.core.records import StepKind
from durable_agent.flow.llm import Conversation
from durable_agent.flow.model import Message, Reply, Request, ToolCall, ToolSpec, Usage
from durable_agent.flow.steps import Step
from durable_agent.flow.tools import tool
from durable_agent.testing import run_in_memory
from tests.support.losing import Losing

TASK = "Find the harbour of the Marie Celeste."
WINDOW = 4000


@tool("large", effect="safe")
async def large(size: int) -> str:
    """Return much."""
    return "x" * size


def tokens(messages: Any) -> int:
    """Count as a provider does: four characters are a token."""
    return sum(len(str(one.get("text", ""))) + len(str(one.get("content", ""))) for one in messages) // 4


class Small(ScriptedModel):
    """A model of a small window that works for some rounds; each says and looks up so much."""

    window_tokens = WINDOW

    def __init__(self, rounds: int, *, says: int = 0, size: int = 10, summary: str = "much") -> None:
        super().__init__([])
        self.rounds, self.says, self.size, self.summary = rounds, says, size, summary
        self.asked: list[Request] = []
        self.sums: list[Request] = []

    def _answer(self, request: Request) -> Reply:
        assert tokens(request.messages) <= WINDOW, "it was asked more than it takes"
        used = Usage(max(1, tokens(request.messages)), 10)
        if request.messages[0]["text"].startswith("Sum up"):
            self.sums.append(request)
            return Reply(self.summary, usage=used)
        self.asked.append(request)
        number = len(self.asked)
        if number > self.rounds:
            return Reply("finished", usage=used)
        return Reply(
            f"{number} " + "y" * self.says, (ToolCall(f"c{number}", "large", {"size": self.size}),), usage=used
        )


async def work(model: Small, backend: Any = None, **given: Any) -> Any:
    agent = {"name": "a", "model": "m", "tools": ["large"], "max_tokens": 400, "max_steps": 99}
    step = Step("agent", "agent", {"agent": agent, "input": TASK, **given}, StepKind.AGENT)
    run = await run_in_memory([step], [large], models={"m": model}, backend=backend)
    assert run.status == "completed", run.step("agent").error
    return run


def texts(messages: Any) -> list[str]:
    return [str(one.get("text", "")) for one in messages]


async def test_the_task_is_never_summed_up_however_often_the_conversation_is() -> None:
    model = Small(60, says=1500)
    await work(model)
    assert len(model.sums) > 2
    assert all(TASK in texts(request.messages) for request in model.asked)
    assert all(TASK in request.messages[0]["text"] for request in model.sums)


async def test_a_summary_knows_of_the_one_before() -> None:
    model = Small(30, says=1500, summary="The ship lies in Bergen.")
    await work(model)
    assert len(model.sums) > 1
    assert "The ship lies in Bergen." not in model.sums[0].messages[0]["text"]
    assert all("The ship lies in Bergen." in request.messages[0]["text"] for request in model.sums[1:])
    # It stands before the task, which is what a user asked last.
    said = [one for one in model.asked[-1].messages if one["role"] == "user"]
    assert [one["text"].split(":")[0] for one in said] == ["Summary of the work so far", TASK]


async def test_a_summary_is_asked_as_one_text_which_every_provider_takes_without_tools() -> None:
    model = Small(20, says=1500)
    await work(model)
    for request in model.sums:
        assert [(one["role"], one.get("calls")) for one in request.messages] == [("user", None)]
        assert request.tools == ()
    assert '[calls large with {"size":10}]' in model.sums[0].messages[0]["text"]
    assert "large returned: xxxxxxxxxx" in model.sums[0].messages[0]["text"]


async def test_nothing_is_summed_up_where_shorter_results_are_enough() -> None:
    model = Small(12, size=1000)
    await work(model)
    assert model.sums == []
    assert any("recall_result" in str(one.get("content")) for one in model.asked[-1].messages)


async def test_the_task_of_a_follow_up_is_the_one_that_stays() -> None:
    history = [{"role": "user", "text": "Who was her master?"}, {"role": "assistant", "text": "Briggs. " + "z" * 2000}]
    model = Small(20, says=1500)
    await work(model, history=history)
    assert all(TASK in texts(request.messages) for request in model.asked)
    assert "Who was her master?" not in texts(model.asked[-1].messages)
    assert "Asked: Who was her master?" in model.sums[0].messages[0]["text"]


@pytest.mark.parametrize("commit", [20, 30, 40])
async def test_a_resumed_step_makes_its_conversation_smaller_the_same_way(commit: int) -> None:
    once, again = Small(20, says=1500), Small(20, says=1500)
    whole, resumed = await work(once), await work(again, backend=Losing(commit, "after"))
    assert resumed.step("agent").claim_no == 2
    assert resumed.step("agent").output == whole.step("agent").output
    assert len(again.sums) - len(once.sums) + len(again.asked) - len(once.asked) <= 1  # what was recorded is not asked


def exchange(number: int, size: int) -> list[Message]:
    call = {"id": f"c{number}", "name": "large", "arguments": {}}
    return [
        {"role": "assistant", "text": "", "calls": [call]},
        {"role": "tool", "id": f"c{number}", "name": "large", "content": "x" * size},
    ]


def test_results_before_the_last_exchanges_are_cut_and_say_how_to_read_on() -> None:
    messages = [{"role": "user", "text": TASK}, *(one for number in range(5) for one in exchange(number, 5000))]
    found = shortened(messages)
    assert found[-KEPT_MESSAGES:] == messages[-KEPT_MESSAGES:]
    cut = [one for one in found if "recall_result" in str(one.get("content"))]
    assert [one["id"] for one in cut] == ["c0", "c1"]
    assert re.search(r"\[5000 characters; recall_result\(id='c0', offset=0\)", cut[0]["content"])
    assert shortened(found) == found


@pytest.mark.parametrize("raw", [None, {"provider": "m", "response": "signature" * 200}])
def test_a_message_is_bounded_with_all_of_it_that_is_sent(raw: Any) -> None:
    said = Conversation([{"role": "assistant", "text": "yes", **({"raw": raw} if raw else {})}])
    assert said.bound_tokens(()) >= (1800 if raw else 0)
    assert said.bound_tokens([ToolSpec("t", "z" * 5000, {})]) > 5000


def test_what_was_said_before_is_told_by_a_digest_of_all_of_it() -> None:
    def said(*texts: str) -> Conversation:
        made = Conversation()
        for text in texts:
            made.messages.append({"role": "user", "text": text})
            made.answered(Reply("yes", usage=Usage(10, 1)))
        return made

    digests = [said(*texts).before for texts in (("a",), ("b",), ("a", "b"), ("b", "b"), ("a", "b"))]
    assert digests[2] == digests[4]
    assert len(set(digests)) == 4
    made = said("a", "b")
    made.rewrite(made.messages[:1])
    assert (made.before, made.tokens, len(made.new())) == (None, 0, 1)
