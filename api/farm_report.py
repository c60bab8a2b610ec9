"""The farm as its operator and its clients see it: queues, workers, rates, how long a new job will wait.

Owns their form and how it comes from what is kept in Redis (`shared.farm_state`). Knows no web framework: the client
reads it too.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from shared.dispatch import kind_of_queue, models_of_queues
from shared.farm_rates import FarmRates
from shared.farm_state import Backlog, FarmState
from shared.job_store import JobStore

WorkerState = Literal["idle", "busy", "draining", "benched"]


class _Report(BaseModel):
    model_config = ConfigDict(frozen=True)


class QueueReport(_Report):
    """One queue."""

    queue: str = Field(description="render.MODEL, sound or deliver.")
    items: int = Field(description="Batches, chunks or deliveries that wait or run.")
    seconds: float = Field(description="What one worker would need for them, at the pace of late.")
    jobs_waiting: dict[str, int] = Field(description="Jobs with work to be taken, by priority.")
    workers: int = Field(description="Workers that take from it.")
    wait_s: float | None = Field(description="Seconds until these are through with it; null when there are none.")


class WorkerReport(_Report):
    """One worker."""

    name: str = Field(description="What it was started as.")
    id: str = Field(description="Its name and a mark of this run.")
    state: WorkerState = Field(
        description="benched: it lost what it was at three times and takes nothing until it is lifted."
    )
    reason: str | None = Field(description="Why it is benched.")
    device: str = Field(description="What it computes on.")
    queues: list[str] = Field(description="Kinds of queues that it takes from.")
    models: list[str] = Field(description="Models that it can render with.")
    job: str | None = Field(description="What it is at.")
    item: str | None = Field(description="b3: its fourth batch; c0: its first chunk of sound; deliver: its files.")
    items_done: int = Field(description="Since it was started.")
    heartbeat_age_s: float = Field(description="Seconds since it last reported.")


class RateReport(_Report):
    """How fast the farm was over the last minutes, or since it began if that is less; null while no sweeper looks."""

    minutes: int = Field(description="Over how many: 1, 15 or 60.")
    frames_per_minute: float | None = Field(description="Frames rendered; those that had been before are not counted.")
    jobs_per_minute: float | None = Field(description="Jobs that ended, in whatever way.")
    audio_s_per_minute: float | None = Field(description="Seconds of sound of jobs that succeeded.")


class FarmReport(_Report):
    """The farm as it is now."""

    estimated_wait_s: float | None = Field(
        description="Seconds until all that is queued now is through; null while a queue with work has no worker."
    )
    queues: list[QueueReport] = Field(description="What waits, by queue.")
    workers: list[WorkerReport] = Field(description="The workers that live.")
    rates: list[RateReport] = Field(description="What it did in a minute of late, over 1, 15 and 60 minutes.")
    sweep: dict[str, Any] | None = Field(description="What the last sweep found and did; null before the first.")


class WorkerList(_Report):
    """Some of the workers."""

    data: list[WorkerReport]


def worker_reports(jobs: JobStore) -> list[WorkerReport]:
    """The workers that live. Raises QueueUnavailableError."""
    # From the leases and not from the heartbeats, which are some seconds old.
    held = {worker_id: item for item, worker_id in jobs.leases().items()}
    return [_worker(beat, *held.get(beat["id"], (None, None))) for beat in FarmState(jobs.redis).workers()]


def farm_report(jobs: JobStore) -> FarmReport:
    """The whole farm. Raises QueueUnavailableError."""
    state, workers = FarmState(jobs.redis), worker_reports(jobs)
    queues = [_queue(backlog, workers) for backlog in state.backlog()]
    waits = [queue.wait_s for queue in queues if queue.items]
    is_known = None not in waits
    return FarmReport(
        estimated_wait_s=max((wait for wait in waits if wait is not None), default=0.0) if is_known else None,
        queues=queues,
        workers=workers,
        rates=[RateReport(**rate._asdict()) for rate in FarmRates(jobs.redis).rates()],
        sweep=_sweep(state.sweep_report()),
    )


def _sweep(report: dict[str, Any]) -> dict[str, Any] | None:
    return report | {"at": datetime.fromtimestamp(report["at"], UTC)} if report else None


def as_seen_by(tenant: str, report: FarmReport, jobs: JobStore) -> FarmReport:
    """What one tenant sees of it: of others' jobs not which they are. Raises QueueUnavailableError."""
    stuck = (report.sweep or {}).get("stuck_jobs", [])
    own = jobs.own({*(worker.job for worker in report.workers if worker.job), *(one["job"] for one in stuck)}, tenant)
    hidden = {"job": None, "item": None}
    workers = [one if one.job in own else one.model_copy(update=hidden) for one in report.workers]
    sweep = report.sweep and report.sweep | {"stuck_jobs": [one for one in stuck if one["job"] in own]}
    return report.model_copy(update={"workers": workers, "sweep": sweep})


def _worker(beat: dict[str, Any], job: str | None, item: str | None) -> WorkerReport:
    busy: WorkerState = "busy" if job else "idle"
    return WorkerReport(
        state="benched" if beat["benched"] else "draining" if beat["is_draining"] else busy,
        reason=beat["benched"],
        heartbeat_age_s=round(beat["age_s"], 1),
        job=job,
        item=item,
        **{name: beat[name] for name in ("name", "id", "device", "queues", "models", "items_done")},
    )


def _queue(backlog: Backlog, workers: list[WorkerReport]) -> QueueReport:
    serving = sum(serves(worker, backlog.queue) for worker in workers)
    wait_s = round(backlog.seconds / serving, 1) if serving else None
    return QueueReport(**backlog._asdict(), workers=serving, wait_s=wait_s)


def serves(worker: WorkerReport, queue: str) -> bool:
    """Whether a worker takes from a queue just now."""
    is_taking = worker.state in ("idle", "busy")
    return is_taking and kind_of_queue(queue) in worker.queues and {*models_of_queues([queue])} <= {*worker.models}
