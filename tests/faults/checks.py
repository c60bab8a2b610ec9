"""What must hold after every fault: all accepted jobs ended with the right sound, and nothing is left over."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import cast

from shared.dispatch import Dispatcher, celery_app
from shared.job_store import JobStore
from shared.object_store import job_result_key, output_key
from shared.plan import MOST_BATCH_FRAMES
from tests.faults.rig import Farm
from workers.storage_pass import StoragePass

tally = Counter(kills=0, lost_jobs=0, hash_mismatches=0)
"""Of all tests of faults in this process."""


def check(farm: Farm, sounds: Mapping[str, str], failed: Iterable[str] = (), timeout_s: float = 60.0) -> None:
    """All accepted jobs but those in `failed` succeeded with these sounds; nothing of a fault is left."""
    tally["kills"] += sum(process.kills for process in farm.processes.values())
    for process in farm.processes.values():
        process.kills = 0
    try:
        farm.wait_for_end(timeout_s)
    finally:
        statuses = {job_id: farm.status(job_id) for job_id in farm.accepted}
        expected = {job_id: "failed" if job_id in failed else "succeeded" for job_id in farm.accepted}
        tally["lost_jobs"] += sum(statuses[job_id] != expected[job_id] for job_id in farm.accepted)
    assert {job_id: status for job_id, status in statuses.items() if status != expected[job_id]} == {}, farm.folder
    found = sounds_of(farm, [job_id for job_id in farm.accepted if job_id not in failed])
    tally["hash_mismatches"] += sum(sounds[name] != sound for name, sound in found.items())
    assert found == {name: sounds[name] for name in found}
    assert [name for name, process in farm.processes.items() if not process.is_running] == []
    _look_through_storage(farm)
    _check_redis(farm)
    _check_storage(farm, failed)
    _check_renders(farm)
    farm.is_whole = True


def sounds_of(farm: Farm, job_ids: Iterable[str]) -> dict[str, str]:
    """SHA-256 of all FLAC files of each job in storage, by the job's name."""
    return {farm.accepted[job_id]["labels"]["name"]: _sound(farm, job_id) for job_id in job_ids}


def _sound(farm: Farm, job_id: str) -> str:
    result = json.loads(farm.objects.get(job_result_key(job_id)))
    names = sorted(one["name"] for one in result["outputs"] if one["name"].endswith(".flac"))
    assert names, f"{job_id} has no sound: {result}"
    return hashlib.sha256(b"".join(farm.objects.get(output_key(job_id, name)) for name in names)).hexdigest()


def _look_through_storage(farm: Farm) -> None:
    """What the sweeper does once an hour: a gateway that was killed before its 202 left a manifest alone."""
    settings = farm.settings
    jobs = JobStore(settings.redis_url, settings.lease_s)
    with celery_app(settings) as app:
        StoragePass(settings, jobs, farm.objects, Dispatcher(app)).run()
    jobs.redis.close()
    farm.wait_for_end()


def _check_redis(farm: Farm) -> None:
    leases = [
        *farm.redis.scan_iter("riffarm:job:*:leases"),
        *cast("list[str]", farm.redis.zrange("riffarm:leases", 0, -1)),
    ]
    assert leases == []
    for name in ("active", "running", "queued", "ended", "expiring"):
        assert not farm.redis.exists(f"riffarm:jobs:{name}"), name
    for name in ("backlog", "backlog:jobs", "backlog:frames", "backlog:audio"):
        backlog = cast("dict[str, str]", farm.redis.hgetall(f"riffarm:{name}"))
        assert {queue: count for queue, count in backlog.items() if count != "0"} == {}, name
    # Nobody's limits are used up by what has ended.
    assert farm.redis.hgetall("riffarm:audio") == {}
    assert [*farm.redis.scan_iter("riffarm:queue:*")] == []


def _check_storage(farm: Farm, failed: Iterable[str]) -> None:
    keys = [*farm.objects.keys("jobs/")]
    known = set(cast("list[str]", farm.redis.zrange("riffarm:jobs", 0, -1)))
    assert {key.split("/")[1] for key in keys} - known == set(), "something of a job that nobody knows"
    assert [key for key in keys if "/chunks/" in key and key.split("/")[1] not in failed] == []


def renders(farm: Farm) -> dict[str, list[int]]:
    """The processes that rendered each frame, in order; what is in storage only a late one's successor may begin, which
    had looked there before."""
    late = {pid for process in farm.processes.values() for pid in process.late}
    found: dict[str, list[int]] = {}
    if farm.renders_file.exists():
        for line in farm.renders_file.read_text().splitlines():
            name, pid, *is_stored = line.split()
            is_known = not is_stored or late & set(found.get(name, ()))
            assert is_known, f"process {pid} began a frame that was in storage: {name}"
            found.setdefault(name, []).append(int(pid))
    return found


def _check_renders(farm: Farm) -> None:
    """Only what a disturbed process was at was rendered again, and that is one batch."""
    disturbed = {pid for process in farm.processes.values() for pid in process.disturbed}
    lost = Counter(pid for pids in renders(farm).values() for pid in pids[:-1])
    assert set(lost) <= disturbed, f"rendered again though nobody was disturbed: {lost}"
    assert max(lost.values(), default=0) <= MOST_BATCH_FRAMES
