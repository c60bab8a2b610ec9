"""What follows from a job's end: its result in storage, news for its webhook, the removal of what is needed no more.

Both sides end jobs: a worker when it delivered or failed, the gateway when it canceled. Everything here may be done
again: whoever finds a job ended and not yet announced does it from the start.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from typing import Final

from shared.contracts import JobFailure, WebhookEvent
from shared.deliveries import Deliveries
from shared.errors import NotFoundError
from shared.job_moves import Attempt
from shared.job_store import JobStore
from shared.manifests import delete_manifest
from shared.object_store import ObjectStore, job_prefix, job_result_key, preview_prefix

EVENTS: Final[dict[str, WebhookEvent]] = {
    "succeeded": "job.succeeded",
    "failed": "job.failed",
    "canceled": "job.canceled",
}
_KEPT: Final = (
    "status",
    "started_ms",
    "finished_ms",
    "error",
    "frames_reused",
    "render_ms",
    "sound_ms",
    "encode_ms",
    "gpu_ms",
)
"""Of an ended job's fields those that neither its manifest nor its objects tell."""


def fail_job(
    job_id: str,
    failure: JobFailure,
    job_store: JobStore,
    object_store: ObjectStore,
    attempt: Attempt | None = None,
) -> bool:
    """End a job as failed; what it finished stays in storage. False when it has ended, or the attempt is late.

    Raises TransientError when storage or Redis do not answer; once the job has failed, the sweeper does what is left.
    """
    if not job_store.finish(job_id, "failed", {"error": failure.model_dump_json()}, attempt):
        return False
    follow_up_end(job_id, job_store, object_store)
    return True


def follow_up_end(job_id: str, job_store: JobStore, object_store: ObjectStore) -> None:
    """Do what follows from a job's end, unless the job still runs or all of it is done already.

    Raises TransientError when storage or Redis do not answer; NotFoundError when there is no such job.
    """
    fields = job_store.read(job_id)
    event = EVENTS.get(fields["status"])
    if event is None or fields["announced"] == "1":
        return
    runs = int(fields["runs"])
    result: dict[str, object] = {name: fields.get(name) for name in _KEPT}
    result["outputs"] = json.loads(fields.get("outputs", "[]"))
    if fields["status"] != "succeeded":
        result["frames"] = _runs_from_numbers(job_store.finished_frames(job_id))
    # Under the run's own number: one that was retried meanwhile has not ended because of this.
    object_store.put(job_result_key(job_id, runs), json.dumps(result).encode(), "application/json")
    if fields.get("told_runs") != fields["runs"]:
        Deliveries(job_store.redis).announce(fields, event)
    # What a failed or canceled job finished is kept: a retry goes on from there.
    if fields["status"] == "succeeded":
        for prefix in (f"jobs/{job_id}/chunks/", preview_prefix(job_id)):
            for key in list(object_store.keys(prefix)):
                object_store.delete(key)
    job_store.set_announced(job_id, runs)


def _runs_from_numbers(numbers: Sequence[int]) -> list[list[int]]:
    """First and last of each run of numbers without a gap: a long track's frames in a few words."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return runs


def remove_job(job_id: str, job_store: JobStore, object_store: ObjectStore) -> bool:
    """Remove an ended job with all that is its own; False when it was retried meanwhile. Safe to call again.

    Its deliveries end with it, but for the news that it was canceled: whoever waits for the job must hear of that.
    Raises TransientError when storage or Redis do not answer.
    """
    with contextlib.suppress(NotFoundError):
        Deliveries(job_store.redis).detach(job_store.read(job_id))
    # Before all else in storage: without its manifest no recovery brings it back.
    delete_manifest(object_store, job_id)
    for key in list(object_store.keys(job_prefix(job_id))):
        object_store.delete(key)
    return job_store.forget(job_id)
