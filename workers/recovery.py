"""Redis from storage: every job that storage has and Redis lacks is back, with what is finished of it.

Safe to run at any time, again, in several processes at once, and beside a farm that works: a job that is there stays as
it is. Owns what a job's objects say about it. Leaves out when it is done: `workers.storage_pass`, `riffarm recover`.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from heapq import merge
from itertools import groupby, islice
from typing import Any, Final, NamedTuple

import structlog

from shared import manifests
from shared.deliveries import LONGEST_S
from shared.dispatch import Dispatcher, needed_frames, plan_of
from shared.errors import LeaseLostError, ObjectNotFoundError, TransientError
from shared.frames import frame_hash
from shared.job_moves import is_job_id
from shared.job_store import JobStore
from shared.object_store import (
    ObjectStore,
    chunk_key,
    chunk_state_key,
    frame_key,
    job_manifest_key,
    job_paused_key,
    job_result_key,
    job_told_key,
)
from shared.plan import Conversion, Plan

log = structlog.get_logger()
_THREADS: Final = 16
"""Questions to storage at a time: each takes S3 many milliseconds."""
_AT_ONCE: Final = 1_000
_NEWS_S: Final = 600.0
"""What follows from a job's end may be undone of one that ended so lately."""
_RETRY: Final = re.compile(r"/retry-(\d+)\.json$")


class Recovery(NamedTuple):
    """What a recovery did: unfinished jobs that go on, ended ones that are there again, folders that were nobody's."""

    recovered: int
    ended: int
    orphans: int
    unreadable: int
    took_s: float


class Progress(NamedTuple):
    """How far a job is by what storage has of it: finished frames and batches, and fields that follow from them."""

    frames: Collection[int]
    batches: Collection[int]
    fields: dict[str, str | int]


_NOTHING: Final = Progress((), (), {})


def recover(
    job_store: JobStore, object_store: ObjectStore, dispatcher: Dispatcher, go_on: Callable[[], object] = lambda: None
) -> Recovery:
    """Bring back what Redis lacks, unfinished jobs first. Calls `go_on` now and then, and raises what it raises;
    TransientError when storage or Redis do not answer: what is back by then stays."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return _Pass(job_store, object_store, dispatcher, go_on, pool).run()


class _Pass:
    """One look at all jobs in storage."""

    def __init__(
        self,
        job_store: JobStore,
        object_store: ObjectStore,
        dispatcher: Dispatcher,
        go_on: Callable[[], object],
        pool: ThreadPoolExecutor,
    ) -> None:
        self._jobs = job_store
        self._objects = object_store
        self._dispatcher = dispatcher
        self._go_on = go_on
        self._pool = pool
        self._unreadable: set[str] = set()

    def run(self) -> Recovery:
        started_s = time.monotonic()
        recovered = orphans = ended = 0
        for job_id, keys in self._folders():
            if job_manifest_key(job_id) not in keys:
                orphans += self._has_removed_orphan(job_id, keys)
            elif not _has_ended(job_id, keys):
                recovered += self._is_brought_back(job_id, keys)
        # A second look instead of a list: there may be a million.
        folders = self._folders()
        while some := [*islice(folders, _AT_ONCE)]:
            over = [one for one in some if job_manifest_key(one[0]) in one[1] and _has_ended(*one)]
            ended += sum(self._pool.map(lambda one: self._is_brought_back(*one), over))
        return Recovery(recovered, ended, orphans, len(self._unreadable), round(time.monotonic() - started_s, 3))

    def _folders(self) -> Iterator[tuple[str, set[str]]]:
        """Every job's id, with the keys of all that is its own."""
        of_jobs = ((key.split("/", 2)[1], key) for key in self._objects.keys("jobs/"))
        of_manifests = ((one, job_manifest_key(one)) for one in manifests.ids_of_manifests(self._objects))
        for name, found in groupby(merge(of_jobs, of_manifests), lambda one: one[0]):
            self._go_on()
            if is_job_id(name):
                yield name, {key for _, key in found}

    def _has_removed_orphan(self, job_id: str, keys: Iterable[str]) -> bool:
        """Remove what a deleted job, or one that was never accepted, has left behind."""
        # Asked anew, and in this order: it may have been submitted since the folder was listed.
        if self._objects.exists(job_manifest_key(job_id)) or self._is_known(job_id):
            return False
        for key in keys:
            self._objects.delete(key)
        log.info("orphan removed", job=job_id)
        return True

    def _is_known(self, job_id: str) -> bool:
        return self._jobs.status(job_id) is not None

    def _is_brought_back(self, job_id: str, keys: set[str]) -> bool:
        if self._is_known(job_id):
            return False
        try:
            return self._has_restored(job_id, keys)
        except ObjectNotFoundError:
            # Deleted while we read it.
            return False
        except (TransientError, LeaseLostError):
            raise
        except Exception:
            # One job that cannot be read keeps no other away.
            log.exception("a job in storage cannot be read", job=job_id)
            self._unreadable.add(job_id)
            return False

    def _has_restored(self, job_id: str, keys: set[str]) -> bool:
        manifest = manifests.manifest(self._objects, job_id)
        plan, runs = plan_of(manifest), _runs(keys)
        if has_ended := _has_ended(job_id, keys):
            result = json.loads(self._objects.get(job_result_key(job_id, runs)))
            is_told = job_told_key(job_id, runs) in keys
            fields, progress = _ended_fields(manifest, result, is_told), _ended_progress(job_id, plan, keys, result)
            fields |= {"told_runs": runs} if is_told else {}
        else:
            fields = {"status": "paused" if job_paused_key(job_id) in keys else "queued"}
            progress = self._progress(job_id, plan, keys)
        # Retried counts as begun: the client wanted it, however late.
        fields = manifest | progress.fields | fields | {"runs": runs}
        if progress.frames or runs:
            fields.pop("expires_ms", None)
        if runs:
            fields.pop("cancel_ms", None)
        queues = self._jobs.restore(job_id, fields, progress.frames, progress.batches)
        if queues is None or self._is_taken_back(job_id):
            return False
        for sentence in plan.warnings:
            self._jobs.warn(job_id, sentence)
        if not has_ended:
            self._go_ahead(job_id, plan, int(fields.get("next_chunk", 0)), queues)
        return True

    def _is_taken_back(self, job_id: str) -> bool:
        """Whether the job was deleted, or taken back by the gateway, while we read it: then it is not to be here."""
        if self._objects.exists(job_manifest_key(job_id)):
            return False
        self._jobs.finish(job_id, "canceled")
        self._jobs.forget(job_id)
        return True

    def _go_ahead(self, job_id: str, plan: Plan | Conversion, chunk: int, queues: Sequence[str]) -> None:
        queues = [*queues, *self._jobs.move_on(job_id, chunk, needed_frames(plan, chunk))]
        self._dispatcher.send_tickets(queues)
        log.info("job recovered", job=job_id)

    def _progress(self, job_id: str, plan: Plan | Conversion, keys: set[str]) -> Progress:
        """What storage has of an unfinished job."""
        if isinstance(plan, Conversion):
            return _NOTHING
        frames = self._finished_frames(plan)
        return _progress_from_parts(plan, frames, _finished_chunks(job_id, plan, keys))

    def _finished_frames(self, plan: Plan) -> set[int]:
        found: set[int] = set()
        for first in range(0, plan.frames_total, _AT_ONCE):
            self._go_on()
            numbers = range(first, min(first + _AT_ONCE, plan.frames_total))
            keys = [frame_key(frame_hash(plan.frame(number))) for number in numbers]
            there = self._pool.map(self._objects.exists, keys)
            found |= {number for number, is_there in zip(numbers, there, strict=True) if is_there}
        return found


