"""The farm's figures for Prometheus, and for what scales workers by them.

Owns names and labels. Leaves out where the figures come from (`shared.farm_state`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final, get_args

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from api.farm_report import WorkerState, worker_reports
from shared.errors import QueueUnavailableError
from shared.farm_state import FarmState
from shared.job_store import JobStore

MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


def metrics_text(jobs: JobStore) -> bytes:
    """All figures, as they are now, in Prometheus' text form; `riffarm_redis_up 0` alone when Redis is away."""
    registry = CollectorRegistry()
    registry.register(_FarmCollector(jobs))
    return generate_latest(registry)


class _FarmCollector(Collector):
    """Asks Redis when it is asked."""

    def __init__(self, jobs: JobStore) -> None:
        self._jobs = jobs

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The figures."""
        try:
            found = [*self._backlog(), self._workers()]
        except QueueUnavailableError:
            found = []
        yield GaugeMetricFamily("riffarm_redis_up", "Whether Redis answers the gateway.", 1 if found else 0)
        yield from found

    def _backlog(self) -> list[GaugeMetricFamily]:
        seconds = GaugeMetricFamily(
            "riffarm_backlog_seconds", "Work that waits or runs, in seconds of one worker.", labels=["queue"]
        )
        items = GaugeMetricFamily("riffarm_backlog_items", "Items of work that wait or run.", labels=["queue"])
        jobs = GaugeMetricFamily(
            "riffarm_jobs_waiting", "Jobs with work that waits for a worker.", labels=["queue", "priority"]
        )
        for backlog in FarmState(self._jobs.redis).backlog():
            seconds.add_metric([backlog.queue], backlog.seconds)
            items.add_metric([backlog.queue], backlog.items)
            for priority, count in backlog.jobs_waiting.items():
                jobs.add_metric([backlog.queue, priority], count)
        return [seconds, items, jobs]

    def _workers(self) -> GaugeMetricFamily:
        workers = GaugeMetricFamily("riffarm_workers", "Workers that live.", labels=["state"])
        states = Counter(worker.state for worker in worker_reports(self._jobs))
        for state in get_args(WorkerState):
            workers.add_metric([state], states[state])
        return workers
