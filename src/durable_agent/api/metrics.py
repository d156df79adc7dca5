"""Figures for Prometheus: gauges read from the database at each scrape, counters of this process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from durable_agent.api.state import State
from durable_agent.telemetry import Metric


def render(state: State, stats: Mapping[str, Any]) -> bytes:
    """Return the exposition text."""
    registry = CollectorRegistry()
    registry.register(_Scrape(state, stats))
    return generate_latest(registry)


class _Scrape:
    """One scrape's metrics."""

    def __init__(self, state: State, stats: Mapping[str, Any]) -> None:
        self._state = state
        self._stats = stats

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """Yield the families."""
        stats, counters = self._stats, self._state.counters
        depth = GaugeMetricFamily(Metric.QUEUE_DEPTH, "Live steps by their place in the queue.", labels=["state"])
        for name in ("ready", "scheduled", "held", "leased", "waiting"):
            depth.add_metric([name], stats[name])
        yield depth
        workers = GaugeMetricFamily(Metric.WORKERS, "Worker sessions by state.", labels=["state"])
        for name in ("active", "draining", "lost"):
            workers.add_metric([name], stats[name])
        yield workers
        yield GaugeMetricFamily(
            Metric.OLDEST_READY, "Age of the oldest ready step.", value=stats["oldest_ready_s"] or 0.0
        )
        yield GaugeMetricFamily(Metric.DEAD_LETTERS, "Steps that gave up.", value=stats["dead_letters"])
        yield GaugeMetricFamily(
            Metric.WAITS, "Open approvals, questions and unknown effects.", value=stats["waits_for_people"]
        )
        yield GaugeMetricFamily(
            Metric.LISTENER_UP, "Whether LISTEN is established.", value=float(self._state.listener.up)
        )
        yield GaugeMetricFamily(Metric.WATCHERS, "Sockets that watch a run.", value=self._state.hub.watching)
        yield GaugeMetricFamily(
            Metric.LOOP_LAG, "How late the event loop of this API process runs.", value=counters.loop_lag_s
        )
        yield CounterMetricFamily(Metric.LEASES_LOST, "Leases this process reaped.", value=counters.leases_lost)
        yield CounterMetricFamily(
            Metric.FENCED, "Writes the fence refused, seen by this process.", value=counters.fenced
        )
        yield CounterMetricFamily(Metric.STRANDED, "Runs found without work: defects.", value=counters.stranded)
