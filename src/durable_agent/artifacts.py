"""Artifacts: what is too large for a row, or is a file: kept by its content's digest in a folder or an object store.

A value of more than the inline limit is stored as `{"$artifact": SHA-256, "bytes": n}` and is whole again when a step
reads it. Putting the same content twice stores it once; what is read is checked against its digest. A small value that
looks like what stands for a larger one is stored, too: so whatever looks like it in a row is one.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Final

import orjson

from durable_agent.core.large import KEY, is_reference
from durable_agent.errors import InvalidRequest, NotFound, OutsideError, RetryableError

_MARKED: Final = orjson.dumps(KEY)
# Before its mark, a reference has its size at most, whatever the order of its keys.
_MARKED_BYTES: Final = 64


class StoreUnavailable(OutsideError):
    """The artifact store cannot be reached, or refuses."""

    code = "artifact-store-unavailable"


class Artifacts:
    """A content-addressed store at a folder, or at a URL that obstore knows (s3://, gs://, az://)."""

    def __init__(self, place: str) -> None:
        """Raises InvalidRequest for a place that cannot be: no such kind of store, no bucket, no folder to be made."""
        from obstore.exceptions import BaseError
        from obstore.store import LocalStore, from_url

        self.place = place
        try:
            if "://" in place:
                self._store: Any = from_url(place)
            else:
                self._store = LocalStore(Path(place).expanduser(), mkdir=True)
        except (BaseError, OSError, ValueError) as error:
            text = f"setting DURABLE_AGENT_ARTIFACTS: {place} cannot hold artifacts: {_line(error)}"
            raise InvalidRequest(text, field="DURABLE_AGENT_ARTIFACTS") from None

    async def put(self, content: bytes) -> str:
        """Return the content's SHA-256 once it is stored. Raises StoreUnavailable."""
        from obstore import put_async
        from obstore.exceptions import AlreadyExistsError, BaseError

        digest = hashlib.sha256(content).hexdigest()
        try:
            await put_async(self._store, _path(digest), content, mode="create")
        except AlreadyExistsError:
            return digest
        except (BaseError, OSError) as error:
            raise StoreUnavailable(f"the artifact store {self.place} refuses: {_line(error)}") from error
        return digest

    async def get(self, digest: str) -> bytes:
        """Return the content. Raises NotFound, StoreUnavailable (also for content that is not what it was)."""
        from obstore import get_async
        from obstore.exceptions import BaseError, NotFoundError

        try:
            found = await get_async(self._store, _path(digest))
            content = bytes(await found.bytes_async())
        except (NotFoundError, FileNotFoundError):
            text = f"artifact {digest} is not in the store {self.place}: DURABLE_AGENT_ARTIFACTS is the same for API and workers"
            raise NotFound(text, artifact=digest) from None
        except (BaseError, OSError) as error:
            raise StoreUnavailable(f"the artifact store {self.place} refuses: {_line(error)}") from error
        if hashlib.sha256(content).hexdigest() != digest:
            raise StoreUnavailable(f"artifact {digest} was altered in the store {self.place}")
        return content

    async def keep(self, text: bytes, *, inline_bytes: int) -> bytes:
        """Return JSON that may go into a row: the text itself, or what stands for it when it is larger.

        So is a value that only looks like a reference: what a tool returns must not be taken for one of ours.
        """
        if len(text) <= inline_bytes and not (_MARKED in text[:_MARKED_BYTES] and is_reference(orjson.loads(text))):
            return text
        return orjson.dumps({KEY: await self.put(text), "bytes": len(text)}, option=orjson.OPT_SORT_KEYS)

    async def whole(self, value: Any) -> Any:
        """Return a value as it was before `keep`. Raises RetryableError when its content is not there: see where workers look."""
        if not is_reference(value):
            return value
        try:
            return orjson.loads(await self.get(value[KEY]))
        except NotFound as error:
            raise RetryableError(error.message) from error


def _path(digest: str) -> str:
    if len(digest) != 64 or not digest.isalnum():
        raise NotFound(f"{digest[:80]!r} is no artifact's digest")
    return f"{digest[:2]}/{digest}"


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
