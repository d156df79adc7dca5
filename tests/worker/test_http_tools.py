"""HTTP tools against a real server on loopback: the key is sent, and every way to fail has its class."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID

import orjson
import pytest

from durable_agent.core.outcomes import Failed, InDoubt, Outcome, Succeeded
from durable_agent.core.records import Claim, Lease, RunId, StepKind, Tenant, Token
from durable_agent.flow.http import http_tool, retry_after_s
from durable_agent.flow.registry import Registry
from durable_agent.worker.attempt import run_attempt
from tests.support.alone import Alone

Serve = Callable[[str], str]


class Server:
    """Answers every request with what it is told to, and keeps what it got."""

    def __init__(self) -> None:
        self.answer = b""
        self.got: list[str] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.got.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(self.answer)
        writer.close()

    def says(self, status: str, body: str = "", *headers: str) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
        self.answer = ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A server on a loopback port."""
    made = Server()
    listening = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = listening.sockets[0].getsockname()[1]
    yield made
    listening.close()


async def call(port: int, effect: Any = "idempotent") -> Outcome:
    made = http_tool("pay", f"http://127.0.0.1:{port}/pay", effect=effect, timeout_s=2.0)
    lease = Lease(Tenant(1), RunId(UUID(int=1)), 0, 1, Token(UUID(int=2)))
    claim = Claim(lease, "s", StepKind.TOOL_CALL, "pay", {"amount": 5}, None, None, {}, 1, 0, None, 60.0, "the-key")
    registry = Registry([made])
    return await run_attempt(claim, registry, Alone(registry), limit_bytes=262_144)


async def test_the_key_is_sent_and_the_json_comes_back(server: Server) -> None:
    server.says("200 OK", '{"paid":5}', "Content-Type: application/json")
    outcome = await call(server.port)
    assert isinstance(outcome, Succeeded)
    assert outcome.output == b'{"paid":5}'
    assert "idempotency-key: the-key" in server.got[0].lower()


@pytest.mark.parametrize(
    ("status", "headers", "failure", "after_s"),
    [
        ("429 Too Many", ("Retry-After: 7",), "rate_limited", 7.0),
        ("503 Unavailable", (), "rate_limited", None),
        ("404 Not Found", (), "invalid_input", None),
        ("500 Oops", (), "transient", None),
    ],
)
async def test_each_status_has_its_class(
    server: Server, status: str, headers: tuple[str, ...], failure: str, after_s: float | None
) -> None:
    server.says(status, "no", *headers)
    outcome = await call(server.port)
    assert isinstance(outcome, Failed)
    assert (outcome.failure.value, outcome.retry_after_s) == (failure, after_s)


@pytest.mark.parametrize("answer", ["500 Oops", None])
async def test_a_manual_call_whose_answer_tells_nothing_is_in_doubt(server: Server, answer: str | None) -> None:
    if answer:
        server.says(answer)
    outcome = await call(server.port, "manual")
    assert isinstance(outcome, InDoubt)
    assert outcome.key == "the-key"


async def test_a_manual_call_that_could_not_be_sent_is_tried_again(server: Server) -> None:
    outcome = await call(1, "manual")
    assert isinstance(outcome, Failed)
    assert outcome.failure.value == "transient"


@pytest.mark.parametrize(
    ("charset", "body", "said"),
    [("utf-7", "no: +2AA-", "no: \ufffd"), ("utf-7", "+2D3eAA-", "\U0001f600"), ("hex", "no", "no"), ("zlib", "no", "no"),
     ("utf-8", "a\x00b", "a\ufffdb")],
)  # fmt: skip
async def test_what_a_receiver_says_can_be_stored(server: Server, charset: str, body: str, said: str) -> None:
    server.says("400 Bad", body, f"Content-Type: text/plain; charset={charset}")
    outcome = await call(server.port)
    assert isinstance(outcome, Failed)
    assert outcome.failure.value == "invalid_input"
    assert outcome.message.endswith(f"HTTP 400: {said}")


@pytest.mark.parametrize(
    ("kind", "body", "output"),
    [
        ("text/plain; charset=utf-7", "+2AA-", "\ufffd"),
        ("application/json", r'{"a\ud800": ["\ud83d\ude00", "\ude00", 1]}', {"a\ufffd": ["\U0001f600", "\ufffd", 1]}),
    ],
)
async def test_what_a_receiver_returns_can_be_stored(server: Server, kind: str, body: str, output: Any) -> None:
    server.says("200 OK", body, f"Content-Type: {kind}")
    outcome = await call(server.port, "manual")
    assert isinstance(outcome, Succeeded)
    assert orjson.loads(outcome.output) == output


def test_retry_after_is_a_number_or_a_date() -> None:
    assert retry_after_s("3.5") == 3.5
    assert retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert retry_after_s("soon") is None
    assert retry_after_s(None) is None
    assert [retry_after_s(said) for said in ("1e999", "nan", "-3")] == [3600.0, 0.0, 0.0]
    assert retry_after_s("Fri, 31 Dec 9999 23:59:59 GMT") == 3600.0
