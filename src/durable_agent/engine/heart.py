"""The heart of a worker: a thread with a connection of its own that keeps the session's leases alive (R9).

It beats before the first line of author code and whatever the event loop does. Its connection is the session's
liveness: when it disappears from `pg_stat_activity`, others suspect the worker (R10), so a cut connection is noticed
at once, not at the next beat, and healed within the time a suspicion takes. It also watches the event loop and names
the step that holds it up.
"""

from __future__ import annotations

import asyncio
import math
import random
import select
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg

from durable_agent.core.port import Offer
from durable_agent.core.records import Token
from durable_agent.db.pool import first_line, is_pooled_sync
from durable_agent.engine.exchange import SESSIONS
from durable_agent.telemetry import logger

log = logger("heart")

# The first retry after a cut must fit well into the 300 ms that a suspicion leaves (R10).
RETRY_S = 0.02
RETRY_CAP_S = 2.0


@dataclass(frozen=True, slots=True)
class Beat:
    """A beat that was answered: when it was sent (monotonic seconds), and the tokens still owned then."""

    sent_s: float
    owned: frozenset[Token]


class Heart:
    """Beats until stopped. `on_beat` is called in the event loop with each answered beat, `on_loss` when a beat found no way."""

    def __init__(
        self, direct_url: str, offer: Offer, *, ttl_s: float, beat_s: float, lag_warning_s: float = 1.0,
        on_beat: Callable[[Beat], None], on_loss: Callable[[], None] = lambda: None, load: Callable[[], int],
    ) -> None:  # fmt: skip
        self._url = direct_url
        self._offer = offer
        self._ttl_s = ttl_s
        self._beat_s = beat_s
        self._lag_warning_s = lag_warning_s
        self._on_beat = on_beat
        self._on_loss = on_loss
        self._load = load
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = False
        self._bell, self._ear = socket.socketpair()
        self._bell.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="heart", daemon=True)
        self._answered_s = time.monotonic()
        self._warned = False
        self.state = "active"
        self.lag_s = 0.0
        self.beats = 0
        self.first = asyncio.Event()

    def start(self) -> None:
        """Begin to beat; await `first` before the first claim."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def now(self) -> None:
        """Beat at once: the state changed, or a lease looks stale."""
        try:
            self._bell.send(b"!")
        except OSError:
            return  # stopped already, or rung so often that it is full

    async def stop(self) -> None:
        """End the session in order and wait for the thread."""
        self._stopping = True
        self.now()
        await asyncio.to_thread(self._thread.join, 5.0)
        self._bell.close()
        self._ear.close()

    def _run(self) -> None:
        failures = 0
        while not self._stopping:
            try:
                with psycopg.connect(
                    self._url, autocommit=True, prepare_threshold=None, application_name="durable-agent heart",
                    connect_timeout=5, keepalives_idle=5, keepalives_interval=2, keepalives_count=3, tcp_user_timeout=10_000,
                    options="-c statement_timeout=5000", client_encoding="utf8",
                ) as conn:  # fmt: skip
                    direct = not is_pooled_sync(conn)
                    failures = 0
                    while not self._stopping:
                        self._beat(conn, direct)
                        self._sleep(conn)
                    conn.execute(SESSIONS.stop, {"session": self._offer.session})
            except Exception as error:  # whatever it is: a worker whose heart has ended loses one lease after the other
                failures += 1
                self._in_loop(self._on_loss)
                log.info("heart_disconnected", error=first_line(error), attempt=failures)
                # At once after a loss, for the lease may be short by now; with growing pauses when that fails.
                if not self._stopping and failures > 1:
                    self._watch_loop()
                    time.sleep(min(RETRY_CAP_S, RETRY_S * 2.0 ** min(failures, 10)) * (0.5 + random.random() / 2))

    def _beat(self, conn: psycopg.Connection[Any], direct: bool) -> None:
        offer, sent_s = self._offer, time.monotonic()
        rows = conn.execute(
            SESSIONS.beat,
            {
                "session": offer.session, "worker": offer.worker, "state": self.state, "ttl_s": self._ttl_s,
                "direct": direct, "running": self._load(), "concurrency": offer.concurrency,
                "loop_lag_ms": int(self.lag_s * 1000), "queues": list(offer.queues), "offers": list(offer.tools),
                "host": offer.host, "os_pid": offer.os_pid, "version": offer.version,
            },
        ).fetchall()  # fmt: skip
        self.beats += 1
        beat = Beat(sent_s, frozenset(Token(row[0]) for row in rows))
        self._in_loop(lambda: self._tell(beat))

    def _tell(self, beat: Beat) -> None:
        self.first.set()
        self._on_beat(beat)

    def _sleep(self, conn: psycopg.Connection[Any]) -> None:
        """Sleep until the next beat, a call or the loss of the connection, which raises at the next beat."""
        until_s = time.monotonic() + self._beat_s * (0.9 + random.random() / 10)
        poll, ear = select.poll(), self._ear.fileno()  # select() knows no descriptor above a thousand
        for fd in (ear, conn.fileno()):
            poll.register(fd, select.POLLIN)
        while not self._stopping and (left_s := until_s - time.monotonic()) > 0:
            self._watch_loop()
            readable = [fd for fd, _ in poll.poll(math.ceil(min(left_s, self._watch_s) * 1000))]
            if ear in readable:
                self._ear.recv(64)
                return
            if readable:
                # Nothing is ever sent here unasked, so it can only be the end of the connection.
                raise psycopg.OperationalError("the liveness connection was closed")

    @property
    def _watch_s(self) -> float:
        return self._lag_warning_s if self._load() else self._beat_s

    def _watch_loop(self) -> None:
        """Measure how long the event loop takes to answer, and warn of a step that holds it up."""
        asked_s = time.monotonic()
        waited_s = asked_s - self._answered_s
        if self._pending:
            self.lag_s = waited_s
            if waited_s > self._lag_warning_s and not self._warned:
                self._warned = True
                log.warning("event_loop_blocked", by=self._blocker(), for_s=round(waited_s, 1),
                            hint="use `def` instead of `async def`, or isolation='process'")  # fmt: skip
            return
        self._pending = True
        self._answered_s = asked_s
        self._in_loop(lambda: self._answer(asked_s))

    _pending = False

    def _answer(self, asked_s: float) -> None:
        self.lag_s = time.monotonic() - asked_s
        self._pending = False
        self._warned = False

    def _blocker(self) -> str:
        task = asyncio.current_task(self._loop) if self._loop is not None else None
        return task.get_name() if task is not None else "unknown"

    def _in_loop(self, call: Callable[[], object]) -> None:
        try:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(call)
        except RuntimeError:
            self._stopping = True  # the loop is closed: the process is ending
