"""Text from outside: what a program said may hold what PostgreSQL and UTF-8 do not."""

from __future__ import annotations

from typing import Final

MESSAGE_LIMIT: Final = 2000


def plain(text: str, limit: int | None = MESSAGE_LIMIT) -> str:
    """Return the text as it can be stored, at most `limit` characters of it: without NUL and without halves of surrogate pairs."""
    return text[:limit].encode("utf-8", "replace").decode().replace("\x00", "\ufffd")


def said(error: BaseException, limit: int | None = MESSAGE_LIMIT) -> str:
    """Return what an exception says, as `plain` does; of one that cannot say it, its name."""
    try:
        text = str(error)
    except Exception:
        text = f"{type(error).__name__}, which has no text"
    return plain(text, limit)
