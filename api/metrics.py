"""Figures for Prometheus, and for what scales workers by them: those of the farm, and those of this gateway's requests.

Those of the farm are in Redis, where every process adds to them: all gateways tell the same. Those of requests are
this process' own, from its start. Owns names and labels, of which there are few: no ids, nothing that a client writes.
Leaves out where the figures come from (`shared.farm_state`, `api.watch`).
"""

from __future__ import annotations

from collections import Counter as Counts
from collections import defaultdict
from collections.abc import Iterator
from typing import Final, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from api.farm_answers import WorkerState
from api.farm_report import worker_reports
from shared.contracts import TERMINAL
from shared.deliveries import Deliveries
from shared.errors import QueueUnavailableError
from shared.farm_state import FarmState
from shared.job_store import JobStore

MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


# When a counter began is told by the scrape after a restart; a series for each would double them.
disable_created_metrics()  # type: ignore[no-untyped-call]  # it has no types
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0)


class RequestMetrics:
    """The figures of this process' requests."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ["method", "route"]
        self._requests = Counter(
            "riffarm_http_requests", "Requests that were answered.", [*labels, "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "riffarm_http_request_seconds",
            "From a request's head to its answer's end; event streams are left out.",
            labels,
            buckets=_BUCKETS_S,
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "riffarm_http_requests_in_flight", "Requests being answered, event streams too.", registry=self.registry
        )
        self.event_streams = Gauge("riffarm_event_streams", "Event streams that are open.", registry=self.registry)

    def count(self, method: str, route: str, status: int, took_s: float | None) -> None:
        """Count a request; `route` is a template, `took_s` None for a stream."""
        method = method if method in _METHODS else "other"
        self._requests.labels(method, route, f"{status // 100}xx").inc()
        if took_s is not None:
            self._seconds.labels(method, route).observe(took_s)


def metrics_text(jobs: JobStore, requests: RequestMetrics) -> bytes:
    """All figures, as they are now, in Prometheus' text form; while Redis is away `riffarm_redis_up 0` and this
    gateway's own."""
    registry = CollectorRegistry()
    registry.register(_FarmCollector(jobs))
    return generate_latest(registry) + generate_latest(requests.registry)


class _FarmCollector(Collector):
    """Asks Redis when it is asked."""

    def __init__(self, jobs: JobStore) -> None:
        self._jobs = jobs

    def collect(self) -> Iterator[Metric]:
        """The figures."""
        try:
            found = [*self._backlog(), self._workers(), *self._done(), *self._deliveries()]
        except QueueUnavailableError:
            found = []
        yield GaugeMetricFamily("riffarm_redis_up", "Whether Redis answers the gateway.", 1 if found else 0)
        yield from found

    def _backlog(self) -> list[Metric]:
        seconds = GaugeMetricFamily(
            "riffarm_backlog_seconds", "Work that waits or runs, in seconds of one worker.", labels=["queue"]
        )
        items = GaugeMetricFamily("riffarm_backlog_items", "Items of work that wait or run.", labels=["queue"])
        frames = GaugeMetricFamily("riffarm_backlog_frames", "Frames of these that are not finished.", labels=["queue"])
        audio = GaugeMetricFamily("riffarm_backlog_audio_seconds", "Sound that these are for.", labels=["queue"])
        jobs = GaugeMetricFamily(
            "riffarm_jobs_waiting", "Jobs with work that waits for a worker.", labels=["queue", "priority"]
        )
        for backlog in FarmState(self._jobs.redis).backlog():
            seconds.add_metric([backlog.queue], backlog.seconds)
            items.add_metric([backlog.queue], backlog.items)
            frames.add_metric([backlog.queue], backlog.frames)
            audio.add_metric([backlog.queue], backlog.audio_s)
            for priority, count in backlog.jobs_waiting.items():
                jobs.add_metric([backlog.queue, priority], count)
        return [seconds, items, frames, audio, jobs]

    def _workers(self) -> Metric:
        workers = GaugeMetricFamily("riffarm_workers", "Workers that live.", labels=["state"])
        states = Counts(worker.state for worker in worker_reports(self._jobs))
        for state in get_args(WorkerState):
            workers.add_metric([state], states[state])
        return workers

    def _done(self) -> Iterator[Metric]:
        """What the farm has done since Redis was last empty."""
        totals = defaultdict(float, FarmState(self._jobs.redis).totals())
        frames = CounterMetricFamily("riffarm_frames", "Frames finished.", labels=["how"])
        for how in ("rendered", "reused"):
            frames.add_metric([how], totals[f"frames_{how}"])
        jobs = CounterMetricFamily("riffarm_jobs_ended", "Jobs that ended.", labels=["status"])
        for status in sorted(TERMINAL):
            jobs.add_metric([status], totals[f"jobs_{status}"])
        yield from (frames, jobs)
        yield CounterMetricFamily("riffarm_jobs_accepted", "Jobs that were accepted.", totals["jobs_accepted"])
        for name, text in (
            ("render", "Seconds workers spent on batches of frames."),
            ("sound", "Seconds workers spent on chunks of sound."),
            ("encode", "Seconds workers spent on files of jobs that succeeded."),
            ("gpu", "Of all these, seconds on a GPU."),
            ("audio", "Seconds of sound in jobs that succeeded."),
        ):
            yield CounterMetricFamily(f"riffarm_{name}_seconds", text, totals[f"{name}_ms"] / 1_000)
        factor = GaugeMetricFamily(
            "riffarm_realtime_factor", "Seconds of sound for each second from submit to end, of late."
        )
        if totals["realtime_factor"]:
            factor.add_metric([], totals["realtime_factor"])
        yield factor

    def _deliveries(self) -> Iterator[Metric]:
        counts = Deliveries(self._jobs.redis).counts()
        yield GaugeMetricFamily("riffarm_deliveries_pending", "Webhooks still to be posted.", counts.pop("pending", 0))
        yield CounterMetricFamily(
            "riffarm_delivery_attempts_failed", "Posts of webhooks not taken.", counts.pop("attempts_failed", 0)
        )
        done = CounterMetricFamily("riffarm_deliveries", "Webhooks that need no more posting.", labels=["result"])
        for result in sorted(counts):
            done.add_metric([result], counts[result])
        yield done
