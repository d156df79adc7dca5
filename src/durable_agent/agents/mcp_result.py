"""What a tool of an MCP server returns: its content, cut at a limit; or that it was done and cannot be used."""

from __future__ import annotations

from typing import Any

import mcp_types as types

from durable_agent.core.events import dumps
from durable_agent.core.text import storable, whole
from durable_agent.errors import FatalError

MAX_RESULT_BYTES = 256 * 1024


class Unusable(FatalError):
    """It was answered, so it happened as far as anybody can tell; but the answer is none that can be used."""


def content(result: types.CallToolResult, server: str, limit_bytes: int) -> Any:
    """Return what a result says, cut at the limit. Raises FatalError for one that is an error, Unusable."""
    text = "\n".join(map(_part, result.content))
    if result.is_error:
        raise FatalError(_cut(text, limit_bytes) or f"MCP server {server!r} says that it failed, and nothing more")
    if result.structured_content is None:
        return _cut(text, limit_bytes)
    try:
        kept = storable(result.structured_content)
        structured = dumps(kept)
    except TypeError as error:
        raise Unusable(f"MCP server {server!r} did it, but its result cannot be kept: {error}") from None
    return kept if len(structured) <= limit_bytes else _cut(structured.decode(), limit_bytes)


def _part(part: types.ContentBlock) -> str:
    match part:
        case types.TextContent():
            return part.text
        case types.ImageContent() | types.AudioContent():
            return f"[{part.type} {part.mime_type}, {len(part.data) * 3 // 4} bytes]"
        case types.ResourceLink():
            return f"[resource {part.uri} {part.mime_type or ''}]"
        case types.EmbeddedResource(resource=types.TextResourceContents() as held):
            return f"[resource {held.uri} {held.mime_type or ''}]\n{held.text}"
        case types.EmbeddedResource(resource=types.BlobResourceContents() as held):
            return f"[resource {held.uri} {held.mime_type or ''}, {len(held.blob) * 3 // 4} bytes]"
        case _:
            return f"[{part.type}]"


def _cut(text: str, limit_bytes: int) -> str:
    raw = whole(text).encode()
    if len(raw) <= limit_bytes:
        return raw.decode()
    return f"{raw[:limit_bytes].decode(errors='ignore')}\n[cut: {limit_bytes} of {len(raw)} bytes]"
