"""What is recorded of an agent of pydantic-ai's, and what may not be asked of it."""

from __future__ import annotations

import base64
import subprocess
import sys
from typing import Any

import pytest
from pydantic_ai import Agent, BinaryContent
from pydantic_ai.models.test import TestModel

from durable_agent.agents.pydantic_ai import idempotency_key, run_agent
from durable_agent.core.outcomes import Intended
from durable_agent.errors import FatalError
from durable_agent.flow.context import Context
from durable_agent.flow.steps import Step
from durable_agent.flow.tools import step
from durable_agent.testing import run_in_memory
from tests.support.losing import Hearing, Losing
from tests.support.pydantic_agents import EFFECTS, agent, told

pytestmark = pytest.mark.usefixtures("nothing_happened")


async def test_another_prompt_than_the_recorded_one_diverges() -> None:
    prompts = iter(["one", "two"])

    @step("drifts")
    async def drifts(ctx: Context) -> str:
        return (await run_agent(ctx, Agent(TestModel(call_tools=[])), next(prompts))).output

    run = await run_in_memory([Step("drifts")], [drifts], backend=Losing(2, "after"))
    assert run.status == "failed"
    assert run.steps[0].error is not None
    assert run.steps[0].error["failure"] == "diverged"


async def test_a_requests_record_is_what_was_said_since_the_last_answer_and_holds_no_secret_and_no_file() -> None:
    @step("says")
    async def says(ctx: Context) -> str:
        settings: Any = {"extra_headers": {"Authorization": "secret"}, "temperature": 0.5}
        prompt = ["Go.", BinaryContent(b"a picture", media_type="image/png")]
        return str((await run_agent(ctx, agent, prompt, effects=EFFECTS, model_settings=settings)).output)

    await run_in_memory([Step("says")], [says], backend=(engine := Hearing()), answers=told)
    intents = [one for one in engine.told if isinstance(one, Intended)]
    requests = [one.request.decode() for one in intents if one.name.startswith("model.")]
    assert len(requests) == 4
    assert all("timestamp" not in one and '"temperature":0.5' in one for one in requests)
    secrets = ("secret", base64.b64encode(b"a picture").decode())
    assert not [one for one in requests for secret in secrets if secret in one]
    assert ["Go." in one for one in requests] == [True, False, False, False]


def test_keys_are_for_tools_that_run_durably() -> None:
    with pytest.raises(FatalError):
        idempotency_key()


def test_what_is_not_installed_is_named() -> None:
    code = "import sys; sys.modules['pydantic_ai'] = None; import durable_agent.agents.pydantic_ai"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert 'pip install "durable-agent[llm]"' in done.stderr.splitlines()[-1]
