"""What models say while they answer, on its way to who watches: gathered for a moment, sent together, never waited for."""

from __future__ import annotations

import asyncio
from collections import defaultdict

from durable_agent.core.port import Audience, Delta
from durable_agent.core.records import Lease, Token
from durable_agent.core.text import plain
from durable_agent.telemetry import logger

log = logger("voice")

GATHER_S = 0.04
# So many pieces wait while the database is away; what comes then is dropped, for nobody can watch.
MOST = 5_000


class Voice:
    """The deltas of one worker. `run` is owned by the worker's task group."""

    def __init__(self, audience: Audience) -> None:
        self._audience = audience
        self._said: dict[tuple[Token, int], tuple[Lease, list[str]]] = {}
        self._waiting = 0
        self._pieces: dict[tuple[Token, int], int] = defaultdict(int)
        self._news = asyncio.Event()

    def say(self, lease: Lease, effect: int, text: str) -> None:
        """Take a piece of an answer."""
        if not text or self._waiting >= MOST:
            return
        self._waiting += 1
        self._said.setdefault((lease.token, effect), (lease, []))[1].append(text)
        self._news.set()

    async def run(self) -> None:
        """Send what was said, until cancelled."""
        while True:
            await self._news.wait()
            await asyncio.sleep(GATHER_S)
            self._news.clear()
            try:
                await self._audience.stream(self._gathered())
            except Exception as error:
                log.error("voice_failed", error=f"{type(error).__name__}: {error}")

    def _gathered(self) -> list[Delta]:
        said, self._said, self._waiting = self._said, {}, 0
        deltas = []
        for (token, effect), (lease, texts) in said.items():
            piece = self._pieces[token, effect]
            self._pieces[token, effect] = piece + 1
            deltas.append(Delta(lease, effect, piece, plain("".join(texts), None)))
        for old in list(self._pieces)[: max(0, len(self._pieces) - MOST)]:
            del self._pieces[old]
        return deltas
