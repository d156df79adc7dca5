"""The wire formats of the four providers: how each asks, answers, streams and fails."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from durable_agent.flow.model import Usage

JSON = "application/json"


USED = Usage(11, 7)


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call; `arguments` are written as they stand when they are a text."""

    name: str
    arguments: Any = field(default_factory=dict)
    id: str = "call_1"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model says.

    `cut`: the connection is cut after so many events; `stops`: the answer is ended properly after so many, its own end
    unsaid; `endless`: the last event never comes.
    """

    text: str = ""
    calls: Sequence[Call] = ()
    usage: Usage = USED
    finish: str = "stop"
    thought: str = ""
    cut: int | None = None
    stops: int | None = None
    endless: bool = False


@dataclass(frozen=True, slots=True)
class Failure:
    """A refusal in the provider's own form."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "it does not work"


@dataclass(slots=True)
class Seen:
    """A request that came; `gone` is set when its client hung up before the answer's end."""

    path: str
    headers: dict[str, str]
    body: Any
    at: float
    gone: asyncio.Event = field(default_factory=asyncio.Event)


class Dialect:
    """A provider's form of requests and answers."""

    media = "text/event-stream"

    def streams(self, seen: Seen) -> bool:
        """Whether an answer in pieces is asked for."""
        return bool(seen.body.get("stream"))

    def whole(self, answer: Answer, seen: Seen) -> Any:
        """Return the answer in one piece."""
        raise NotImplementedError

    def events(self, answer: Answer, seen: Seen) -> Iterator[bytes]:
        """Yield the answer's pieces as they go over the wire."""
        raise NotImplementedError

    def failure(self, failure: Failure) -> tuple[Any, dict[str, str]]:
        """Return a failure's body and headers."""
        raise NotImplementedError

    def default(self, body: Any) -> Answer:
        """Return what is said without a script: a call of the first tool, or what was asked last."""
        text = json.dumps(body.get("messages") or body.get("contents"))
        tools = re.findall(r'"name": "([\w-]+)"', json.dumps(body.get("tools") or body.get("toolConfig") or []))
        called = re.search(r'"(tool_calls|tool_use|functionCall|toolUse)"', text)
        said = re.findall(r'"(?:content|text)": "((?:[^"\\]|\\.)*)"', text)
        usage = Usage(max(1, len(text) // 4), 12)
        return Answer(calls=[Call(tools[0])], usage=usage) if tools and not called else Answer(
            f"You said: {said[-1] if said else ''}", usage=usage
        )  # fmt: skip


class OpenAI(Dialect):
    """POST /v1/chat/completions"""

    FINISH: ClassVar = {"stop": "stop", "length": "length", "refused": "content_filter"}

    def whole(self, answer: Answer, seen: Seen) -> Any:
        calls = [self._call(call) for call in answer.calls]
        message = {"role": "assistant", "content": answer.text or None, **({"tool_calls": calls} if calls else {})}
        choice = {"index": 0, "message": message, "finish_reason": self._finish(answer)}
        return {**self._frame(seen, "chat.completion"), "choices": [choice], "usage": self._usage(answer.usage)}

    def events(self, answer: Answer, seen: Seen) -> Iterator[bytes]:
        frame = self._frame(seen, "chat.completion.chunk")

        def chunk(delta: Any, finish: str | None = None) -> bytes:
            return _sse({**frame, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

        yield chunk({"role": "assistant", "content": ""})
        for word in _words(answer.text):
            yield chunk({"content": word})
        for index, call in enumerate(answer.calls):
            first, *rest = _halves(_text(call.arguments))
            yield chunk({"tool_calls": [{"index": index, **self._call(call, first)}]})
            for piece in rest:
                yield chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
        yield chunk({}, self._finish(answer))
        if (seen.body.get("stream_options") or {}).get("include_usage"):
            yield _sse({**frame, "choices": [], "usage": self._usage(answer.usage)})
        yield b"data: [DONE]\n\n"

    def failure(self, failure: Failure) -> tuple[Any, dict[str, str]]:
        return {"error": {"message": failure.message, "type": "error", "code": None, "param": None}}, {}

    def _frame(self, seen: Seen, kind: str) -> dict[str, Any]:
        return {"id": "chat-1", "object": kind, "created": 1, "model": seen.body["model"]}

    def _call(self, call: Call, arguments: str | None = None) -> dict[str, Any]:
        written = _text(call.arguments) if arguments is None else arguments
        return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": written}}

    def _finish(self, answer: Answer) -> str:
        return "tool_calls" if answer.calls and answer.finish == "stop" else self.FINISH[answer.finish]

    def _usage(self, usage: Usage) -> Any:
        details = {"cached_tokens": usage.cache_read_tokens}
        return {"prompt_tokens": usage.input_tokens, "completion_tokens": usage.output_tokens,
                "total_tokens": usage.tokens, "prompt_tokens_details": details}  # fmt: skip


class Anthropic(Dialect):
    """POST /v1/messages"""

    FINISH: ClassVar = {"stop": "end_turn", "length": "max_tokens", "refused": "refusal"}

    def whole(self, answer: Answer, seen: Seen) -> Any:
        content = [block for block, _ in self._blocks(answer, filled=True)]
        return {**self._message(seen), "content": content, "stop_reason": self._finish(answer),
                "usage": self._usage(answer.usage)}  # fmt: skip

    def events(self, answer: Answer, seen: Seen) -> Iterator[bytes]:
        usage = {**self._usage(answer.usage), "output_tokens": 1}
        yield self._event("message_start", message={**self._message(seen), "content": [], "usage": usage})
        for index, (block, deltas) in enumerate(self._blocks(answer, filled=False)):
            yield self._event("content_block_start", index=index, content_block=block)
            for delta in deltas:
                yield self._event("content_block_delta", index=index, delta=delta)
            yield self._event("content_block_stop", index=index)
        delta = {"stop_reason": self._finish(answer), "stop_sequence": None}
        yield self._event("message_delta", delta=delta, usage={"output_tokens": answer.usage.output_tokens})
        yield self._event("message_stop")

    def failure(self, failure: Failure) -> tuple[Any, dict[str, str]]:
        kind = {429: "rate_limit_error", 529: "overloaded_error", 401: "authentication_error"}
        return {
            "type": "error",
            "error": {"type": kind.get(failure.status, "api_error"), "message": failure.message},
        }, {}

    def _blocks(self, answer: Answer, *, filled: bool) -> Iterator[tuple[Any, list[Any]]]:
        if answer.thought:
            block = {"type": "thinking", "thinking": "", "signature": ""}
            deltas = [{"type": "thinking_delta", "thinking": answer.thought},
                      {"type": "signature_delta", "signature": "signed"}]  # fmt: skip
            yield ({**block, "thinking": answer.thought, "signature": "signed"} if filled else block), deltas
        if answer.text:
            deltas = [{"type": "text_delta", "text": word} for word in _words(answer.text)]
            yield {"type": "text", "text": answer.text if filled else ""}, deltas
        for call in answer.calls:
            block = {"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments if filled else {}}
            pieces = _halves(_text(call.arguments))
            yield block, [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]

    def _event(self, kind: str, **more: Any) -> bytes:
        return f"event: {kind}\n".encode() + _sse({"type": kind, **more})

    def _message(self, seen: Seen) -> dict[str, Any]:
        return {"id": "msg_1", "type": "message", "role": "assistant", "model": seen.body["model"],
                "stop_reason": None, "stop_sequence": None}  # fmt: skip

    def _finish(self, answer: Answer) -> str:
        return "tool_use" if answer.calls and answer.finish == "stop" else self.FINISH[answer.finish]

    def _usage(self, usage: Usage) -> dict[str, int]:
        read, write = usage.cache_read_tokens, usage.cache_write_tokens
        return {"input_tokens": usage.input_tokens - read - write, "output_tokens": usage.output_tokens,
                "cache_read_input_tokens": read, "cache_creation_input_tokens": write}  # fmt: skip


class Google(Dialect):
    """POST /v1beta/models/{model}:generateContent and :streamGenerateContent?alt=sse"""

    FINISH: ClassVar = {"stop": "STOP", "length": "MAX_TOKENS", "refused": "SAFETY"}

    def streams(self, seen: Seen) -> bool:
        return ":stream" in seen.path

    def whole(self, answer: Answer, seen: Seen) -> Any:
        return self._chunk(answer, seen, [*self._texts(answer, [answer.text]), *self._calls(answer)], last=True)

    def events(self, answer: Answer, seen: Seen) -> Iterator[bytes]:
        for part in (*self._texts(answer, _words(answer.text)), *self._calls(answer)):
            yield _sse(self._chunk(answer, seen, [part], last=False))
        yield _sse(self._chunk(answer, seen, [{"text": ""}], last=True))

    def failure(self, failure: Failure) -> tuple[Any, dict[str, str]]:
        kind = {429: "RESOURCE_EXHAUSTED", 503: "UNAVAILABLE", 401: "UNAUTHENTICATED", 500: "INTERNAL"}
        status = kind.get(failure.status, "INVALID_ARGUMENT" if failure.status < 500 else "UNKNOWN")
        return {"error": {"code": failure.status, "message": failure.message, "status": status}}, {}

    def _texts(self, answer: Answer, texts: Sequence[str]) -> Iterator[Any]:
        if answer.thought:
            yield {"text": answer.thought, "thought": True}
        yield from ({"text": text} for text in texts if text)

    def _calls(self, answer: Answer) -> Iterator[Any]:
        signed = {"thoughtSignature": base64.b64encode(b"signed").decode()} if answer.thought else {}
        for call in answer.calls:
            yield {"functionCall": {"id": call.id, "name": call.name, "args": call.arguments}, **signed}

    def _chunk(self, answer: Answer, seen: Seen, parts: Sequence[Any], *, last: bool) -> Any:
        usage = answer.usage
        candidate = {"index": 0, "content": {"role": "model", "parts": parts}}
        counts = {"promptTokenCount": usage.input_tokens, "cachedContentTokenCount": usage.cache_read_tokens,
                  "candidatesTokenCount": usage.output_tokens if last else 0, "totalTokenCount": usage.tokens}  # fmt: skip
        return {"candidates": [{**candidate, **({"finishReason": self.FINISH[answer.finish]} if last else {})}],
                "usageMetadata": counts, "modelVersion": seen.path.split("/")[-1].split(":")[0],
                "responseId": "r-1"}  # fmt: skip


class Bedrock(Dialect):
    """POST /model/{model}/converse and /converse-stream"""

    media = "application/vnd.amazon.eventstream"
    FINISH: ClassVar = {"stop": "end_turn", "length": "max_tokens", "refused": "content_filtered"}

    def streams(self, seen: Seen) -> bool:
        return seen.path.endswith("-stream")

    def whole(self, answer: Answer, seen: Seen) -> Any:
        content = [{"text": answer.text}] if answer.text else []
        content += [{"toolUse": {"toolUseId": c.id, "name": c.name, "input": c.arguments}} for c in answer.calls]
        return {"output": {"message": {"role": "assistant", "content": content}}, "stopReason": self._finish(answer),
                "usage": self._usage(answer.usage), "metrics": {"latencyMs": 1}}  # fmt: skip

    def events(self, answer: Answer, seen: Seen) -> Iterator[bytes]:
        yield _frame("messageStart", {"role": "assistant"})
        for index, (start, deltas) in enumerate(self._blocks(answer)):
            if start:
                yield _frame("contentBlockStart", {"contentBlockIndex": index, "start": start})
            for delta in deltas:
                yield _frame("contentBlockDelta", {"contentBlockIndex": index, "delta": delta})
            yield _frame("contentBlockStop", {"contentBlockIndex": index})
        yield _frame("messageStop", {"stopReason": self._finish(answer)})
        yield _frame("metadata", {"usage": self._usage(answer.usage), "metrics": {"latencyMs": 1}})

    def failure(self, failure: Failure) -> tuple[Any, dict[str, str]]:
        kind = {429: "ThrottlingException", 503: "ServiceUnavailableException", 401: "UnrecognizedClientException",
                500: "InternalServerException", 400: "ValidationException"}  # fmt: skip
        return {"message": failure.message}, {"x-amzn-ErrorType": kind.get(failure.status, "UnknownException")}

    def _blocks(self, answer: Answer) -> Iterator[tuple[Any, list[Any]]]:
        if answer.thought:
            yield None, [{"reasoningContent": {"text": answer.thought}}, {"reasoningContent": {"signature": "signed"}}]
        if answer.text:
            yield None, [{"text": word} for word in _words(answer.text)]
        for call in answer.calls:
            pieces = _halves(_text(call.arguments))
            yield {"toolUse": {"toolUseId": call.id, "name": call.name}}, [{"toolUse": {"input": p}} for p in pieces]

    def _finish(self, answer: Answer) -> str:
        return "tool_use" if answer.calls and answer.finish == "stop" else self.FINISH[answer.finish]

    def _usage(self, usage: Usage) -> Any:
        read, write = usage.cache_read_tokens, usage.cache_write_tokens
        return {"inputTokens": usage.input_tokens - read - write, "outputTokens": usage.output_tokens,
                "totalTokens": usage.tokens, "cacheReadInputTokens": read, "cacheWriteInputTokens": write}  # fmt: skip


DIALECTS: tuple[tuple[str, Dialect], ...] = (
    (r"/v1/chat/completions", OpenAI()),
    (r"/v1/messages", Anthropic()),
    (r"/v1beta/models/[^/]+:(generateContent|streamGenerateContent)", Google()),
    (r"/model/[^/]+/converse(-stream)?", Bedrock()),
)


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _sse(value: Any) -> bytes:
    return b"data: " + _json(value) + b"\n\n"


def _frame(kind: str, payload: Any) -> bytes:
    """Return a message of AWS's event stream: lengths, their checksum, headers, payload, checksum of all."""
    body = _json(payload)
    named = {":event-type": kind, ":content-type": JSON, ":message-type": "event"}
    headers = b"".join(
        struct.pack(">B", len(name)) + name.encode() + struct.pack(">BH", 7, len(value)) + value.encode()
        for name, value in named.items()
    )
    prelude = struct.pack(">II", 16 + len(headers) + len(body), len(headers))
    message = prelude + struct.pack(">I", zlib.crc32(prelude)) + headers + body
    return message + struct.pack(">I", zlib.crc32(message))


def _words(text: str) -> list[str]:
    return re.findall(r"\S+\s*|\s+", text)


def _text(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments)


def _halves(text: str) -> list[str]:
    half = len(text) // 2
    return [text[:half], text[half:]]
