"""Secrets at rest: encrypted with a key that is not in the database.

The key is `DURABLE_AGENT_SECRET_KEY`, or a file beside the data that `durable-agent up` makes. Source: Fernet, AES-128-CBC
with HMAC-SHA256, of the `cryptography` package.
"""

from __future__ import annotations

import os
from base64 import urlsafe_b64encode
from contextlib import suppress
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from tempfile import mkstemp
from typing import TYPE_CHECKING

from durable_agent.errors import InvalidRequest

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

FILE = "secret.key"


class Vault:
    """Encrypts and decrypts with one key; without one it refuses both."""

    def __init__(self, secret: str | None) -> None:
        self._key = urlsafe_b64encode(sha256(secret.encode()).digest()) if secret else None

    def __repr__(self) -> str:
        return f"Vault({'with' if self._key else 'without'} a key)"

    def lock(self, text: str) -> bytes:
        """Return the text encrypted. Raises InvalidRequest without a key."""
        return self._fernet.encrypt(text.encode())

    def open(self, sealed: bytes) -> str:
        """Return the text. Raises InvalidRequest without the key it was encrypted with."""
        from cryptography.fernet import InvalidToken

        try:
            return self._fernet.decrypt(sealed).decode()
        except InvalidToken:
            raise InvalidRequest(
                "a stored secret was encrypted with another DURABLE_AGENT_SECRET_KEY: set that one, or register it again",
                field="DURABLE_AGENT_SECRET_KEY",
            ) from None

    @cached_property
    def _fernet(self) -> Fernet:
        if self._key is None:
            raise InvalidRequest(
                "secrets are stored encrypted only: set DURABLE_AGENT_SECRET_KEY, the same for the API and every worker",
                field="DURABLE_AGENT_SECRET_KEY",
            )
        from cryptography.fernet import Fernet

        return Fernet(self._key)


def secret_beside(data_dir: Path) -> str:
    """Return the key in a folder, made there if there is none; only its owner may read it."""
    path = data_dir / FILE
    with suppress(FileNotFoundError):
        if found := path.read_text().strip():
            return found
        path.unlink()  # what a crash left of one that was being made
    descriptor, draft = mkstemp(dir=data_dir, prefix=f"{FILE}.")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(urlsafe_b64encode(os.urandom(32)).decode())
            file.flush()
            os.fsync(descriptor)
        with suppress(FileExistsError):  # somebody else made one meanwhile: it is that one
            os.link(draft, path)
    finally:
        os.unlink(draft)
    return path.read_text().strip()
