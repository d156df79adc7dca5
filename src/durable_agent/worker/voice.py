"""What models say while they answer, on its way to who watches: gathered for a moment, sent together, never waited for."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol

from durable_agent.core.port import Delta
from durable_agent.core.records import Lease, Token

GATHER_S = 0.04
# What is not sent yet when the database is away; the oldest goes, for nobody watches it any more.
MOST = 5_000


class Streams(Protocol):
    """What the voice needs of the engine."""

    async def stream(self, deltas: Sequence[Delta]) -> None: ...


class Voice:
    """The deltas of one worker. `run` is owned by the worker's task group."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._said: dict[tuple[Token, int], tuple[Lease, list[str]]] = {}
        self._pieces: dict[tuple[Token, int], int] = defaultdict(int)
        self._news = asyncio.Event()

    def say(self, lease: Lease, effect: int, text: str) -> None:
        """Take a piece of an answer."""
        if not text or len(self._said) > MOST:
            return
        self._said.setdefault((lease.token, effect), (lease, []))[1].append(text)
        self._news.set()

    async def run(self) -> None:
        """Send what was said, until cancelled."""
        while True:
            await self._news.wait()
            await asyncio.sleep(GATHER_S)
            self._news.clear()
            said, self._said = self._said, {}
            deltas = []
            for (token, effect), (lease, texts) in said.items():
                piece = self._pieces[token, effect]
                self._pieces[token, effect] = piece + 1
                deltas.append(Delta(lease, effect, piece, "".join(texts).replace("\x00", "\ufffd")))
            for old in list(self._pieces)[: max(0, len(self._pieces) - MOST)]:
                del self._pieces[old]
            await self._streams.stream(deltas)
