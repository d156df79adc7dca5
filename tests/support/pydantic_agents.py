"""An agent of pydantic-ai's that charges, writes a letter and is fussy, what it did, and models that fail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic_ai import Agent, ModelRetry
from pydantic_ai.exceptions import ModelHTTPError, ModelRateLimitError
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from durable_agent.agents.pydantic_ai import idempotency_key
from durable_agent.core.waits import Decision
from durable_agent.testing import FakeBackend, FakeWait

ASKED: list[Any] = []  # what models were asked
DONE: list[Any] = []  # what tools did


def forget() -> None:
    """Forget what happened in the test before."""
    ASKED.clear()
    DONE.clear()


def told(engine: FakeBackend, wait: FakeWait) -> None:
    """Answer as somebody who knows what was done: the letter, or nothing."""
    sent = ("letter", wait.asked.request["key"]) in DONE
    engine.answer(wait.id, Decision.HAPPENED if sent else Decision.RESEND, "sent" if sent else None)


def returned(messages: list[ModelMessage]) -> list[Any]:
    return [part.content for message in messages for part in message.parts if isinstance(part, ToolReturnPart)]


def brain(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Charge twice and write a letter at once, then be fussy, then tell."""
    ASKED.append(len(messages))
    match len(messages):
        case 1:
            calls = [("charge", {"amount": 1}), ("charge", {"amount": 2}), ("charge", {"amount": 2}), ("letter", {})]
        case 3:
            calls = [("fussy", {"n": 1})]
        case 5:
            calls = [("fussy", {"n": 2})]
        case _:
            return ModelResponse(parts=[TextPart(f"{returned(messages)}")])
    named = enumerate(calls, 10 * len(messages))
    return ModelResponse(parts=[ToolCallPart(name, given, tool_call_id=f"call {no}") for no, (name, given) in named])


agent = Agent(FunctionModel(brain), instructions="Be brief.")


@agent.tool_plain
def charge(amount: int) -> dict[str, int]:
    DONE.append(("charge", idempotency_key()))
    return {"charged": amount}


@agent.tool_plain
async def letter() -> str:
    DONE.append(("letter", idempotency_key()))
    return "sent"


@agent.tool_plain
def fussy(n: int) -> int:
    DONE.append(("fussy", n))
    if n == 1:
        raise ModelRetry("two at least")
    return n


EFFECTS: Any = {"charge": "idempotent", "fussy": "safe"}


SAID = "[{'charged': 1}, {'charged': 2}, {'charged': 2}, 'sent', 'two at least', 2]"


@dataclass
class Failing:
    """A model that fails in one way, then answers."""

    error: Exception
    asked: int = 0

    def __call__(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        self.asked += 1
        if self.asked == 1:
            raise self.error
        return ModelResponse(parts=[TextPart("late")])


LIMITED = ModelHTTPError.for_category(ModelRateLimitError, status_code=429, model_name="m", retry_after=7.0)


GONE = ModelHTTPError(404, "m")


def brain_second(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    return ModelResponse(parts=[TextPart("second")])