def _ended_fields(manifest: dict[str, Any], result: dict[str, Any], is_told: bool) -> dict[str, Any]:
    """The fields of an ended job that its result tells."""
    age_s = time.time() - int(result["finished_ms"]) / 1_000
    # The delivery that was lost with Redis is made once more, under its id, unless storage says that it was over.
    is_news = age_s < _NEWS_S or ("webhook" in manifest and not is_told and age_s < LONGEST_S)
    told = {name: value for name, value in result.items() if value is not None and name != "frames"}
    return told | {"outputs": json.dumps(result["outputs"]), "announced": int(not is_news)}


def _ended_progress(job_id: str, plan: Plan | Conversion, keys: set[str], result: dict[str, Any]) -> Progress:
    """What an ended job had finished: what a retry begins with."""
    if isinstance(plan, Conversion):
        return _NOTHING
    if result["status"] == "succeeded":
        return _progress_from_parts(plan, range(plan.frames_total), plan.chunks_total, is_delivering=1)
    frames = {one for first, last in result["frames"] for one in range(first, last + 1)}
    return _progress_from_parts(plan, frames, _finished_chunks(job_id, plan, keys))


def _progress_from_parts(plan: Plan, frames: Collection[int], chunks: int, is_delivering: int = 0) -> Progress:
    batches = complete_batches(plan, frames)
    begun = batches[-1] + 1 if batches else 0
    missing = sorted({*range(begun)} - {*batches})
    fields: dict[str, str | int] = {
        "frames_reused": len(frames),
        "batches_done": len(batches),
        "next_batch": begun,
        "ready:render": " ".join(f"b{batch}" for batch in missing),
        "chunks_done": chunks,
        "next_chunk": chunks,
        "delivering": is_delivering,
    }
    return Progress(frames, batches, fields)


def complete_batches(plan: Plan, frames: Collection[int]) -> list[int]:
    """The batches of which nothing is left to render when these frames and joints are there, in order."""
    left = {number // plan.batch_size for number in range(plan.base_frames) if number not in frames}
    for number in range(plan.base_frames, plan.frames_total):
        batches = plan.batches_of_frame(number)
        # A batch that is rendered paints its joints; of two that are done the later one should have.
        if number not in frames and not batches & left:
            left.add(max(batches))
    return [batch for batch in range(plan.batches_total) if batch not in left]


def _finished_chunks(job_id: str, plan: Plan, keys: Collection[str]) -> int:
    """How many chunks from the first on are there, each with what the next one needs of it."""
    for index in range(plan.chunks_total):
        chunk = plan.chunk(index)
        needed = {chunk_key(job_id, chunk.part, chunk.index_in_part)}
        if not chunk.is_last:
            needed.add(chunk_state_key(job_id, chunk.part, chunk.index_in_part))
        if not needed.issubset(keys):
            return index
    return plan.chunks_total


def _runs(keys: Iterable[str]) -> int:
    """How often a job with these keys was retried."""
    return max((int(match[1]) for match in map(_RETRY.search, keys) if match), default=0)


def _has_ended(job_id: str, keys: Collection[str]) -> bool:
    return job_result_key(job_id, _runs(keys)) in keys
