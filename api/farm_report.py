"""The farm as its operator and its clients see it: queues, workers, rates, how long a new job will wait.

Owns how the report comes from what is kept in Redis (`shared.farm_state`). Leaves out its form (`api.farm_answers`).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from api.farm_answers import FarmReport, QueueReport, RateReport, WorkerReport, WorkerState
from shared.dispatch import kind_of_queue, models_of_queues
from shared.farm_rates import FarmRates
from shared.farm_state import Backlog, FarmState
from shared.job_store import JobStore

_AS_TOLD: Final = ("name", "id", "device", "queues", "models", "items_done", "frames_per_minute")
"""What is reported of a worker as its heartbeat has it."""


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
        **{name: beat[name] for name in _AS_TOLD},
    )


def _queue(backlog: Backlog, workers: list[WorkerReport]) -> QueueReport:
    serving = sum(serves(worker, backlog.queue) for worker in workers)
    wait_s = round(backlog.seconds / serving, 1) if serving else None
    return QueueReport(**backlog._asdict(), workers=serving, wait_s=wait_s)


def serves(worker: WorkerReport, queue: str) -> bool:
    """Whether a worker takes from a queue just now."""
    is_taking = worker.state in ("idle", "busy")
    return is_taking and kind_of_queue(queue) in worker.queues and {*models_of_queues([queue])} <= {*worker.models}
