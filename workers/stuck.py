"""Jobs that do not get on, and why, in a sentence for operator and client.

Stuck is a job of which nothing was heard for a time though it runs, or whose work no worker takes. Leaves out doing
anything about it: what is lost is found by `workers.sweep`, and a worker that is missing must be started.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, cast

import structlog

from shared.dispatch import DELIVER_QUEUE, SOUND_QUEUE, kind_of_queue, models_of_queues
from shared.farm_state import FarmState
from shared.job_moves import PREFIX, job_key
from shared.job_store import JobStore
from shared.redis_connection import reachable

log = structlog.get_logger()
_QUEUED_LOOKED_AT: Final = 50
_REPORTED: Final = 20


class StuckJobs:
    """The stuck jobs that were found, with the reason of each; a warning is given once."""

    def __init__(self, job_store: JobStore, farm: FarmState, after_s: float) -> None:
        """`after_s`: for how long nothing may be heard of a job."""
        self._jobs = job_store
        self._farm = farm
        self._after_s = after_s
        self.found: dict[str, str] = {}

    def look(self, running: Sequence[str]) -> None:
        """Look at these running jobs, the oldest queued ones, and those found before. Raises QueueUnavailableError."""
        with reachable():
            queued = cast("list[str]", self._jobs.redis.zrange(f"{PREFIX}jobs:queued", 0, _QUEUED_LOOKED_AT - 1))
        ids = [*dict.fromkeys([*running, *queued, *self.found])]
        silent = self._silent(ids)
        workers = self._farm.workers() if silent else []
        reasons = {fields["id"]: self._reason(fields, workers) for fields in self._jobs.read_many(silent)}
        for job_id in ids:
            reason = reasons.get(job_id)
            if reason is None:
                self.found.pop(job_id, None)
            elif job_id not in self.found:
                self.found[job_id] = reason
                self._jobs.warn(job_id, reason)
                log.warning("a job is stuck", job=job_id, reason=reason)

    def report(self) -> list[dict[str, str]]:
        """The first stuck jobs, with the reason of each."""
        return [{"job": job_id, "reason": reason} for job_id, reason in [*self.found.items()][:_REPORTED]]

    def _silent(self, ids: Sequence[str]) -> list[str]:
        """Those of which the newest event is old: they tell of every frame, chunk and step."""
        with reachable(), self._jobs.redis.pipeline(transaction=False) as pipe:
            for job_id in ids:
                pipe.xrevrange(job_key(job_id, ":events"), count=1)
                pipe.hget(job_key(job_id), "created_ms")
            answers = pipe.execute()
        until_ms = self._farm.now_ms() - 1_000 * self._after_s
        return [
            job_id
            for job_id, newest, created_ms in zip(ids, answers[::2], answers[1::2], strict=True)
            if created_ms and float(newest[0][0].partition("-")[0] if newest else created_ms) < until_ms
        ]

    def _reason(self, fields: Mapping[str, str], workers: Sequence[Mapping[str, Any]]) -> str | None:
        if fields["status"] not in ("queued", "running"):
            return None
        if queues := unserved(queues_with_work(fields), workers):
            return f"No worker took work from {' or '.join(queues)}; the job waits for one."
        if fields["status"] == "queued":
            return None
        with reachable():
            leases = cast("dict[str, str]", self._jobs.redis.hgetall(job_key(fields["id"], ":leases")))
        begun = f"Nothing was heard of the job for {self._after_s:g} s"
        if not leases:
            return f"{begun}, though there are workers for it."
        held = (f"{item} on {lease.split(' ', 1)[1].rpartition('/')[0]}" for item, lease in sorted(leases.items()))
        return f"{begun}; under way: {', '.join(held)}."


def queues_with_work(fields: Mapping[str, str]) -> list[str]:
    """The queues in which a job's work waits to be taken."""
    number = {name: int(fields.get(name, 0)) for name in ("next_batch", "batches_total")}
    waiting = []
    if fields.get("ready:render") or number["next_batch"] < number["batches_total"]:
        waiting.append(fields["render_queue"])
    if fields.get("ready:sound"):
        waiting.append(SOUND_QUEUE)
    if fields.get("ready:deliver"):
        waiting.append(DELIVER_QUEUE)
    return waiting


def unserved(queues: Collection[str], workers: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of these queues those that no worker takes from, as `FarmState.workers` has them."""
    taking = [worker for worker in workers if not worker["is_draining"] and not worker["benched"]]
    return [queue for queue in queues if not any(_serves(worker, queue) for worker in taking)]


def _serves(worker: Mapping[str, Any], queue: str) -> bool:
    models = models_of_queues([queue])
    return kind_of_queue(queue) in worker["queues"] and all(model in worker["models"] for model in models)
