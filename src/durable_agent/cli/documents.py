"""JSON that a person gives on the command line: as text, in a file, or on standard input."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import orjson

from durable_agent.errors import InvalidRequest


def document(path: str, field: str) -> Any:
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path} cannot be read: {error}", field=field) from None
    return parsed_json(text, field)


def parsed_json(text: str, field: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"{field} is no JSON: {error}", field=field) from None
