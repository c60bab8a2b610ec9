"""What is kept for so long and no longer: ended jobs, frames, uploads, as the settings say; without them, for ever.

A frame that is removed too early costs time alone: a worker that misses it has it rendered again. Leaves out when this
is done (`workers.storage_pass`).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Final, cast

from shared.contracts import TERMINAL
from shared.endings import remove_job
from shared.job_moves import PREFIX, created_ms_from_job_id
from shared.job_store import JobStore
from shared.object_store import UPLOAD_OWNERS_PREFIX, ObjectStore
from shared.redis_connection import reachable
from shared.settings import Settings

_THREADS: Final = 16
_AT_ONCE: Final = 500
_DAY_S: Final = 86_400.0
_SHA256: Final = re.compile("[0-9a-f]{64}")


def remove_old(
    settings: Settings, job_store: JobStore, object_store: ObjectStore, go_on: Callable[[], object]
) -> dict[str, int]:
    """Remove what is older than it is kept, and what writers left that were killed a day ago: how many of each.

    Calls `go_on` now and then, and raises what it raises; TransientError when storage or Redis do not answer.
    """
    removed = {"jobs": 0, "frames": 0, "uploads": 0}
    if settings.keep_results_days is not None:
        until_s = time.time() - settings.keep_results_days * _DAY_S
        for job_id in _jobs_ended_before(until_s, job_store):
            go_on()
            removed["jobs"] += remove_job(job_id, job_store, object_store)
    for prefix, kind, days in (
        ("frames/", "frames", settings.keep_frames_days),
        # Whose an upload is has its age from when it was uploaded last by that tenant.
        (UPLOAD_OWNERS_PREFIX, "uploads", settings.keep_uploads_days),
        ("uploads/", "uploads", settings.keep_uploads_days),
    ):
        if days is not None:
            old = _keys_older_than(prefix, time.time() - days * _DAY_S, object_store, go_on)
            removed[kind] += _removed(old, job_store if kind == "uploads" else None, object_store)
    removed["unfinished"] = object_store.remove_unfinished(time.time() - _DAY_S)
    return removed


def _jobs_ended_before(until_s: float, job_store: JobStore) -> Iterator[str]:
    created_ms, job_id = until_s * 1_000, "~"
    while ids := job_store.ids_before(created_ms, job_id, _AT_ONCE):
        for fields in job_store.read_many(ids):
            is_old = float(fields.get("finished_ms", "inf")) < until_s * 1_000
            if fields["status"] in TERMINAL and is_old:
                yield fields["id"]
        job_id = ids[-1]
        created_ms = created_ms_from_job_id(job_id)


def _keys_older_than(
    prefix: str, until_s: float, object_store: ObjectStore, go_on: Callable[[], object]
) -> Iterator[str]:
    for key, written_s in object_store.aged_keys(prefix):
        go_on()
        if written_s < until_s:
            yield key


def _removed(keys: Iterator[str], job_store: JobStore | None, object_store: ObjectStore) -> int:
    """Remove these objects but those that the store's active jobs name; how many."""
    count = 0
    with ThreadPoolExecutor(_THREADS) as pool:
        while some := [*islice(keys, _AT_ONCE)]:
            # Asked after the listing: a job that was accepted meanwhile keeps what it needs.
            needed = _hashes_of_active_jobs(job_store) if job_store else frozenset()
            some = [key for key in some if not needed & {*_SHA256.findall(key)}]
            count += len([*pool.map(object_store.delete, some)])
    return count


def _hashes_of_active_jobs(job_store: JobStore) -> frozenset[str]:
    """The hashes of all pictures and sounds that unfinished jobs were made from."""
    found: set[str] = set()
    with reachable():
        ids = cast("Iterable[str]", job_store.redis.sscan_iter(f"{PREFIX}jobs:active", count=_AT_ONCE))
        for job_id in ids:
            texts = cast("list[str | None]", job_store.redis.hmget(f"{PREFIX}job:{job_id}", "input", "sources"))
            found.update(*(_SHA256.findall(text or "") for text in texts))
    return frozenset(found)
