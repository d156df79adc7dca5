"""The step that takes more memory than there is."""

from __future__ import annotations

import os

from durable_agent import tool


@tool("hog", effect="safe")
async def hog() -> None:
    """Take memory until the kernel ends this process; where it only refuses, end it as the kernel would."""
    taken = []
    try:
        while True:
            taken.append(bytearray(os.urandom(1 << 16) * 256))
    except MemoryError:
        os.kill(os.getpid(), 9)
