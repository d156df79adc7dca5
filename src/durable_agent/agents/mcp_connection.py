"""One open connection to an MCP server: what is known of the server, and the calls under way."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import anyio
import httpx2
import mcp_types as types
from mcp import Client, StdioServerParameters
from mcp.client.session import ClientRequestContext
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.client.subscriptions import ListenNotSupportedError, SubscriptionLost
from mcp.shared.exceptions import MCPError
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from pydantic import ValidationError

from durable_agent.agents.mcp_offer import MAX_TOOLS, Discovery, offered
from durable_agent.agents.mcp_pause import (
    QUESTIONS,
    Answers,
    Created,
    GetTask,
    InputRequired,
    Questions,
    State,
    Tasks,
    UpdateTask,
    pending,
)
from durable_agent.agents.mcp_result import Unusable
from durable_agent.agents.mcp_wire import KINDS, MAX_ANSWER_BYTES, Wire, watched
from durable_agent.egress import Egress
from durable_agent.errors import FatalError, RetryableError, StepError, UnknownOutcome

MAX_ROUNDS = 20


@dataclass(frozen=True, slots=True)
class Server:
    """A server as an operator registered it: reached at a `url` with a bearer token, or started as a `command`."""

    name: str
    url: str | None = None
    command: tuple[str, ...] = ()
    token: str | None = field(default=None, repr=False)
    env: Mapping[str, str] = field(default_factory=dict, repr=False)


class Connection:
    """One open connection: what is known of its server, and the calls under way on it."""

    def __init__(self, name: str, gone: Callable[[], object]) -> None:
        self.name = name
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.over = asyncio.Event()
        self.owner: asyncio.Task[None] | None = None
        self.offer: Discovery | None = None
        # Held by each call, where a question does not say which of them it belongs to.
        self.turn: AbstractAsyncContextManager[object] = nullcontext()
        self.why_unopened = f"MCP server {name!r}: the worker is closing"
        self._gone = gone
        self._client: Client
        self._timeout_s: float
        self._busy = 0
        self._retired = False
        self._idle: asyncio.TimerHandle | None = None
        self._looking = asyncio.Lock()
        self._looked_at = 0.0
        self._changes = 0
        self._asking: list[Questions] = []
        # Only what carries it was written by our own transport, not by the server.
        self._mark = secrets.token_hex(16)

    async def enter(self, stack: AsyncExitStack, server: Server, egress: Egress, timeout_s: float) -> None:
        """Return when connected; what is entered is on the stack. Raises what the library raises, in groups or not."""
        if server.url is not None:
            inner = await stack.enter_async_context(egress.client())
            sent = {"Accept-Encoding": "gzip"} | ({"Authorization": f"Bearer {server.token}"} if server.token else {})
            http = httpx2.AsyncClient(
                transport=Wire(inner, server.name, self._mark), headers=sent, trust_env=False,
                timeout=httpx2.Timeout(timeout_s, read=None),
            )  # fmt: skip
            await stack.enter_async_context(http)
            transport = streamable_http_client(server.url, http_client=http, max_sse_event_size=MAX_ANSWER_BYTES)
        else:
            program, *given = server.command
            transport = stdio_client(StdioServerParameters(command=program, args=given, env=dict(server.env)))
        client = Client(
            watched(transport, self._lost), read_timeout_seconds=timeout_s, elicitation_callback=self._elicited,
            message_handler=self._heard, extensions=[Tasks()], cache=None,
            client_info=types.Implementation(name="durable-agent", version=version("durable-agent")),
        )  # fmt: skip
        self._timeout_s = timeout_s
        self._client = await stack.enter_async_context(client)
        if server.url is None and not self._modern:
            self.turn = asyncio.Lock()

    @property
    def _modern(self) -> bool:
        return self._client.protocol_version not in HANDSHAKE_PROTOCOL_VERSIONS

    def take(self) -> None:
        """Count a user in: the connection is not closed under it."""
        self._busy += 1
        if self._idle is not None:
            self._idle.cancel()

    def release(self, idle_s: float) -> None:
        """Count a user out; without any, it is closed after so many seconds, or at once when it is retired."""
        self._busy -= 1
        if self._busy == 0 and not self.over.is_set():
            self._idle = asyncio.get_running_loop().call_later(0 if self._retired else idle_s, self.retire)

    def retire(self) -> None:
        """Let nobody begin anything on it; it ends with its last user."""
        if not self._retired:
            self._retired = True
            self._gone()
        if self._busy == 0:
            self.end()

    def end(self) -> None:
        """Close it now; calls under way end with an unknown outcome."""
        if not self._retired:
            self._retired = True
            self._gone()
        if self._idle is not None:
            self._idle.cancel()
        self.over.set()
        if not self.opened.done() and self.owner is not None:
            self.owner.cancel()

    def _lost(self) -> None:
        self.why_unopened = (
            f"MCP server {self.name!r} ended before it could be used: see what it wrote to standard error"
        )
        self.end()

    @contextmanager
    def _heard_out(self, *, calling: bool = False) -> Iterator[None]:
        """Begin nothing more on a connection where a server of old works on at a request that was given up: over HTTP the
        library keeps the request open, and over one pipe the server may still ask about a call, so that ends at once."""
        try:
            yield
        except (MCPError, asyncio.CancelledError, InputRequired) as error:
            given_up = not isinstance(error, MCPError) or error.code == types.REQUEST_TIMEOUT
            if given_up and calling and isinstance(self.turn, asyncio.Lock):
                self.end()
            elif given_up and not isinstance(error, InputRequired) and not self._modern:
                self.retire()
            raise

    def unopened(self, error: BaseException) -> Exception:
        """Return what a failure to open it comes to; nothing was called, so nothing is unknown."""
        match self._failure(error) if isinstance(error, MCPError) else error:
            case UnknownOutcome() as unknown:
                return RetryableError(str(unknown))
            case StepError() as known:
                return known
            case other:
                return FatalError(f"MCP server {self.name!r} cannot be used: {other}")

    async def listen(self) -> None:
        """Hear of changes, where the protocol has to be asked for them; losing that, the next call connects anew."""
        with suppress(ListenNotSupportedError, MCPError, TimeoutError):
            try:
                async with self._client.listen(tools_list_changed=True) as news:
                    async for _ in news:
                        self._changed()
                self.retire()
            except SubscriptionLost:
                self.retire()

    async def _heard(self, message: Any) -> None:
        if isinstance(message, types.ToolListChangedNotification):
            self._changed()

    def _changed(self) -> None:
        self._changes += 1
        self.offer = None

    async def look(self, recheck_s: float) -> Discovery:
        """Return what the server offers; asked again after a change it told of, and when the answer is too old.

        Raises RetryableError when it does not end in time, whoever asks; FatalError for a list that has no end.
        """
        try:
            async with asyncio.timeout(self._timeout_s) as cut, self._looking:
                if self.offer is not None and time.monotonic() - self._looked_at < recheck_s:
                    return self.offer
                changes, started = self._changes, time.monotonic()
                offer = offered(self.name, self._client, await self._listed())
                if changes == self._changes:
                    self.offer, self._looked_at = offer, started
                return offer
        except TimeoutError:
            if not cut.expired():
                raise
            raise RetryableError(
                f"MCP server {self.name!r} does not come to the end of its tools within {self._timeout_s:g} s"
            ) from None

    async def _listed(self) -> list[types.Tool]:
        """Return the tools on all pages of the server's list."""
        tools: list[types.Tool] = []
        cursors: set[str | None] = {None}
        cursor, size = None, 0
        while True:
            try:
                with self._heard_out():
                    page = await self._client.list_tools(cursor=cursor, cache_mode="bypass")
            except (MCPError, ValidationError) as error:
                raise self.unopened(error) from error
            tools += page.tools
            cursor, size = page.next_cursor, size + len(page.model_dump_json())
            if cursor is None or len(tools) > MAX_TOOLS:
                return tools
            if cursor in cursors:
                raise FatalError(
                    f"MCP server {self.name!r} lists its tools in a circle: a page leads back to one before"
                )
            cursors.add(cursor)
            # Each page is for a tool at least, and all of them together for what one answer may weigh.
            if len(cursors) > MAX_TOOLS or size > MAX_ANSWER_BYTES:
                raise FatalError(
                    f"MCP server {self.name!r} lists its tools without end: {len(cursors) - 1} pages of {size} bytes, "
                    f"{len(tools)} tools, and more to come"
                )

    async def call(
        self, tool: str, arguments: Any, meta: types.RequestParamsMeta, timeout_s: float, answers: Sequence[Mapping[str, Any]]
    ) -> types.CallToolResult:  # fmt: skip
        """Return the tool's result; see `Sessions.call`."""
        questions = Questions(self.name, answers)
        self._asking.append(questions)
        token = QUESTIONS.set(questions)
        try:
            with self._heard_out(calling=True):
                result = await self._rounds(questions, tool, arguments, meta, timeout_s)
        except MCPError as error:
            raise self._failure(error) from error
        except ValidationError as error:
            raise UnknownOutcome(f"MCP server {self.name!r} answered what is no result of a call: {error}") from error
        except RuntimeError as error:  # the library's: the result does not fit the schema the server gave for it
            raise Unusable(f"MCP server {self.name!r} did it, but its result cannot be used: {error}") from error
        finally:
            QUESTIONS.reset(token)
            self._asking.remove(questions)
            questions.left.set()
        match result:
            case types.CallToolResult():
                return result
            case Created():
                raise pending(result)
            case _:
                raise FatalError(f"MCP server {self.name!r} asks for more than {MAX_ROUNDS} rounds")

    async def _rounds(
        self, questions: Questions, tool: str, arguments: Any, meta: types.RequestParamsMeta, timeout_s: float
    ) -> types.Result | None:
        responses: types.InputResponses | None = None
        state: str | None = None
        for number in range(MAX_ROUNDS):
            result: types.Result | None = None
            with anyio.CancelScope() as questions.scope:
                result = await self._client.session.call_tool(
                    tool, arguments, timeout_s, input_responses=responses, request_state=state, meta=meta,
                    allow_input_required=True, allow_claimed=True,
                )  # fmt: skip
            if questions.open is not None:
                raise questions.open
            if not isinstance(result, types.InputRequiredResult):
                return result
            asked = result.input_requests or {}
            responses = {key: questions.answered(key, request) for key, request in asked.items()} or None
            state = result.request_state
            if responses is None:
                await anyio.sleep(min(0.05 * 2.0**number, 1.0))
        return None

    async def poll(
        self, task_id: str, timeout_s: float, answers: Mapping[str, Mapping[str, Any]]
    ) -> types.CallToolResult:
        """Return a task's result; see `Sessions.poll`."""
        if not self._modern:
            spoken = self._client.protocol_version
            raise FatalError(f"MCP server {self.name!r} speaks {spoken}, whose tasks are not supported")
        session, given = self._client.session, types.GetTaskRequestParams(task_id=task_id)
        try:
            task = await session.send_request(GetTask(params=given), State, timeout_s)
            if task.input_requests:
                questions = Questions(self.name, answers)
                found = {key: questions.answered(key, request) for key, request in task.input_requests.items()}
                update = UpdateTask(params=Answers(task_id=task_id, input_responses=found))
                await session.send_request(update, types.EmptyResult, timeout_s)
        except MCPError as error:
            raise self._failure(error) from error
        except ValidationError as error:
            raise FatalError(f"MCP server {self.name!r} answered what is no task: {error}") from error
        if task.status == "completed":
            return self._result_of(task)
        if task.status in ("failed", "cancelled"):
            why = (task.error or {}).get("message") or task.status_message or "no reason given"
            raise FatalError(f"MCP server {self.name!r}: task {task_id} {task.status}: {why}")
        raise pending(task)

    def _result_of(self, task: State) -> types.CallToolResult:
        try:
            return types.CallToolResult.model_validate(task.result)
        except ValidationError as error:
            raise Unusable(f"MCP server {self.name!r} did it, but its result is none: {error}") from error

    async def _elicited(
        self, context: ClientRequestContext, params: types.ElicitRequestParams
    ) -> types.ElicitResult | types.ErrorData:
        """Answer a question that comes in the middle of a call, or end that call with the question."""
        questions = QUESTIONS.get() or (self._asking[0] if len(self._asking) == 1 else None)
        if questions is None:
            return types.ErrorData(code=types.INVALID_REQUEST, message="this question belongs to no call")
        try:
            return questions.answer("", params)
        except InputRequired as unanswered:
            questions.open = unanswered
            questions.scope.cancel()
            await questions.left.wait()  # the server hears that the call is off before it hears of no answer
            return types.ErrorData(code=types.INVALID_REQUEST, message="a person is asked; the call will be made again")

    def _failure(self, error: MCPError) -> Exception:
        """Return what a refused request comes to."""
        said, told = f"MCP server {self.name!r}: {error.message[:2000]}", error.data
        if isinstance(told, dict) and told.get("mark") == self._mark:
            return KINDS[told["kind"]](error.message, retry_after_s=told["retry_after_s"])
        match error.code:
            case types.URL_ELICITATION_REQUIRED:
                with suppress(ValidationError):
                    asked = types.ElicitationRequiredErrorData.model_validate(told).elicitations[0]
                    return InputRequired(asked, server=self.name, key="", number=0)
                return FatalError(said)
            case types.HEADER_MISMATCH:
                self._changed()
                return RetryableError(said)
            case types.CONNECTION_CLOSED if error.message.startswith("SSE stream failed"):
                return Unusable(f"{said}: its answer cannot be read")
            case types.CONNECTION_CLOSED | types.REQUEST_TIMEOUT | types.INTERNAL_ERROR | types.PARSE_ERROR:
                return UnknownOutcome(said)
            case _:
                return FatalError(said)
