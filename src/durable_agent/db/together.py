"""Group commit for single statements: what several tasks ask for at a time is one round trip and one commit.

Source: group commit, DeWitt et al., "Implementation Techniques for Main Memory Database Systems", SIGMOD 1984.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from durable_agent.db.batch import once
from durable_agent.db.pool import TRANSIENT, Database

# What one of these transactions holds, others may wait for.
MOST: Final = 20


class _Asked(NamedTuple):
    query: str
    params: Mapping[str, Any]
    answer: asyncio.Future[list[Any]]


class Together:
    """Statements of many tasks, committed together: while one commit is under way, the next ones gather.

    They share a transaction, so each must stand alone (an error of one is its own) and wait for no lock: who waits while it holds
    what another waits for can deadlock with it. What is locked, a statement has to skip and tell.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self._waiting: list[_Asked] = []
        self._sending: asyncio.Task[None] | None = None

    async def run(self, query: str, params: Mapping[str, Any]) -> list[Any]:
        """Return the statement's rows when it is committed. Raises psycopg.Error; after a lost connection it may be committed."""
        answer: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Asked(query, params, answer))
        if self._sending is None:
            self._sending = asyncio.create_task(self._send())
        return await answer

    async def _send(self) -> None:
        asked: Sequence[_Asked] = ()
        try:
            while self._waiting:
                asked, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
                if still := [one for one in asked if not one.answer.done()]:
                    await self._commit(still)
        finally:
            self._sending = None
            for one in (*asked, *self._waiting):  # this task was cancelled: its process ends
                one.answer.cancel()

    async def _commit(self, asked: Sequence[_Asked]) -> None:
        try:
            async with self._db.transaction() as conn, once(conn) as opened:
                answers = [opened.execute(one.query, one.params) for one in asked]
                await opened.sync()
                found = [await answer.fetchall() for answer in answers]
        except Exception as error:
            if len(asked) == 1 or isinstance(error, TRANSIENT):
                for one in asked:
                    _tell(one.answer, error)
                return
            for one in asked:
                await self._commit([one])
            return
        for one, rows in zip(asked, found, strict=True):
            if not one.answer.done():
                one.answer.set_result(rows)


def _tell(answer: asyncio.Future[list[Any]], error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)
