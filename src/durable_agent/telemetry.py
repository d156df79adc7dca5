"""Names of events, spans and metrics in one place, and the set-up of logging."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import structlog


@dataclass(slots=True)
class Counters:
    """What one process counted since it started, and how late its event loop runs; shown by `/metrics`."""

    settled: int = 0
    fenced: int = 0
    leases_lost: int = 0
    stranded: int = 0
    loop_lag_s: float = 0.0


class Metric(StrEnum):
    """The names of the metrics; each is a row of `docs/telemetry.md` with its unit."""

    QUEUE_DEPTH = "durable_agent_queue_steps"
    OLDEST_READY = "durable_agent_oldest_ready_seconds"
    WORKERS = "durable_agent_workers"
    DEAD_LETTERS = "durable_agent_dead_letters"
    WAITS = "durable_agent_waits_for_people"
    LISTENER_UP = "durable_agent_listener_up"
    WATCHERS = "durable_agent_watchers"
    LOOP_LAG = "durable_agent_event_loop_lag_seconds"
    LEASES_LOST = "durable_agent_leases_lost"
    FENCED = "durable_agent_fenced_writes"
    STRANDED = "durable_agent_stranded_runs"


def logger(name: str) -> Any:
    """Return the logger of a part of the product; ids are bound where they are known."""
    return structlog.get_logger(name, part=name)


def configure_logging(level: str = "info", format: str = "console") -> None:
    """Send logs to stderr, ours and the libraries' warnings: readable on `console`, one JSON object a line on `json`.

    A traceback shows no local variables (they hold keys, tokens and what runs are given), and an error has one.
    """
    to_text: list[Any] = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    if format == "console":
        plain = structlog.dev.plain_traceback
        to_text = [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]
    ours: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*ours, _remember, *to_text],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    libraries = _Libraries(sys.stderr)
    libraries.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*ours, _named],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *to_text],
        )
    )
    root = logging.getLogger()
    root.handlers = [one for one in root.handlers if not isinstance(one, _Libraries)] + [libraries]


_LOGGED: Final = "_durable_agent_logged"


def _remember(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    error = event.get("exc_info")
    if isinstance(error, BaseException):
        setattr(error, _LOGGED, True)
    return event


def _named(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event["part"] = event["_record"].name
    return event


class _Libraries(logging.StreamHandler[Any]):
    """Where the libraries' warnings go. An error that we logged is not logged again: the server does so when it is answered."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self.setLevel(logging.WARNING)
        self.addFilter(lambda record: not getattr((record.exc_info or (None, None))[1], _LOGGED, False))
