"""What ends a call of an MCP server before its result is there: a question to a person, and work that goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Literal, NoReturn

import anyio
import mcp_types as types
from mcp.client.extension import ClaimContext, ClientExtension, ResultClaim
from pydantic import ValidationError

from durable_agent.errors import FatalError

TASKS = "io.modelcontextprotocol/tasks"
POLL_S = 5.0
# Whatever the server asks for: a task that nobody asks for again is one that nobody hears of.
MAX_POLL_S = 3600.0


class InputRequired(Exception):
    """The server asks a person before it goes on: call again with the answer appended to `answers`.

    `schema` is the JSON Schema of the answer's content; with a `url` instead, the person answers there. `key` is the
    server's name for the question, `number` counts the questions of one call from 0.
    """

    def __init__(self, question: types.ElicitRequestParams, *, server: str, key: str, number: int) -> None:
        super().__init__(f"MCP server {server!r} asks: {question.message}")
        self.server, self.key, self.number = server, key, number
        self.message = question.message
        self.schema: Mapping[str, Any] | None = getattr(question, "requested_schema", None)
        self.url: str | None = getattr(question, "url", None)


class TaskPending(Exception):
    """The server works on and is to be asked again: `Sessions.poll` with this task's id, after `poll_after_s`."""

    def __init__(self, task_id: str, poll_after_s: float) -> None:
        super().__init__(f"task {task_id} is not done; ask again in {poll_after_s:g} s")
        self.task_id, self.poll_after_s = task_id, poll_after_s


class Questions:
    """What one call is asked, and the answers there are."""

    def __init__(self, server: str, answers: Sequence[Mapping[str, Any]] | Mapping[str, Mapping[str, Any]]) -> None:
        self.open: InputRequired | None = None
        self.scope = anyio.CancelScope()
        self.left = asyncio.Event()
        self._server = server
        self._answers = answers
        self._asked = 0

    def answered(self, key: str, request: types.InputRequest) -> types.InputResponse:
        """Return the answer. Raises InputRequired when there is none yet, FatalError for what no person is asked."""
        if not isinstance(request, types.ElicitRequest):
            raise FatalError(f"MCP server {self._server!r} asks for {request.method}, which is not offered here")
        return self.answer(key, request.params)

    def answer(self, key: str, question: types.ElicitRequestParams) -> types.ElicitResult:
        """Return the next answer, or that of the key. Raises InputRequired when there is none yet."""
        number, self._asked = self._asked, self._asked + 1
        try:
            found = self._answers[key] if isinstance(self._answers, Mapping) else self._answers[number]
        except LookupError:
            raise InputRequired(question, server=self._server, key=key, number=number) from None
        try:
            return types.ElicitResult.model_validate(found)
        except ValidationError as error:
            raise FatalError(f"answer {number} to MCP server {self._server!r} is none: {error}") from None


QUESTIONS: ContextVar[Questions | None] = ContextVar("questions", default=None)


class Created(types.Result):
    """What comes in place of a result when the server makes a task of the call."""

    result_type: Literal["task"] = "task"
    task_id: str
    poll_interval_ms: int | None = None


class State(types.Result):
    """A task as the server tells of it when it is asked."""

    task_id: str
    status: types.TaskStatus
    status_message: str | None = None
    poll_interval_ms: int | None = None
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    input_requests: types.InputRequests | None = None


class GetTask(types.GetTaskRequest):
    """Asks how a task stands."""

    name_param = "taskId"


class Answers(types.GetTaskRequestParams):
    """A person's answers to what a task asked, by the server's names for its questions."""

    input_responses: types.InputResponses


class UpdateTask(types.Request[Answers, Literal["tasks/update"]]):
    """Takes the answers to a task."""

    method: Literal["tasks/update"] = "tasks/update"
    params: Answers
    name_param = "taskId"


class Tasks(ClientExtension):
    """Says that a task may come in place of a result."""

    identifier = TASKS

    def claims(self) -> Sequence[ResultClaim[Any]]:
        return (ResultClaim(result_type="task", model=Created, resolve=self._never),)

    async def _never(self, created: Created, _: ClaimContext) -> NoReturn:
        raise pending(created)


def pending(task: Created | State) -> TaskPending:
    """Return what to raise for a task that is not done."""
    asked = POLL_S if (ms := task.poll_interval_ms) is None else min(max(100, ms), MAX_POLL_S * 1000) / 1000
    return TaskPending(task.task_id, asked)
