"""Names of events, spans and metrics in one place, and the set-up of logging."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

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
    """Send logs to stderr, one line an event: readable on `console`, JSON on `json`."""
    renderer: Any = structlog.processors.JSONRenderer()
    if format == "console":
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
